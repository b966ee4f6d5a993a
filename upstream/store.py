"""The feature store: a folder of shards, read by utterance, by layer, or whole.

    store.json       the fingerprint: what the features depend on
    shards/          HDF5 files (see shards.py), each published whole
    features.h5      the index, and one external link per shard for people with h5py alone
    rejected.jsonl   utterances whose audio was refused, with reasons

Shards are read directly rather than through the links or a virtual dataset: there a missing shard reads as zeros.
"""

import contextlib
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float, Int

from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.shards import (
    FORMAT_VERSION,
    NAME,
    Rows,
    damaged,
    fsync_folder,
    own_dataset,
    read_rows,
)

OPEN_FILES = 32  # shards kept open by a reader


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Everything that stored numbers depend on besides the audio.

    Args:
        weights: hash of the upstream's weights.
        config: the upstream's configuration, JSON.
        layers: the states that are stored, in order.
        kind: "frames", or "mean" for means and deviations over frames.
        dtype: "float16", "float32" or "int8" (pooled stores: always float32).
        resampler: what brought the audio to 16 kHz.
        normalisation: what was done to the waveform.
        format_version: of the shards.
    """

    weights: str
    config: dict
    layers: tuple[int, ...]
    kind: str
    dtype: str
    resampler: str
    normalisation: str
    format_version: int = FORMAT_VERSION

    def hash(self) -> str:
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a reader wants to know of a store and the numbers do not depend on."""

    upstream: str
    checkpoint: str
    manifest: str
    dim: int
    frame_rate: float  # frames per second
    parameters: int


def create_store(path: Path, fingerprint: Fingerprint, info: Info) -> None:
    """Make the folder, or check that the one there has the same fingerprint.

    Raises:
        UserError: it has another; names the first field that differs.
    """
    path.mkdir(parents=True, exist_ok=True)
    if (path / "store.json").exists():
        check_fingerprint(path, read_header(path)[0], fingerprint)
        return
    if any((path / "shards").glob("*.h5")):
        raise UserError("a folder with shards has no store.json", where=path, remedy="choose another folder")
    text = json.dumps({"fingerprint": asdict(fingerprint), "info": asdict(info)}, indent=1)
    _write_whole(path / "store.json", text)
    fsync_folder(path)


def check_fingerprint(path: Path, found: Fingerprint, wanted: Fingerprint) -> None:
    """Raise a UserError that names the first field in which two fingerprints differ."""
    for field in fields(Fingerprint):
        here, there = getattr(found, field.name), getattr(wanted, field.name)
        if here != there:
            if isinstance(here, dict):
                key = next(k for k in [*here, *there] if (k in here, here.get(k)) != (k in there, there.get(k)))
                here, there, name = here.get(key), there.get(key), f"{field.name}.{key}"
            else:
                name = field.name
            raise UserError(
                f"the store was made with another {name}",
                where=path,
                why=f"the store has {here!r}, this run {there!r}",
                remedy="use another stores= folder, or the upstream and options that the store was made with",
            )


