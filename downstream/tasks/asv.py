"""Automatic speaker verification (ASV): are two utterances of one speaker? Cosine of projected statistics."""

from wavbench.downstream.spec import EQUAL_ERROR_RATE, SUPERB_RATES, Budget, Superb, Task


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
    heads={
        "xvector": Budget(
            updates=1_000, batch=50, evaluate_every=100, learning_rates=(3.2e-4, 1e-3, 3.2e-3), search=200, crop=3.0
        ),
        "ecapa_speaker": Budget(
            updates=1_000, batch=50, evaluate_every=100, learning_rates=(3.2e-4, 1e-3, 3.2e-3), search=200, crop=2.0
        ),
    },
    source="Yang et al. 2021, SUPERB, ASV (loss and trials; the head is one projection of pooled statistics)",
    superb=Superb(
        head="xvector",
        budget=Budget(
            updates=200_000,
            batch=50,
            evaluate_every=20_000,
            learning_rates=SUPERB_RATES,
            crop=8.0,
            clip=1_000.0,
            weight_decay=0.01,
        ),
        dev_is_test=True,
        differs="utterances below 2 s are repeated and not dropped, silence is not trimmed",
    ),
)
