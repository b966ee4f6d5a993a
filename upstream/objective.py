"""What every pretraining objective takes and gives: named tuples, which Fabric can look into."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Targets(NamedTuple):
    """What the crops of a batch are to predict, packed: all frames of the first crop, then of the second.

    Args:
        masked: True where a frame is hidden.
        units: cluster of each frame, where the objective predicts units.
        negatives: for every hidden frame, which hidden frames of its crop it is told apart from (counted within the
            crop), where the objective contrasts.
        counts: hidden frames of each crop, where the objective contrasts; always on the CPU, as they are sizes.
    """

    masked: Bool[Tensor, " total_frames"]
    units: Int[Tensor, " total_frames"] | None = None
    negatives: Int[Tensor, "hidden_frames negatives"] | None = None
    counts: Int[Tensor, " crops"] | None = None

    def to(self, device: torch.device) -> "Targets":
        moved = (None if value is None else value.to(device, non_blocking=True) for value in self[:-1])
        return Targets(*moved, counts=self.counts)


class Losses(NamedTuple):
    """Sums over the hidden frames of a batch, so that batches of unequal size add up to one step.

    Args:
        total: what is minimised.
        terms: its parts and other numbers to follow, each to be divided by the number of hidden frames.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x`, with a gradient that is multiplied by `factor` on its way back."""
    return x if factor == 1.0 else x.detach().lerp(x, factor)
