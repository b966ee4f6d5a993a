"""What `gpu_pretrain.sh` does once its packages are there."""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from wavbench.upstream.checkpoints import read_checkpoint, write_checkpoint

HERE = Path(__file__).resolve().parent
PART = 14 << 20  # bytes that leave the machine in one file, at most
PROBE = "mboshi_fr.csv"
# name, preset, share of the training time, batch in seconds, and what else differs from the recipe
GPU_RUNS = (
    ("hubert_tiny_iteration1", "hubert", "tiny", 0.15, 480, {"peak_rate": 2e-3}),
    ("hubert_tiny", "hubert", "tiny", 0.40, 480, {"peak_rate": 2e-3, "units_layer": 5, "clusters": 300}),
    ("wav2vec2_tiny", "wav2vec2", "tiny", 0.30, 480, {}),
    ("hubert_small", "hubert", "small", 0.15, 480, {"units_layer": 5, "clusters": 300}),
)


class Clock:
    """Seconds since the machine was lent."""

    def __init__(self, began: float, minutes: float) -> None:
        self.began, self.end = began, began + 60 * minutes

    def left(self) -> float:
        return self.end - time.time()

    def say(self, text: str) -> None:
        print(f"[{(time.time() - self.began) / 60:5.1f} min] {text}", flush=True)


def cli(*words: str, timeout: float | None = None) -> None:
    command = [sys.executable, "-m", "wavbench.benchmark.cli", *words]
    subprocess.run(command, check=True, timeout=timeout)


def last_row(path: Path) -> dict[str, str]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))[-1]


def train(name, objective, preset, seconds, batch, extra, manifests, out, options) -> Path:
    """One run whose number of steps is set by a short run before it."""
    folder = out / "runs" / name
    words = [
        f"objective={objective}", f"preset={preset}", f"manifest={','.join(map(str, manifests))}",
        f"device={options.device}", f"decoded={out / 'decoded'}", f"stores={out / 'stores'}",
        *(f"{key}={value}" for key, value in extra.items()),
    ]  # fmt: skip
    if options.device == "cuda":
        words += [f"batch_seconds={batch}", "audio_on_device=true", "workers=12"]
    else:
        words += ["batch_seconds=8", "crop_seconds=4", "workers=0", "threads=1"]
    trial = 60 if options.device == "cuda" else 2
    began = time.time()
    cli("pretrain", *words, f"out={folder}_trial", f"steps={trial}", f"log_every={trial // 2}", "dev_seconds=16")
    row = last_row(Path(f"{folder}_trial") / "train.csv")
    rate = float(row["audio_seconds_per_second"])
    start_up = time.time() - began - float(row["audio_hours"]) * 3600 / rate
    size = float(row["audio_hours"]) * 3600 / trial
    steps = int(max(seconds - 2 * start_up, 10) * 0.93 * rate / size) if options.device == "cuda" else 4
    probe = [f"probe_manifest={options.audio / PROBE}", f"probe_every={max(steps // 4, 1)}"]
    if not (options.audio / PROBE).is_file():
        probe = []
    print(f"{name}: {rate:.0f} audio seconds per second, {steps} steps", flush=True)
    cli("pretrain", *words, *probe, f"out={folder}", f"steps={steps}", f"save_every={max(steps // 20, 1)}")
    return folder


def leave(folder: Path, name: str, out: Path) -> None:
    """The checkpoint as fp16, in parts if it is large, and the curves."""
    stem, config, state = read_checkpoint(folder / "checkpoint.safetensors")
    path = out / f"{name}.safetensors"
    write_checkpoint(path, stem, config, {key: value.half() for key, value in state.items()})
    data = path.read_bytes()
    if len(data) > PART:
        for number, first in enumerate(range(0, len(data), PART)):
            Path(f"{path}.part{number}").write_bytes(data[first : first + PART])
        path.unlink()
    for curve in [*folder.glob("*.csv"), folder / "run.json"]:
        (out / f"{name}.{curve.name}").write_bytes(curve.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("minutes", type=float)
    parser.add_argument("audio", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--began", type=float, default=time.time())
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(options.began, options.minutes)
    manifests = sorted(path for path in options.audio.glob("*.csv") if path.name != PROBE)
    if not manifests:
        sys.exit(f"no manifests (*.csv) in {options.audio}")
    clock.say("checking the device against the CPU")
    checks = [sys.executable, str(HERE / "device_checks.py"), "--device", options.device]
    subprocess.run([*checks, "--out", str(options.out / "checks.json")], check=False)
    clock.say("measuring speed")
    speed = [sys.executable, str(HERE / "pretraining_speed.py"), "--device", options.device]
    for preset, seconds in (("base", "160"), ("tiny", "480")) if options.device == "cuda" else (("tiny", "8"),):
        more = ["--steps", "10" if options.device == "cuda" else "1", "--crop", "8", "--workers", "4"]
        path = str(options.out / f"speed_{preset}.json")
        subprocess.run([*speed, "--preset", preset, "--seconds", seconds, *more, "--out", path], check=False)
    training = clock.left() - 60  # a minute to write what was made
    shares_left = sum(run[3] for run in GPU_RUNS)
    for name, objective, preset, share, batch, extra in GPU_RUNS:
        seconds = (clock.left() - 60) * share / shares_left if options.device == "cuda" else training
        shares_left -= share
        if seconds < 45 and options.device == "cuda":
            clock.say(f"{name}: {seconds:.0f} s are left for it, too little")
            continue
        first = options.out / "runs" / "hubert_tiny_iteration1" / "checkpoint.safetensors"
        if first.is_file() and name != first.parent.name:
            extra = extra | ({"units_from": first} if "clusters" in extra else {})
            extra = extra | ({"init": first} if preset == "tiny" else {})
        clock.say(f"training {name}, {seconds:.0f} s")
        try:
            folder = train(name, objective, preset, seconds, batch, extra, manifests, options.out, options)
            leave(folder, name, options.out)
        except (subprocess.SubprocessError, OSError) as error:
            clock.say(f"{name} failed: {error}")
    (options.out / "done.json").write_text(
        json.dumps({"minutes": (time.time() - clock.began) / 60, "torch": torch.__version__})
    )
    clock.say("done")


if __name__ == "__main__":
    main()
