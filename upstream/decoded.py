"""Corpora decoded once: training reads each recording hundreds of times, and decoding costs more than a step.

A folder holds `samples.i16`, all utterances one after the other as 16-bit samples, which every process maps into
memory, and `index.json`, which is written last: a folder without it is not finished. Until then the samples lie in
`samples.part`, and `rows.part` says what of them is whole: a decoding that was stopped goes on there.

While a process decodes, both names hold the token of its claim (`samples-<token>.part`), and the first line of the
notes says who it is. A process that takes over renames them where that owner is dead. One that may come back to life,
as after a pause of a virtual machine, still has its files open: what it had noted is copied, and whatever it writes
later goes to files that nobody reads.
"""

import contextlib
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
from wavbench.upstream.claims import Claim, is_dead, remove_orphans, temporary_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import Manifest

VERSION = 1
SCALE = 32_767.0  # 16 bits: what nearly all corpora come in
SAVED_SAMPLES = 16_000 * 600  # samples between two notes of what is whole
EXPIRY = 120.0  # seconds without a sign of life, after which another process takes over
COPIED = 1 << 24  # bytes at once
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
        with claims.kept(claim, EXPIRY), contextlib.suppress(_Lost):
            if not (place / "index.json").is_file():
                _decode(rows, place, claim, workers, progress)
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


class _Lost(Exception):
    """Another process has taken the claim: it was not touched for too long."""


def _decode(
    rows: list[list], place: Path, claim: Claim, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    remove_orphans(place)
    part, noted = _parts(place, f"-{claim.token}")
    try:
        outcomes = _taken_over(place, part, noted, len(rows))  # of each row: its samples, or why it has none
        _write(rows, outcomes, part, noted, claim, workers, progress)
    finally:  # nobody writes any more: the next one need not ask who did
        for own, free in zip((part, noted), _parts(place), strict=True):
            if claim.held() and own.is_file():
                os.replace(own, free)


def _write(
    rows: list[list],
    outcomes: list[int | str],
    part: Path,
    noted: Path,
    claim: Claim,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    place, digest, unsaved = part.parent, hashlib.blake2b(digest_size=16), 0
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
                _still(claim)
                notes.writelines(json.dumps(outcome) + "\n" for outcome in outcomes[begun:])
                _save(notes)
                begun, unsaved = len(outcomes), 0
            if progress:
                progress(i + 1, len(rows))
    _still(claim)
    there, wanted = part.stat().st_size, 2 * sum(outcome for outcome in outcomes if isinstance(outcome, int))
    if there != wanted:
        raise UserError(
            f"the decoded audio has {there} bytes, and {wanted} were written",
            where=part,
            why="another program wrote to the file, or the file system lost what it was given",
            remedy="run the same command again: it goes on with what is whole",
        )
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
    _still(claim)
    os.replace(index, place / "index.json")
    noted.unlink(missing_ok=True)


def _still(claim: Claim) -> None:
    if not claim.held():
        raise _Lost


def _parts(place: Path, mark: str = "") -> tuple[Path, Path]:
    return place / f"samples{mark}.part", place / f"rows{mark}.part"


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


def _taken_over(place: Path, part: Path, noted: Path, most: int) -> list[int | str]:
    """What a stopped decoding had done of its rows; both files are this process's own then, and cut to it."""
    left = [path for path in place.glob("rows*.part") if path != noted]
    found = max(((*_noted(path, most), path) for path in left), key=lambda one: len(one[1]), default=({}, [], None))
    owner, outcomes, source = found
    # it may have been stopped between its last two renames, or amid a take-over
    own = [] if source is None else [source.with_name(source.name.replace("rows", "samples", 1))]
    others = [*sorted(place.glob("samples*.part")), place / "samples.i16"]
    samples = next((path for path in own + others if source is not None and path.is_file()), None)
    size, whole = 0, 0
    for outcome in outcomes if samples else ():
        longer = size + 2 * (outcome if isinstance(outcome, int) else 0)
        if longer > samples.stat().st_size:
            break
        size, whole = longer, whole + 1
    if samples and samples in own and not is_dead(owner) and owner:
        _copy(samples, part, size)
    elif samples:
        os.replace(samples, part)
    with open(part, "ab") as file:
        file.truncate(size)
    noted.write_text("".join(json.dumps(line) + "\n" for line in [claims.owner(), *outcomes[:whole]]))
    for path in {*left, *place.glob("samples*.part"), place / "samples.i16"} - {part}:
        path.unlink(missing_ok=True)
    return outcomes[:whole]


def _noted(path: Path, most: int) -> tuple[dict, list[int | str]]:
    """Who wrote notes ({} for nobody any more), and what of them can be read."""
    owner: dict = {}
    outcomes: list[int | str] = []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        try:
            value = json.loads(line) if line.endswith("\n") else None  # it was writing this one
        except (ValueError, RecursionError):
            break
        if isinstance(value, dict) and not outcomes:
            owner = {} if path.name == "rows.part" else value
        elif (isinstance(value, str) or (type(value) is int and value >= 0)) and len(outcomes) < most:
            outcomes.append(value)
        else:
            break
    return owner, outcomes


def _copy(source: Path, target: Path, size: int) -> None:
    """The first bytes of a file under another name, whole or not at all."""
    temporary = temporary_in(target.parent)
    try:
        with open(source, "rb") as read, open(temporary, "wb") as written:
            while size and (piece := read.read(min(size, COPIED))):
                size -= written.write(piece)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _digest_again(digest, part: Path, rows: list[list], outcomes: list[int | str]) -> None:
    with open(part, "rb") as file:
        for row, outcome in zip(rows, outcomes, strict=False):
            if isinstance(outcome, int):
                _add(digest, row, file.read(2 * outcome))


def _add(digest, row: list, samples: np.ndarray | bytes) -> None:
    digest.update(row[0].encode() + b"\0")
    digest.update(samples)
