"""SUPERB's frame head for phoneme recognition: two linear layers with nothing between them."""

from jaxtyping import Float
from torch import Tensor, nn

from wavbench.downstream.stacked import StackedLinear

HIDDEN = 256  # SUPERB's projector


class Linear(nn.Module):
    """A stack of frame heads.

    Args:
        heads: how many.
        inputs: width of the features.
        outputs: classes, the CTC blank included where there is one.

    Source: Yang et al. 2021, SUPERB, PR; s3prl's FrameLevelLinear.
    """

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = StackedLinear(heads, inputs, HIDDEN)
        self.classify = StackedLinear(heads, HIDDEN, outputs)

    def forward(self, frames: Float[Tensor, "heads frames inputs"]) -> Float[Tensor, "heads frames outputs"]:
        return self.classify(self.project(frames))


build = Linear
