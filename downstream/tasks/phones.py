"""Phone probe: the phone of every frame, by one linear layer; the quick look at phonetic content."""

from wavbench.downstream.spec import FRAME_ACCURACY, Budget, Task
from wavbench.downstream.text import Segment, segments_of

# speech segments longer than this are errors of forced alignment and are left out of training and scoring
LONGEST_PHONE = 0.5  # seconds


def target(row: dict) -> list[Segment]:
    return segments_of(row, LONGEST_PHONE)


task = Task(
    title="frame-wise phones",
    needs=("phones", "phone_ends"),
    target=target,
    objective="Frames",
    head="affine",
    metric=FRAME_ACCURACY,
    budget=Budget(updates=1_000, batch=16, evaluate_every=100, learning_rates=(1e-3, 3.2e-3, 1e-2)),
    source="the frame probe of van den Oord et al. 2018, Contrastive Predictive Coding, section 3.1",
)
