"""What happens to samples before the first layer."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.upstream.lengths import mask_from_lengths

EPSILON = 1e-7  # added to the variance: the value every released checkpoint was trained with
UNIT_VARIANCE = f"zero mean and unit variance per utterance, epsilon {EPSILON:g}"


def normalise_waveforms(
    waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch samples"]:
    """Zero mean and unit variance over the valid samples of each utterance; zeros beyond them.

    Source: Baevski et al. 2020, wav2vec 2.0, section 2 ("the raw waveform input is normalized").
    """
    beyond = ~mask_from_lengths(lengths, waveforms.shape[1])
    count = lengths.clamp(min=1)[:, None]
    waveforms = waveforms.masked_fill(beyond, 0.0)
    waveforms = (waveforms - waveforms.sum(dim=1, keepdim=True) / count).masked_fill(beyond, 0.0)
    variance = waveforms.square().sum(dim=1, keepdim=True) / count
    return waveforms / torch.sqrt(variance + EPSILON)


def normalise_recording(waveform: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """The same for one waveform that may be hours long, in memory for one copy of it."""
    variance, mean = torch.var_mean(waveform, correction=0)
    return (waveform - mean).div_(torch.sqrt(variance + EPSILON))
