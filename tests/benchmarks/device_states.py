"""Whether a device computes the states that the CPU does: every native family, mixed lengths, fp32 and bf16.

    python tests/benchmarks/device_states.py [--device cuda] [--small] [--out FILE.json]

The reference is the CPU in float32, one utterance at a time; the device gets all of them as one batch. With --small
only shapes of two narrow layers are checked. Exits with 1 where a difference is larger than its tolerance.
"""

import argparse
import copy
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from device_checks import difference

from wavbench.upstream import catalog
from wavbench.upstream.catalog import Upstream

TOLERANCES = {"fp32": 1e-5, "bf16": 5e-2, "recording": 1e-5}
SECONDS = (1.7, 0.4, 4.3, 4.3, 9.1)
RECORDING_SECONDS = 130.0  # longer than what goes through in one piece
PRESETS = {
    "wav2vec2": ("base", "large_lv60"),
    "hubert": ("base", "large"),
    "wavlm": ("base", "large"),
    "data2vec": ("base",),
    "wav2vec": ("base", "large"),
    "vq_wav2vec": ("gumbel", "kmeans"),
}
NARROW = {
    "dim": 64, "num_layers": 2, "num_heads": 4, "inner_dim": 96, "position_kernel": 16, "position_groups": 4,
    "conv_channels": (32,) * 7,
}  # fmt: skip
# Codes are choices: where two entries are equally near, rounding decides, and the frames around get other states.
CHOOSES = "vq_wav2vec"


def shapes(small_only: bool) -> Iterator[tuple[str, str, object]]:
    """Family, what it is called, and its config."""
    for family, presets in PRESETS.items():
        for preset in presets:
            config = catalog.find_preset(f"{family}_{preset}")[1]
            known = {field.name for field in dataclasses.fields(config)}
            if "inner_dim" in known:
                yield family, f"{family}_{preset} narrow", dataclasses.replace(config, **NARROW)
            if not small_only:
                yield family, f"{family}_{preset}", config


def waveforms() -> list[torch.Tensor]:
    random = np.random.default_rng(0)
    return [torch.from_numpy(0.1 * random.standard_normal(int(s * 16_000)).astype(np.float32)) for s in SECONDS]


def states_of(upstream: Upstream, batch: list[torch.Tensor]) -> list[torch.Tensor]:
    return upstream.batch(batch, range(upstream.num_states)).result()


def worst(ours: list[torch.Tensor], references: list[torch.Tensor]) -> float:
    """The largest relative difference of any layer of any utterance."""
    return max(
        difference(layer, reference)
        for one, other in zip(ours, references, strict=True)
        for layer, reference in zip(one, other, strict=True)
    )


def share_of_frames(ours: list[torch.Tensor], references: list[torch.Tensor]) -> float:
    """The share of frames whose first state differs: where the choice of codes did."""
    found = [(a[0] - b[0]).norm(dim=1) > 1e-3 * b[0].norm(dim=1) for a, b in zip(ours, references, strict=True)]
    return float(torch.cat(found).float().mean())


def checked(family: str, config: object, device: str) -> dict[str, float]:
    model = catalog.build_random(family, config, 0)
    description = catalog.describe(family, config)
    there = Upstream(family, copy.deepcopy(model), config=description, checkpoint="random", device=device)
    here = Upstream(family, model, config=description, checkpoint="random")
    speech = waveforms()
    references = [states_of(here, [one])[0] for one in speech]
    found = {}
    for precision in ("fp32", "bf16"):
        there.set_precision(precision)
        states = states_of(there, speech)
        if family == CHOOSES:
            found[f"{precision} other codes"] = share_of_frames(states, references)
        else:
            found[precision] = worst(states, references)
    if hasattr(model, "recording") and here.dim <= NARROW["dim"]:
        there.set_precision("fp32")
        long = torch.cat(speech).repeat(20)[: int(RECORDING_SECONDS * 16_000)]
        layers = range(here.num_states)
        pairs = zip(there.recording(long, layers), here.recording(long, layers), strict=True)
        found["recording"] = max(difference(mine[2], theirs[2]) for mine, theirs in pairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    differences, wrong = {}, []
    for family, name, config in shapes(options.small):
        differences[name] = checked(family, config, options.device)
        print(f"{name:28}", "  ".join(f"{key} {value:.1e}" for key, value in differences[name].items()), flush=True)
        wrong += [f"{name} {key}" for key, value in differences[name].items() if not value <= TOLERANCES.get(key, 1.0)]
    device = torch.device(options.device)
    result = {
        "what": "largest relative L2 difference of any state to the CPU's in float32, mixed lengths in one batch",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else options.device,
        "torch": torch.__version__,
        "tolerances": TOLERANCES,
        "too large": wrong,
        "differences": differences,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"too large: {', '.join(wrong) or 'none'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
