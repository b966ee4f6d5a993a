"""The strided convolutions of wav2vec 2.0: valid samples to packed frames."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.layers.linear import Weight, engine, frozen, is_frozen, prepare, product, product_type
from wavbench.upstream.layers.windowed_convs import WindowedConvs, Windows, windows
from wavbench.upstream.lengths import frames_from_samples, samples_from_frames, total_stride

CHUNK = 100  # frames convolved at once on a CPU when no gradient is kept: 2 s, 13 MB after the first layer of BASE
DEVICE_CHUNK = 3_000  # the same elsewhere, where few large kernels are better
WINDOWS = 1 << 20  # windows of samples whose covariance is summed at once: 84 MB in float64
TRAINING_CHUNK = 100  # frames convolved at once on a CPU when a gradient is kept

Piece = tuple[int, int, int]  # utterance, first frame, number of frames


class ConvEncoder(nn.Module):
    """Convolutions without padding, each followed by a norm (or none) and GELU.

    Pieces of utterances lie one after the other in one long signal, at offsets that are multiples of the total
    stride, so that frame j of a piece is frame offset/stride + j of the output; frames that straddle two pieces
    are dropped. As nothing is padded, a frame sees its own receptive field and nothing else.

    The group norm of the first layer looks at a whole utterance, which would undo this. But that layer is
    linear and has one input channel, so the mean and variance of its outputs follow from the mean and the
    covariance of the windows of samples that it sees (kernel x kernel numbers). They are folded into the weights
    of each utterance, which also saves two passes over the largest tensor of the model, and lets an utterance
    of any length be cut into chunks of bounded memory.

    Args:
        channels: outputs of each convolution.
        kernels: width of each convolution, in its input steps.
        strides: step of each convolution, in its input steps.
        norm: "group": one norm, after the first layer, over all frames of an utterance, channel by channel;
            "layer": a norm over channels after every layer.
        bias: whether the convolutions add one.

    Source: Baevski et al. 2020, wav2vec 2.0, section 4.2; fairseq's `ConvFeatureExtractionModel`.
    """

    def __init__(
        self, channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int], norm: str, bias: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("group", "layer"):
            raise ValueError(f"norm is {norm!r}; it is 'group' or 'layer'")
        self.norm = norm
        self.sizes = tuple(zip(kernels, strides, strict=True))
        inputs = (1, *channels[:-1])
        self.convs = nn.ModuleList(
            nn.Conv1d(*width, kernel, stride, bias=bias)
            for *width, kernel, stride in zip(inputs, channels, kernels, strides, strict=True)
        )
        # An affine norm over `channels` numbers, whether it is applied per channel or per frame.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in (channels[:1] if norm == "group" else channels))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        first: Sequence[tuple[Tensor, Tensor | None] | None] | None = None,
    ) -> tuple[Float[Tensor, "total_frames channels"], list[int]]:
        """Packed frames of all utterances, and how many each of them has (none, if it is too short).

        `first` holds what `first_layer` gave for the utterances, where the waveforms are parts of them.
        """
        if self.norm == "layer":  # Fabric rounds what it gives a module in bfloat16, and autocast may be off below
            waveforms = waveforms.to(self.convs[0].weight.dtype)
        sizes = lengths.tolist()
        frames = [frames_from_samples(size, self.sizes) for size in sizes]
        if waveforms.is_cuda and torch.is_grad_enabled() and frames[0] and set(sizes) == {waveforms.shape[1]}:
            return self._together(waveforms), frames
        if first is None:
            first = [self.first_layer(waveforms[i, :size]) if frames[i] else None for i, size in enumerate(sizes)]
        plain = waveforms.device.type == "cpu" and not waveforms.requires_grad
        if torch.is_grad_enabled() and self.norm == "group" and plain and any(frames):
            return self._windowed(waveforms, first, frames), frames
        if torch.is_grad_enabled() and self.norm == "layer" and plain:
            outputs = self._normed(waveforms, frames)
        elif is_frozen(waveforms):
            outputs = self._products(waveforms, first, frames)
        else:
            chunk = sum(frames) if torch.is_grad_enabled() else DEVICE_CHUNK
            outputs = [self._chunk(waveforms, first, pieces) for pieces in cut(frames, chunk)]
        if not outputs:
            return waveforms.new_zeros(0, self.convs[-1].out_channels), frames
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0], frames

    def first_layer(self, waveform: Float[Tensor, " samples"]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the first convolution for one utterance, its group norm folded in."""
        conv = self.convs[0]
        if self.norm == "layer":
            return conv.weight, conv.bias
        kernel, stride = self.sizes[0]
        seen = waveform.unfold(0, kernel, stride)  # (first_frames, kernel)
        parts = seen.split(WINDOWS)
        mean = sum(part.double().sum(dim=0) for part in parts) / len(seen)
        covariance = sum((centred := part.double() - mean).T @ centred for part in parts) / len(seen)
        weight = conv.weight[:, 0].double()  # (channels, kernel)
        variance = ((weight @ covariance) * weight).sum(dim=1)
        scale = self.norms[0].weight * torch.rsqrt(variance + self.norms[0].eps)
        shift = self.norms[0].bias - scale * (weight @ mean)  # the bias of the convolution cancels out
        return (weight * scale[:, None])[:, None].to(waveform.dtype), shift.to(waveform.dtype)

    def _products(
        self, waveforms: Tensor, first: Sequence[tuple[Tensor, Tensor | None] | None], frames: Sequence[int]
    ) -> list[Tensor]:
        """Frames of all utterances, for inference on a CPU: a layer is one product with GELU in it."""
        dtype = product_type(waveforms)
        fused = self.norm == "group"
        rest = [
            frozen(conv, dtype, (conv.weight, conv.bias), functools.partial(_rows, conv, dtype))
            for conv in self.convs[1:]
        ]
        outputs = []
        for utterance, start, count in (piece for group in cut(frames, CHUNK) for piece in group):
            weight, bias = first[utterance]
            # In float32 whatever autocast says: bfloat16 would round the samples to eight bits.
            row = Weight(weight[:, 0], bias, waveforms.dtype, engine() == "onednn")
            seen = self._samples(waveforms, (utterance, start, count)).unfold(0, *self.sizes[0])
            x = self._norm_and_gelu(0, product(seen, row, gelu=fused)).to(dtype)
            for layer, (size, table) in enumerate(zip(self.sizes[1:], rest, strict=True), start=1):
                x = self._norm_and_gelu(layer, product(windows(x, *size), table, gelu=fused))
            outputs.append(x)
        return outputs

    def _norm_and_gelu(self, layer: int, x: Float[Tensor, "steps channels"]) -> Float[Tensor, "steps channels"]:
        if self.norm == "group":
            return x
        norm = self.norms[layer]
        return torch.ops.aten.gelu_(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))

    def _together(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "total_frames channels"]:
        """Frames of utterances of equal length, for training on a GPU: few large kernels, nothing is padded."""
        x = waveforms[:, None]  # (batch, channels, steps)
        for layer, conv in enumerate(self.convs):
            x = conv(x)
            if layer == 0 and self.norm == "group":
                norm = self.norms[0]
                x = F.gelu(F.group_norm(x, x.shape[1], norm.weight, norm.bias, norm.eps))
            else:
                x = self._activate(layer, x)
        return x.transpose(1, 2).flatten(0, 1)

    def _samples(self, waveforms: Float[Tensor, "batch samples"], piece: Piece) -> Float[Tensor, " samples_of_piece"]:
        utterance, start, count = piece
        begin = start * total_stride(self.sizes)
        return waveforms[utterance, begin : begin + samples_from_frames(count, self.sizes)]

    def _windowed(
        self, waveforms: Tensor, first: Sequence[tuple[Tensor, Tensor] | None], frames: Sequence[int]
    ) -> Tensor:
        """Frames of all utterances, for training on a CPU."""
        used = [utterance for utterance, count in enumerate(frames) if count]
        pieces = [
            (used.index(piece[0]), self._samples(waveforms, piece))
            for group in cut(frames, TRAINING_CHUNK)
            for piece in group
        ]
        rows = [torch.cat([first[i][0][:, 0], first[i][1][:, None]], dim=1) for i in used]
        rest = [part for conv in self.convs[1:] for part in (conv.weight.transpose(1, 2).flatten(1), conv.bias)]
        return WindowedConvs.apply(pieces, self.sizes, torch.stack(rows), *rest)

    def _normed(self, waveforms: Tensor, frames: Sequence[int]) -> list[Tensor]:
        """Frames of all utterances, for training on a CPU with a norm in every layer: a layer is one product.

        Channels stay last: with the library's convolutions, which want them first, every norm transposes twice.
        """
        tables = [conv.weight.transpose(1, 2).flatten(1) for conv in self.convs]
        outputs = []
        for piece in (piece for group in cut(frames, TRAINING_CHUNK) for piece in group):
            x = self._samples(waveforms, piece)[:, None]  # (steps, channels)
            for conv, norm, size, table in zip(self.convs, self.norms, self.sizes, tables, strict=True):
                x = F.gelu(norm(F.linear(Windows.apply(x, *size), table, conv.bias)))
            outputs.append(x)
        return outputs

    def _chunk(
        self, waveforms: Tensor, first: Sequence[tuple[Tensor, Tensor | None] | None], pieces: Sequence[Piece]
    ) -> Tensor:
        """Frames of some pieces, in their order; `first` holds the first layer of each utterance that has frames."""
        hop = total_stride(self.sizes[1:])
        parts, kept, slot = [], [], 0
        for piece in pieces:
            utterance, _, count = piece
            samples = self._samples(waveforms, piece)
            with in_float32(waveforms.device.type):
                part = F.conv1d(samples[None, None], *first[utterance], stride=self.sizes[0][1])
            slots = -(-part.shape[2] // hop)  # frames of the output that this piece takes up
            kept.append(torch.arange(slot, slot + count, device=waveforms.device))
            slot += slots
            parts += [part, part.new_zeros(1, part.shape[1], slots * hop - part.shape[2])]
        x = torch.cat(parts[:-1], dim=2) if len(pieces) > 1 else parts[0]  # (1, channels, steps)
        x = self._activate(0, x)
        for layer, conv in enumerate(self.convs[1:], start=1):
            x = self._activate(layer, conv(x))
        x = x[0].T  # (frames, channels)
        return x[torch.cat(kept)] if len(pieces) > 1 else x

    def _activate(self, layer: int, x: Tensor) -> Tensor:
        if self.norm == "layer":
            x = self.norms[layer](x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


def in_float32(device: str) -> contextlib.AbstractContextManager:
    """At inference, float32 whatever autocast says: for samples and for choices.

    bfloat16 would round samples to eight bits, which leaves little of quiet speech on a constant offset, and would
    choose other codes than the ones that a model was trained with.
    """
    return contextlib.nullcontext() if torch.is_grad_enabled() else torch.autocast(device, enabled=False)


def _rows(conv: nn.Conv1d, dtype: torch.dtype) -> Weight:
    """The weight of a convolution for a product with `windows`: kernel before channels."""
    return prepare(conv.weight.transpose(1, 2).flatten(1), conv.bias, dtype)


def cut(frames: Sequence[int], chunk: int) -> Iterator[list[Piece]]:
    """Utterances into groups of at most `chunk` frames; only utterances longer than a group are cut."""
    group, room = [], chunk
    for utterance, total in enumerate(frames):
        if total > room and group:
            yield group
            group, room = [], chunk
        for start in range(0, total, chunk):
            count = min(chunk, total - start)
            if count == chunk:
                yield [(utterance, start, count)]
            else:
                group.append((utterance, start, count))
                room -= count
    if group:
        yield group
