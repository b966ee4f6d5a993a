"""What an extraction will do, known before its first batch: which rows in which batches, and how much disk.

Blocks and batches are a pure function of the manifest's rows, never of what is already done: a run that was killed
computes the missing rows in the batches of an uninterrupted run, and so to the same last bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wavbench.upstream.audio import MAX_SECONDS
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import Manifest
from wavbench.upstream.store import Fingerprint

BLOCK_SECONDS = 1_800.0  # of audio: bounds a block of a pooled store, which would otherwise be the whole corpus


@dataclass(frozen=True)
class Plan:
    """What an extraction will do, known before its first batch.

    Args:
        rows: utterances of the manifest.
        todo: positions of those that the store lacks, or has of other audio.
        todo_bytes: size of the states that will be written.
        free_bytes: of the disk that the store lies on.
        ways: sizes of smaller stores of the same rows, by what has to be said for them.
    """

    rows: int
    todo: tuple[int, ...]
    todo_bytes: int
    free_bytes: int
    ways: Mapping[str, int]


def row_bytes(fingerprint: Fingerprint, dim: int, frame_rate: float, seconds: float) -> int:
    """Bytes that an utterance takes in a store.

    Args:
        fingerprint: of the store.
        dim: width of a state.
        frame_rate: Hz.
        seconds: of the utterance.
    """
    states = len(fingerprint.layers) * dim
    pooled = states * 8  # mean and deviation, float32
    if fingerprint.kind == "mean":
        return pooled
    scales = states * 4 if fingerprint.dtype == "int8" else 0
    return pooled + scales + int(seconds * frame_rate) * states * np.dtype(fingerprint.dtype).itemsize


def ways_out(fingerprint: Fingerprint, dim: int, frame_rate: float, seconds: Sequence[float]) -> dict[str, int]:
    """What to say for a smaller store of some rows, and its bytes, largest first.

    Args:
        fingerprint: of the store that is too large.
        dim: width of a state.
        frame_rate: Hz.
        seconds: of each row.
    """
    layers, ways = fingerprint.layers, {}
    if fingerprint.kind == "frames" and fingerprint.dtype != "int8":
        ways["dtype=int8"] = replace(fingerprint, dtype="int8")
    if len(layers) > 1:
        ways[f"layers={layers[len(layers) // 2]}"] = replace(fingerprint, layers=layers[:1])
    if fingerprint.kind == "frames":
        ways["pool=mean"] = replace(fingerprint, kind="mean", dtype="float32")
    sizes = {way: sum(row_bytes(other, dim, frame_rate, s) for s in seconds) for way, other in ways.items()}
    return dict(sorted(sizes.items(), key=lambda way: -way[1])) | {"features=streamed": 0}


MEANT = {
    "dtype=int8": "8 bits a number",
    "pool=mean": "means over frames, which `wavbench run` takes by itself where the head allows it",
    "features=streamed": "of `wavbench run`: states computed whenever a head wants them",
}


def check_space(path: Path, plan: Plan) -> None:
    """Raise a UserError when what is left to write does not fit on the disk."""
    if plan.todo_bytes > plan.free_bytes:
        ways = [f"{way} ({size / 1e9:.2f} GB: {MEANT.get(way, 'one layer')})" for way, size in plan.ways.items()]
        raise UserError(
            f"the features need {plan.todo_bytes / 1e9:.2f} GB and the disk has {plan.free_bytes / 1e9:.2f} GB free",
            where=path,
            remedy=f"give another stores= folder, or {', '.join(ways)}",
        )


def durations(manifest: Manifest) -> np.ndarray:
    """Seconds of each row: from the segment, else the duration column, else the file's header; 0 where unreadable."""
    import soundfile

    table = manifest.table
    empty = np.full(len(table), np.nan)
    start = table["start"].to_numpy() if "start" in table else empty
    end = table["end"].to_numpy() if "end" in table else empty
    seconds = end - np.nan_to_num(start)
    if "duration" in table:
        seconds = np.where(np.isnan(seconds), table["duration"].to_numpy(), seconds)
    for row in np.flatnonzero(np.isnan(seconds)):
        try:
            header = soundfile.info(manifest.audio_path(row))
            seconds[row] = max(header.duration - np.nan_to_num(start[row]), 0) if header.samplerate else 0
        except (soundfile.SoundFileError, OSError, RuntimeError):
            seconds[row] = 0
    return np.minimum(seconds, MAX_SECONDS)  # a header may promise anything; more than this is refused


def blocks(
    seconds: np.ndarray, row_bytes: Callable[[float], int], limit: int, batch_seconds: float
) -> list[list[list[int]]]:
    """Blocks of batches of manifest rows: consecutive rows to a block, in it batches of like length.

    A pure function of the durations. Within a block rows are sorted by length, so that attention over equal lengths
    and upstreams that pad (hub) waste little.
    """
    result, block, size, length = [], [], 0, 0.0
    for row, duration in enumerate(seconds):
        more = row_bytes(duration)
        if block and (size + more > limit or length + duration > BLOCK_SECONDS):
            result.append(block)
            block, size, length = [], 0, 0.0
        block.append(row)
        size, length = size + more, length + duration
    if block:
        result.append(block)
    return [_batches(block, seconds, batch_seconds) for block in result]


def _batches(rows: list[int], seconds: np.ndarray, batch_seconds: float) -> list[list[int]]:
    batches, batch, length = [], [], 0.0
    for row in sorted(rows, key=lambda row: (seconds[row], row)):
        if batch and length + seconds[row] > batch_seconds:
            batches.append(batch)
            batch, length = [], 0.0
        batch.append(row)
        length += seconds[row]
    return [*batches, batch] if batch else batches
