"""Keyword spotting (KS): one word per utterance, among them unknown words and silence."""

from wavbench.downstream.spec import ACCURACY, SUPERB_RATES, UTTERANCE_HEADS, Budget, Superb, Task


def target(row: dict) -> str:
    return row["keyword"]


task = Task(
    title="keyword spotting",
    needs=("keyword",),
    target=target,
    objective="Classify",
    head="mean_linear",
    metric=ACCURACY,
    budget=Budget(updates=5_000, batch=32, evaluate_every=250, learning_rates=(1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2)),
    heads=UTTERANCE_HEADS,
    source="Yang et al. 2021, SUPERB, KS",
    superb=Superb(
        budget=Budget(updates=200_000, batch=32, evaluate_every=5_000, learning_rates=SUPERB_RATES),
        differs="classes are drawn as often as they come, SUPERB draws all equally often",
    ),
)
