"""One shard of a feature store: an HDF5 file that is published whole or not at all.

Layout of a frame shard: `states` [layer, frame, dim] (layer-major: reading one layer is one sequential read), chunks
(1, 256, dim), fletcher32; and, alone in a pooled shard, `mean` and `std` over frames, [utterance, layer, dim] float32,
taken before the cast, so that one extraction serves heads that pool and heads that do not. Tables beside it, one row
per utterance: `ids`, `offsets`, `lengths` (frames), `hashes` (BLAKE2b of the stored states), `audio_hashes`,
`audio_stats` (bytes, modification time in ns), `segments` (start, end in seconds). Utterances whose audio was refused
stand in `rejected/`. The file's name ends in the SHA-256 of its bytes, so any flipped bit is found.
"""

import hashlib
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError

FORMAT_VERSION = 1
CHUNK_FRAMES = 256
SLAB_BYTES = 48 << 20  # above 32 MB, from where on malloc always asks the system
NAME = re.compile(r"^[0-9a-z-]+-(?P<sha>[0-9a-f]{32})\.h5$")
DTYPES = {"float16": np.float16, "float32": np.float32, "int8": np.int8}
_STRING = h5py.string_dtype("utf-8")


@dataclass(frozen=True)
class AudioStamp:
    """Which sound an utterance's features were made of.

    Args:
        hash: BLAKE2b of the audio file's bytes, "" where it could not be read.
        size: bytes of the file, -1 where it is missing.
        mtime_ns: its modification time; equal size and time spare hashing the file again.
        start: first second of the segment, NaN for the whole file.
        end: last second of the segment, NaN for the whole file.
    """

    hash: str
    size: int
    mtime_ns: int
    start: float
    end: float

    def same_segment(self, other: "AudioStamp") -> bool:
        return all(a == b or (a != a and b != b) for a, b in ((self.start, other.start), (self.end, other.end)))


@dataclass
class Rows:
    """The tables of one shard, in its order."""

    ids: list[str] = field(default_factory=list)
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    hashes: list[str] = field(default_factory=list)
    stamps: list[AudioStamp] = field(default_factory=list)
    rejected: dict[str, tuple[str, AudioStamp]] = field(default_factory=dict)  # id -> reason, stamp
    work_seconds: float = 0.0  # that computing them took
    cpu_seconds: float = math.nan  # of all cores; NaN where it was computed on another device, or nobody knows
    written_at: float = 0.0  # seconds since the epoch; of two versions of a row the later one counts


