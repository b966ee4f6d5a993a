"""Train a stack of heads on one set of batches and keep the best of each.

The heads share batches and nothing else: each has its own learning rate, its own gradient clipping and its own best
moment, so a stack of seventy gives what seventy runs would.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.augment import crop, hide
from wavbench.downstream.batches import ready
from wavbench.downstream.mix import Mix
from wavbench.downstream.spec import Budget
from wavbench.downstream.stacked import some_heads

CLIP = 1.0  # gradient norm of each head, SUPERB's
POOL = 50  # batches that are formed at once where their utterances are to be of like length


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
        self, states: Float[Tensor, "layers rows dim"], lengths: Int[np.ndarray, " batch"] | None = None
    ) -> Float[Tensor, "heads out outputs"]:
        """Outputs of all heads: for rows, or for utterances or steps where the head takes their lengths."""
        rest = (torch.from_numpy(lengths),) if self.takes_lengths else ()
        state, parts = torch.random.get_rng_state(), []
        for heads, seen in self.parts(states):
            torch.random.set_rng_state(state)  # all heads drop the same
            parts.append(heads(seen, *rest))
        return torch.cat(parts) if len(parts) == 2 else parts[0]

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
        return torch.cat([part.trained(own) for part, own in zip(heads, outputs.split(sizes), strict=True)])

    def parts(self, states: Float[Tensor, "layers rows dim"]) -> Iterator[tuple[nn.Module, Tensor]]:
        """The heads of a mix, then those of single layers, with what they see: for heads that take more than states."""
        if self.mixed is not None:
            yield self.mixed, self.mix(states)
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
        return torch.cat([getattr(part, name) for part in (self.mixed, self.single) if part is not None])

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


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
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
        loss: dev loss of each at that moment.
    """

    model: HeadStack
    dev: Float[np.ndarray, " heads"]
    updates: np.ndarray
    loss: np.ndarray


@one_thread()
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
    taken = ready(_order(train, batches, budget, seed), batches)
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


def _order(train: np.ndarray, batches, budget: Budget, seed: int):
    if not budget.frames:
        return batch_order(train, budget.batch, seed)
    return like_lengths(train, np.array([batches.length(row) for row in train.tolist()]), budget.frames, seed)


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


def batch_order(rows: np.ndarray, size: int, seed: int):
    """Endless batches: every epoch a new permutation, a pure function of (seed, epoch); the last short one is kept."""
    epoch = 0
    while True:
        shuffled = np.random.default_rng((seed, epoch)).permutation(rows)
        for start in range(0, len(shuffled), size):
            yield shuffled[start : start + size]
        epoch += 1


@torch.inference_mode()
@one_thread()
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
