"""Many small heads as one model: every parameter has a leading `heads` axis.

Trained together they cost little more than one, and since their losses are summed, each gets exactly the gradient it
would get alone. All heads of a stack start from the same weights and see the same batches, so that a head's result
does not depend on which others it was trained with.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """`heads` linear layers. Initial weights as torch.nn.Linear's, the same for every head.

    Args:
        heads: how many.
        inputs: width of the input.
        outputs: width of the output.
    """

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        weight = torch.empty(inputs, outputs).uniform_(-bound, bound)
        bias = torch.empty(1, outputs).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight.expand(heads, -1, -1).clone())
        self.bias = nn.Parameter(bias.expand(heads, -1, -1).clone())

    def forward(self, x: Float[Tensor, "heads rows inputs"]) -> Float[Tensor, "heads rows outputs"]:
        return torch.baddbmm(self.bias, x, self.weight)
