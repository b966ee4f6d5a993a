"""Whether a device computes what the CPU does: states, losses and gradients of all objectives, and all heads.

    python tests/benchmarks/device_checks.py [--device cuda] [--out FILE.json]

Exits with 1 where a difference is larger than its tolerance.
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from objectives_speed import prepared

from wavbench.downstream.fold import HEADS, head_of
from wavbench.downstream.head_stack import HeadStack
from wavbench.upstream import catalog
from wavbench.upstream.objective import Targets
from wavbench.upstream.pretrain import hubert, wav2vec2
from wavbench.upstream.pretraining import find_objective, objectives

TOLERANCES = {
    "states": 1e-5, "loss": 1e-5, "gradients": 1e-3, "bf16 loss": 2e-2, "outputs": 1e-4,
    "dev loss": 1e-4, "dev gradients": 1e-3,
}  # fmt: skip
CROPS, FRAMES = 6, 149
SAMPLES = (FRAMES - 1) * 320 + 400


class FakeUnits:
    centroids = np.zeros((100, 1))


def module_of(name: str, device: str):
    """An objective over `tiny` on the CPU, and the same on the device."""
    encoder = catalog.build_random(name, catalog.find_preset(f"{name}_tiny")[1], 0)
    torch.manual_seed(0)
    file = {"hubert": hubert, "wav2vec2": wav2vec2}[name]
    config = file.Config(**({"quantizer_dropout": 0.0} if name == "wav2vec2" else {}))
    module = file.build(encoder, config, FakeUnits())
    units = np.random.default_rng(0).integers(0, 100, (CROPS, FRAMES))
    made = [file.targets(config, FRAMES, units[i], np.random.default_rng(i)) for i in range(CROPS)]
    targets = Targets(**{key: torch.from_numpy(np.concatenate([one[key] for one in made])) for key in made[0]})
    return module, copy.deepcopy(module).to(device), targets, config


def compare_objectives(device: str) -> dict[str, float]:
    """Losses and gradients of every objective as on dev, where nothing is drawn, on a batch that a training makes."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        rows, random = [], np.random.default_rng(0)
        for k in range(24):
            soundfile.write(Path(folder) / f"{k}.wav", 0.1 * random.standard_normal(32_000).clip(-3, 3), 16_000)
            rows.append({"id": f"n{k}", "audio": f"{k}.wav", "split": "train" if k % 4 else "dev"})
        manifest = Path(folder) / "noise.csv"
        pd.DataFrame(rows).to_csv(manifest, index=False)
        words = [f"manifest={manifest}", "preset=tiny", "threads=1", "workers=0", "probe_every=0", "precision=fp32"]
        for name in objectives():
            clusters = ["clusters=20"] if find_objective(name).NEEDS_UNITS and name != "vq_wav2vec_bert" else []
            training = prepared(name, [*words, *clusters], Path(folder))
            (piece,) = training.train_crops[training.plan(0)[:1]]
            here = training.bare.eval()
            there = copy.deepcopy(here).to(device)
            made = []
            for module, place in ((there, device), (here, "cpu")):
                moved = piece.to(torch.device(place))
                made.append(module(moved.waveforms, moved.lengths, moved.targets, 0).total)
                made[-1].backward()
            found[f"{name} dev loss"] = difference(*made)
            found[f"{name} dev gradients"] = difference(*(gradients_of(module) for module in (there, here)))
    return found


def gradients_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten().cpu() for p in module.parameters() if p.grad is not None])


def compare_heads(device: str) -> dict[str, float]:
    """Outputs and gradients of every head, a mix and a single layer, against the same on the CPU."""
    found, lengths = {}, np.array([60, 25, 40])
    symbols = torch.tensor([[0, 3, 1], [0, 2, 2], [0, 1, 4]])
    for name in sorted(path.stem for path in HEADS.glob("*.py") if path.stem != "__init__"):
        torch.manual_seed(0)
        here = HeadStack(1, [1], 2, lambda n, name=name: head_of(name).build(n, 24, 7)).eval()
        there = copy.deepcopy(here).to(device)
        states, outputs = torch.randn(2, int(lengths.sum()), 24), []
        for model in (there, here):
            if hasattr(model.one, "takes_symbols"):
                rest = torch.from_numpy(lengths), symbols
                made = torch.cat([part(seen, *rest).cpu() for part, seen in model.parts(states)])
            else:
                made = model.trained(model(states, lengths))
            made.square().sum().backward()
            outputs.append(made)
        found[f"{name} outputs"] = difference(*outputs)
        found[f"{name} gradients"] = difference(*(gradients_of(module) for module in (there, here)))
    return found


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    random = torch.Generator().manual_seed(0)
    waveforms, lengths = 0.1 * torch.randn(CROPS, SAMPLES, generator=random), torch.full((CROPS,), SAMPLES)
    device, found = torch.device(options.device), {}
    for name in ("hubert", "wav2vec2"):
        module, other, targets, config = module_of(name, options.device)
        with torch.no_grad():
            states = module.encoder.eval()(waveforms, lengths).states
            theirs = other.encoder.eval()(waveforms.to(device), lengths.to(device)).states
        found[f"{name} states"] = difference(theirs, states)
        inputs, moved = (
            (waveforms, lengths, targets, 0),
            (waveforms.to(device), lengths.to(device), targets.to(device), 0),
        )
        if name == "wav2vec2":
            shape = (int(targets.masked.sum()), config.groups, config.entries)
            noise = -torch.empty(shape).exponential_(generator=random).log()
            inputs, moved = (*inputs, noise), (*moved, noise.to(device))
        loss, same = module.train()(*inputs).total, other.train()(*moved).total
        loss.backward()
        same.backward()
        found[f"{name} loss"] = difference(same, loss)
        found[f"{name} gradients"] = difference(gradients_of(other), gradients_of(module))
        with torch.autocast(device.type, torch.bfloat16):
            found[f"{name} bf16 loss"] = difference(other(*moved).total, loss)
    found |= compare_objectives(options.device) | compare_heads(options.device)
    wrong = {key: value for key, value in found.items() if not value <= TOLERANCES[key.split(" ", 1)[1]]}
    result = {"device": options.device, "differences": found, "too large": wrong, "tolerances": TOLERANCES}
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
