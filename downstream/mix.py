"""The weighted sum over layers that a head sees."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

MIX = "mix"  # the softmax-weighted sum of all layers, as opposed to the number of one


class Mix(nn.Module):
    """One softmax-weighted sum over layers per head of a stack; all start as plain averages.

    Args:
        heads: how many.
        layers: how many there are to mix.

    Source: Yang et al. 2021, SUPERB, section 3.2.
    """

    def __init__(self, heads: int, layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(heads, layers))

    def weights(self) -> Float[Tensor, "heads layers"]:
        return self.logits.softmax(dim=1)

    def forward(self, states: Float[Tensor, "layers rows dim"]) -> Float[Tensor, "heads rows dim"]:
        layers, rows, dim = states.shape
        return (self.weights() @ states.reshape(layers, rows * dim)).reshape(len(self.logits), rows, dim)
