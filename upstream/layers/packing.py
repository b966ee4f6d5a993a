"""Packed frames: the valid frames of all utterances as one table, with the lengths that cut it apart again.

Norms, linear layers and dropout work on a packed table as it is, so that padding neither costs time nor
reaches a valid frame.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def segment_of(lengths: Int[Tensor, " batch"]) -> Int[Tensor, " total_frames"]:
    """The utterance that each packed frame belongs to."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def pad_packed(packed: Float[Tensor, "total_frames dim"], lengths: Sequence[int]) -> Float[Tensor, "batch frames dim"]:
    """Packed frames to one row per utterance, zeros beyond each length."""
    return pad_sequence(packed.split(list(lengths)), batch_first=True)


def pad_states(
    states: Sequence[Float[Tensor, "total_frames dim"]], lengths: Sequence[int]
) -> Float[Tensor, "batch states frames dim"]:
    """Packed states of all layers to one block per utterance, zeros beyond each length.

    Layer by layer, because the whole is the largest tensor there is: it is written once.
    """
    return torch.stack([pad_packed(state, lengths) for state in states], dim=1)
