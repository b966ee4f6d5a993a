"""Corpora decoded once: training reads each recording hundreds of times, and decoding costs more than a step.

A folder holds `samples.i16`, all utterances one after the other as 16-bit samples, which every process maps into
memory, and `index.json`, which is written last: a folder without it is not finished.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from wavbench.upstream.audio import RESAMPLER, AudioError, load_audio
from wavbench.upstream.claims import remove_orphans, temporary_in
from wavbench.upstream.manifest import Manifest

VERSION = 1
SCALE = 32_767.0  # 16 bits: what nearly all corpora come in


@dataclass(frozen=True)
class Speech:
    """Utterances of one or several corpora as samples in memory (or mapped into it).

    Args:
        ids: `corpus/id`.
        splits: of each utterance.
        languages: of each utterance, "" where unknown.
        offsets: first sample of each utterance.
        lengths: samples of each utterance.
        samples: of all utterances, 16-bit.
        hash: BLAKE2b of ids and samples.
        rejected: id and reason of what could not be decoded.
    """

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    languages: tuple[str, ...]
    offsets: np.ndarray
    lengths: np.ndarray
    samples: np.ndarray
    hash: str
    rejected: dict[str, str]

    def crop(self, row: int, start: int, count: int) -> Float32[np.ndarray, " samples"]:
        first = self.offsets[row] + start
        return self.samples[first : first + count].astype(np.float32) / np.float32(SCALE)

    def rows(self, split: str) -> np.ndarray:
        return np.flatnonzero(np.array(self.splits) == split)


def decode(
    manifests: Sequence[Manifest], folder: Path, *, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> Speech:
    """All utterances of the manifests, decoded now or by an earlier call with the same manifests and files.

    Args:
        manifests: in the order that ids are kept in.
        folder: one subfolder is made per set of manifests.
        workers: threads that decode.
        progress: called with utterances done and in all.
    """
    rows = [_row(manifest, i) for manifest in manifests for i in range(len(manifest))]
    key = hashlib.blake2b(json.dumps([VERSION, RESAMPLER, *rows]).encode(), digest_size=8).hexdigest()
    place = folder / f"decoded-{key}"
    if not (place / "index.json").is_file():
        _decode(rows, place, workers, progress)
    return open_decoded(place)


def open_decoded(place: Path) -> Speech:
    """A finished folder; the samples are mapped, not read."""
    index = json.loads((place / "index.json").read_text())
    columns = list(zip(*index["rows"], strict=True)) or [()] * 4
    lengths = np.array(columns[3], np.int64)
    # "c": as read-only as "r", but torch takes it without a warning
    samples = np.memmap(place / "samples.i16", np.int16, "c") if lengths.sum() else np.zeros(0, np.int16)
    offsets = np.cumsum(lengths) - lengths
    return Speech(*columns[:3], offsets, lengths, samples, index["hash"], index["rejected"])


def _row(manifest: Manifest, row: int) -> list:
    """What decoding one row depends on, and what is kept beside its samples."""
    values = manifest.table.iloc[row]
    path = manifest.audio_path(row)
    try:
        stat = os.stat(path)
        stamp = [stat.st_size, stat.st_mtime_ns]
    except OSError:
        stamp = [-1, 0]
    segment = [None if np.isnan(values.get(name, np.nan)) else float(values[name]) for name in ("start", "end")]
    id = f"{manifest.name}/{values['id']}"
    return [id, values["split"], values.get("language", ""), str(path), *segment, *stamp]


def _decode(rows: list[list], place: Path, workers: int, progress: Callable[[int, int], None] | None) -> None:
    place.mkdir(parents=True, exist_ok=True)
    remove_orphans(place)  # what a killed run had decoded may be large
    temporary = temporary_in(place)
    digest, kept, rejected = hashlib.blake2b(digest_size=16), [], {}

    def load(row: list) -> np.ndarray | str:
        try:
            return np.rint(np.clip(load_audio(row[3], row[4], row[5]), -1, 1) * SCALE).astype(np.int16)
        except AudioError as error:
            return str(error)

    try:
        with open(temporary, "wb") as file, ThreadPoolExecutor(workers) as pool:
            ahead = 64 * workers  # utterances decoded but not yet written: bounds the memory
            pending = [pool.submit(load, row) for row in rows[:ahead]]
            for i, row in enumerate(rows):
                samples = pending[i].result()
                pending[i] = None
                if i + ahead < len(rows):
                    pending.append(pool.submit(load, rows[i + ahead]))
                if isinstance(samples, str):
                    rejected[row[0]] = samples
                else:
                    file.write(samples)
                    digest.update(row[0].encode() + b"\0")
                    digest.update(samples)
                    kept.append([*row[:3], len(samples)])
                if progress:
                    progress(i + 1, len(rows))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place / "samples.i16")
    finally:
        temporary.unlink(missing_ok=True)
    index = temporary_in(place, ".json")
    index.write_text(json.dumps({"rows": kept, "rejected": rejected, "hash": digest.hexdigest()}))
    os.replace(index, place / "index.json")
