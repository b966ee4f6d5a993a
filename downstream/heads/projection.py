"""A speaker embedding: one linear projection of the pooled mean and deviation, compared by cosine."""

from jaxtyping import Float
from torch import Tensor, nn

from wavbench.downstream.stacked import StackedLinear

EMBEDDING = 256  # width of the speaker embedding
STATISTICS = ("mean", "std")  # pooled over frames: what the head reads


class Projection(nn.Module):
    """A stack of projections with the speaker weights that AM-softmax trains against.

    Args:
        heads: how many.
        inputs: width of the pooled statistics (twice the features').
        outputs: speakers of the train split.
    """

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = StackedLinear(heads, inputs, EMBEDDING)
        self.speakers = nn.Parameter(StackedLinear(heads, EMBEDDING, outputs).weight.detach())

    def forward(self, statistics: Float[Tensor, "heads batch inputs"]) -> Float[Tensor, "heads batch embedding"]:
        return self.project(statistics)


build = Projection
