"""What `gpu_pretrain.sh` does once its packages are there."""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from wavbench.benchmark.release import halve

HERE = Path(__file__).resolve().parent
PART = 14 << 20  # bytes that leave the machine in one file, at most
PROBE = "mboshi_fr.csv"
FIRST = "hubert_tiny_iteration1"  # whose states give units, and whose encoder wav2vec 2.0 and data2vec begin with
CODES = "vq_wav2vec"  # whose codes the BERT of the same size reads
UNITS = {"units_layer": 5, "clusters": 300}


class Run(NamedTuple):
    """One training.

    Args:
        name: of its folder and files.
        objective: a file of `upstream/pretrain`.
        preset: a recipe.
        share: of the training time, against those of the other runs.
        extra: what differs from the recipe.
    """

    name: str
    objective: str
    preset: str
    share: float
    extra: Mapping[str, object] = MappingProxyType({})


GPU_RUNS = (
    Run(FIRST, "hubert", "tiny", 2, {"peak_rate": 2e-3}),
    Run("hubert_tiny", "hubert", "tiny", 4, {"peak_rate": 2e-3, **UNITS}),
    Run("wav2vec2_tiny", "wav2vec2", "tiny", 4),
    Run("wavlm_tiny", "wavlm", "tiny", 4, {"peak_rate": 2e-3, **UNITS}),
    Run("data2vec_tiny", "data2vec", "tiny", 4),
    Run("wav2vec_tiny", "wav2vec", "tiny", 4),
    Run(f"{CODES}_tiny", "vq_wav2vec", "tiny", 4),
    Run("vq_wav2vec_bert_tiny", "vq_wav2vec_bert", "tiny", 2),
    Run("hubert_small", "hubert", "small", 2, UNITS),
    Run("wav2vec2_small", "wav2vec2", "small", 2),
    Run("wavlm_small", "wavlm", "small", 2, UNITS),
    Run("data2vec_small", "data2vec", "small", 2),
    Run("wav2vec_small", "wav2vec", "small", 1),
    Run("vq_wav2vec_small", "vq_wav2vec", "small", 1),
    Run("vq_wav2vec_bert_small", "vq_wav2vec_bert", "small", 1),
)
GPU_BATCH = 480  # seconds
PROBES = 4  # of phones in a run


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


def begun_with(run: Run, out: Path) -> dict:
    """What a run takes from those before it, or from the shipped checkpoint where they were not made here."""
    first = out / "runs" / FIRST / "checkpoint.safetensors"
    first = first if first.is_file() else "hubert_tiny"
    given = {"units_from": first} if "units_layer" in run.extra else {}
    if run.preset == "tiny" and run.name in ("hubert_tiny", "wav2vec2_tiny", "data2vec_tiny"):
        given["init"] = first
    hubert = out / "runs" / "hubert_small" / "checkpoint.safetensors"
    if run.name == "data2vec_small" and hubert.is_file():
        given["init"] = hubert
    if run.objective == "vq_wav2vec_bert":
        given["codes"] = out / "runs" / f"{CODES}_{run.preset}" / "checkpoint.safetensors"
    return given


def train(run: Run, seconds: float, manifests: list[Path], out: Path, options) -> Path:
    """One run whose number of steps is set by a short run before it, its phones probe included.

    A run that takes longer than that said is stopped, and what it saved last is what it leaves.
    """
    folder = out / "runs" / run.name
    words = [
        f"objective={run.objective}", f"preset={run.preset}", f"manifest={','.join(map(str, manifests))}",
        f"device={options.device}", f"decoded={out / 'decoded'}", f"stores={out / 'stores'}",
        *(f"{key}={value}" for key, value in {**run.extra, **begun_with(run, out)}.items()),
    ]  # fmt: skip
    if options.device == "cuda":
        words += [f"batch_seconds={GPU_BATCH}", "audio_on_device=true", "workers=12"]
    else:
        words += ["batch_seconds=8", "crop_seconds=4", "workers=0", "threads=1"]
    trial = 60 if options.device == "cuda" else 2
    began, corpus = time.time(), options.audio / PROBE
    probe = [f"probe_manifest={corpus}"] if corpus.is_file() else []
    once = [*probe, f"probe_every={trial}"] if probe else []
    cli("pretrain", *words, *once, f"out={folder}_trial", f"steps={trial}", f"log_every={trial // 2}", "dev_seconds=16")
    row = last_row(Path(f"{folder}_trial") / "train.csv")
    rate = float(row["audio_seconds_per_second"])
    start_up = time.time() - began - float(row["audio_hours"]) * 3600 / rate  # with one probe in it
    size = float(row["audio_hours"]) * 3600 / trial
    left = max(seconds - (2 + PROBES) * start_up, 10)
    steps = int(left * 0.93 * rate / size) if options.device == "cuda" else 4
    often = [*probe, f"probe_every={max(steps // PROBES, 1)}"] if probe else []
    print(f"{run.name}: {rate:.0f} audio seconds per second, {steps} steps", flush=True)
    most = max(began + seconds - time.time(), 60) if options.device == "cuda" else None
    try:
        cli(
            "pretrain",
            *words,
            *often,
            f"out={folder}",
            f"steps={steps}",
            f"save_every={max(steps // 20, 1)}",
            timeout=most,
        )
    except subprocess.TimeoutExpired:
        if not (folder / "checkpoint.safetensors").is_file():
            raise
        print(f"{run.name}: stopped after {most:.0f} s", flush=True)
    return folder


def leave(folder: Path, name: str, out: Path) -> None:
    """The checkpoint as fp16, in parts if it is large, and the curves."""
    path = out / f"{name}.safetensors"
    halve(folder / "checkpoint.safetensors", path)
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
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs of GPU_RUNS; all where none is given")
    parser.add_argument("--began", type=float, default=time.time())
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if unknown := set(options.names) - {run.name for run in GPU_RUNS}:
        parser.error(f"there is no run {', '.join(sorted(unknown))}; known: {', '.join(run.name for run in GPU_RUNS)}")
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
    runs = [run for run in GPU_RUNS if not options.names or run.name in options.names]
    for place, run in enumerate(runs):
        left = clock.left() - 60  # a minute to write what was made
        seconds = left * run.share / sum(other.share for other in runs[place:])
        if seconds < 45 and options.device == "cuda":
            clock.say(f"{run.name}: {seconds:.0f} s are left for it, too little")
            continue
        clock.say(f"training {run.name}, {seconds:.0f} s")
        try:
            folder = train(run, seconds, manifests, options.out, options)
            leave(folder, run.name, options.out)
        except (subprocess.SubprocessError, OSError) as error:
            clock.say(f"{run.name} failed: {error}")
    (options.out / "done.json").write_text(
        json.dumps({"minutes": (time.time() - clock.began) / 60, "torch": torch.__version__})
    )
    clock.say("done")


if __name__ == "__main__":
    main()
