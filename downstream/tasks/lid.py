"""Language identification (LID): one language per utterance."""

from wavbench.downstream.spec import ACCURACY, SUPERB_RATES, UTTERANCE_HEADS, Budget, Superb, Task


def target(row: dict) -> str:
    return row["language"]


task = Task(
    title="language identification",
    needs=("language",),
    target=target,
    splits_separate="speaker",
    objective="Classify",
    head="mean_linear",
    metric=ACCURACY,
    budget=Budget(updates=2_000, batch=32, evaluate_every=100, learning_rates=(1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2)),
    heads=UTTERANCE_HEADS,
    source="Yang et al. 2021, SUPERB, the utterance head of SID and ER",
    superb=Superb(
        budget=Budget(updates=200_000, batch=32, evaluate_every=5_000, learning_rates=SUPERB_RATES),
        differs="SUPERB has no language identification: this is its recipe for other classes of utterances",
    ),
)
