"""What an update sees of its utterances: a random stretch of each, with parts of it hidden."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.downstream.spec import Augment

Lengths = Int[np.ndarray, " batch"]


def crop(
    states: Float[Tensor, "layers total dim"], lengths: Lengths, frames: int, random: np.random.Generator
) -> tuple[Float[Tensor, "layers cropped dim"], Lengths]:
    """A stretch of so many frames of each utterance, from a random place; shorter ones are repeated to that length.

    One without frames is so many zeros.
    """
    starts = np.cumsum(lengths) - lengths
    first = np.floor(random.random(len(lengths)) * (np.maximum(lengths - frames, 0) + 1)).astype(np.int64)
    place = first[:, None] + np.arange(frames)
    places = starts[:, None] + place % np.maximum(lengths, 1)[:, None]
    if not lengths.all():
        states = F.pad(states, (0, 0, 0, 1))  # a frame of zeros behind all others
        places[lengths == 0] = states.shape[1] - 1
    return states[:, torch.from_numpy(places.flatten())], np.full(len(lengths), frames)


def hide(
    states: Float[Tensor, "layers total dim"], lengths: Lengths, how: Augment, random: np.random.Generator
) -> Float[Tensor, "layers total dim"]:
    """Each utterance warped in time and with stretches of frames and bands of channels set to zero.

    All layers lose the same: a weighted sum of what is left is what is left of the weighted sum.
    """
    if how.warp:
        states = _warped(states, lengths, how.warp, random)
    dim, widest = states.shape[2], int(how.channel_width * states.shape[2])
    hidden = torch.ones(states.shape[1:], dtype=torch.bool)
    for start, length in zip((np.cumsum(lengths) - lengths).tolist(), lengths.tolist(), strict=True):
        own = hidden[start : start + length]
        for _ in range(how.time_masks):
            width = int(random.integers(min(how.time_width, length) + 1))
            first = int(random.integers(length - width + 1))
            own[first : first + width] = False
        for _ in range(how.channel_masks):
            width = int(random.integers(widest + 1))
            first = int(random.integers(dim - width + 1))
            own[:, first : first + width] = False
    return states * hidden


def _warped(
    states: Float[Tensor, "layers total dim"], lengths: Lengths, most: int, random: np.random.Generator
) -> Float[Tensor, "layers total dim"]:
    """A point of each utterance moved by up to `most` frames, both sides stretched in straight lines."""
    places = []
    for start, length in zip(np.cumsum(lengths) - lengths, lengths.tolist(), strict=True):
        place = np.arange(length, dtype=float)
        if length > 2 * most + 1:
            centre = random.integers(most, length - most)
            moved = centre + random.integers(-most + 1, most)
            place = np.interp(place, [0, moved, length - 1], [0, centre, length - 1])
        places.append(start + place)
    place = np.concatenate(places)
    below = np.floor(place).astype(np.int64)
    share = torch.from_numpy((place - below).astype(np.float32))[:, None]
    above = np.minimum(below + 1, states.shape[1] - 1)
    return states[:, torch.from_numpy(below)] * (1 - share) + states[:, torch.from_numpy(above)] * share