def open_store(path: Path | str) -> "Store":
    """Open a store for reading.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return Store(Path(path))


class Utterance:
    """One utterance of a frame store: `utterance[layer]` is (frames, dim)."""

    def __init__(self, store: "Store", row: int) -> None:
        self._store, self._row = store, row

    def __len__(self) -> int:
        return int(self._store.lengths[self._row])

    def __getitem__(self, layer: int) -> Float[np.ndarray, "frames dim"]:
        return self._store.read_frames([self._row], [layer])[0][0]

    @property
    def states(self) -> Float[np.ndarray, "layers frames dim"]:
        return self._store.read_frames([self._row], self._store.layers)[0]


class Store:
    """A feature store open for reading; safe to pickle to workers, which open their own files.

    Attributes:
        ids: utterances in manifest order.
        lengths: frames of each, [utterance].
        layers: the states that are stored.
        pooled: whether it holds means and deviations in place of frames.
        rejected: refused utterances and why.
        extract_seconds: wall-clock time of the workers that made it, added up.
        extract_cpu_seconds: the same of all their cores; NaN where not all of it was made on CPU, or is known.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "store.json").is_file():
            raise UserError("there is no feature store", where=path, remedy="make one with `wavbench extract`")
        self.path = path
        self.fingerprint, self.info = read_header(path)
        self.layers, self.pooled = self.fingerprint.layers, self.fingerprint.kind == "mean"
        self.dim, self.frame_rate = self.info.dim, self.info.frame_rate
        self._names, self._tables = _read_tables(path, self.fingerprint)
        latest = _latest(self._tables)
        order = _ordered(latest, _sealed_order(path))
        self.ids = [id for id, _, _ in order]
        self._shard = np.array([shard for _, shard, _ in order], np.int64)
        self._place = np.array([place for _, _, place in order], np.int64)
        self.lengths = np.array([self._tables[s].lengths[p] for _, s, p in order], np.int64)
        self.rejected = {id: self._tables[s].rejected[id][0] for id, (_, s, place) in latest.items() if place < 0}
        self.extract_seconds = sum(table.work_seconds for table in self._tables)
        self.extract_cpu_seconds = sum(table.cpu_seconds for table in self._tables)
        self.rows = {id: row for row, id in enumerate(self.ids)}
        self._files: OrderedDict[int, h5py.File] = OrderedDict()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size_bytes(self) -> int:
        """Of all shards on disk."""
        return sum((self.path / "shards" / name).stat().st_size for name in self._names)

    def __contains__(self, id: str) -> bool:
        return id in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, id: str) -> Utterance:
        self.need_frames("reading an utterance's frames")
        return Utterance(self, self.row(id))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": OrderedDict()}

    def row(self, id: str) -> int:
        if id not in self.rows:
            why = f"its audio was rejected: {self.rejected[id]}" if id in self.rejected else ""
            raise UserError(f"the store has no utterance {id!r}", where=self.path, why=why, remedy="extract it first")
        return self.rows[id]

    def audio_hash(self, row: int) -> str:
        """BLAKE2b of the audio file that a row was made of."""
        return self._tables[self._shard[row]].stamps[self._place[row]].hash

    def need_frames(self, purpose: str) -> None:
        """Raise a UserError when the store holds only means."""
        if self.pooled:
            raise UserError(
                f"{purpose} needs a frame store, and this one is pooled",
                where=self.path,
                remedy="extract with pool=none",
            )

    def read_frames(
        self, rows: Sequence[int] | np.ndarray, layers: Sequence[int]
    ) -> tuple[np.ndarray, Int[np.ndarray, " utterances"]]:
        """States of many utterances end to end, read shard by shard in long runs.

        Args:
            rows: positions in `ids`, in the order wanted.
            layers: states wanted.

        Returns:
            States [layer, frame, dim] (as stored; int8 is scaled back to float32) and the lengths of the utterances.
        """
        self.need_frames("reading frames")
        rows, places = np.asarray(rows, np.int64), self._layer_places(layers)
        lengths = self.lengths[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        int8 = self.fingerprint.dtype == "int8"
        out = np.empty((len(places), int(starts[-1]), self.dim), np.float32 if int8 else self.fingerprint.dtype)
        for file, run, first, last in self._runs(rows):
            states = own_dataset(file, "states")
            target = slice(int(starts[run[0]]), int(starts[run[-1] + 1]))
            with _checksums(file):
                for number, place in enumerate(places):
                    if int8:
                        here = np.s_[self._place[rows[run[0]]] : self._place[rows[run[-1]]] + 1, place]
                        scales = np.repeat(own_dataset(file, "scales")[here], lengths[run], axis=0)
                        out[number, target] = states[place, first:last] * scales
                    else:
                        states.read_direct(out[number], np.s_[place, first:last], target)
        return out, lengths

    def read_pooled(
        self, rows: Sequence[int] | np.ndarray, layers: Sequence[int]
    ) -> tuple[Float[np.ndarray, "utterances layers dim"], Float[np.ndarray, "utterances layers dim"]]:
        """Mean and population standard deviation over frames, float32, taken before any cast of the frames."""
        rows, places = np.asarray(rows, np.int64), self._layer_places(layers)
        mean = np.empty((len(rows), len(places), self.dim), np.float32)
        std = np.empty_like(mean)
        for shard in np.unique(self._shard[rows]):
            here = np.flatnonzero(self._shard[rows] == shard)
            file = self._file(int(shard))
            with _checksums(file):
                for name, out in (("mean", mean), ("std", std)):
                    out[here] = own_dataset(file, name)[:][self._place[rows[here]]][:, places]
        return mean, std

    def _layer_places(self, layers: Sequence[int]) -> list[int]:
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            known = [str(layer) for layer in self.layers]
            raise UserError(
                f"the store has no layer {missing[0]}", where=self.path, remedy=f"layers: {', '.join(known)}"
            )
        return [self.layers.index(layer) for layer in layers]

    def _file(self, shard: int) -> h5py.File:
        if shard not in self._files:
            path = self.path / "shards" / self._names[shard]
            try:
                self._files[shard] = h5py.File(path, "r")
            except OSError as error:
                raise damaged(path, error) from error
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]

    def _runs(self, rows: np.ndarray) -> Iterator[tuple[h5py.File, np.ndarray, int, int]]:
        """Stretches of `rows` that lie end to end in one shard: file, positions in `rows`, first and last frame."""
        if not len(rows):
            return
        shard, place = self._shard[rows], self._place[rows]
        breaks = np.flatnonzero((np.diff(shard) != 0) | (np.diff(place) != 1)) + 1
        for run in np.split(np.arange(len(rows)), breaks):
            offsets = self._tables[shard[run[0]]].offsets
            first = int(offsets[place[run[0]]])
            last = int(offsets[place[run[-1]]] + self.lengths[rows[run[-1]]])
            yield self._file(int(shard[run[0]])), run, first, last


