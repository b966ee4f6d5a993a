"""What an extraction will do, known before its first batch: which rows in which batches, and how much disk.

Blocks and batches are a pure function of the manifest's rows, never of what is already done: a run that was killed
computes the missing rows in the batches of an uninterrupted run, and so to the same last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavbench.upstream.audio import MAX_SECONDS
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import Manifest

BLOCK_SECONDS = 1_800.0  # of audio: bounds a block of a pooled store, which would otherwise be the whole corpus


@dataclass(frozen=True)
class Plan:
    """What an extraction will do, known before its first batch.

    Args:
        rows: utterances of the manifest.
        todo: positions of those that the store lacks, or has of other audio.
        todo_bytes: size of the states that will be written.
        free_bytes: of the disk that the store lies on.
    """

    rows: int
    todo: tuple[int, ...]
    todo_bytes: int
    free_bytes: int


def check_space(path: Path, plan: Plan) -> None:
    """Raise a UserError when what is left to write does not fit on the disk."""
    if plan.todo_bytes > plan.free_bytes:
        raise UserError(
            f"the features need {plan.todo_bytes / 1e9:.2f} GB and the disk has {plan.free_bytes / 1e9:.2f} GB free",
            where=path,
            remedy="give another stores= folder, fewer layers (layers=4,8), or pool=mean where the head allows it",
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
