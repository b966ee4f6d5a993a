"""Speaker identification (SID): which of the speakers of train is it?"""

from wavbench.downstream.spec import ACCURACY, SUPERB_RATES, UTTERANCE_HEADS, Budget, Superb, Task


def target(row: dict) -> str:
    return row["speaker"]


task = Task(
    title="speaker identification",
    needs=("speaker",),
    target=target,
    objective="Classify",
    head="mean_linear",
    metric=ACCURACY,
    budget=Budget(updates=10_000, batch=32, evaluate_every=500, learning_rates=(1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1)),
    heads=UTTERANCE_HEADS,
    source="Yang et al. 2021, SUPERB, SID",
    superb=Superb(
        budget=Budget(updates=200_000, batch=32, evaluate_every=5_000, learning_rates=SUPERB_RATES),
        differs="whole utterances, SUPERB crops 8 s",
    ),
)
