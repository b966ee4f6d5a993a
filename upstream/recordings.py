"""A long recording to a shard of its own, in memory for one part of it at a time."""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.machine import Stopwatch
from wavbench.upstream.shards import CHUNK_FRAMES, DTYPES, AudioStamp, Pooler, check_states, publish, write_tables

Part = tuple[int, int, np.ndarray]  # layer, first frame, states [frame, dim] float32
SLICE = 64 * CHUNK_FRAMES  # frames of a layer read back at once


@dataclass(frozen=True)
class Shape:
    """What every shard of a store has in common.

    Args:
        fingerprint: hash of the store's fingerprint.
        layers: states that are stored.
        dim: width of a state.
        dtype: of stored frames.
        pooled: whether only means and deviations are stored.
    """

    fingerprint: str
    layers: tuple[int, ...]
    dim: int
    dtype: str
    pooled: bool


def write_recording(
    folder: Path,
    key: str,
    shape: Shape,
    id: str,
    stamp: AudioStamp,
    parts: Iterable[Part],
    alive: Callable[[], None],
    on_cpu: bool = False,
) -> Path:
    """Write a shard with one utterance, whose states come part by part, in any order.

    Args:
        folder: the store's `shards` folder.
        key: first part of the shard's name.
        shape: of the store.
        id: of the utterance.
        stamp: of its audio.
        parts: each frame of each layer once.
        alive: called after every part.
        on_cpu: whether they are computed there, and its seconds tell what they take.

    Raises:
        UserError: the disk is full, the states are no finite numbers, or the model failed.
    """

    def write(file: h5py.File) -> None:
        watch = Stopwatch()
        poolers = [Pooler() for _ in shape.layers]
        kept = shape.dtype if shape.dtype != "int8" else "float32"  # int8 needs the largest value of all parts
        with contextlib.ExitStack() as stack:
            place = file if kept == shape.dtype else stack.enter_context(_scratch(folder))
            states = None if shape.pooled else _states(place, shape, kept)
            for layer, first, frames in _from_model(parts, id):
                check_states(frames[None], shape.dtype, (layer,), id)
                row = shape.layers.index(layer)
                poolers[row].add(frames)
                if states is not None:
                    if states.shape[1] < first + len(frames):
                        states.resize(first + len(frames), axis=1)
                    states[row, first : first + len(frames)] = frames
                alive()
                os.utime(file.filename)  # of means nothing is written before the end, and idle files are cleared away
            means, deviations = zip(*(pooler.result() for pooler in poolers), strict=True)
            arrays = {"mean": np.stack(means).astype(np.float32), "std": np.stack(deviations).astype(np.float32)}
            if shape.dtype == "int8" and not shape.pooled:
                states, arrays["scales"] = _quantize(file, states, shape)
            digest = _content_hash(arrays, states)
        for name, array in arrays.items():
            file.create_dataset(name, data=array[None], fletcher32=True)
        write_tables(
            file,
            shape.fingerprint,
            watch.seconds,
            watch.cpu_seconds if on_cpu else math.nan,
            ids=[id],
            lengths=np.array([poolers[0].count], np.int64),
            hashes=[digest],
            stamps=[stamp],
            rejected={},
        )

    return publish(folder, key, write)


def _from_model(parts: Iterable[Part], id: str) -> Iterator[Part]:
    """The parts; an error of the model is not to be taken for one of the disk."""
    try:
        yield from parts
    except RuntimeError as error:
        raise UserError(
            "the model failed on a long recording",
            where=f"utterance {id}",
            why=str(error).split("\n")[0],
            remedy="cut it with the manifest's start and end columns",
        ) from error


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[h5py.File]:
    path = temporary_in(folder, ".scratch")
    try:
        with h5py.File(path, "w") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


def _states(file: h5py.File, shape: Shape, dtype: str, frames: int = 0) -> h5py.Dataset:
    size = (len(shape.layers), frames, shape.dim)
    limit, chunks = (size[0], None, shape.dim), (1, CHUNK_FRAMES, shape.dim)
    return file.create_dataset("states", size, DTYPES[dtype], maxshape=limit, chunks=chunks, fletcher32=True)


def _quantize(file: h5py.File, states: h5py.Dataset, shape: Shape) -> tuple[h5py.Dataset, np.ndarray]:
    """States as int8, and their scales [layer, dim]; see `shards.quantize`."""
    out, scales = _states(file, shape, "int8", states.shape[1]), np.empty((len(states), shape.dim), np.float32)
    for layer in range(len(states)):
        peaks = np.zeros(shape.dim, np.float32)
        for frames in _slices(states, layer):
            np.maximum(peaks, np.abs(frames).max(axis=0), out=peaks)
        scales[layer] = np.maximum(peaks / 127, np.finfo(np.float32).tiny)
        for number, frames in enumerate(_slices(states, layer)):
            out[layer, number * SLICE : number * SLICE + len(frames)] = np.rint(frames / scales[layer])
    return out, scales


def _slices(states: h5py.Dataset, layer: int) -> Iterator[np.ndarray]:
    for first in range(0, states.shape[1], SLICE):
        yield states[layer, first : first + SLICE]


def _content_hash(arrays: dict[str, np.ndarray], states: h5py.Dataset | None) -> str:
    """`shards.content_hash` of the arrays and the states on the disk."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted([*arrays, *(["states"] if states is not None else [])]):
        if name == "states":
            for layer in range(len(states)):
                for frames in _slices(states, layer):
                    digest.update(frames)
        else:
            digest.update(arrays[name])
    return digest.hexdigest()
