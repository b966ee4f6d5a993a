"""Phoneme recognition (PR): the sequence of phones, without silence, by CTC."""

from wavbench.downstream.spec import PHONE_ERROR_RATE, SUPERB_RATES, Budget, Superb, Task
from wavbench.downstream.text import SILENCE


def target(row: dict) -> list[str]:
    return [phone for phone in str(row["phones"]).split() if phone not in SILENCE]


task = Task(
    title="phoneme recognition",
    needs=("phones",),
    target=target,
    objective="Ctc",
    head="linear",
    metric=PHONE_ERROR_RATE,
    budget=Budget(updates=2_000, batch=16, evaluate_every=200, learning_rates=(1e-3, 3.2e-3, 1e-2)),
    source="Yang et al. 2021, SUPERB, PR",
    superb=Superb(budget=Budget(updates=100_000, batch=32, evaluate_every=1_000, learning_rates=SUPERB_RATES)),
)
