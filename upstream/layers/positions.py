"""Positions from wide convolutions over neighbouring frames."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from wavbench.upstream.layers.linear import frozen, is_frozen
from wavbench.upstream.layers.windowed_convs import grouped_conv

BLOCK = 8  # frames that one row of a product gives in training on a CPU: wide enough for 12 channels, few zeros
SPANS = 4  # kernels in one Fourier transform at inference: 3/4 of what it computes is used


class GroupedConv(nn.Module):
    """A grouped convolution over packed frames; every utterance sees zeros before and after itself.

    The utterances lie in one long signal with kernel // 2 zero frames between them. An even kernel looks one
    frame further back than ahead.

    Args:
        dim: width of a frame.
        kernel: frames.
        groups: blocks of channels that do not see each other.
        weight_norm: the weight is a direction times a gain per kernel position.
    """

    def __init__(self, dim: int, kernel: int, groups: int, *, weight_norm: bool = False) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.bias = nn.Parameter(torch.zeros(dim))
        weight = torch.empty(dim, dim // groups, kernel)
        if weight_norm:
            self.direction = nn.Parameter(weight.normal_(0.0, math.sqrt(4.0 / (kernel * dim))))
            self.gain = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        else:
            self.direct = nn.Parameter(weight.normal_(0.0, 1 / math.sqrt(dim // groups * kernel)))

    def weight(self) -> Float[Tensor, "dim dim_of_group kernel"]:
        if hasattr(self, "direct"):
            return self.direct
        return self.direction * (self.gain / self.direction.flatten(0, 1).square().sum(dim=0).sqrt())

    def forward(
        self, x: Float[Tensor, "total_frames dim"], lengths: Sequence[int]
    ) -> Float[Tensor, "total_frames dim"]:
        gap = self.kernel // 2
        counts = torch.tensor(lengths, device=x.device)
        gaps = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), counts, output_size=len(x)) * gap
        places = torch.arange(len(x), device=x.device) + gaps
        size = len(x) + gap * (len(lengths) + 1)
        if is_frozen(x):
            return self._spectra(x.float(), lengths)
        if torch.is_grad_enabled() and x.device.type == "cpu":
            return self._blocks(x, places, gap, size)
        signal = x.new_zeros(size, x.shape[1]).index_copy(0, places + gap, x)
        y = F.conv1d(signal.T[None], self.weight(), self.bias, groups=self.groups)  # (1, dim, size - kernel + 1)
        return y[0].T[places] if len(lengths) > 1 else y[0, :, : len(x)].T

    def _blocks(self, x: Tensor, places: Tensor, gap: int, size: int) -> Float[Tensor, "total_frames dim"]:
        """For training on a CPU, where the library's gradient takes four times as long."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        rows = -(-size // BLOCK) * BLOCK
        signal = x.new_zeros(rows, x.shape[1], dtype=dtype).index_copy(0, places + gap, x.to(dtype))
        return grouped_conv(signal, self.weight().to(dtype), BLOCK)[places] + self.bias.to(dtype)

    def _spectra(self, x: Tensor, lengths: Sequence[int]) -> Float[Tensor, "total_frames dim"]:
        """At inference on a CPU: products of spectra (overlap-save), a fraction of the work, and closer to exact.

        Every utterance is cut into its own blocks, so that none depends on its neighbours.
        """
        size = 1 << (SPANS * self.kernel - 1).bit_length()
        hop, width = size - self.kernel + 1, x.shape[1] // self.groups
        table = frozen(self, size, [*self.parameters()], lambda: self._weight_spectra(size))
        counts = [-(-length // hop) for length in lengths]  # blocks of each utterance
        ahead = self.kernel // 2
        signals = [
            F.pad(part, (0, 0, ahead, count * hop + size - hop - ahead - len(part))).unfold(0, size, hop)
            for part, count in zip(x.split(list(lengths)), counts, strict=True)
            if count
        ]
        blocks = torch.cat(signals)  # (blocks, dim, size)
        spectra = torch.fft.rfft(blocks, dim=2).view(len(blocks), self.groups, width, -1).permute(3, 1, 0, 2)
        spectra = (spectra @ table).permute(2, 0, 1, 3).reshape(len(blocks), -1, x.shape[1])
        y = torch.fft.irfft(spectra, n=size, dim=1)[:, :hop] + self.bias
        y = y.reshape(-1, x.shape[1])
        parts = y.split([count * hop for count in counts])
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def _weight_spectra(self, size: int) -> Complex[Tensor, "frequencies groups dim_in dim_out"]:
        spectra = torch.fft.rfft(self.weight().detach().float(), n=size, dim=2).conj()  # (dim, dim_of_group, freqs)
        width = spectra.shape[1]
        return spectra.view(self.groups, width, width, -1).permute(3, 0, 2, 1).contiguous()


class PositionalConv(GroupedConv):
    """A weight-normed convolution with GELU.

    Source: Baevski et al. 2020, wav2vec 2.0, section 2; Mohamed et al. 2019.
    """

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__(dim, kernel, groups, weight_norm=True)

    def forward(
        self, x: Float[Tensor, "total_frames dim"], lengths: Sequence[int]
    ) -> Float[Tensor, "total_frames dim"]:
        return F.gelu(super().forward(x, lengths))


class PositionalStack(nn.Module):
    """Several narrower convolutions, each followed by a norm without weights and GELU; zeros before every one.

    Args:
        dim: width of a frame.
        kernel: frames, of each convolution.
        groups: blocks of channels that do not see each other.
        depth: convolutions.

    Source: Baevski et al. 2022, data2vec, section 4.2.
    """

    def __init__(self, dim: int, kernel: int, groups: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(GroupedConv(dim, kernel, groups) for _ in range(depth))

    def forward(
        self, x: Float[Tensor, "total_frames dim"], lengths: Sequence[int]
    ) -> Float[Tensor, "total_frames dim"]:
        for conv in self.convs:
            y = conv(x, lengths)
            x = F.gelu(F.layer_norm(y, y.shape[-1:]))
        return x
