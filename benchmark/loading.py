"""Configuration values to an upstream that is ready to run."""

from typing import Protocol, runtime_checkable

from wavbench.benchmark.baselines import Baseline, find_baseline, place_of
from wavbench.upstream.errors import UserError


@runtime_checkable
class Options(Protocol):
    """What every command that takes an upstream says about it; "" means not given."""

    weights: str  # "random" for a random twin
    seed: int  # of random weights
    revision: str  # of a hub id
    language: str  # of adapters (MMS)


def load_upstream(
    name: str,
    options: Options | None = None,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    checkpoints: str = "",
):
    """An upstream by name; says what was left out of its checkpoint.

    A name of configs/upstream stands for the official checkpoint, as a preset alone has no weights.

    Args:
        checkpoints: folder that is looked into for official checkpoints; the Hub where empty.

    Raises:
        UserError: an unknown name, option or device.
    """
    from wavbench.upstream.catalog import load

    place, given = check_device(device), {}
    if options is not None:
        given = {key: getattr(options, key) or None for key in ("weights", "revision", "language")}
        given["seed"] = check_seed("seed", options.seed)
    baseline = None if given.get("weights") else find_baseline(name)
    if baseline is None:
        upstream = load(name, device=place, precision=precision, **given)
    else:
        source, revision = place_of(name, baseline, checkpoints)
        if given.get("revision") and revision is None:
            raise UserError(f"{name} is read from {source}, which has no revisions", remedy="leave revision= out")
        given["revision"] = given.get("revision") or revision
        upstream = load(source, device=place, precision=precision, **given)
        upstream.name, upstream.pretraining = name, baseline.pretraining
        _say_differences(name, baseline, upstream)
    for remark in upstream.remarks():
        print(f"note: {remark}")
    return upstream


def _say_differences(name: str, baseline: Baseline, upstream) -> None:
    """Where a checkpoint is not what its description says."""
    if upstream.num_parameters != baseline.parameters:
        print(f"note: {name} has {upstream.num_parameters:,} parameters where {baseline.parameters:,} are published")
    spectra = "spectra" in baseline.normalisation
    if not spectra and baseline.normalisation not in upstream.normalisation:
        print(
            f"note: {name} normalises waveforms with {upstream.normalisation!r}, as its folder says; "
            f"its authors trained it with {baseline.normalisation!r}"
        )


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
