"""Packed frames: the valid frames of all utterances as one table, with the lengths that cut it apart again.

Norms, linear layers and dropout work on a packed table as it is, so that padding neither costs time nor
reaches a valid frame.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.upstream.lengths import mask_from_lengths


def segment_of(lengths: Int[Tensor, " batch"]) -> Int[Tensor, " total_frames"]:
    """The utterance that each packed frame belongs to."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def segment_mean(
    packed: Float[Tensor, "total_frames dim"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch dim"]:
    """Mean over the frames of each utterance; zero where there are none."""
    total = packed.new_zeros(len(lengths), packed.shape[1]).index_add(0, segment_of(lengths), packed)
    return total / lengths.clamp(min=1)[:, None]


def pad_packed(
    packed: Float[Tensor, "total_frames *dim"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch frames *dim"]:
    """Packed frames to one row per utterance, zeros beyond each length."""
    size = int(lengths.max())
    rows, columns = mask_from_lengths(lengths, size).nonzero(as_tuple=True)
    flat = packed.new_zeros(len(lengths) * size, *packed.shape[1:]).index_copy(0, rows * size + columns, packed)
    return flat.view(len(lengths), size, *packed.shape[1:])


def pad_states(
    states: Sequence[Float[Tensor, "total_frames dim"]], lengths: Sequence[int]
) -> Float[Tensor, "batch states frames dim"]:
    """Packed states of all layers to one block per utterance, zeros beyond each length.

    Layer by layer, because the whole is the largest tensor there is: it is written once.
    """
    if len(lengths) == 1:
        return torch.stack(list(states))[None]
    counts = torch.tensor(lengths, device=states[0].device)
    return torch.stack([pad_packed(state, counts) for state in states], dim=1)
