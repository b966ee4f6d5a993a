"""Small data sets in the layouts of their authors, one file per reader: what tests import instead of the real ones."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile


@dataclass(frozen=True)
class Tree:
    """A small corpus on disk.

    Args:
        root: what a person would give to `wavbench corpus import`.
        audio: one of its audio files, under the root, whose absence can be noticed (it is listed somewhere, or the
            number of files is published); None where it cannot.
        index: a file or folder without which it cannot be read; None where the audio files are all there is.
        splits: utterances of each split that its reader must find.
        options: of its reader.
        complete: whether it has as many utterances as are published.
    """

    root: Path
    audio: Path | None
    index: Path | None
    splits: dict[str, int]
    options: dict[str, object] = field(default_factory=dict)
    complete: bool = False


def write_audio(path: Path, seed: int = 0, seconds: float = 0.4, rate: int = 16_000) -> Path:
    """A short noise burst, another for each seed, in the format that the suffix says (mp3 and opus included)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate)).clip(-3, 3)
    kind = {".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III"), ".sph": ("NIST", "PCM_16")}
    format, subtype = kind.get(path.suffix, (None, None))
    soundfile.write(path, samples.astype(np.float32), rate, format=format, subtype=subtype)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
