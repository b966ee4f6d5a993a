"""Configuration values to an upstream that is ready to run."""

import os
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from wavbench.benchmark.baselines import Baseline, find_baseline, place_of
from wavbench.upstream.errors import UserError, refuse_below


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
    """An upstream by name, for a command; says what was left out of its checkpoint.

    Args:
        checkpoints: folder that is looked into for official checkpoints; the Hub where empty.

    Raises:
        UserError: an unknown name, option or device.
    """
    place, given = check_device(device), {}
    if options is not None:
        given = {key: getattr(options, key) or None for key in ("weights", "revision", "language")}
        given["seed"] = check_seed("seed", options.seed)
    upstream = load(name, device=place, precision=precision, checkpoints=checkpoints, **given)
    for remark in upstream.remarks():
        print(f"note: {remark}")
    return upstream


def load(
    name: str,
    *,
    weights: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    language: str | None = None,
    device="cpu",
    precision: str = "fp32",
    checkpoints: str = "",
):
    """An upstream by name; a name of configs/upstream is the official checkpoint, as a preset alone has no weights.

    Args:
        name: an official checkpoint, or whatever `upstream.catalog.load` takes: a preset, folder, file or hub id.
        weights: `"random"` for a random twin with fresh weights from `seed`.
        seed: of random weights.
        revision: branch, tag or commit of a hub id.
        language: code of the language whose adapters a multilingual checkpoint (MMS) is used with.
        device: where the model runs.
        precision: "fp32" or "bf16".
        checkpoints: folder that is looked into for official checkpoints; the Hub where empty.

    Raises:
        UserError: the name is unknown, the preset has no weights, or a checkpoint does not fit its model.
    """
    from wavbench.upstream import catalog

    given = {"language": language, "device": device, "precision": precision}
    baseline = None if weights else find_baseline(name)
    if baseline is None:
        return catalog.load(name, weights=weights, seed=seed, revision=revision, **given)
    source, pinned = place_of(name, baseline, checkpoints)
    if revision and pinned is None:
        raise UserError(f"{name} is read from {source}, which has no revisions", remedy="leave revision= out")
    try:
        upstream = catalog.load(source, revision=revision or pinned, **given)
    except UserError as error:
        if checkpoints or "cannot be fetched" not in error.what:
            raise
        remedy = f"{error.remedy}; checkpoints=FOLDER takes it from FOLDER/{name} or FOLDER/{baseline.id}"
        raise UserError(error.what, where=error.where, why=error.why, remedy=remedy) from None
    upstream.name, upstream.pretraining = name, baseline.pretraining
    told = [f"language {upstream.language}"] if upstream.language else []
    told += [upstream.precision] if upstream.precision != "fp32" else []
    upstream.checkpoint = " ".join([name, *told])  # its folder's name says less, and its hash says which it is
    upstream.notes = (*upstream.notes, *_differences(name, baseline, upstream))
    return upstream


def _differences(name: str, baseline: Baseline, upstream) -> Iterator[str]:
    """Where a checkpoint is not what its description says."""
    if upstream.num_parameters != baseline.parameters:
        yield f"{name} has {upstream.num_parameters:,} parameters where {baseline.parameters:,} are published"
    if "spectra" not in baseline.normalisation and baseline.normalisation not in upstream.normalisation:
        yield (
            f"{name} normalises waveforms with {upstream.normalisation!r}, as its folder says; "
            f"its authors trained it with {baseline.normalisation!r}"
        )


def features_hash(upstream) -> str:
    """Of all that features depend on beside the weights: two upstreams without any may still hear differently."""
    from wavbench.benchmark.record import key_of

    return key_of({"config": upstream.config, "normalisation": upstream.normalisation})


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


def check_processes(given) -> None:
    """Raise a UserError unless a training can have the device and the processes that it is given.

    Args:
        given: a schema with `device`, `devices`, `nodes`, `workers` and `threads`.
    """
    import torch

    refuse_below(given, {"devices": 1, "nodes": 1, "workers": 0, "threads": 0})
    rank = (
        os.environ.get("LOCAL_RANK", "") if given.device == "cuda" else ""
    )  # of processes on one machine each has its own
    place = check_device(f"cuda:{rank}" if rank else given.device)
    there = torch.cuda.device_count() if place.type == "cuda" and not rank else given.devices
    if given.devices > there:
        raise UserError(f"devices={given.devices} is more than the {there} there are", remedy=f"devices={there}")


def check_seed(key: str, seed: int) -> int:
    if not 0 <= seed < 1 << 32:
        raise UserError(f"{key}={seed} is no seed", remedy=f"{key}=0, or another whole number below 2 ** 32")
    return seed
