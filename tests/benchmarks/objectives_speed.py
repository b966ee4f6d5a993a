"""What an update of every objective costs, by the real trainer on the same batches, one objective after the other.

    python tests/benchmarks/objectives_speed.py MANIFEST [--preset tiny] [--device cpu] [--threads 2] [--rounds 6]
        [--updates 4] [--out results/speed] [key=value of every recipe ...]

The objectives take turns, a few updates each, and the medians over the rounds count: machines are shared. Units are
made of MFCC and codes by a random vq-wav2vec, as what a step costs does not depend on what it learns.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import pandas as pd
import torch

from wavbench.benchmark import pretraining
from wavbench.benchmark.record import write_text
from wavbench.upstream import catalog
from wavbench.upstream.batch_plan import batches
from wavbench.upstream.checkpoints import write_checkpoint
from wavbench.upstream.crops import loader
from wavbench.upstream.pretraining import objectives
from wavbench.upstream.training import Training

WARM_UP = 1  # rounds that are not counted
BASELINE = "hubert"


def prepared(objective: str, words: list[str], folder: Path) -> Training:
    """A training that is ready for its first update."""
    found: list[Training] = []
    given = [f"objective={objective}", f"out={folder / objective}", f"decoded={folder / 'decoded'}", *words]
    if objective == "vq_wav2vec_bert":
        stem, shape = catalog.find_preset("vq_wav2vec_tiny")
        codes = folder / "codes.safetensors"
        write_checkpoint(codes, stem, shape, catalog.build_random(stem, shape, 0).state_dict())
        given.append(f"codes={codes}")
    with mock.patch.object(Training, "run", lambda self: found.append(self)):
        pretraining.pretrain(pretraining.compose(given))
    return found[0]


def updates_of(training: Training):
    """A function that does so many updates and gives the seconds of audio in them."""
    settings = training.settings
    pieces = loader(
        training.train_crops, batches(training.epoch, training.index, 0, 1, settings.accumulate, training.plan), 0
    )

    def updates(count: int) -> float:
        before = training.hours
        for _ in range(count):
            training._update(next(pieces))
        if training.fabric.device.type == "cuda":
            torch.cuda.synchronize()
        return 3_600 * (training.hours - before)

    return updates


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options, words = parser.parse_known_args()
    words += [f"manifest={options.manifest}", f"preset={options.preset}", f"device={options.device}"]
    words += [f"threads={options.threads}", "workers=0", "probe_every=0"]
    rates: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        contenders = {name: updates_of(prepared(name, words, Path(folder))) for name in objectives()}
        torch.set_num_threads(options.threads)
        for turn in range(WARM_UP + options.rounds):
            for name, updates in contenders.items():
                began, began_cpu = time.perf_counter(), time.process_time()
                seconds = updates(options.updates)
                if turn >= WARM_UP:
                    own = rates.setdefault(name, {"by the clock": [], "per CPU second": []})
                    own["by the clock"].append(seconds / (time.perf_counter() - began))
                    own["per CPU second"].append(seconds / (time.process_time() - began_cpu))
            print(f"round {turn} of {WARM_UP + options.rounds}", flush=True)
    table = pd.DataFrame(
        {name: {kind: statistics.median(values) for kind, values in own.items()} for name, own in rates.items()}
    ).T
    for kind in list(table):
        ratios = [
            statistics.median(a / b for a, b in zip(own[kind], rates[BASELINE][kind], strict=True))
            for own in rates.values()
        ]
        table[f"{kind}, {BASELINE} = 1"] = ratios
    table = table.round(3).rename_axis("objective")
    machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "CPU"
    print(table.to_string())
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        stem = f"objectives_{options.preset}_{options.device}"
        write_text(options.out / f"{stem}.csv", table.to_csv(lineterminator="\n"))
        lines = [
            f"# Audio seconds that an update takes in, by objective: {options.preset}, {options.device}", "",
            f"Medians of {options.rounds} rounds of {options.updates} updates, in turns; {options.threads} threads "
            f"on {machine}; torch {torch.__version__}. The last columns are medians of the ratios within a round.", "",
            "| objective | " + " | ".join(table) + " |", "|---|" + "---|" * len(table.columns),
            *(f"| {name} | " + " | ".join(f"{value:.3g}" for value in row) + " |" for name, row in table.iterrows()),
        ]  # fmt: skip
        write_text(options.out / f"{stem}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
