"""Train a stack of heads on one set of batches and keep the best of each.

The heads share batches and nothing else: each has its own learning rate, its own gradient clipping and its own best
moment, so a stack of seventy gives what seventy runs would.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wavbench.downstream.mix import Mix
from wavbench.downstream.spec import Budget

CLIP = 1.0  # gradient norm of each head, SUPERB's


class HeadStack(nn.Module):
    """A head for each member of a stack: first those that see a mix of layers, then those that see one.

    The two kinds are kept apart because a single layer is an input without gradient: half the work of a backward pass.

    Args:
        mixed: how many heads have a mix of their own.
        single: position of the layer that each further head sees.
        layers: how many layers there are.
        build: from a number of heads to a head module, the same initial weights for each.
    """

    def __init__(self, mixed: int, single: Sequence[int], layers: int, build: Callable[[int], nn.Module]) -> None:
        super().__init__()
        state = torch.random.get_rng_state()
        self.mix = Mix(mixed, layers) if mixed else None
        self.mixed = build(mixed) if mixed else None
        torch.random.set_rng_state(state)  # the same initial weights in both parts
        self.single = build(len(single)) if len(single) else None
        self.register_buffer("layer", torch.tensor(list(single), dtype=torch.long))

    def forward(self, states: Float[Tensor, "layers rows dim"]) -> Float[Tensor, "heads rows outputs"]:
        parts = [heads(seen) for heads, seen in self.parts(states)]
        return torch.cat(parts) if len(parts) == 2 else parts[0]

    def parts(self, states: Float[Tensor, "layers rows dim"]) -> Iterator[tuple[nn.Module, Tensor]]:
        """The heads of a mix, then those of single layers, with what they see: for heads that take more than states."""
        if self.mixed is not None:
            yield self.mixed, self.mix(states)
        if self.single is not None:
            yield self.single, states[self.layer]

    def stacked(self, name: str) -> Float[Tensor, "heads ..."]:
        """A parameter of the heads, of all of them."""
        return torch.cat([getattr(part, name) for part in (self.mixed, self.single) if part is not None])

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
    """

    def __init__(self, parameters: Sequence[Tensor], rates: Sequence[float], clip: float = CLIP) -> None:
        self.parameters, self.clip = list(parameters), clip
        self.runs, first = [], 0
        for rate, run in itertools.groupby(rates):
            last = first + len(list(run))
            self.runs.append((rate, slice(first, last)))
            first = last
        self.slices = [[p.detach()[heads] for p in self.parameters] for _, heads in self.runs]
        groups = [{"params": s, "lr": rate} for s, (rate, _) in zip(self.slices, self.runs, strict=True)]
        self.adam = torch.optim.Adam(groups, fused=True)

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


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Heads are small: on a busy machine two threads that wait for each other were ten times slower than one.

    Cells run side by side instead (`wavbench sweep workers=N`).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Fit:
    """A trained stack.

    Args:
        model: each head as it was at its best.
        dev: best dev value of each head, as the objective values it, in the metric's unit.
        updates: when that was.
    """

    model: HeadStack
    dev: Float[np.ndarray, " heads"]
    updates: np.ndarray


