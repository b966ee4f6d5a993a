"""Train a stack of heads on one set of batches and keep the best of each.

The heads share batches and nothing else: each has its own learning rate, its own gradient clipping and its own best
moment, so a stack of seventy gives what seventy runs would.
"""

import contextlib
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
    """A mix and a head for each member of a stack."""

    def __init__(self, choices: Sequence[str | int], layers: int, head: nn.Module) -> None:
        super().__init__()
        self.mix = Mix(choices, layers)
        self.head = head

    def forward(self, states: Float[Tensor, "layers rows dim"]) -> Float[Tensor, "heads rows outputs"]:
        return self.head(self.mix(states))


class StackedAdam:
    """Adam with a learning rate and a clipped gradient norm per head.

    Args:
        parameters: each with a leading heads axis.
        rates: learning rate of each head.
        clip: largest gradient norm of a head over all its parameters.

    Source: Kingma and Ba 2015, algorithm 1; as torch.optim.Adam with its defaults.
    """

    def __init__(self, parameters: Sequence[Tensor], rates: Float[Tensor, " heads"], clip: float = CLIP) -> None:
        self.parameters, self.clip = list(parameters), clip
        self.rates = [rates.to(p).reshape(-1, *[1] * (p.dim() - 1)) for p in self.parameters]
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.step_count = 0

    @torch.no_grad()
    def step(self) -> None:
        self.step_count += 1
        gradients = [p.grad for p in self.parameters]
        norms = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients]).sum(dim=0).sqrt()
        scale = (self.clip / (norms + 1e-6)).clamp(max=1)
        for g in gradients:
            g.mul_(scale.reshape(-1, *[1] * (g.dim() - 1)))
        torch._foreach_lerp_(self.means, gradients, 0.1)
        torch._foreach_mul_(self.squares, 0.999)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 0.001)
        first, second = 1 - 0.9**self.step_count, 1 - 0.999**self.step_count
        for p, rate, mean, square in zip(self.parameters, self.rates, self.means, self.squares, strict=True):
            p.sub_(rate * (mean / first) / ((square / second).sqrt() + 1e-8))
        for p in self.parameters:
            p.grad = None


SMALL = 2_000_000  # parameters of a stack below which a second thread costs more than it brings


@contextlib.contextmanager
def _threads(model: nn.Module) -> Iterator[None]:
    """One thread for small stacks: on a busy machine two that wait for each other are twenty times slower."""
    before = torch.get_num_threads()
    if sum(p.numel() for p in model.parameters()) < SMALL:
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
        dev: best dev value of each head, in the metric's unit.
        updates: when that was.
    """

    model: HeadStack
    dev: Float[np.ndarray, " heads"]
    updates: np.ndarray


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
    """
    optimiser = StackedAdam(list(model.parameters()), torch.tensor(rates, dtype=torch.float64))
    sign = 1 if higher_is_better else -1
    best = np.full(len(rates), -np.inf)
    best_loss, best_update = np.full(len(rates), np.inf), np.zeros(len(rates), int)
    kept = [p.detach().clone() for p in model.parameters()]
    order = batch_order(train, budget.batch, seed)
    for update in range(1, budget.updates + 1):
        rows = next(order)
        with _threads(model):
            states, lengths = batches.take(rows)
            losses = objective.loss(model.head, model(states), rows, lengths)
            losses.sum().backward()
            optimiser.step()
        if update % budget.evaluate_every == 0 or update == budget.updates:
            value, loss = _evaluate(model, objective, batches, dev)
            value = np.where(np.isfinite(value), sign * value, -np.inf)
            better = (value > best) | ((value == best) & (loss < best_loss))
            best, best_loss = np.where(better, value, best), np.where(better, loss, best_loss)
            best_update = np.where(better, update, best_update)
            for keep, p in zip(kept, model.parameters(), strict=True):
                keep[better] = p.detach()[better]
        if progress:
            progress(update, budget.updates)
    with torch.no_grad():
        for keep, p in zip(kept, model.parameters(), strict=True):
            p.copy_(keep)
    return Fit(model, sign * best, best_update)


def batch_order(rows: np.ndarray, size: int, seed: int):
    """Endless batches: every epoch a new permutation, a pure function of (seed, epoch); the last short one is kept."""
    epoch = 0
    while True:
        shuffled = np.random.default_rng((seed, epoch)).permutation(rows)
        for start in range(0, len(shuffled), size):
            yield shuffled[start : start + size]
        epoch += 1


@torch.inference_mode()
def decode_rows(model: HeadStack, objective, batches, rows: np.ndarray, heads: Sequence[int] | None = None):
    """Outputs of rows, decoded, for all heads or some; batches of like length so that memory stays small."""
    decoded, parts = [], []
    for part in _chunks(rows, batches):
        states, lengths = batches.take(part)
        outputs = model(states)
        decoded.append(objective.decode(outputs if heads is None else outputs[list(heads)], part, lengths))
        parts.append(part)
    return decoded, parts


@torch.inference_mode()
def _evaluate(model: HeadStack, objective, batches, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and mean loss of each head (loss zero where dev has classes that training does not know)."""
    decoded, parts, losses, count = [], [], 0.0, 0
    for part in _chunks(rows, batches):
        states, lengths = batches.take(part)
        outputs = model(states)
        decoded.append(objective.decode(outputs, part, lengths))
        parts.append(part)
        if objective.has_dev_loss:
            losses = losses + objective.loss(model.head, outputs, part, lengths).numpy() * len(part)
        count += len(part)
    loss = losses / count if objective.has_dev_loss else np.zeros(len(decoded[0]))
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
