"""Floating-point operations of a model, counted from its shapes, and what a device could do at best."""

import math
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from wavbench.upstream.layers.linear import onednn_has_bf16

# Dense bfloat16 operations per second, from the makers' data sheets.
BF16_PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A40": 150e12,
    "A10": 125e12, "RTX 4090": 165e12, "V100": 125e12, "B200": 2250e12,
}  # fmt: skip


def forward_flops(encoder: nn.Module, seconds: float) -> float:
    """Operations that a forward pass of the encoder needs per second of audio; see `forward_parts`."""
    return sum(forward_parts(encoder, seconds).values())


def forward_parts(encoder: nn.Module, seconds: float) -> dict[str, float]:
    """Operations of each part of a forward pass per second of audio.

    A multiplication and an addition count as two. Norms, activations and gates are left out, as is usual, and a
    convolution counts as what its definition says, also where it is computed with fewer operations.

    Args:
        encoder: wav2vec 2.0 or another of its shape, a wav2vec or vq-wav2vec, or BERT over the codes of one.
        seconds: length of the utterances: attention grows with it.
    """
    config, rate, macs = encoder.config, 16_000.0, 0.0
    if hasattr(config, "context_kernel"):
        return _convolutional_parts(config)
    if hasattr(config, "code_dim"):
        return _convolutional_parts(encoder.codes.config) | _block_parts(config, encoder.frame_rate, seconds)
    inputs = (1, *config.conv_channels[:-1])
    for width_in, width_out, kernel, stride in zip(
        inputs, config.conv_channels, config.conv_kernels, config.conv_strides, strict=True
    ):
        rate /= stride
        macs += rate * width_in * width_out * kernel
    depth = getattr(config, "position_depth", 1) or 1  # data2vec's 0 is one convolution too, wav2vec 2.0's
    return {
        "convolutions": 2 * macs,
        "projection": 2 * rate * config.conv_channels[-1] * config.dim,
        "positions": 2 * rate * config.dim**2 // config.position_groups * config.position_kernel * depth,
        **_block_parts(config, rate, seconds),
    }


def _block_parts(config, rate: float, seconds: float) -> dict[str, float]:
    seen = min(seconds * rate, getattr(config, "positions", math.inf))  # frames that a frame attends to
    return {
        "attention": 2 * rate * config.num_layers * (4 * config.dim**2 + 2 * seen * config.dim),
        "feed-forward": 2 * rate * config.num_layers * 2 * config.dim * config.inner_dim,
    }


def _convolutional_parts(config) -> dict[str, float]:
    rate, macs, width = 16_000.0, 0.0, 1
    for kernel, stride in zip(config.conv_kernels, config.conv_strides, strict=True):
        rate /= stride
        macs += rate * width * config.dim * kernel
        width = config.dim
    seen = sum(config.context_kernel + layer * config.context_growth for layer in range(config.num_layers))
    parts = {"convolutions": 2 * macs, "context": 2 * rate * config.dim**2 * seen}
    kind = getattr(config, "quantizer", None)
    if kind == "gumbel":
        widths = [config.dim, *[2 * config.dim] * (config.logit_layers - 1), config.groups * config.entries]
        parts["quantizer"] = 2 * rate * sum(a * b for a, b in pairwise(widths))
    elif kind == "kmeans":  # the projection of every group, and a distance to each of its entries
        parts["quantizer"] = 2 * rate * config.dim * (config.dim // config.groups + config.entries)
    return parts


def training_flops(encoder: nn.Module, crop_seconds: float) -> float:
    """Operations that a training step needs per second of audio: the backward pass counts as two forward passes.

    The objective's own layers are left out, and so are convolutions that made codes before the training began.

    Args:
        encoder: one that `forward_parts` knows.
        crop_seconds: length of the crops.
    """
    if hasattr(encoder.config, "code_dim"):
        return 3 * sum(_block_parts(encoder.config, encoder.frame_rate, crop_seconds).values())
    return 3 * forward_flops(encoder, crop_seconds)


def peak_flops(device: torch.device, precision: str) -> float:
    """Operations per second that one device does at best.

    From the data sheet for GPUs known by name (bf16); otherwise measured with a large matrix product.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for known, peak in BF16_PEAKS.items():
            if known in name:
                return peak
    return max(product_rates(device, precision).values())


def product_rates(
    device: torch.device, precision: str, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Operations per second of a large matrix product, the best of several, by who computes it.

    "torch" is what `a @ b` calls (on a CPU mostly MKL in float32, and oneDNN in bfloat16); on a CPU "onednn" is
    oneDNN's own product as well, which is up to twice as fast in float32.

    Args:
        device: what computes.
        precision: "fp32" or "bf16".
        clock: seconds; `time.process_time` for operations per CPU second.
    """
    size = 8_192 if device.type == "cuda" else 1_536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    seeded = torch.Generator(device).manual_seed(0)
    a = torch.randn(size, size, generator=seeded, device=device).to(dtype)  # constant numbers take a GPU less power
    ways = {"torch": lambda: a @ a}
    pointwise = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    has = precision != "bf16" or onednn_has_bf16()
    if device.type == "cpu" and pointwise is not None and torch.backends.mkldnn.is_available() and has:
        ways["onednn"] = lambda: pointwise(a, a, None, "none", [], "")
    best = dict.fromkeys(ways, 0.0)
    with torch.inference_mode():
        for _ in range(6):  # in turn: other processes disturb all
            for name, way in ways.items():
                began = clock()
                way()[0, 0].item()  # waits for the device
                best[name] = max(best[name], 2 * size**3 / (clock() - began))
    return best
