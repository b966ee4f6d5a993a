"""What every objective of a training takes and gives: named tuples, which Fabric can look into."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Targets(NamedTuple):
    """What the crops of a batch are to predict, packed: all frames of the first crop, then of the second.

    Args:
        masked: True where a frame is hidden.
        units: cluster of each frame, where the objective predicts units.
        negatives: for every hidden frame, which hidden frames of its crop it is told apart from (counted within the
            crop), where the objective contrasts; where nothing is hidden, frames of the crop for every frame.
        overlapped: True where other sound lies over a frame, where the objective mixes crops.
        replaced: what each frame is read as in place of its unit, where the objective reads units: a number that it
            draws another unit by, or a negative one with a meaning of its own.
        counts: hidden frames of each crop, where the objective contrasts, or predictions, where nothing is hidden;
            always on the CPU, as they are sizes.
    """

    masked: Bool[Tensor, " total_frames"]
    units: Int[Tensor, " total_frames"] | None = None
    negatives: Int[Tensor, "contrasted_frames negatives"] | None = None
    overlapped: Bool[Tensor, " total_frames"] | None = None
    replaced: Int[Tensor, " total_frames"] | None = None
    counts: Int[Tensor, " crops"] | None = None

    def to(self, device: torch.device) -> "Targets":
        moved = (None if value is None else value.to(device, non_blocking=True) for value in self[:-1])
        return Targets(*moved, counts=self.counts)


class Labels(NamedTuple):
    """What the utterances of a batch are to be recognised as, and what of them is hidden meanwhile.

    Args:
        masked: True where a frame is hidden, packed.
        channels: True where a channel of an utterance is hidden.
        symbols: of all utterances, one after the other; one that training data does not have is negative.
        counts: symbols of each utterance.
        rows: of the table that the utterances come from.
    """

    masked: Bool[Tensor, " total_frames"]
    channels: Bool[Tensor, "batch dim"]
    symbols: Int[Tensor, " total_symbols"]
    counts: Int[Tensor, " batch"]
    rows: Int[Tensor, " batch"]

    def to(self, device: torch.device) -> "Labels":
        moved = (value.to(device, non_blocking=True) for value in self[:3])
        return Labels(*moved, counts=self.counts, rows=self.rows)  # sizes and names stay on the CPU


@runtime_checkable
class Packed(Protocol):
    """What the loop knows of the targets of a batch."""

    masked: Bool[Tensor, " total_frames"]  # True where a frame is hidden

    def to(self, device: torch.device) -> "Packed": ...


class Losses(NamedTuple):
    """Sums over the parts of a batch that count, so that batches of unequal size add up to one step.

    Args:
        total: what is minimised.
        terms: its parts and other numbers to follow, each to be divided by how many parts there are: hidden frames or
            predictions in pretraining, symbols in fine-tuning.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x`, with a gradient that is multiplied by `factor` on its way back."""
    return x if factor == 1.0 else x.detach().lerp(x, factor)
