"""Emotion recognition (ER): one class per utterance."""

from wavbench.downstream.spec import ACCURACY, SUPERB_RATES, UTTERANCE_HEADS, Budget, Superb, Task


def target(row: dict) -> str:
    return row["emotion"]


task = Task(
    title="emotion recognition",
    needs=("emotion", "speaker"),
    target=target,
    splits_separate="speaker",
    folds=True,
    objective="Classify",
    head="mean_linear",
    metric=ACCURACY,
    budget=Budget(updates=2_000, batch=32, evaluate_every=100, learning_rates=(1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2)),
    heads=UTTERANCE_HEADS,
    source="Yang et al. 2021, SUPERB, ER",
    superb=Superb(
        budget=Budget(updates=30_000, batch=32, evaluate_every=1_000, learning_rates=SUPERB_RATES),
        dev_share=0.2,
        differs="scores of the folds are pooled, SUPERB averages five accuracies",
    ),
)
