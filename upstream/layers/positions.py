"""Positions from a wide convolution over neighbouring frames."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wavbench.upstream.layers.windowed_convs import grouped_conv

BLOCK = 8  # frames that one row of a product gives in training on a CPU: wide enough for 12 channels, few zeros


class PositionalConv(nn.Module):
    """A grouped, weight-normed convolution with GELU; every utterance sees zeros before and after itself.

    The utterances lie in one long signal with kernel // 2 zero frames between them. An even kernel looks one
    frame further back than ahead. The weight is a direction times a gain per kernel position.

    Args:
        dim: width of a frame.
        kernel: frames.
        groups: blocks of channels that do not see each other.

    Source: Baevski et al. 2020, wav2vec 2.0, section 2; Mohamed et al. 2019.
    """

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        direction = torch.empty(dim, dim // groups, kernel).normal_(0.0, math.sqrt(4.0 / (kernel * dim)))
        self.direction = nn.Parameter(direction)
        self.gain = nn.Parameter(direction.norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(dim))

    def weight(self) -> Float[Tensor, "dim dim_of_group kernel"]:
        return self.direction * (self.gain / self.direction.flatten(0, 1).square().sum(dim=0).sqrt())

    def forward(
        self, x: Float[Tensor, "total_frames dim"], lengths: Sequence[int]
    ) -> Float[Tensor, "total_frames dim"]:
        gap = self.direction.shape[2] // 2
        counts = torch.tensor(lengths, device=x.device)
        gaps = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), counts) * gap
        places = torch.arange(len(x), device=x.device) + gaps
        size = len(x) + gap * (len(lengths) + 1)
        if torch.is_grad_enabled() and x.device.type == "cpu":
            return F.gelu(self._blocks(x, places, gap, size))
        signal = x.new_zeros(size, x.shape[1]).index_copy(0, places + gap, x)
        y = F.conv1d(signal.T[None], self.weight(), self.bias, groups=self.groups)  # (1, dim, size - kernel + 1)
        return F.gelu(y[0].T[places] if len(lengths) > 1 else y[0, :, : len(x)].T)

    def _blocks(self, x: Tensor, places: Tensor, gap: int, size: int) -> Float[Tensor, "total_frames dim"]:
        """Without GELU, for training on a CPU, where the library's gradient takes four times as long."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        rows = -(-size // BLOCK) * BLOCK
        signal = x.new_zeros(rows, x.shape[1], dtype=dtype).index_copy(0, places + gap, x.to(dtype))
        return grouped_conv(signal, self.weight().to(dtype), BLOCK)[places] + self.bias.to(dtype)
