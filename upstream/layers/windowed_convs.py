"""Strided convolutions on a CPU: matrix products over windows of frames, piece by piece, and their gradient."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Sizes = Sequence[tuple[int, int]]  # kernel and stride of each layer


class WindowedConvs(torch.autograd.Function):
    """Convolutions without padding, each followed by GELU, over pieces of waveforms.

    The library's gradient of a strided convolution takes three times as long as its products, and signals that are
    channels first get transposed around every layer. Here a signal is (steps, channels), its windows are the rows
    of a table, and a layer is one product. A piece is small enough to stay in the cache from the first layer to
    the last, forward and back; steps that two pieces share are computed twice, hence pieces know nothing of each
    other.

    Arguments of `apply`, which gives the frames of the pieces in their order, (total_frames, channels):
        pieces: utterance and samples of each; the samples get no gradient.
        sizes: kernel and stride of each layer.
        first: weight of the first layer for each utterance, its bias as last column (batch, channels, kernel + 1).
        rest: for each further layer a weight (channels, kernel * channels_in), kernel before channels, and a bias
            or None.

    Products have the type that autocast asks for; the gradients of the weights are summed over pieces in the type
    of the weights.
    """

    @staticmethod
    def forward(
        ctx, pieces: Sequence[tuple[int, Tensor]], sizes: Sizes, first: Tensor, *rest: Tensor | None
    ) -> Float[Tensor, "total_frames channels"]:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else first.dtype
        first_table, *tables = cast((first, *rest), dtype)
        outputs, saved = [], []
        for utterance, samples in pieces:
            x = F.pad(samples.to(dtype).unfold(0, *sizes[0]), (0, 1), value=1.0)  # (first_steps, kernel + 1)
            y = F.linear(x, first_table[utterance])
            saved += [x, y]
            for size, weight, bias in zip(sizes[1:], tables[::2], tables[1::2], strict=True):
                x = F.gelu(y)
                y = F.linear(windows(x, *size), weight, bias)
                saved += [x, y]
            outputs.append(F.gelu(y))
        ctx.sizes, ctx.utterances, ctx.counts = sizes, [utterance for utterance, _ in pieces], [len(y) for y in outputs]
        ctx.save_for_backward(first, *rest, *saved)
        return torch.cat(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        layers = len(ctx.sizes)
        weights, saved = ctx.saved_tensors[: 2 * layers - 1], ctx.saved_tensors[2 * layers - 1 :]
        tables = cast(weights, grad.dtype)
        grads = [None if weight is None else torch.zeros_like(weight) for weight in weights]
        for i, (utterance, g) in enumerate(zip(ctx.utterances, grad.split(ctx.counts), strict=True)):
            for layer in reversed(range(layers)):
                x, y = saved[2 * (i * layers + layer) :][:2]
                g = torch.ops.aten.gelu_backward(g, y)
                if layer == 0:
                    grads[0][utterance] += (x.T @ g).T  # in float32 a fifth of the time of g.T @ x
                    break
                grads[2 * layer - 1] += g.T @ windows(x, *ctx.sizes[layer])
                if grads[2 * layer] is not None:
                    grads[2 * layer] += g.sum(dim=0)
                g = unwind(g @ tables[2 * layer - 1], len(x), *ctx.sizes[layer])
        return None, None, *grads


def cast(weights: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if weight is None else weight.to(dtype) for weight in weights]


def windows(
    x: Float[Tensor, "steps channels"], kernel: int, stride: int
) -> Float[Tensor, "windows kernel_times_channels"]:
    """What each output of a convolution sees, one row per output."""
    return x.unfold(0, kernel, stride).transpose(1, 2).reshape(-1, kernel * x.shape[1])


def unwind(
    rows: Float[Tensor, "windows kernel_times_channels"], steps: int, kernel: int, stride: int
) -> Float[Tensor, "steps channels"]:
    """The transpose of `windows`: every step gets the sum of its copies."""
    count, width = len(rows), rows.shape[1] // kernel * stride
    parts = rows.split(width, dim=1)  # of one stride each, the last perhaps less
    if len(parts) == 1 and kernel == stride:
        return rows.view(steps, -1)
    x = F.pad(parts[0], (0, width - parts[0].shape[1], 0, len(parts) - 1))
    for i, part in enumerate(parts[1:], start=1):
        x[i : i + count, : part.shape[1]] += part
    return x.view(-1, width // stride)[:steps]


class Windows(torch.autograd.Function):
    """`windows` with a gradient that adds slices, as the one of `unfold` adds number by number."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: int, stride: int) -> Tensor:
        ctx.unwind = len(x), kernel, stride
        return windows(x, kernel, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return unwind(grad, *ctx.unwind), None, None


def grouped_conv(
    x: Float[Tensor, "steps channels"], weight: Float[Tensor, "channels channels_of_group kernel"], block: int
) -> Float[Tensor, "steps channels"]:
    """A convolution of stride 1 over groups of channels, as one product per group.

    A group has few channels, so that a row of a product gives several steps, each with its own shifted copy of
    the weight among zeros. `steps` is a multiple of `block`; the last `kernel - 1` steps of the result see beyond
    the end and mean nothing.
    """
    steps, width, kernel = len(x), weight.shape[1], weight.shape[2]
    groups, reach = x.shape[1] // width, kernel + block - 1
    x = F.pad(x.view(steps, groups, width).transpose(0, 1).reshape(-1, width), (0, 0, 0, kernel - 1))
    rows = Windows.apply(x, reach, block).view(groups, steps // block, reach * width)
    # Each copy is one longer than a row, so that cutting the chain of copies into rows shifts every row by one.
    chain = F.pad(weight, (0, block)).unsqueeze(2).expand(-1, -1, block, -1).flatten(2)[:, :, : block * reach]
    table = chain.view(groups, width, width, block, reach).permute(0, 4, 2, 3, 1)  # (groups, reach, in, block, out)
    y = rows @ table.reshape(groups, reach * width, block * width)  # (groups, steps / block, block * width)
    return y.view(groups, steps, width).transpose(0, 1).reshape(steps, -1)
