"""The weighted sum over layers that a head sees."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

MIX = "mix"  # the softmax-weighted sum of all layers, as opposed to the number of one


class Mix(nn.Module):
    """One mix per head of a stack: trained softmax weights over all layers, or one layer alone.

    Args:
        choices: per head "mix" or the position of a layer.
        layers: how many there are.

    Source: Yang et al. 2021, SUPERB, section 3.2.
    """

    def __init__(self, choices: Sequence[str | int], layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(choices), layers))
        mixed = torch.tensor([choice == MIX for choice in choices])
        single = torch.zeros(len(choices), layers)
        for head, choice in enumerate(choices):
            if choice != MIX:
                single[head, choice] = 1
        self.register_buffer("mixed", mixed)
        self.register_buffer("single", single)

    def weights(self) -> Float[Tensor, "heads layers"]:
        return torch.where(self.mixed[:, None], self.logits.softmax(dim=1), self.single)

    def forward(self, states: Float[Tensor, "layers rows dim"]) -> Float[Tensor, "heads rows dim"]:
        layers, rows, dim = states.shape
        return (self.weights() @ states.reshape(layers, rows * dim)).reshape(-1, rows, dim)
