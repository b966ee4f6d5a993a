"""Many small heads as one model: every parameter has a leading `heads` axis.

Trained together they cost little more than one, and since their losses are summed, each gets exactly the gradient it
would get alone. All heads of a stack start from the same weights and see the same batches, so that a head's result
does not depend on which others it was trained with.
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
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


class StackedNorm(nn.Module):
    """`heads` layer norms, as torch.nn.LayerNorm.

    Args:
        heads: how many.
        width: of what is normalised.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, width))
        self.bias = nn.Parameter(torch.zeros(heads, 1, width))

    def forward(self, x: Float[Tensor, "heads rows width"]) -> Float[Tensor, "heads rows width"]:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]), self.weight)


class StackedDropout(nn.Module):
    """Dropout of the same places in every head: none is tested on what another was spared.

    Args:
        share: of values that are set to zero in training.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Float[Tensor, "heads rows width"]) -> Float[Tensor, "heads rows width"]:
        if not self.training or not self.share:
            return x
        return x * F.dropout(torch.ones_like(x[:1]), self.share)


def some_heads(module: nn.Module, heads: Sequence[int]) -> nn.Module:
    """A copy of a stacked module that has only some of its heads."""
    chosen = copy.copy(module)
    chosen._parameters = {
        name: None if p is None else nn.Parameter(p.detach()[list(heads)], requires_grad=False)
        for name, p in module._parameters.items()
    }
    chosen._buffers = {name: None if b is None else b[list(heads)] for name, b in module._buffers.items()}
    chosen._modules = {name: some_heads(child, heads) for name, child in module._modules.items()}
    return chosen
