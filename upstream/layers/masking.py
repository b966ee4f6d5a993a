"""Which frames are hidden in pretraining, and how their representations are replaced."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def span_mask(
    frames: int, start_share: float, span: int, generator: np.random.Generator, min_spans: int = 1
) -> Bool[np.ndarray, " frames"]:
    """True at the frames to hide: spans of equal length at random starts, which may overlap.

    The number of spans is start_share x frames, rounded up or down at random so that its mean is exact; starts are
    drawn without replacement among those whose span fits. With starts at 6.5 % of the frames and spans of 10, about
    49 % of the frames are hidden.

    Args:
        frames: of the utterance.
        start_share: of all frames that begin a span.
        span: frames.
        generator: of this utterance alone, so that its mask depends on no other.
        min_spans: hide at least so many, if they fit.

    Returns:
        All False where the utterance is shorter than a span.

    Source: Baevski et al. 2020, wav2vec 2.0, section 3.1; fairseq's `compute_mask_indices`.
    """
    masked = np.zeros(frames, bool)
    starts = frames - span + 1  # places where a span fits
    if starts < 1:
        return masked
    count = min(max(int(start_share * frames + generator.random()), min_spans), starts)
    first = generator.choice(starts, count, replace=False)
    masked[(first[:, None] + np.arange(span)).ravel()] = True
    return masked


def varied_spans(
    frames: int, start_share: float, span: float, deviation: float, generator: np.random.Generator
) -> Bool[np.ndarray, " frames"]:
    """True at the frames to hide: spans of random lengths at random starts, which may overlap.

    Lengths are drawn from a normal distribution and rounded; one below zero is none. A span that begins near the end is
    cut off there. With starts at 5 % of the frames, spans of 10 and a deviation of 10, 42 % of the frames are hidden.

    Args:
        frames: of the utterance.
        start_share: of all frames that begin a span.
        span: mean length, in frames.
        deviation: its standard deviation, in frames.
        generator: of this utterance alone, so that its mask depends on no other.

    Source: fairseq's `MaskTokensDataset` with `mask_multiple_length` and `mask_stdev`.
    """
    count = min(int(start_share * frames + generator.random()), frames)
    first = generator.choice(frames, count, replace=False)
    lengths = np.rint(generator.normal(span, deviation, count)).astype(np.int64)
    # A span begins and ends where the number of spans that are open goes up and down.
    open_spans = np.zeros(frames + 1, np.int64)
    np.add.at(open_spans, first, 1)
    np.add.at(open_spans, np.minimum(first + np.maximum(lengths, 0), frames), -1)
    return open_spans.cumsum()[:frames] > 0


class FrameMask(nn.Module):
    """One learned vector that stands in for every hidden frame.

    Args:
        dim: width of a frame.

    Source: Baevski et al. 2020, wav2vec 2.0, section 3.1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(dim).uniform_())

    def forward(
        self, x: Float[Tensor, "total_frames dim"], masked: Bool[Tensor, " total_frames"]
    ) -> Float[Tensor, "total_frames dim"]:
        return torch.where(masked[:, None], self.vector.to(x.dtype), x)
