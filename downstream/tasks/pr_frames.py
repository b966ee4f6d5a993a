"""Phoneme recognition from timed phones: a class for every frame, runs of one phone joined, silence left out."""

from wavbench.downstream.spec import PHONE_ERROR_RATE, Budget, Task
from wavbench.downstream.tasks import phones

task = Task(
    title="phoneme recognition by frames",
    needs=phones.task.needs,
    target=phones.target,
    objective="Joined",
    head="affine",
    metric=PHONE_ERROR_RATE,
    budget=Budget(updates=1_000, batch=16, evaluate_every=100, learning_rates=(1e-3, 3.2e-3, 1e-2)),
    heads={"linear": Budget(updates=1_000, batch=16, evaluate_every=100, learning_rates=(1e-3, 3.2e-3, 1e-2))},
    source="Lee and Hon 1989, phone recognition scored by edits; trained on alignments as the phones probe is",
)
