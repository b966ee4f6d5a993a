"""Samples to frames and back: the arithmetic of strided convolutions, and masks."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Conv = Sequence[tuple[int, int]]  # (kernel, stride) of each convolution, both in input steps, first layer first


def frames_from_samples(samples, conv: Conv):
    """Valid outputs of unpadded convolutions; takes an int or an integer tensor, never below zero."""
    for kernel, stride in conv:
        samples = (samples - kernel) // stride + 1
        samples = samples.clamp(min=0) if isinstance(samples, Tensor) else max(samples, 0)
    return samples


def samples_from_frames(frames: int, conv: Conv) -> int:
    """Fewest samples that give so many frames (the receptive field of `frames` neighbours)."""
    for kernel, stride in reversed(conv):
        frames = (frames - 1) * stride + kernel
    return frames


def total_stride(conv: Conv) -> int:
    """Samples between two frames."""
    stride = 1
    for _, step in conv:
        stride *= step
    return stride


def mask_from_lengths(lengths: Int[Tensor, " batch"], size: int | None = None) -> Bool[Tensor, "batch frames"]:
    """True where a position is valid."""
    size = int(lengths.max()) if size is None else size
    return torch.arange(size, device=lengths.device) < lengths[:, None]
