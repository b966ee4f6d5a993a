"""Features of a store as batches for a stack of heads, standardised by the train split.

Standardising (a fixed shift and scale per layer and dimension) makes one grid of learning rates serve upstreams whose
states differ a hundredfold in size. It is affine, so an affine head can express the same functions as without.
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.upstream.store import Store

SAMPLE = 400  # utterances that the statistics of frames are taken over
FLOOR = 1e-4  # least deviation that is scaled up; below it a dimension is a constant with rounding noise


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
        store: Store,
        ids: Sequence[str],
        layers: Sequence[int],
        statistics: Sequence[str],
        train: Int[np.ndarray, " rows"],
        standardise: bool = True,
    ) -> None:
        places = [store.row(id) for id in ids]
        pooled = dict(zip(("mean", "std"), store.read_pooled(places, layers), strict=True))
        self.shift = self.scale = None
        if standardise:
            frames = store.lengths[places][train][:, None, None].astype(np.float64)
            mean, std = (pooled[name][train].astype(np.float64) for name in ("mean", "std"))
            centre = (frames * mean).sum(0) / frames.sum()
            # the deviation of frames, not of means: where every utterance has mean zero there is nothing to scale up
            scale = np.sqrt((frames * (std**2 + (mean - centre) ** 2)).sum(0) / frames.sum())
            middle = {"mean": centre, "std": std.mean(0)}
            pooled = {n: (pooled[n] - middle[n]) / np.maximum(scale, FLOOR) for n in statistics}
            # for whoever uses the head later: what was taken off the statistics, and what they were multiplied by
            self.shift = _tensor(np.concatenate([middle[n] for n in statistics], axis=1))
            self.scale = _tensor(np.concatenate([1 / np.maximum(scale, FLOOR)] * len(statistics), axis=1))
        joined = np.concatenate([pooled[name] for name in statistics], axis=2)
        self.states = torch.from_numpy(joined.astype(np.float32))  # (rows, layers, dim)
        self.layers, self.dim = len(layers), self.states.shape[2]

    def take(self, rows: Int[np.ndarray, " batch"]) -> tuple[Float[Tensor, "layers batch dim"], None]:
        return self.states[torch.from_numpy(rows)].transpose(0, 1), None

    def length(self, row: int) -> int:
        return 1


class FrameBatches:
    """Frames of whole utterances laid end to end; held in memory where they fit, else read from the store each time.

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
        store: Store,
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
        size = int(ends[-1]) * self.layers * self.dim * 2
        self.held = None
        if size <= (_free_memory() // 2 if budget is None else budget):
            self.held = torch.from_numpy(store.read_frames(self.places, self.chosen)[0])
        self.shift = self.scale = None
        if standardise:
            step = max(len(train) // SAMPLE, 1)
            states, _ = self._raw(train[::step])
            states = states.float()
            self.shift = states.mean(dim=1, keepdim=True)
            self.scale = 1 / states.std(dim=1, keepdim=True).clamp(min=FLOOR)

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

    def _raw(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        if self.held is None:
            states, lengths = self.store.read_frames(self.places[rows], self.chosen)
            return torch.from_numpy(states), lengths
        parts = [self.held[:, self.starts[r] : self.starts[r] + self.lengths[r]] for r in rows]
        return torch.cat(parts, dim=1), self.lengths[rows]


def _tensor(values: np.ndarray) -> Float[Tensor, "layers 1 dim"]:
    return torch.from_numpy(values.astype(np.float32))[:, None]


def _free_memory() -> int:
    """Bytes of memory that can be had without swapping."""
    try:
        with open("/proc/meminfo") as file:
            line = next(line for line in file if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
