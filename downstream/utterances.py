"""Frames of utterances laid end to end, regrouped for heads that read whole utterances."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def padded(
    frames: Float[Tensor, "heads total inputs"], lengths: Int[Tensor, " batch"], stride: int = 1
) -> Float[Tensor, "heads batch steps wide"]:
    """Each utterance in a row of its own, `stride` neighbouring frames as one; zeros where it has no more.

    One gather: padding utterances one by one, or reading a packed sequence step by step, has a gradient that writes the
    whole batch once for each of them (72 % of an update of two bidirectional LSTMs, measured).
    """
    steps = max(-(-int(lengths.max()) // stride), 1)
    place = torch.arange(steps * stride)
    behind = frames.shape[1]  # a frame of zeros behind all others
    rows = torch.where(place < lengths[:, None], (lengths.cumsum(0) - lengths)[:, None] + place, behind)
    seen = F.pad(frames, (0, 0, 0, 1)).index_select(1, rows.flatten().to(frames.device))
    return seen.reshape(len(frames), len(lengths), steps, -1)


def of_equal_length(
    frames: Float[Tensor, "heads total inputs"],
    lengths: Int[Tensor, " batch"],
    read: Callable[[Float[Tensor, "heads batch frames inputs"]], Float[Tensor, "heads batch outputs"]],
    least: int = 1,
) -> Float[Tensor, "heads batch outputs"]:
    """What a head reads in utterances, those of one length at a time: nothing is padded, so that none sees another.

    Args:
        frames: of all utterances.
        lengths: of each.
        read: the head, on utterances of equal length.
        least: shorter ones are repeated until they have so many frames; one without frames is so many zeros.
    """
    parts: list[Tensor | None] = [None] * len(lengths)
    each = frames.split(lengths.tolist(), dim=1)
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(lengths.tolist()):
        by_length.setdefault(length, []).append(row)
    for length, rows in by_length.items():
        if length:
            seen = torch.stack([each[row] for row in rows], dim=1)
            if length < least:
                seen = seen[:, :, torch.arange(least) % length]
        else:
            seen = frames.new_zeros(len(frames), len(rows), least, frames.shape[2])
        for row, output in zip(rows, read(seen).unbind(1), strict=True):
            parts[row] = output
    return torch.stack(parts, dim=1)
