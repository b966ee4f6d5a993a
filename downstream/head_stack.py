"""Many heads as one module, and one optimiser that treats each as if it were alone."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.looped import same_draws
from wavbench.downstream.mix import Mix
from wavbench.downstream.stacked import some_heads

CLIP = 1.0  # gradient norm of each head, SUPERB's


class HeadStack(nn.Module):
    """A head for each member of a stack: first those that see a mix of layers, then those that see one.

    The two kinds are kept apart because a single layer is an input without gradient: half the work of a backward pass.

    Args:
        mixed: how many heads have a mix of their own.
        single: position of the layer that each further head sees.
        layers: how many layers there are.
        build: from a number of heads to a head module, the same initial weights for each.
        inputs: width of the features, for those who save it.
    """

    def __init__(
        self, mixed: int, single: Sequence[int], layers: int, build: Callable[[int], nn.Module], inputs: int = 0
    ) -> None:
        super().__init__()
        self.inputs = inputs
        state = torch.random.get_rng_state()
        self.mix = Mix(mixed, layers) if mixed else None
        self.mixed = build(mixed) if mixed else None
        torch.random.set_rng_state(state)  # the same initial weights in both parts
        self.single = build(len(single)) if len(single) else None
        self.register_buffer("layer", torch.tensor(list(single), dtype=torch.long))

    def forward(
        self,
        states: Float[Tensor, "layers rows dim"],
        lengths: Int[np.ndarray, " batch"] | None = None,
        fetch: bool = True,
    ) -> Float[Tensor, "heads out outputs"]:
        """Outputs of all heads: for rows, or for utterances or steps where the head takes their lengths.

        They come back to the CPU, wherever the heads are, unless `fetch` is false: most losses and all decoding are
        small beside what is computed here.
        """
        rest = (torch.from_numpy(lengths),) if self.takes_lengths else ()
        parts = [heads(seen, *rest) for heads, seen in self.parts(states)]
        parts = [part.cpu() for part in parts] if fetch else parts
        return torch.cat(parts) if len(parts) == 2 else parts[0]

    @property
    def device(self) -> torch.device:
        """Where the heads are."""
        return next(self.one.parameters()).device

    @property
    def one(self) -> nn.Module:
        """One of the two kinds of heads: what it can do, the other can."""
        return self.single if self.mixed is None else self.mixed

    @property
    def takes_lengths(self) -> bool:
        """Whether heads read utterances and not rows."""
        return getattr(self.one, "takes_lengths", False)

    def steps(self, lengths: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
        """Outputs of utterances of so many frames, where there is one for every frame or group of frames."""
        return -(-lengths // getattr(self.one, "stride", 1))

    def trained(self, outputs: Float[Tensor, "heads batch embedding"]) -> Float[Tensor, "heads batch embedding"]:
        """What embeddings become before they are held against speakers in training."""
        if not hasattr(self.one, "trained"):
            return outputs
        heads = [part for part in (self.mixed, self.single) if part is not None]
        sizes = [len(next(part.parameters())) for part in heads]
        return torch.cat(
            [part.trained(own.to(self.device)).cpu() for part, own in zip(heads, outputs.split(sizes), strict=True)]
        )

    def parts(self, states: Float[Tensor, "layers rows dim"]) -> Iterator[tuple[nn.Module, Tensor]]:
        """The heads of a mix, then those of single layers, with what they see: for heads that take more than states.

        Both drop the same, so that none depends on what is trained beside it.
        """
        states, draw = states.to(self.device), same_draws(self.device)
        if self.mixed is not None:
            yield self.mixed, self.mix(states)
            draw()
        if self.single is not None:
            yield self.single, states[self.layer]

    def only(self, heads: Sequence[int]) -> "HeadStack":
        """A copy with some of the heads, the mixed ones first."""
        first = 0 if self.mixed is None else len(self.mix.logits)
        mixed = [head for head in heads if head < first]
        single = [head - first for head in heads if head >= first]
        chosen = copy.copy(self)
        chosen._modules = {
            "mix": some_heads(self.mix, mixed) if mixed else None,
            "mixed": some_heads(self.mixed, mixed) if mixed else None,
            "single": some_heads(self.single, single) if single else None,
        }
        chosen._buffers = {"layer": self.layer[single]}
        return chosen

    def stacked(self, name: str) -> Float[Tensor, "heads ..."]:
        """A parameter of the heads, of all of them."""
        return torch.cat([getattr(part, name).cpu() for part in (self.mixed, self.single) if part is not None])

    def head_tensors(self) -> list[list[Tensor]]:
        """The same with the running statistics that heads may have: all that a trained head is made of."""
        mixed = [] if self.mixed is None else [*self.mix.parameters(), *self.mixed.parameters(), *self.mixed.buffers()]
        single = [] if self.single is None else [*self.single.parameters(), *self.single.buffers()]
        return [tensors for tensors in (mixed, single) if tensors]

    def head_parameters(self) -> list[list[Tensor]]:
        """Parameters of the mixed heads with their mixes, and of the single ones; each with a leading heads axis."""
        mixed = [] if self.mixed is None else [*self.mix.parameters(), *self.mixed.parameters()]
        single = [] if self.single is None else list(self.single.parameters())
        return [parameters for parameters in (mixed, single) if parameters]


class StackedAdam:
    """Adam with a learning rate and a clipped gradient norm per head: torch's fused one on slices of the stack.

    Args:
        parameters: of the heads, each with a leading heads axis.
        rates: learning rate of each head; equal ones next to each other.
        clip: largest gradient norm of a head over all its parameters.
        weight_decay: 0 for Adam, more for AdamW.
    """

    def __init__(
        self, parameters: Sequence[Tensor], rates: Sequence[float], clip: float = CLIP, weight_decay: float = 0.0
    ) -> None:
        self.parameters, self.clip = list(parameters), clip
        self.runs, first = [], 0
        for rate, run in itertools.groupby(rates):
            last = first + len(list(run))
            self.runs.append((rate, slice(first, last)))
            first = last
        self.slices = [[p.detach()[heads] for p in self.parameters] for _, heads in self.runs]
        groups = [{"params": s, "lr": rate} for s, (rate, _) in zip(self.slices, self.runs, strict=True)]
        kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
        self.adam = kind(groups, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """One update with a share of each learning rate."""
        for group, (rate, _) in zip(self.adam.param_groups, self.runs, strict=True):
            group["lr"] = rate * share
        gradients = [p.grad for p in self.parameters]
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients], dim=1).norm(dim=1)
        scale = (self.clip / (norms + 1e-6)).clamp(max=1)
        if (scale < 1).any():
            for g in gradients:
                g.mul_(scale.reshape(-1, *[1] * (g.dim() - 1)))
        for views, (_, heads) in zip(self.slices, self.runs, strict=True):
            for view, g in zip(views, gradients, strict=True):
                view.grad = g[heads]
        self.adam.step()
        for p in self.parameters:
            p.grad = None