def seal(path: Path, order: Iterable[str] | None = None) -> Store:
    """Write the index and rejected.jsonl; doing it again changes nothing.

    Args:
        order: utterance ids in manifest order; without it the order of the last seal, then of the shards.
    """
    fingerprint, _ = read_header(path)
    names, tables = _read_tables(path, fingerprint)
    index = _ordered(_latest(tables), list(order) if order is not None else _sealed_order(path))
    temporary = temporary_in(path)
    with h5py.File(temporary, "w") as file:
        file.attrs.update(format_version=FORMAT_VERSION, fingerprint=fingerprint.hash())
        for number, name in enumerate(names):
            file[f"shards/{number:05d}"] = h5py.ExternalLink(f"shards/{name}", "/")
        group = file.create_group("index")
        group["ids"] = np.array([id for id, _, _ in index], dtype=object).astype(h5py.string_dtype("utf-8"))
        group["shard"] = np.array([shard for _, shard, _ in index], np.int32)
        group["offset"] = np.array([tables[s].offsets[p] for _, s, p in index], np.int64)
        group["length"] = np.array([tables[s].lengths[p] for _, s, p in index], np.int64)
        group["row"] = np.array([place for _, _, place in index], np.int64)
    with open(temporary, "rb") as written:
        os.fsync(written.fileno())
    os.replace(temporary, path / "features.h5")
    store = Store(path)
    lines = [json.dumps({"id": id, "reason": reason}, ensure_ascii=False) for id, reason in store.rejected.items()]
    _write_whole(path / "rejected.jsonl", "".join(f"{line}\n" for line in lines))
    fsync_folder(path)
    return store


def _write_whole(path: Path, text: str) -> None:
    temporary = temporary_in(path.parent)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_header(path: Path) -> tuple[Fingerprint, Info]:
    """What store.json says."""
    try:
        text = json.loads((path / "store.json").read_text())
        fingerprint = text["fingerprint"] | {"layers": tuple(text["fingerprint"]["layers"])}
        return Fingerprint(**fingerprint), Info(**text["info"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "store.json cannot be read", where=path, why=str(error)[:200], remedy="is this the folder of a store?"
        ) from error


def _read_tables(path: Path, fingerprint: Fingerprint) -> tuple[list[str], list[Rows]]:
    names = sorted(p.name for p in (path / "shards").glob("*.h5") if NAME.match(p.name))
    return names, [read_rows(path / "shards" / name, fingerprint.hash()) for name in names]


@contextlib.contextmanager
def _checksums(file: h5py.File) -> Iterator[None]:
    """Say which shard it is whose bytes have changed; HDF5 says only that a filter failed."""
    try:
        yield
    except OSError as error:
        raise damaged(Path(file.filename), error) from error


def _sealed_order(path: Path) -> list[str]:
    try:
        with h5py.File(path / "features.h5", "r") as file:
            return own_dataset(file, "index/ids").asstr()[:].tolist()
    except (UserError, OSError, KeyError, ValueError, TypeError, RuntimeError):
        return []  # not sealed yet, or damaged: the shards themselves say all but the order


def _latest(tables: list[Rows]) -> dict[str, tuple[float, int, int]]:
    """Where the version written last of each utterance stands: (written at, shard, place; -1 where it was rejected)."""
    latest: dict[str, tuple[float, int, int]] = {}
    for shard, table in enumerate(tables):
        places = [*enumerate(table.ids), *((-1, id) for id in table.rejected)]
        for place, id in places:
            if id not in latest or table.written_at > latest[id][0]:
                latest[id] = (table.written_at, shard, place)
    return latest


def _ordered(latest: dict[str, tuple[float, int, int]], order: list[str]) -> list[tuple[str, int, int]]:
    """(id, shard, place) once per stored utterance, in manifest order as far as it is known."""
    ids = list(dict.fromkeys([*(id for id in order if id in latest), *latest]))
    return [(id, *latest[id][1:]) for id in ids if latest[id][2] >= 0]
