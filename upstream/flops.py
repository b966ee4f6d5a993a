"""Floating-point operations of a training step, counted from the shapes, and what a device could do at best."""

import time

import torch
from torch import nn

# Dense bfloat16 operations per second, from the makers' data sheets.
BF16_PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A40": 150e12,
    "A10": 125e12, "RTX 4090": 165e12, "V100": 125e12, "B200": 2250e12,
}  # fmt: skip


def training_flops(encoder: nn.Module, crop_seconds: float) -> float:
    """Operations that a forward and backward pass of the encoder needs per second of audio.

    A multiplication and an addition count as two, the backward pass as twice the forward pass. Norms, activations and
    the objective's own layers are left out, as is usual.

    Args:
        encoder: wav2vec 2.0 or another of its shape.
        crop_seconds: length of the crops: attention grows with it.
    """
    config, rate, macs = encoder.config, 16_000.0, 0.0
    inputs = (1, *config.conv_channels[:-1])
    for width_in, width_out, kernel, stride in zip(
        inputs, config.conv_channels, config.conv_kernels, config.conv_strides, strict=True
    ):
        rate /= stride
        macs += rate * width_in * width_out * kernel
    frames = crop_seconds * rate
    block = 4 * config.dim**2 + 2 * config.dim * config.inner_dim + 2 * frames * config.dim
    positions = config.dim**2 // config.position_groups * config.position_kernel
    macs += rate * (config.conv_channels[-1] * config.dim + positions + config.num_layers * block)
    return 3 * 2 * macs


def peak_flops(device: torch.device, precision: str) -> float:
    """Operations per second that one device does at best.

    From the data sheet for GPUs known by name (bf16); otherwise measured with a large matrix product.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for known, peak in BF16_PEAKS.items():
            if known in name:
                return peak
    size = 8_192 if device.type == "cuda" else 1_536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = 0.0
    for _ in range(4):
        began = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best