class Writer:
    """Collects utterances and publishes them as shards.

    Memory: the states that were added, once; nothing is copied until the file is written, and then one layer.

    Args:
        folder: the store's `shards` folder.
        fingerprint: hash of the store's fingerprint, repeated in every shard.
        dtype: "float16", "float32" or "int8".
        pooled: whether means and deviations over frames are stored in place of frames.
    """

    def __init__(self, folder: Path, fingerprint: str, dtype: str, pooled: bool) -> None:
        self.folder, self.fingerprint, self.dtype, self.pooled = folder, fingerprint, dtype, pooled
        self.items: list[tuple[int, str, dict[str, np.ndarray], int, Future, AudioStamp]] = []
        self.rejected: dict[str, tuple[str, AudioStamp]] = {}
        self.hashers = ThreadPoolExecutor(2)  # BLAKE2b runs beside the model, outside the interpreter lock
        self.bytes = 0
        self.slab = np.empty(0, DTYPES[dtype])  # what is left of it

    def add(self, position: int, id: str, states: np.ndarray, stamp: AudioStamp) -> None:
        """Add one utterance; `position` (its manifest row) decides the order in the shard.

        Args:
            states: [layer, frame, dim] float32, finite (`check_states` says so).
        """
        arrays = pool(states)
        if not self.pooled:
            arrays |= quantize(states, self.dtype, self._room(states.shape))
        future = self.hashers.submit(content_hash, arrays)
        self.items.append((position, id, arrays, states.shape[1], future, stamp))
        self.bytes += sum(array.nbytes for array in arrays.values())

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array for states that last until the block is published, cut from a slab.

        Arrays of their own would lie between the short-lived ones of the model, and the heap would grow from block
        to block; a slab is large enough for the system to map it, and to take all of it back.
        """
        count = math.prod(shape)
        if count > len(self.slab):
            self.slab = np.empty(max(count, SLAB_BYTES // self.slab.itemsize), self.slab.dtype)
        room, self.slab = self.slab[:count].reshape(shape), self.slab[count:]
        return room

    def reject(self, id: str, reason: str, stamp: AudioStamp) -> None:
        self.rejected[id] = (reason, stamp)

    def publish(self, key: str, work_seconds: float, cpu_seconds: float = math.nan) -> Path | None:
        """Write, fsync, rename, fsync the folder; the writer is empty afterwards.

        Args:
            key: what the shard holds, in its name: lower-case letters, digits and dashes.
            work_seconds: wall-clock time that decoding and computing its utterances took.
            cpu_seconds: of all cores; NaN where it is not known.

        Returns:
            The shard, or None when there was nothing to write.
        """
        if not self.items and not self.rejected:
            return None
        self.items.sort(key=lambda item: item[0])
        path = publish(self.folder, key, lambda file: self._write(file, work_seconds, cpu_seconds))
        self.items, self.rejected, self.bytes, self.slab = [], {}, 0, self.slab[:0].copy()
        return path

    def _write(self, file: h5py.File, work_seconds: float, cpu_seconds: float) -> None:
        lengths = np.array([item[3] for item in self.items], np.int64)
        write_tables(
            file,
            self.fingerprint,
            work_seconds,
            cpu_seconds,
            ids=[item[1] for item in self.items],
            lengths=lengths,
            hashes=[item[4].result() for item in self.items],
            stamps=[item[5] for item in self.items],
            rejected=self.rejected,
        )
        if not self.items:
            return
        for name in ("mean", "std"):
            file.create_dataset(name, data=np.stack([i[2][name] for i in self.items]), fletcher32=True)
        if self.pooled:
            return
        layers, _, dim = self.items[0][2]["states"].shape
        total = int(lengths.sum())
        shape, chunks = (layers, total, dim), (1, min(CHUNK_FRAMES, max(total, 1)), dim)
        states = file.create_dataset("states", shape, DTYPES[self.dtype], chunks=chunks, fletcher32=True)
        for layer in range(layers):
            states[layer] = np.concatenate([item[2]["states"][layer] for item in self.items])
        if self.dtype == "int8":
            file.create_dataset("scales", data=np.stack([i[2]["scales"] for i in self.items]), fletcher32=True)


def publish(folder: Path, key: str, write: Callable[[h5py.File], None]) -> Path:
    """Write a shard under a temporary name, fsync, rename, fsync the folder.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_in(folder, ".h5")
    try:
        with h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
            write(file)
        with open(temporary, "rb") as written, ThreadPoolExecutor(1) as disk:
            synced = disk.submit(os.fsync, written.fileno())  # the disk works while the processor hashes
            sha = hashlib.file_digest(written, "sha256").hexdigest()[:32]
            synced.result()
        path = folder / f"{key}-{sha}.h5"
        os.replace(temporary, path)
        fsync_folder(folder)
        return path
    except (OSError, RuntimeError) as error:  # HDF5 reports a disk that fills up while it closes as the latter
        raise UserError(
            "a shard could not be written",
            where=folder,
            why=str(error),
            remedy="free disk space or choose another stores= folder, then run the same command: it resumes",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_tables(
    file: h5py.File,
    fingerprint: str,
    work_seconds: float,
    cpu_seconds: float,
    *,
    ids: Sequence[str],
    lengths: np.ndarray,
    hashes: Sequence[str],
    stamps: Sequence[AudioStamp],
    rejected: Mapping[str, tuple[str, AudioStamp]],
) -> None:
    """All of a shard but its numbers."""
    file.attrs.update(format_version=FORMAT_VERSION, fingerprint=fingerprint)
    file.attrs.update(written_at=time.time(), work_seconds=work_seconds, cpu_seconds=cpu_seconds)
    file["ids"] = np.array(ids, dtype=object).astype(_STRING)
    file["lengths"] = lengths
    file["offsets"] = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if len(lengths) else lengths
    file["hashes"] = np.array(hashes, dtype="S32")
    _write_stamps(file, stamps)
    group = file.create_group("rejected")
    group["ids"] = np.array(list(rejected), dtype=object).astype(_STRING)
    group["reasons"] = np.array([reason for reason, _ in rejected.values()], dtype=object).astype(_STRING)
    _write_stamps(group, [stamp for _, stamp in rejected.values()])


def read_rows(path: Path, fingerprint: str | None = None) -> Rows:
    """The tables of a shard.

    Raises:
        UserError: not a shard of this store, or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            found = file.attrs.get("fingerprint")
            if fingerprint is not None and found != fingerprint:
                raise UserError("a shard belongs to another store", where=path, remedy="move it out of this folder")
            names, reasons = (own_dataset(file, f"rejected/{name}").asstr()[:].tolist() for name in ("ids", "reasons"))
            rejected = {n: (r, s) for n, r, s in zip(names, reasons, _read_stamps(file, "rejected/"), strict=True)}
            rows = Rows(
                ids=own_dataset(file, "ids").asstr()[:].tolist(),
                offsets=own_dataset(file, "offsets")[:],
                lengths=own_dataset(file, "lengths")[:],
                hashes=[value.decode() for value in own_dataset(file, "hashes")[:]],
                stamps=_read_stamps(file),
                rejected=rejected,
                work_seconds=float(file.attrs["work_seconds"]),
                cpu_seconds=float(file.attrs.get("cpu_seconds", math.nan)),  # earlier shards do not say it
                written_at=float(file.attrs["written_at"]),
            )
            _check_rows(file, rows)
            return rows
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
        raise damaged(path, error) from error


def _check_rows(file: h5py.File, rows: Rows) -> None:
    """Raise a ValueError unless the tables fit each other and the states: lengths decide what is allocated."""
    if len({len(table) for table in (rows.ids, rows.offsets, rows.lengths, rows.hashes, rows.stamps)}) != 1:
        raise ValueError("its tables differ in length")
    if not rows.ids:
        return
    ends = np.cumsum(rows.lengths)
    fits = own_dataset(file, "mean").shape[0] == len(rows.ids)
    if "states" in file:
        shape = own_dataset(file, "states").shape
        fits = fits and len(shape) == 3 and shape[1] == ends[-1]
    if not fits or (rows.lengths < 0).any() or (rows.offsets != ends - rows.lengths).any():
        raise ValueError("its offsets and lengths do not fit its states")


def damaged(path: Path, error: object) -> UserError:
    return UserError(
        "a shard of the store is damaged",
        where=path,
        why=str(error)[:300],
        remedy="`wavbench store verify` lists all damage; delete the shard and extract again: only it is recomputed",
    )


def own_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this very file: a stranger's store must not read other files of the machine.

    Raises:
        UserError: it is missing, a link, or stored elsewhere.
    """
    data = file
    try:
        for part in name.split("/"):
            inside = isinstance(data, h5py.Group) and isinstance(data.get(part, getlink=True), h5py.HardLink)
            data = data[part] if inside else None
    except (KeyError, OSError, RuntimeError) as error:
        raise damaged(Path(file.filename), error) from error
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise damaged(Path(file.filename), f"{name!r} is missing, or points out of the file")
    return data


class Pooler:
    """Mean and population standard deviation over the frames of one layer, which may come in parts.

    A chunk of frames at a time in float32, less the mean of the first chunk, so that no large offset swallows the
    deviation; chunks are added up in float64. Equal to float64 throughout to 5e-7 of the deviation, four times as fast.
    """

    def __init__(self) -> None:
        self.origin: np.ndarray | None = None
        self.count = 0

    def add(self, frames: np.ndarray) -> None:
        """Frames [frame, dim] float32."""
        if self.origin is None:
            self.origin = frames[:CHUNK_FRAMES].mean(axis=0)
            self.total, self.squares = np.zeros((2, frames.shape[1]))
        for first in range(0, len(frames), CHUNK_FRAMES):
            part = frames[first : first + CHUNK_FRAMES] - self.origin
            self.total += part.sum(axis=0)
            self.squares += np.square(part, out=part).sum(axis=0)
        self.count += len(frames)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation, [dim] each."""
        shift = self.total / self.count
        return self.origin + shift, np.sqrt(np.maximum(self.squares / self.count - shift**2, 0))


def pool(states: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and population standard deviation over frames, [layer, dim] float32."""
    mean, std = np.empty((2, states.shape[0], states.shape[2]), np.float32)
    for layer, frames in enumerate(states):
        pooler = Pooler()
        pooler.add(frames)
        mean[layer], std[layer] = pooler.result()
    return {"mean": mean, "std": std}


def quantize(states: np.ndarray, dtype: str, out: np.ndarray) -> dict[str, np.ndarray]:
    """States as they are stored, in `out`; int8 has one scale per layer and dimension, [layer, dim] float32."""
    if dtype == "int8":
        peaks = np.abs(states).max(axis=1, initial=0)
        scales = np.maximum(peaks / 127, np.finfo(np.float32).tiny).astype(np.float32)
        out[...] = np.rint(states / scales[:, None])
        return {"states": out, "scales": scales}
    import torch  # here, because readers need no torch; its cast is numpy's to the bit, and twenty times as fast

    torch.from_numpy(out).copy_(torch.from_numpy(states))
    return {"states": out}


def check_states(states: np.ndarray, dtype: str, layers: tuple[int, ...], id: str) -> None:
    """Refuse what the type cannot hold, before the cast would turn it into an inf in a file.

    Raises:
        UserError: names the layer and the type that holds it.
    """
    peaks = np.abs(states).max(axis=(1, 2), initial=0)
    for layer, peak in zip(layers, peaks, strict=True):
        if not np.isfinite(peak):
            raise UserError(
                f"layer {layer} of the upstream gives NaN or infinite states",
                where=f"utterance {id}",
                remedy="check the checkpoint (`wavbench doctor`), or extract on the CPU in fp32",
            )
        if dtype == "float16" and peak > np.finfo(np.float16).max:
            raise UserError(
                f"layer {layer} reaches {peak:.3g}, beyond float16's 65504",
                where=f"utterance {id}",
                remedy="extract with dtype=float32, or without that layer (layers=...)",
            )


def content_hash(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_stamps(group: h5py.Group, stamps: Sequence[AudioStamp]) -> None:
    group["audio_hashes"] = np.array([stamp.hash for stamp in stamps], dtype="S32")
    group["audio_stats"] = np.array([(s.size, s.mtime_ns) for s in stamps], np.int64).reshape(-1, 2)
    group["segments"] = np.array([(s.start, s.end) for s in stamps], np.float64).reshape(-1, 2)


def _read_stamps(file: h5py.File, group: str = "") -> list[AudioStamp]:
    tables = (own_dataset(file, group + name)[:] for name in ("audio_hashes", "audio_stats", "segments"))
    rows = zip(*tables, strict=True)
    return [AudioStamp(h.decode(), int(a[0]), int(a[1]), float(s[0]), float(s[1])) for h, a, s in rows]
