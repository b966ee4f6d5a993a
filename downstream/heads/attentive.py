"""Attentive statistics pooling: a learned weight for each frame, and the weighted mean and deviation of all."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.stacked import StackedLinear
from wavbench.downstream.utterances import of_equal_length

HIDDEN = 256  # SUPERB's projector
ATTENTION = 128
LEAST_VARIANCE = 1e-6


class Attentive(nn.Module):
    """A stack of utterance heads.

    Args:
        heads: how many.
        inputs: width of the features.
        outputs: classes.

    Source: Okabe et al. 2018, Attentive Statistics Pooling for Deep Speaker Embedding, equations 5 to 8.
    """

    takes_lengths = True

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = StackedLinear(heads, inputs, HIDDEN)
        self.look = StackedLinear(heads, HIDDEN, ATTENTION)
        self.weigh = StackedLinear(heads, ATTENTION, 1)
        self.classify = StackedLinear(heads, 2 * HIDDEN, outputs)

    def forward(
        self, frames: Float[Tensor, "heads total inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "heads batch outputs"]:
        return self.classify(of_equal_length(torch.relu(self.project(frames)), lengths, self.pool))

    def pool(self, x: Float[Tensor, "heads batch frames hidden"]) -> Float[Tensor, "heads batch statistics"]:
        """Weighted mean and deviation over the frames of each utterance."""
        heads, batch, frames, hidden = x.shape
        scores = self.weigh(torch.tanh(self.look(x.reshape(heads, batch * frames, hidden))))
        weights = scores.reshape(heads, batch, frames, 1).softmax(dim=2)
        mean = (weights * x).sum(dim=2)
        variance = (weights * x.square()).sum(dim=2) - mean.square()
        return torch.cat([mean, variance.clamp(min=LEAST_VARIANCE).sqrt()], dim=2)


build = Attentive
