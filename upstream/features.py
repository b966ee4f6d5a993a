"""What every upstream returns."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Layer-wise states of a batch.

    Args:
        states: layer 0 is the input of block 1, layer k the output of block k. Frames at or beyond an
            utterance's length are zero.
        lengths: valid frames of each utterance.
        frame_rate: frames per second.
    """

    states: Float[Tensor, "batch layers frames dim"]
    lengths: Int[Tensor, " batch"]
    frame_rate: float
