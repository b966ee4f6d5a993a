"""Any module as a stack of heads: its weights stacked, its heads run one after the other.

For heads whose layers have no batched form (recurrent ones, those of other libraries). A stack of n costs what n heads
cost, and every head computes to the bit what it would alone.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Looped(nn.Module):
    """A stack of modules with the same initial weights, each parameter and buffer with a leading heads axis.

    Args:
        heads: how many.
        make: builds one of them.
    """

    def __init__(self, heads: int, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        one = make()
        self._one = (one,)  # its structure; in a tuple, so that its own weights are no part of the stack
        stack = copy.deepcopy(one)
        for module in stack.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(value.detach().expand(heads, *value.shape).clone())
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = value.expand(heads, *value.shape).clone()
        self.stack = stack

    def forward(self, x: Tensor, *rest) -> Tensor:
        """Inputs with a leading heads axis, outputs with one; further arguments are the same for all heads."""
        (one,) = self._one
        one.train(self.training)
        tensors = dict(self.stack.named_parameters()) | dict(self.stack.named_buffers())
        # views of the buffers: what a module writes into its running statistics is written into the stack
        views = {name: value.unbind() for name, value in tensors.items()}
        draw, outputs = same_draws(x.device), []
        for head, seen in enumerate(x):
            draw()
            own = {name: value[head] for name, value in views.items()}
            outputs.append(functional_call(one, own, (seen, *rest)))
        return torch.stack(outputs)


def same_draws(device: torch.device) -> Callable[[], None]:
    """A function that puts the generator of a device back to where it is now: all heads drop the same."""
    if device.type == "cuda":
        here = torch.cuda.get_rng_state(device)
        return lambda: torch.cuda.set_rng_state(here, device)
    state = torch.random.get_rng_state()
    return lambda: torch.random.set_rng_state(state)
