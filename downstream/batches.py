"""Features as batches for a stack of heads, standardised by the train split.

Standardising (a fixed shift and scale per layer and dimension) makes one grid of learning rates serve upstreams whose
states differ a hundredfold in size. It is affine, so an affine head can express the same functions as without.
"""

import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.upstream.machine import free_memory
from wavbench.upstream.shards import Pooler
from wavbench.upstream.store import Fingerprint

SAMPLE = 400  # utterances that the statistics of frames are taken over
FLOOR = 1e-4  # least deviation that is scaled up; below it a dimension is a constant with rounding noise
AT_ONCE = 1 << 30  # bytes of frames that statistics are taken of in one piece

Rows = Sequence[int] | np.ndarray


@runtime_checkable
class Readable(Protocol):
    """What heads read features from: `upstream.store.Store`, or `streamed.Streamed`, where they are computed."""

    path: Path
    fingerprint: Fingerprint
    layers: tuple[int, ...]
    dim: int
    frame_rate: float  # Hz
    ids: list[str]
    rows: Mapping[str, int]
    lengths: np.ndarray  # frames of each utterance
    rejected: Mapping[str, str]
    extract_seconds: float
    extract_cpu_seconds: float  # NaN where it is not known

    def row(self, id: str) -> int: ...

    def need_frames(self, purpose: str) -> None: ...

    def read_frames(self, rows: Rows, layers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]: ...

    def read_pooled(self, rows: Rows, layers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]: ...


class PooledBatches:
    """Pooled statistics of all rows in memory: 40 to 80 kB an utterance for a BASE model.

    Args:
        store: frames or pooled.
        ids: utterance of each row.
        layers: states wanted.
        statistics: "mean", or "mean" and "std", laid side by side.
        train: rows that the standardisation is taken from.
        standardise: whether to shift and scale at all.
    """

    def __init__(
        self,
        store: Readable,
        ids: Sequence[str],
        layers: Sequence[int],
        statistics: Sequence[str],
        train: Int[np.ndarray, " rows"],
        standardise: bool = True,
    ) -> None:
        places = [store.row(id) for id in ids]
        pooled = dict(zip(("mean", "std"), store.read_pooled(places, layers), strict=True))
        dim = pooled["mean"].shape[2]
        joined = np.empty((len(places), len(layers), dim * len(statistics)), np.float32)
        frames = store.lengths[places][train][:, None].astype(np.float64)
        shift, scale = np.zeros((2, *joined.shape[1:]))
        for layer in range(len(layers)):  # one after the other: in double precision a table is twice its size
            own = {name: table[:, layer].astype(np.float64) for name, table in pooled.items()}
            if standardise:
                mean, std = own["mean"][train], own["std"][train]
                centre = (frames * mean).sum(0) / frames.sum()
                # of frames, not of means: where every utterance has mean zero there is nothing to scale up
                deviation = np.sqrt((frames * (std**2 + (mean - centre) ** 2)).sum(0) / frames.sum())
                middle = {"mean": centre, "std": std.mean(0)}
                own = {n: (own[n] - middle[n]) / np.maximum(deviation, FLOOR) for n in statistics}
                shift[layer] = np.concatenate([middle[n] for n in statistics])
                scale[layer] = np.tile(1 / np.maximum(deviation, FLOOR), len(statistics))
            joined[:, layer] = np.concatenate([own[n] for n in statistics], axis=1)
        # for whoever uses the head later: what was taken off the statistics, and what they were multiplied by
        self.shift, self.scale = (_tensor(shift), _tensor(scale)) if standardise else (None, None)
        self.states = torch.from_numpy(joined)  # (rows, layers, dim)
        self.layers, self.dim = len(layers), self.states.shape[2]

    def take(self, rows: Int[np.ndarray, " batch"]) -> tuple[Float[Tensor, "layers batch dim"], None]:
        return self.states[torch.from_numpy(rows)].transpose(0, 1), None

    def length(self, row: int) -> int:
        return 1


