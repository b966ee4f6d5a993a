"""Corpora decoded once: training reads each recording hundreds of times, and decoding costs more than a step.

A folder holds `samples.i16`, all utterances one after the other as 16-bit samples, which every process maps into
memory, and `index.json`, which is written last: a folder without it is not finished. Until then the samples lie in
`samples.part`, and `rows.part` says what of them is whole: a decoding that was stopped goes on there.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float32

from wavbench.upstream import claims
from wavbench.upstream.audio import RESAMPLER, AudioError, load_audio
from wavbench.upstream.claims import remove_orphans, temporary_in
from wavbench.upstream.manifest import Manifest

VERSION = 1
SCALE = 32_767.0  # 16 bits: what nearly all corpora come in
SAVED_SAMPLES = 16_000 * 600  # samples between two notes of what is whole
EXPIRY = 120.0  # seconds without a sign of life, after which another process takes over
POLL_SECONDS = 0.5  # between looks at a decoding that another process does


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

    What an earlier call had done when it was stopped is kept, and what another process is doing is waited for.

    Args:
        manifests: in the order that ids are kept in.
        folder: one subfolder is made per set of manifests.
        workers: threads that decode.
        progress: called with utterances done and in all.
    """
    rows = [_row(manifest, i) for manifest in manifests for i in range(len(manifest))]
    key = hashlib.blake2b(json.dumps([VERSION, RESAMPLER, *rows]).encode(), digest_size=8).hexdigest()
    place = folder / f"decoded-{key}"
    while not (place / "index.json").is_file():
        claim = claims.take(place, "decoding", EXPIRY)
        if claim is None:
            time.sleep(POLL_SECONDS)
            continue
        with claims.kept(claim, EXPIRY):
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
    remove_orphans(place)
    part, noted = place / "samples.part", place / "rows.part"
    outcomes = _resumed(part, noted, len(rows))  # of each row: its samples, or why it has none
    digest, unsaved = hashlib.blake2b(digest_size=16), 0
    with open(part, "ab") as file, open(noted, "a") as notes, ThreadPoolExecutor(workers) as pool:
        _digest_again(digest, part, rows, outcomes)
        begun = len(outcomes)
        for i, samples in enumerate(_ahead(pool, rows[begun:], 64 * workers), start=begun):
            if isinstance(samples, str):
                outcomes.append(samples)
            else:
                file.write(samples)
                _add(digest, rows[i], samples)
                outcomes.append(len(samples))
                unsaved += len(samples)
            if unsaved > SAVED_SAMPLES or i + 1 == len(rows):
                _save(file)  # first: what is noted is there
                notes.writelines(json.dumps(outcome) + "\n" for outcome in outcomes[begun:])
                _save(notes)
                begun, unsaved = len(outcomes), 0
            if progress:
                progress(i + 1, len(rows))
    os.replace(part, place / "samples.i16")
    pairs = list(zip(rows, outcomes, strict=True))
    index = temporary_in(place, ".json")
    index.write_text(
        json.dumps(
            {
                "rows": [[*row[:3], outcome] for row, outcome in pairs if isinstance(outcome, int)],
                "rejected": {row[0]: outcome for row, outcome in pairs if isinstance(outcome, str)},
                "hash": digest.hexdigest(),
            }
        )
    )
    os.replace(index, place / "index.json")
    noted.unlink(missing_ok=True)


def _save(file: IO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _ahead(pool: ThreadPoolExecutor, rows: list[list], ahead: int) -> Iterator[np.ndarray | str]:
    """The samples of each row, or why it has none; at most `ahead` of them are decoded and not yet taken."""
    pending = [pool.submit(_load, row) for row in rows[:ahead]]
    for i in range(len(rows)):
        samples = pending[i].result()
        pending[i] = None
        if i + ahead < len(rows):
            pending.append(pool.submit(_load, rows[i + ahead]))
        yield samples


def _load(row: list) -> np.ndarray | str:
    try:
        return np.rint(np.clip(load_audio(row[3], row[4], row[5]), -1, 1) * SCALE).astype(np.int16)
    except AudioError as error:
        return str(error)


def _resumed(part: Path, noted: Path, most: int) -> list[int | str]:
    """What a stopped decoding had done of its rows, with both files cut to it."""
    if not part.is_file() and noted.is_file() and (whole := part.with_name("samples.i16")).is_file():
        os.replace(whole, part)  # it was stopped between its last two renames
    there, outcomes = part.stat().st_size // 2 if part.is_file() else 0, []
    size = 0
    for line in noted.read_text().splitlines(keepends=True)[:most] if noted.is_file() else ():
        if not line.endswith("\n"):  # it was writing this one
            break
        outcome = json.loads(line)
        size += outcome if isinstance(outcome, int) else 0
        if size > there:
            size -= outcome
            break
        outcomes.append(outcome)
    with open(part, "ab") as file:
        file.truncate(2 * size)
    noted.write_text("".join(json.dumps(outcome) + "\n" for outcome in outcomes))
    return outcomes


def _digest_again(digest, part: Path, rows: list[list], outcomes: list[int | str]) -> None:
    with open(part, "rb") as file:
        for row, outcome in zip(rows, outcomes, strict=False):
            if isinstance(outcome, int):
                _add(digest, row, file.read(2 * outcome))


def _add(digest, row: list, samples: np.ndarray | bytes) -> None:
    digest.update(row[0].encode() + b"\0")
    digest.update(samples)
