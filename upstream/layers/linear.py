"""Matrix products with frozen weights: the fastest exact one of a CPU, or bfloat16 where autocast asks for it."""

import functools
import os
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wavbench.upstream.errors import UserError

PRODUCTS = "WAVBENCH_PRODUCTS"  # environment: onednn, torch or auto
PACKED_SIZE = 6_000_000  # numbers of a weight that is kept a second time, in the order that oneDNN wants
EXACT = 2e-6  # relative error of a float32 product of 1,024 terms
WORTH = 1.1  # how much faster torch's own product must be to be preferred: a close race must not decide on bits
_POINTWISE = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_PACK = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_FROZEN: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()

T = TypeVar("T")


class Weight(NamedTuple):
    """A weight made ready for `product`."""

    table: Tensor  # (dim_out, dim_in), perhaps in an order that only oneDNN reads
    bias: Tensor | None
    dtype: torch.dtype
    onednn: bool


def linear(
    layer: nn.Linear, x: Float[Tensor, "total_frames dim_in"], *, gelu: bool = False
) -> Float[Tensor, "total_frames dim_out"]:
    """`layer(x)`, with an exact GELU on top if asked for; the result has the type that autocast asks for."""
    # A parametrised weight is computed anew at every look, which is no key to remember anything by.
    if not is_frozen(x) or "parametrizations" in layer._modules:
        x = layer(x)
        return F.gelu(x) if gelu else x
    sources = (layer.weight, layer.bias)
    weight = frozen(layer, product_type(x), sources, lambda: prepare(*sources, product_type(x)))
    return product(x, weight, gelu=gelu)


def is_frozen(x: Tensor) -> bool:
    """Whether products on `x` go through `product`: on a CPU, with no gradient to keep."""
    return x.device.type == "cpu" and x.dtype is not torch.float64 and not torch.is_grad_enabled()


def product_type(x: Tensor) -> torch.dtype:
    """Type that a product with `x` is computed in on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def frozen(owner: nn.Module, key: Hashable, sources: Sequence[Tensor | None], make: Callable[[], T]) -> T:
    """What `make` derives from weights of `owner`, made once for as long as the weights stay the same.

    Weights that are still trained are never answered from memory: a fused optimizer changes them unseen, without
    counting up their version.
    """
    if any(source is not None and source.requires_grad for source in sources):
        return make()
    stamp = [
        (source.data_ptr(), source.dtype, source.device, 0 if source.is_inference() else source._version)
        for source in sources
        if source is not None
    ]
    kept = _FROZEN.setdefault(owner, {})
    if key not in kept or kept[key][0] != stamp:
        kept[key] = (stamp, make())
    return kept[key][1]


def prepare(weight: Float[Tensor, "dim_out dim_in"], bias: Tensor | None, dtype: torch.dtype) -> Weight:
    """A weight in the type, and on small models in the order, that its products want."""
    weight, bias = weight.detach().to(dtype).contiguous(), None if bias is None else bias.detach().to(dtype)
    onednn = engine() == "onednn" and (dtype is not torch.bfloat16 or onednn_has_bf16())
    if onednn and _PACK is not None and weight.numel() <= PACKED_SIZE:
        weight = _PACK(weight)
    return Weight(weight, bias, dtype, onednn)


def product(
    x: Float[Tensor, "total_frames dim_in"], weight: Weight, *, gelu: bool = False
) -> Float[Tensor, "total_frames dim_out"]:
    """`x @ weight.T + bias`, with an exact GELU on top if asked for. Keeps no gradient."""
    x = x.to(weight.dtype)
    if weight.onednn:
        kind = ("gelu", [], "none") if gelu else ("none", [], "")
        return _POINTWISE(x, weight.table, weight.bias, *kind)
    with torch.autocast("cpu", enabled=False):
        x = F.linear(x, weight.table, weight.bias)
    return torch.ops.aten.gelu_(x) if gelu else x


@functools.cache
def onednn_has_bf16() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor: it refuses to where the instructions are missing."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


@functools.cache
def engine() -> str:
    """Who multiplies float32 on this CPU: `onednn`, or `torch` (MKL in most builds).

    MKL runs at half the rate of oneDNN on some processors that are not Intel's. oneDNN's product is reachable
    as an operator without a gradient. (The public switch, `torch.backends.mkldnn.matmul.fp32_precision`, is no way
    to it: "tf32" changes nothing on most processors, and "bf16" permits less than float32 where the hardware has
    it.) Both are timed once, some milliseconds; `WAVBENCH_PRODUCTS` decides without.
    """
    asked = os.environ.get(PRODUCTS, "auto")
    if asked not in ("auto", "onednn", "torch"):
        raise UserError(f"{PRODUCTS}={asked} is not known", remedy="onednn, torch or auto")
    if _POINTWISE is None or not torch.backends.mkldnn.is_available():
        return "torch"
    if asked != "auto":
        return asked
    seeded = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, 1_024, generator=seeded) for size in (256, 1_024))
    bias = torch.zeros(1_024)
    ways = {
        "onednn": lambda: _POINTWISE(x, weight, bias, "none", [], ""),
        "torch": lambda: F.linear(x, weight, bias),
    }
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        reference = x.double() @ weight.double().T
        if (ways["onednn"]() - reference).norm() > EXACT * reference.norm():
            return "torch"
        times: dict[str, float] = dict.fromkeys(ways, float("inf"))
        for _ in range(5):  # interleaved, and the best counts: other processes disturb both
            for name, way in ways.items():
                began = time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()
                way()
                ended = time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()
                times[name] = min(times[name], ended - began)
    return "torch" if times["torch"] * WORTH < times["onednn"] else "onednn"
