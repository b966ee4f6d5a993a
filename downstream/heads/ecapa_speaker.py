"""ECAPA-TDNN as a speaker embedding, with the speaker weights that AM-softmax trains it against."""

from torch import nn

from wavbench.downstream.heads.ecapa import EMBEDDING, Stack
from wavbench.downstream.stacked import StackedLinear


class Speaker(Stack):
    """A stack of embeddings.

    Args:
        heads: how many.
        inputs: width of the features.
        outputs: speakers of the train split.
    """

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__(heads, inputs, 0)
        self.speakers = nn.Parameter(StackedLinear(heads, EMBEDDING, outputs).weight.detach())


build = Speaker