class FrameBatches:
    """Frames of whole utterances laid end to end; held in memory where they fit, else read or computed each time.

    Args:
        store: a frame store.
        ids: utterance of each row.
        layers: states wanted.
        train: rows that the standardisation is taken from.
        standardise: whether to shift and scale at all.
        budget: bytes that may be held in memory; half of what is free where None.
    """

    def __init__(
        self,
        store: Readable,
        ids: Sequence[str],
        layers: Sequence[int],
        train: Int[np.ndarray, " rows"],
        standardise: bool = True,
        budget: int | None = None,
    ) -> None:
        store.need_frames("this head")
        self.store, self.chosen = store, list(layers)
        self.places = np.array([store.row(id) for id in ids])
        self.lengths = store.lengths[self.places]
        self.layers, self.dim, self.frame_rate = len(layers), store.dim, store.frame_rate
        ends = np.cumsum(self.lengths)
        self.starts = ends - self.lengths
        self.reading = threading.Lock()
        self.held = None
        if self._bytes(self.lengths) <= (free_memory() // 2 if budget is None else budget):
            self.held = torch.from_numpy(store.read_frames(self.places, self.chosen)[0])
        self.shift = self.scale = None
        if standardise:
            step = max(len(train) // SAMPLE, 1)
            self.shift, deviation = self._moments(train[::step])
            self.scale = 1 / deviation.clamp(min=FLOOR)

    def take(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[Float[Tensor, "layers frames dim"], Int[np.ndarray, " batch"]]:
        """The rows' frames end to end, float32, and how many each has."""
        states, lengths = self._raw(rows)
        states = states.float()
        if self.shift is not None:
            states.sub_(self.shift).mul_(self.scale)
        return states, lengths

    def length(self, row: int) -> int:
        return int(self.lengths[row])

    def _bytes(self, lengths: np.ndarray) -> int:
        """Of the states of so many frames, as they are read."""
        value = 2 if self.store.fingerprint.dtype == "float16" else 4
        return int(lengths.sum()) * self.layers * self.dim * value

    def _moments(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the frames of some rows, (layers, 1, dim): of many frames, in pieces."""
        if self._bytes(self.lengths[rows]) <= AT_ONCE:
            states = self._raw(rows)[0].float()
            return states.mean(dim=1, keepdim=True), states.std(dim=1, keepdim=True)
        poolers = [Pooler() for _ in self.chosen]
        pieces = -(-self._bytes(self.lengths[rows]) // AT_ONCE)
        for piece in np.array_split(rows, min(4 * pieces, len(rows))):
            for pooler, states in zip(poolers, self._raw(piece)[0], strict=True):
                pooler.add(states.float().numpy())
        mean, deviation = (np.stack(values) for values in zip(*(p.result() for p in poolers), strict=True))
        frames = self.lengths[rows].sum()
        return _tensor(mean), _tensor(deviation * np.sqrt(frames / (frames - 1)))

    def _raw(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        if self.held is None:
            with self.reading:  # a store may be asked from two threads (`ready`)
                states, lengths = self.store.read_frames(self.places[rows], self.chosen)
            return torch.from_numpy(states), lengths
        parts = [self.held[:, self.starts[r] : self.starts[r] + self.lengths[r]] for r in rows]
        return torch.cat(parts, dim=1), self.lengths[rows]


def ready(order: Iterable[np.ndarray], batches) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray | None]]:
    """Rows with their features; where those are not in memory, the next ones are made while these are learned from.

    Args:
        order: rows of each batch.
        batches: PooledBatches or FrameBatches.
    """
    if getattr(batches, "held", 0) is not None:
        for rows in order:
            yield rows, *batches.take(rows)
        return
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for rows in itertools.chain(order, [None]):
            coming = None if rows is None else (rows, thread.submit(batches.take, rows))
            if waiting is not None:
                yield waiting[0], *waiting[1].result()
            waiting = coming


def _tensor(values: np.ndarray) -> Float[Tensor, "layers 1 dim"]:
    return torch.from_numpy(values.astype(np.float32))[:, None]
