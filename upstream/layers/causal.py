"""Convolutions with a norm over the whole utterance, strided and causal: wav2vec and vq-wav2vec.

Every norm sees all channels and all frames of an utterance, so utterances are computed one at a time: then nothing
outside an utterance can reach it, and its features are the same bits in every batch. Tensors keep a leading axis of
one, as torch's convolutions and norms want it. Pretraining puts crops there, which are of equal length.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wavbench.upstream.lengths import frames_from_samples, samples_from_frames, total_stride

LONG = 3_000  # frames (30 s) up to which an utterance is computed in one piece when no gradient is kept
CHUNK = 1_000  # frames (10 s) of a piece of a longer one: 65 MB after the first layer of 512 channels
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "none": lambda x: x}
PADDINGS = {"zeros": "constant", "repeat": "replicate"}  # ours to torch's

Steps = Float[Tensor, "utterances channels_in steps"]  # what a layer sees
Channels = Float[Tensor, "utterances channels frames"]  # what it gives


class Moments:
    """Mean and variance of tensors that come one after the other, group by group of channels, in float64.

    Args:
        groups: of channels; each has its own mean and variance.

    Source: Chan et al. 1983, equation 1.5, which cancels nothing where means are far from zero.
    """

    def __init__(self, groups: int) -> None:
        self.groups, self.count = groups, 0
        self.mean = torch.zeros(groups, dtype=torch.float64)
        self.squares = torch.zeros(groups, dtype=torch.float64)  # sum of squared distances from the mean

    def add(self, x: Channels) -> None:
        grouped = x.reshape(self.groups, -1)
        mean = grouped.mean(dim=1)
        squares = (grouped - mean[:, None]).square_().sum(dim=1).double().cpu()
        more, mean = grouped.shape[1], mean.double().cpu()
        total, difference = self.count + more, mean - self.mean
        self.squares += squares + difference.square() * (self.count * more / total)
        self.mean += difference * (more / total)
        self.count = total

    @property
    def variance(self) -> Float[Tensor, " groups"]:
        return self.squares / self.count


class NormedConv(nn.Module):
    """A convolution, a group norm over the whole utterance, and an activation.

    Args:
        channels_in: of the input.
        channels: of the output.
        kernel: width, in input steps.
        stride: step, in input steps.
        groups: of channels, in the convolution and in the norm.
        bias: whether the convolution adds one.
        activation: "relu", "gelu" (exact) or "none".
        padding: what stands before the first step, `kernel - 1` times, so that no output sees beyond its own step:
            "zeros", or "repeat" for that step again; None where nothing does.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = False,
        activation: str = "relu",
        padding: str | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; it is one of {', '.join(ACTIVATIONS)}")
        if padding is not None and padding not in PADDINGS:
            raise ValueError(f"padding is {padding!r}; it is one of {', '.join(PADDINGS)}")
        self.padding, self.before = padding, kernel - 1 if padding else 0
        self.activation = activation
        self.conv = nn.Conv1d(channels_in, channels, kernel, stride, groups=groups, bias=bias)
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, x: Steps) -> Channels:
        if not torch.is_grad_enabled() and len(x) == 1 and self.conv.stride[0] == 1 and x.shape[2] > LONG:
            return self._in_pieces(x)
        return ACTIVATIONS[self.activation](self.norm(self.conv(self._pad(x))))

    def affine(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """What the norm multiplies each channel by and adds to it, for outputs of these moments."""
        weight, norm = self.norm.weight, self.norm
        each = self.conv.out_channels // norm.num_groups
        scale = torch.rsqrt(moments.variance + norm.eps).repeat_interleave(each).to(weight.device) * weight.double()
        shift = norm.bias.double() - moments.mean.repeat_interleave(each).to(weight.device) * scale
        return scale.to(weight.dtype)[:, None], shift.to(weight.dtype)[:, None]

    def finish_(self, x: Channels, affine: tuple[Tensor, Tensor]) -> Channels:
        """Norm and activation of what the convolution gave, overwritten where it can be."""
        return ACTIVATIONS[self.activation](x.mul_(affine[0]).add_(affine[1]))

    def _pad(self, x: Steps) -> Channels:
        return F.pad(x, (self.before, 0), PADDINGS[self.padding]) if self.before else x

    def _in_pieces(self, x: Steps) -> Channels:
        """The same for a long utterance: beside input and output there is memory for one piece only."""
        width = self.conv.kernel_size[0]
        frames = x.shape[2] + self.before - width + 1
        output, moments = x.new_empty(1, self.conv.out_channels, frames), Moments(self.norm.num_groups)
        for start in range(0, frames, CHUNK):
            stop = min(start + CHUNK, frames)
            piece = x[..., max(start - self.before, 0) : stop + width - 1 - self.before]
            if start < self.before:  # every piece but the first has its past before it
                piece = self._pad(piece)[..., min(start, self.before) :]
            part = self.conv(piece)
            moments.add(part)
            output[..., start:stop] = part
        affine = self.affine(moments)
        for part in output.split(CHUNK, dim=2):
            part.copy_(self.finish_(part, affine))
        return output


class StridedEncoder(nn.Module):
    """Strided convolutions from samples to frames, a norm over the utterance after each, and log compression.

    A norm needs all outputs of its layer before the next layer can start. The outputs of the first layers are far
    larger than the waveform, so those of a long utterance are never kept: for each strided layer the samples go
    through the layers before it again, piece by piece, to collect its mean and variance. This takes up to four times
    the operations and gives the same numbers.

    Args:
        channels: of every layer.
        kernels: width of each convolution, in its input steps.
        strides: step of each convolution, in its input steps.
        activation: after each norm.
        log_compression: log(1 + |x|) at the end.

    Source: Schneider et al. 2019, wav2vec, section 3.1; fairseq's `wav2vec.ConvFeatureExtractionModel`.
    """

    def __init__(
        self, channels: int, kernels: Sequence[int], strides: Sequence[int], activation: str, log_compression: bool
    ) -> None:
        super().__init__()
        self.sizes = tuple(zip(kernels, strides, strict=True))
        self.log_compression = log_compression
        self.layers = nn.ModuleList(
            NormedConv(1 if i == 0 else channels, channels, kernel, stride, activation=activation)
            for i, (kernel, stride) in enumerate(self.sizes)
        )
        # convolutions of one step at the end see frames, which are small enough to be kept
        self.strided = 1 + max(i for i, (kernel, stride) in enumerate(self.sizes) if stride > 1 or kernel > 1)

    def forward(self, waveform: Float[Tensor, " samples"]) -> Channels:
        """Frames of one utterance that is long enough for at least one."""
        if not torch.is_grad_enabled() and frames_from_samples(len(waveform), self.sizes) > LONG:
            x = self._strided_in_pieces(waveform)
        else:
            x = waveform[None, None]
            for layer in self.layers[: self.strided]:
                x = layer(x)
        for layer in self.layers[self.strided :]:
            x = layer(x)
        if not self.log_compression:
            return x
        return x.abs().log1p() if torch.is_grad_enabled() else x.abs_().log1p_()

    def together(self, waveforms: Float[Tensor, "utterances samples"]) -> Channels:
        """Frames of several utterances of equal length, in one piece."""
        x = waveforms[:, None]
        for layer in self.layers:
            x = layer(x)
        return x.abs().log1p() if self.log_compression else x

    def _strided_in_pieces(self, waveform: Float[Tensor, " samples"]) -> Channels:
        affines: list[tuple[Tensor, Tensor]] = []
        for depth in range(1, self.strided + 1):
            sizes, layer = self.sizes[:depth], self.layers[depth - 1]
            steps = frames_from_samples(len(waveform), sizes)
            chunk = CHUNK * total_stride(self.sizes[depth:])
            moments, keep = Moments(1), depth == self.strided
            output = waveform.new_empty(1, layer.conv.out_channels, steps if keep else 0)
            for start in range(0, steps, chunk):
                count = min(chunk, steps - start)
                begin = start * total_stride(sizes)
                x = waveform[None, None, begin : begin + samples_from_frames(count, sizes)]
                for before, affine in zip(self.layers, affines, strict=False):
                    x = before.finish_(before.conv(x), affine)
                x = layer.conv(x)
                moments.add(x)
                if keep:
                    output[..., start : start + count] = x
            affines.append(layer.affine(moments))
        for part in output.split(CHUNK, dim=2):
            part.copy_(layer.finish_(part, affines[-1]))
        return output


class CausalContext(nn.Module):
    """Convolutions over frames that see the past only; the norms between them see the whole utterance.

    Args:
        dim: width of a frame.
        kernels: width of each convolution, in frames.
        bias: whether the convolutions add one.
        activation: after each norm.
        padding: before the first frame: "zeros", or "repeat" for that frame again.
        residual_scale: the input of every layer is added to its output, and the sum multiplied by the root of this
            number; None: no such connections.

    Source: Schneider et al. 2019, wav2vec, section 3.1; fairseq's `wav2vec.ConvAggegator`.
    """

    def __init__(
        self,
        dim: int,
        kernels: Sequence[int],
        *,
        bias: bool,
        activation: str,
        padding: str,
        residual_scale: float | None,
    ) -> None:
        super().__init__()
        self.factor = None if residual_scale is None else residual_scale**0.5
        self.layers = nn.ModuleList(
            NormedConv(dim, dim, kernel, bias=bias, activation=activation, padding=padding) for kernel in kernels
        )

    def forward(self, x: Channels) -> Iterator[Channels]:
        """The output of every layer, one after the other."""
        for layer in self.layers:
            y = layer(x)
            if self.factor is not None:
                y = (y + x) * self.factor if torch.is_grad_enabled() else y.add_(x).mul_(self.factor)
            x = y
            yield x


def stack_states(
    utterances: Sequence[Iterator[Channels]], frames: Sequence[int], num_states: int, empty: Tensor
) -> Float[Tensor, "batch states longest dim"]:
    """States that come one after the other as one block, zeros beyond each length.

    Without gradients every state is written to its place as it comes: the block is the largest tensor there is, and
    for an hour of speech a second copy of it would not fit.

    Args:
        utterances: the states of each utterance; not asked where it has no frame.
        frames: of each utterance.
        num_states: of each utterance.
        empty: any tensor [0, dim] of the type and device of the states.
    """
    size = (len(frames), num_states, max(frames), empty.shape[1])
    if not any(frames):
        return empty.new_zeros(size)
    if not torch.is_grad_enabled():
        block = empty.new_zeros(size)
        for i, count in enumerate(frames):
            for layer, state in enumerate(utterances[i] if count else ()):
                block[i, layer, :count] = state[0].T
        return block
    rows = [
        torch.cat(list(states)).transpose(1, 2) if count else empty.new_zeros(num_states, 0, size[3])
        for states, count in zip(utterances, frames, strict=True)
    ]
    return torch.stack([F.pad(row, (0, 0, 0, size[2] - count)) for row, count in zip(rows, frames, strict=True)])
