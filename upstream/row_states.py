"""Rows of a manifest as samples that an upstream takes, and samples as states: what extraction and streaming share."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from wavbench.upstream.audio import SAMPLE_RATE, AudioError, load_audio
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.inference import Pending
from wavbench.upstream.manifest import Manifest


def segment_of(manifest: Manifest, row: int) -> tuple[float, float]:
    """First and last second of a row; NaN where its table does not say."""
    table = manifest.table
    start, end = (float(table[name].iat[row]) if name in table else np.nan for name in ("start", "end"))
    return start, end


def samples_of(upstream: Upstream, manifest: Manifest, row: int) -> Float32[np.ndarray, " samples"]:
    """A row's samples, seen to be of a length that an upstream can take.

    Raises:
        AudioError: why there are none.
    """
    samples = load_audio(manifest.audio_path(row), *segment_of(manifest, row))
    if len(samples) < upstream.min_samples:
        need = 1000 * upstream.min_samples / SAMPLE_RATE
        raise AudioError(f"it is shorter than one frame of {upstream.name} ({need:g} ms)")
    if upstream.max_samples and len(samples) > upstream.max_samples:
        most = upstream.max_samples / SAMPLE_RATE
        raise AudioError(f"it is longer than the {most:g} s that {upstream.name} sees; cut it")
    return samples


def states_of(upstream: Upstream, waveforms: Sequence[Tensor], layers: Sequence[int]) -> list[Pending]:
    """States of a batch, or of its halves where it does not fit into the memory of the GPU.

    Args:
        upstream: the frozen model.
        waveforms: 16 kHz mono, float32.
        layers: ascending.

    Raises:
        UserError: one utterance alone does not fit.
    """
    try:
        return [upstream.batch(waveforms, layers)]
    except torch.OutOfMemoryError as error:
        if len(waveforms) == 1:
            raise UserError(
                f"an utterance of {len(waveforms[0]) / SAMPLE_RATE:.1f} s exceeds the device's memory",
                why=str(error).split("\n")[0],
                remedy="precision=bf16, fewer layers, device=cpu, or cut it with the manifest's start and end",
            ) from None
    torch.cuda.empty_cache()
    half = len(waveforms) // 2
    return [*states_of(upstream, waveforms[:half], layers), *states_of(upstream, waveforms[half:], layers)]


def frames_of(upstream: Upstream, samples: int) -> int:
    """Frames that an upstream makes of so many samples, without running it.

    Unpadded convolutions one after the other count as a single one whose kernel is the least that gives a frame and
    whose stride is the product of theirs: rounding down step by step rounds down once.
    """
    hop = round(SAMPLE_RATE / upstream.frame_rate)
    return max((samples - upstream.min_samples) // hop + 1, 0)
