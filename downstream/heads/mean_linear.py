"""SUPERB's utterance head: Linear, mean over frames, Linear. Affine end to end, so frames may be averaged first."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.stacked import StackedLinear

HIDDEN = 256  # SUPERB's projector
STATISTICS = ("mean",)  # pooled over frames: what the head reads


class MeanLinear(nn.Module):
    """A stack of utterance heads.

    Args:
        heads: how many.
        inputs: width of the features.
        outputs: classes.

    Source: Yang et al. 2021, SUPERB, section 3.2; s3prl's UtteranceLevel with mean pooling.
    """

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = StackedLinear(heads, inputs, HIDDEN)
        self.classify = StackedLinear(heads, HIDDEN, outputs)

    def forward(self, means: Float[Tensor, "heads batch inputs"]) -> Float[Tensor, "heads batch outputs"]:
        return self.classify(self.project(means))

    def from_frames(
        self, frames: Float[Tensor, "heads total inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "heads batch outputs"]:
        """The same head on the frames of utterances laid end to end, in SUPERB's order: project, average, classify."""
        projected = self.project(frames).split(lengths.tolist(), dim=1)
        return self.classify(torch.stack([part.mean(dim=1) for part in projected], dim=1))


build = MeanLinear
