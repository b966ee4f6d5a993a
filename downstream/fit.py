"""Train a stack of heads on one set of batches and keep the best of each.

The heads share batches and nothing else: each has its own learning rate, its own gradient clipping and its own best
moment, so a stack of seventy gives what seventy runs would.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from wavbench.downstream.augment import crop, hide
from wavbench.downstream.batches import ready
from wavbench.downstream.head_stack import HeadStack, StackedAdam
from wavbench.downstream.spec import Budget
from wavbench.downstream.threads import threads

POOL = 50  # batches that are formed at once where their utterances are to be of like length


@dataclass(frozen=True)
class Fit:
    """A trained stack.

    Args:
        model: each head as it was at its best.
        dev: best dev value of each head, as the objective values it, in the metric's unit.
        updates: when that was.
        loss: dev loss of each at that moment.
    """

    model: HeadStack
    dev: Float[np.ndarray, " heads"]
    updates: np.ndarray
    loss: np.ndarray


@threads(1)
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
        parts.append((heads, StackedAdam(parameters, rates[heads], budget.clip, budget.weight_decay)))
        first = heads.stop
    sign = 1 if higher_is_better else -1
    best = np.full(len(rates), -np.inf)
    best_loss, best_update = np.full(len(rates), np.inf), np.zeros(len(rates), int)
    kept = [[value.detach().clone() for value in values] for values in model.head_tensors()]
    least = getattr(model.one, "least_batch", 1)
    taken = ready(_order(train, batches, budget, seed, least), batches)
    random = np.random.default_rng((seed, len(train)))
    hidden, waited = np.random.default_rng((seed, len(train), 1)), np.zeros(len(rates), int)
    torch.manual_seed(seed)  # of dropout
    for update in range(1, budget.updates + 1):
        rows, states, lengths = next(taken)
        if budget.crop and lengths is not None:
            states, lengths = crop(states, lengths, round(budget.crop * batches.frame_rate), hidden)
        if budget.augment and lengths is not None:
            states = hide(states, lengths, budget.augment, hidden)
        objective.train_loss(model.train(), states, rows, lengths, random).sum().backward()
        for _, optimiser in parts:
            optimiser.step(share_of_rate(update, budget, falls))
        if update % budget.evaluate_every == 0 or update == budget.updates:
            value, loss = _evaluate(model.eval(), objective, batches, dev)
            value = np.where(np.isfinite(value), sign * value, -np.inf)
            better = (value > best) | ((value == best) & (loss < best_loss))
            better &= (waited < budget.patience) | (budget.patience == 0)  # a head that has ended stays as it was
            best, best_loss = np.where(better, value, best), np.where(better, loss, best_loss)
            best_update = np.where(better, update, best_update)
            for copies, values, (heads, _) in zip(kept, model.head_tensors(), parts, strict=True):
                for copy, value in zip(copies, values, strict=True):
                    copy[better[heads]] = value.detach()[better[heads]]
            waited = np.where(better, 0, waited + 1)
        if progress:
            progress(update, budget.updates)
        if budget.patience and (waited >= budget.patience).all():
            break
    with torch.no_grad():
        for copies, values in zip(kept, model.head_tensors(), strict=True):
            for copy, value in zip(copies, values, strict=True):
                value.copy_(copy)
    return Fit(model.eval(), sign * best, best_update, best_loss)


def share_of_rate(update: int, budget: Budget, falls: bool) -> float:
    """Share of the learning rate at an update, counted from 1."""
    if budget.warmup:
        return min(update / budget.warmup, (budget.warmup / update) ** 0.5)
    return decay(update, budget.updates) if falls else 1.0


def decay(update: int, updates: int) -> float:
    """Share of the learning rate: whole for half of the updates, then down to nothing in a straight line.

    SUPERB's is constant. With it the best look at a CTC head on filterbanks came after 170 of 1,020 updates (PER 86.6),
    with this after 595 (85.9).
    """
    return min(1.0, 2 * (1 - (update - 1) / updates))


def _order(train: np.ndarray, batches, budget: Budget, seed: int, least: int):
    if not budget.seconds:
        return batch_order(train, budget.batch, seed, least)
    lengths = np.array([batches.length(row) for row in train.tolist()])
    return like_lengths(train, lengths, round(budget.seconds * batches.frame_rate), seed)


def like_lengths(rows: np.ndarray, lengths: np.ndarray, most: int, seed: int):
    """Endless batches of utterances of like length with at most so many frames: what is padded or waits is little.

    Every epoch the rows are shuffled, POOL batches' worth of them at a time sorted by length and cut, and the cuts
    shuffled; a pure function of (seed, epoch).
    """
    epoch, each = 0, max(int(most / max(lengths.mean(), 1)), 1)
    while True:
        random = np.random.default_rng((seed, epoch))
        shuffled = random.permutation(len(rows))
        found = []
        for start in range(0, len(rows), POOL * each):
            pool = shuffled[start : start + POOL * each]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            begin = 0
            for k in range(1, len(pool) + 1):
                if k == len(pool) or (k + 1 - begin) * lengths[pool[k]] > most:
                    found.append(rows[pool[begin:k]])
                    begin = k
        for place in random.permutation(len(found)):
            yield found[place]
        epoch += 1


def batch_order(rows: np.ndarray, size: int, seed: int, least: int = 1):
    """Endless batches: every epoch a new permutation, a pure function of (seed, epoch).

    The last short one is kept; with fewer than `least` rows it is a part of the one before.
    """
    epoch = 0
    while True:
        shuffled = np.random.default_rng((seed, epoch)).permutation(rows)
        cuts = [*range(0, len(shuffled), size), len(shuffled)]
        if len(cuts) > 2 and cuts[-1] - cuts[-2] < least:
            del cuts[-2]
        for start, stop in itertools.pairwise(cuts):
            yield shuffled[start:stop]
        epoch += 1


@torch.inference_mode()
@threads(1)
def decode_rows(model: HeadStack, batches, rows: np.ndarray, heads: Sequence[int], look: Callable):
    """What some heads make of rows, a batch at a time so that memory stays small.

    Args:
        model: the heads.
        batches: of their features.
        rows: which.
        heads: which.
        look: of an objective: from (model, states, rows, lengths, heads) to what is kept of a batch.

    Returns:
        What was kept of each batch, and its rows.
    """
    decoded, parts = [], []
    for part, states, lengths in ready(_chunks(rows, batches), batches):
        decoded.append(look(model, states, part, lengths, heads))
        parts.append(part)
    return decoded, parts


@torch.inference_mode()
def _evaluate(model: HeadStack, objective, batches, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and mean loss of each head (loss zero where dev has classes that training does not know)."""
    decoded, parts, losses, count = [], [], 0.0, 0
    for part, states, lengths in ready(_chunks(rows, batches), batches):
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
