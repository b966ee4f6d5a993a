"""SUPERB's speaker embedding: an x-vector, five time-delay layers, statistics over frames and two linear layers."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.looped import Looped
from wavbench.downstream.stacked import StackedLinear
from wavbench.downstream.utterances import of_equal_length

WIDTH = 512
POOLED = 1_500  # channels that mean and deviation are taken of
CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # frames that each layer sees, and their distance
LEAST = 1 + sum((kernel - 1) * distance for kernel, distance in CONTEXTS)  # frames that make one output


class Tdnn(nn.Module):
    """One network: utterances to embeddings.

    Args:
        inputs: width of the features.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, WIDTH)
        widths = [*[WIDTH] * (len(CONTEXTS) - 1), POOLED]
        self.layers = nn.ModuleList(
            nn.Conv1d(WIDTH, width, kernel, dilation=distance)
            for (kernel, distance), width in zip(CONTEXTS, widths, strict=True)
        )
        self.embed = nn.Linear(2 * POOLED, WIDTH)

    def forward(
        self, frames: Float[Tensor, "total inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch embedding"]:
        return of_equal_length(frames[None], lengths, self.read, LEAST)[0]

    def read(self, frames: Float[Tensor, "1 batch frames inputs"]) -> Float[Tensor, "1 batch embedding"]:
        """Embeddings of utterances of one length."""
        x = self.project(frames[0]).transpose(1, 2)
        for layer in self.layers:
            x = torch.relu(layer(x))
        deviation = x.std(dim=2) if x.shape[2] > 1 else torch.zeros_like(x[:, :, 0])  # of one frame there is none
        return self.embed(torch.cat([x.mean(dim=2), deviation], dim=1))[None]


class Xvector(nn.Module):
    """A stack of networks with the layers and the speaker weights that they are trained with.

    Args:
        heads: how many.
        inputs: width of the features.
        outputs: speakers of the train split.

    Source: Snyder et al. 2018, X-vectors; widths and order as in Yang et al. 2021, SUPERB, ASV (s3prl's XVector).
    """

    takes_lengths = True

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.network = Looped(heads, partial(Tdnn, inputs))
        self.head = StackedLinear(heads, WIDTH, WIDTH)
        self.speakers = nn.Parameter(StackedLinear(heads, WIDTH, outputs).weight.detach())

    def forward(
        self, frames: Float[Tensor, "heads total inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "heads batch embedding"]:
        return self.network(frames, lengths)

    def trained(self, embeddings: Float[Tensor, "heads batch embedding"]) -> Float[Tensor, "heads batch embedding"]:
        """What is held against the speaker weights in training: a layer that no trial sees."""
        return self.head(torch.relu(embeddings))


build = Xvector
