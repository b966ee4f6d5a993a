"""Decode any file that libsndfile knows to 16 kHz mono, or refuse it with a reason.

Headers are not believed: samples are read in blocks until the file ends, so a header that promises a petabyte costs
nothing.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32

SAMPLE_RATE = 16_000  # Hz, of everything behind this file
MIN_SAMPLES = 400  # 25 ms: one analysis window; no upstream makes a frame of less
MAX_SECONDS = 3_600.0  # one utterance; longer recordings need start and end columns
RATES = (2_000, 768_000)  # Hz; anything outside is a broken header
BLOCK = 1 << 20  # samples of all channels read at once
SLACK = 0.05  # seconds an `end` may lie behind the file's end: manifests round


class AudioError(Exception):
    """Why one file cannot be used; extraction writes it to rejected.jsonl and goes on."""


def load_audio(
    path: Path | str, start: float | None = None, end: float | None = None, max_seconds: float = MAX_SECONDS
) -> Float32[np.ndarray, " samples"]:
    """Read a file or a segment of it as 16 kHz mono.

    Args:
        path: wav, flac, mp3, ogg, opus, or whatever else libsndfile reads.
        start: first second, the file's beginning where None or NaN.
        end: last second, the file's end where None or NaN.
        max_seconds: refuse more than this.

    Raises:
        AudioError: the file is missing, unreadable, empty, too short or long, or holds samples that are not finite.
    """
    import soundfile

    path = Path(path)
    start = 0.0 if start is None or np.isnan(start) else float(start)
    end = None if end is None or np.isnan(end) else float(end)
    if not path.is_file():
        raise AudioError("there is no such file" if not path.exists() else "it is no regular file")
    if path.stat().st_size == 0:
        raise AudioError("the file is empty (0 bytes)")
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            if not RATES[0] <= rate <= RATES[1]:
                raise AudioError(f"its header says {rate} Hz, which no recording has")
            if start:
                if start * rate >= file.frames:
                    raise AudioError(f"start {start:g} s lies behind the file's end at {file.frames / rate:g} s")
                file.seek(round(start * rate))
            wanted = None if end is None else round(end * rate) - round(start * rate)
            samples = _read(file, wanted, int(max_seconds * rate))
    except soundfile.SoundFileError as error:
        raise AudioError(
            f"it cannot be decoded ({str(error).removeprefix(f'Error opening {str(path)!r}: ')})"
        ) from None
    except (OSError, MemoryError, RuntimeError) as error:
        raise AudioError(f"it cannot be read ({error})") from None
    if wanted is not None and wanted - len(samples) > SLACK * rate:
        raise AudioError(f"end {end:g} s lies behind the file's end at {start + len(samples) / rate:g} s")
    return prepare(samples, rate)


def prepare(samples: np.ndarray, rate: float) -> Float32[np.ndarray, " samples"]:
    """Mix (samples,) or (samples, channels) to mono, resample to 16 kHz, and check.

    Raises:
        AudioError: too short, too loud to be sound in [-1, 1], or not finite.
    """
    samples = np.asarray(samples)
    if np.issubdtype(samples.dtype, np.integer):
        info = np.iinfo(samples.dtype)
        half = (int(info.max) - int(info.min) + 1) / 2
        samples = (samples - (half + info.min)) / half  # unsigned samples swing about their middle
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if samples.ndim != 1:
        raise AudioError(f"an array of shape {samples.shape} is no sound; give (samples,) or (samples, channels)")
    if len(samples) and not np.isfinite(samples).all():
        raise AudioError("it holds NaN or infinite samples")
    if len(samples) and np.abs(samples).max() > 1e3:
        raise AudioError(f"its largest sample is {np.abs(samples).max():.3g}; sound lies in [-1, 1]")
    if rate != SAMPLE_RATE and len(samples):
        import soxr

        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality=RESAMPLER.removeprefix("soxr "))
    if len(samples) < MIN_SAMPLES:
        milliseconds = 1000 * len(samples) / SAMPLE_RATE
        raise AudioError(f"it is {milliseconds:.3g} ms long; {1000 * MIN_SAMPLES / SAMPLE_RATE:g} ms are the least")
    return np.ascontiguousarray(samples, dtype=np.float32)


RESAMPLER = "soxr HQ"


def audio_hash(path: Path | str) -> str:
    """BLAKE2b of the file's bytes, read once per process for the segments of one long recording."""
    stat = os.stat(path)
    return _hash(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _read(file, wanted: int | None, limit: int) -> np.ndarray:
    """At most `wanted` samples as mono float32, in blocks, so that only what exists is ever allocated."""
    blocks, count, step = [], 0, BLOCK // file.channels
    while wanted is None or count < wanted:
        size = step if wanted is None else min(step, wanted - count)
        block = file.read(size, dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1))
        count += len(block)
        if count > limit:
            raise AudioError(f"it is longer than {limit / file.samplerate:g} s; cut it with start and end columns")
    if not count:
        raise AudioError("it holds no samples")
    return np.concatenate(blocks)
