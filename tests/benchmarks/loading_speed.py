"""What loading takes in pretraining: decoding a corpus once, and making the batches of every objective.

    python tests/benchmarks/loading_speed.py MANIFEST [--rounds 5] [--batches 20] [key=value of every recipe ...]

Both in seconds of audio per CPU second, medians. Batches hold crops, what they are to predict, which frames are hidden,
and negatives; their audio is decoded, as it is in training. `preset=` and `batch_seconds=` say how large they are.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from objectives_speed import prepared

from wavbench.upstream.decoded import decode
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.pretraining import objectives


def decoding(manifest: Path, folder: Path) -> float:
    began = time.process_time()
    speech = decode([read_manifest(manifest)], folder, workers=1)
    return float(speech.lengths.sum()) / 16_000 / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    options, words = parser.parse_known_args()
    words = ["preset=tiny", "threads=1", *words]
    words += [f"manifest={options.manifest}", "workers=0", "probe_every=0"]
    with tempfile.TemporaryDirectory() as folder:
        rates = [decoding(options.manifest, Path(folder) / str(turn)) for turn in range(options.rounds)]
        print(f"decoding: {statistics.median(rates):,.0f}", flush=True)
        contenders = {name: prepared(name, words, Path(folder)) for name in objectives()}
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(1 + options.rounds):
            for name, training in contenders.items():
                batches = training.plan(turn)[: options.batches]
                began = time.process_time()
                seconds = sum(piece.seconds for piece in training.train_crops[batches])
                if turn:  # the first round maps the samples into memory
                    found[name].append(seconds / (time.process_time() - began))
        for name, rates in found.items():
            print(f"{name}: {statistics.median(rates):,.0f}")


if __name__ == "__main__":
    main()
