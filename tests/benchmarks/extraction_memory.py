"""Peak memory of extraction must not grow with the corpus: 500 against 2,500 utterances.

    python tests/benchmarks/extraction_memory.py [--manifest corpus.csv] [--upstream wav2vec2_tiny] [--repeats 3]
    python tests/benchmarks/extraction_memory.py --hour [--upstream wav2vec2_tiny]

With --hour it is one recording of ten minutes against one of an hour, whose peak may grow by the recording itself.
Without a manifest the recorded speech of WAVBENCH_CORPORA (or ../shared/corpora) is used where there is any, else
noise of 1 to 6 seconds. Every measurement is a process of its own.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from wavbench.upstream.audio import load_audio
from wavbench.upstream.manifest import read_manifest, write_manifest

COUNTS = (500, 2_500)
MINUTES = (10, 60)
ROOT = Path(__file__).resolve().parents[2]


def measure(upstream: str, manifest: Path, store: Path, pooled: bool) -> None:
    """In the child: one extraction, then its figures as a line of JSON."""
    from wavbench.upstream.catalog import load
    from wavbench.upstream.extract import extract

    weights = None if upstream == "fbank" else "random"
    model, table = load(upstream, weights=weights, seed=0), read_manifest(manifest)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    extract(model, table, store, pooled=pooled)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(path.stat().st_size for path in store.rglob("*.h5"))
    seconds = time.perf_counter() - began
    print(json.dumps({"before_mb": before / 1024, "peak_mb": peak / 1024, "seconds": seconds, "store_mb": size / 1e6}))


def made_corpus(folder: Path) -> Path:
    random = np.random.default_rng(0)
    (folder / "audio").mkdir()
    for k in range(max(COUNTS)):
        samples = 0.1 * random.standard_normal(random.integers(16_000, 96_000))
        soundfile.write(folder / f"audio/{k}.wav", samples, 16_000)
    ids = [str(k) for k in range(max(COUNTS))]
    table = pd.DataFrame({"id": ids, "audio": [f"audio/{k}.wav" for k in ids], "split": "train"})
    write_manifest(table, folder / "noise.csv")
    return folder / "noise.csv"


def recording(source: Path | None, minutes: int, folder: Path) -> Path:
    """A manifest of one recording: speech of a corpus over and over, else noise."""
    place = folder / f"{minutes}min"
    place.mkdir()
    if source:
        table = read_manifest(source)
        speech = np.concatenate([load_audio(table.audio_path(row)) for row in range(min(len(table), 100))])
    else:
        speech = 0.1 * np.random.default_rng(0).standard_normal(60 * 16_000)
    soundfile.write(place / "recording.flac", np.resize(speech, minutes * 60 * 16_000), 16_000)
    write_manifest(pd.DataFrame({"id": ["one"], "audio": ["recording.flac"], "split": "test"}), place / "corpus.csv")
    return place / "corpus.csv"


def cut(manifest: Path, count: int, folder: Path) -> Path:
    """A manifest of so many rows, spread evenly, in a folder with a copy of the audio."""
    source = read_manifest(manifest)
    rows = np.linspace(0, len(source) - 1, count).round().astype(int)
    place = folder / f"first{count}"
    place.mkdir()
    table = source.table.iloc[rows].copy()
    for k, row in enumerate(rows):
        shutil.copyfile(source.audio_path(int(row)), place / f"{k}{source.audio_path(int(row)).suffix}")
    table["audio"] = [f"{k}{Path(audio).suffix}" for k, audio in enumerate(table["audio"])]
    write_manifest(table, place / "corpus.csv")
    return place / "corpus.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, help="of at least 2,500 utterances")
    parser.add_argument("--upstream", default="wav2vec2_tiny")
    parser.add_argument("--pooled", action="store_true")
    parser.add_argument("--hour", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.upstream, *arguments.measure, arguments.pooled)
        return
    recorded = Path(os.environ.get("WAVBENCH_CORPORA") or ROOT.parent / "shared" / "corpora") / "emotion_pl.csv"
    manifest = arguments.manifest or (recorded if recorded.is_file() else None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.hour:
            sizes, unit = MINUTES, "minutes"
            corpora = [recording(manifest, minutes, folder) for minutes in sizes]
        else:
            manifest = manifest or made_corpus(folder)
            sizes, unit = COUNTS, "utterances"
            corpora = [cut(manifest, count, folder) for count in sizes]
        print(f"{arguments.upstream} on {manifest.name if manifest else 'noise'}; medians of {arguments.repeats}")
        print(f"{unit:>10}{'before MB':>12}{'peak MB':>10}{'store MB':>10}{'seconds':>9}")
        peaks = []
        for size, corpus in zip(sizes, corpora, strict=True):
            found = []
            for repeat in range(arguments.repeats):
                command = [sys.executable, __file__, "--upstream", arguments.upstream]
                command += ["--pooled"] * arguments.pooled
                command += ["--measure", str(corpus), str(folder / f"store{size}-{repeat}")]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
            middle = {key: statistics.median(run[key] for run in found) for key in found[0]}
            peaks.append(middle["peak_mb"])
            print(
                f"{size:>10}{middle['before_mb']:>12.0f}{middle['peak_mb']:>10.0f}"
                f"{middle['store_mb']:>10.0f}{middle['seconds']:>9.1f}"
            )
    print(f"peak of {sizes[1]} {unit} over peak of {sizes[0]}: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
