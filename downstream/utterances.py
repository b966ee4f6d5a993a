"""Frames of utterances laid end to end, regrouped for heads that read whole utterances."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
    starts = (lengths.cumsum(0) - lengths).tolist()
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(lengths.tolist()):
        by_length.setdefault(length, []).append(row)
    for length, rows in by_length.items():
        if length:
            place = torch.arange(max(length, least)) % length
            places = torch.tensor([starts[row] for row in rows])[:, None] + place
            seen = frames[:, places.flatten()].reshape(len(frames), len(rows), len(place), -1)
        else:
            seen = frames.new_zeros(len(frames), len(rows), least, frames.shape[2])
        for row, output in zip(rows, read(seen).unbind(1), strict=True):
            parts[row] = output
    return torch.stack(parts, dim=1)
