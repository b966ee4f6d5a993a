"""Configuration values to an upstream that is ready to run."""

from typing import Protocol, runtime_checkable

from wavbench.upstream.errors import UserError


@runtime_checkable
class Options(Protocol):
    """What every command that takes an upstream says about it; "" means not given."""

    weights: str  # "random" for a random twin
    seed: int  # of random weights
    revision: str  # of a hub id
    language: str  # of adapters (MMS)


def load_upstream(name: str, options: Options | None = None, *, device: str = "cpu", precision: str = "fp32"):
    """An upstream by name; says what was left out of its checkpoint.

    Raises:
        UserError: an unknown name, option or device.
    """
    from wavbench.upstream.catalog import load

    place, given = check_device(device), {}
    if options is not None:
        given = {key: getattr(options, key) or None for key in ("weights", "revision", "language")}
        given["seed"] = check_seed("seed", options.seed)
    upstream = load(name, device=place, precision=precision, **given)
    for remark in upstream.remarks():
        print(f"note: {remark}")
    return upstream


def check_device(device: str):
    """The torch device of this name, seen to work."""
    import torch

    try:
        place = torch.device(device)
        if place.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("this torch sees no CUDA device")
        torch.ones(1, device=place).item()  # a device may be known by name and still be out of reach
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:
        raise UserError(
            f"device={device} cannot be used", why=str(error).partition("\n")[0][:200], remedy="device=cpu"
        ) from None
    return place


def check_seed(key: str, seed: int) -> int:
    if not 0 <= seed < 1 << 32:
        raise UserError(f"{key}={seed} is no seed", remedy=f"{key}=0, or another whole number below 2 ** 32")
    return seed