@_one_thread()
def fit(
    model: HeadStack,
    objective,
    batches,
    train: np.ndarray,
    dev: np.ndarray,
    rates: Sequence[float],
    budget: Budget,
    higher_is_better: bool,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    falls: bool = True,
) -> Fit:
    """Train every head of a stack.

    Args:
        model: as many heads as rates.
        objective: an instance of a class of objectives.py.
        batches: PooledBatches or FrameBatches.
        train: rows to learn from.
        dev: rows to choose the best moment on.
        rates: learning rate of each head.
        budget: updates, batch size and how often dev is looked at.
        higher_is_better: the metric's direction.
        seed: of the order of batches.
        progress: called with (updates done, updates).
        falls: whether learning rates fall over the second half.
    """
    parts, first = [], 0
    for parameters in model.head_parameters():
        heads = slice(first, first + len(parameters[0]))
        parts.append((heads, StackedAdam(parameters, rates[heads])))
        first = heads.stop
    sign = 1 if higher_is_better else -1
    best = np.full(len(rates), -np.inf)
    best_loss, best_update = np.full(len(rates), np.inf), np.zeros(len(rates), int)
    kept = [[p.detach().clone() for p in optimiser.parameters] for _, optimiser in parts]
    order, random = batch_order(train, budget.batch, seed), np.random.default_rng((seed, len(train)))
    for update in range(1, budget.updates + 1):
        rows = next(order)
        states, lengths = batches.take(rows)
        objective.train_loss(model, states, rows, lengths, random).sum().backward()
        for _, optimiser in parts:
            optimiser.step(decay(update, budget.updates) if falls else 1.0)
        if update % budget.evaluate_every == 0 or update == budget.updates:
            value, loss = _evaluate(model, objective, batches, dev)
            value = np.where(np.isfinite(value), sign * value, -np.inf)
            better = (value > best) | ((value == best) & (loss < best_loss))
            best, best_loss = np.where(better, value, best), np.where(better, loss, best_loss)
            best_update = np.where(better, update, best_update)
            for copies, (heads, optimiser) in zip(kept, parts, strict=True):
                for copy, p in zip(copies, optimiser.parameters, strict=True):
                    copy[better[heads]] = p.detach()[better[heads]]
        if progress:
            progress(update, budget.updates)
    with torch.no_grad():
        for copies, (_, optimiser) in zip(kept, parts, strict=True):
            for copy, p in zip(copies, optimiser.parameters, strict=True):
                p.copy_(copy)
    return Fit(model, sign * best, best_update)


def decay(update: int, updates: int) -> float:
    """Share of the learning rate: whole for half of the updates, then down to nothing in a straight line.

    SUPERB's is constant. With it the best look at a CTC head on filterbanks came after 170 of 1,020 updates (PER 86.6),
    with this after 595 (85.9).
    """
    return min(1.0, 2 * (1 - (update - 1) / updates))


def batch_order(rows: np.ndarray, size: int, seed: int):
    """Endless batches: every epoch a new permutation, a pure function of (seed, epoch); the last short one is kept."""
    epoch = 0
    while True:
        shuffled = np.random.default_rng((seed, epoch)).permutation(rows)
        for start in range(0, len(shuffled), size):
            yield shuffled[start : start + size]
        epoch += 1


@torch.inference_mode()
@_one_thread()
def decode_rows(model: HeadStack, objective, batches, rows: np.ndarray, heads: Sequence[int]):
    """Rows decoded by some heads; batches of like length so that memory stays small."""
    decoded, parts = [], []
    for part in _chunks(rows, batches):
        states, lengths = batches.take(part)
        decoded.append(objective.test_look(model, states, part, lengths, heads))
        parts.append(part)
    return decoded, parts


@torch.inference_mode()
def _evaluate(model: HeadStack, objective, batches, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and mean loss of each head (loss zero where dev has classes that training does not know)."""
    decoded, parts, losses, count = [], [], 0.0, 0
    for part in _chunks(rows, batches):
        states, lengths = batches.take(part)
        hypotheses, loss = objective.dev_look(model, states, part, lengths)
        decoded.append(hypotheses)
        parts.append(part)
        losses = losses + loss * len(part)
        count += len(part)
    loss = losses / count
    return objective.values(decoded, parts), np.where(np.isfinite(loss), loss, np.inf)


def _chunks(rows: np.ndarray, batches, most: int = 4_000):
    """Consecutive rows of at most so many frames (or utterances, pooled) together."""
    part, size = [], 0
    for row in rows.tolist():
        length = batches.length(row)
        if part and size + length > most:
            yield np.array(part)
            part, size = [], 0
        part.append(row)
        size += length
    if part:
        yield np.array(part)
