"""Automatic speaker verification (ASV): are two utterances of one speaker? Cosine of projected statistics."""

from wavbench.downstream.spec import EQUAL_ERROR_RATE, Budget, Task


def target(row: dict) -> str:
    return row["speaker"]


task = Task(
    title="speaker verification",
    needs=("speaker",),
    target=target,
    splits_separate="speaker",
    objective="Verify",
    head="projection",
    metric=EQUAL_ERROR_RATE,
    budget=Budget(updates=1_000, batch=64, evaluate_every=50, learning_rates=(1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2)),
    source="Yang et al. 2021, SUPERB, ASV (loss and trials; the head is one projection of pooled statistics)",
)
