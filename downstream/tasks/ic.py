"""Intent classification (IC): action, object and location of a command, right where all three are."""

from wavbench.downstream.spec import ACCURACY, SUPERB_RATES, UTTERANCE_HEADS, Budget, Superb, Task


def target(row: dict) -> str:
    return row["intent"]


task = Task(
    title="intent classification",
    needs=("intent",),
    target=target,
    splits_separate="speaker",
    objective="Classify",
    head="mean_linear",
    metric=ACCURACY,
    budget=Budget(updates=5_000, batch=32, evaluate_every=250, learning_rates=(1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2)),
    heads=UTTERANCE_HEADS,
    source="Yang et al. 2021, SUPERB, IC",
    superb=Superb(
        budget=Budget(updates=200_000, batch=32, evaluate_every=5_000, learning_rates=SUPERB_RATES),
        differs="one softmax over the intents, SUPERB has three over their parts",
    ),
)
