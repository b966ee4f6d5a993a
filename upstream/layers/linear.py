"""A linear layer that takes the faster matrix product where no gradient is needed."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def linear(
    layer: nn.Linear, x: Float[Tensor, "total_frames dim_in"], *, gelu: bool = False
) -> Float[Tensor, "total_frames dim_out"]:
    """`layer(x)`, with an exact GELU on top if asked for.

    `F.linear` multiplies float32 on a CPU through MKL, which runs at half the rate of oneDNN on processors that
    are not Intel's. oneDNN's product is reachable only as an operator without a gradient, hence for extraction
    alone; it differs by rounding (relative 4e-7).
    """
    if _ONEDNN is not None and not torch.is_grad_enabled() and _plain_float32(x) and _plain_float32(layer.weight):
        return _ONEDNN(x, layer.weight, layer.bias, "gelu" if gelu else "none", [], "none" if gelu else "")
    x = layer(x)
    return F.gelu(x) if gelu else x


def _plain_float32(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")
