"""`wavbench extract` from files to a store on disk, against the bare forward pass of the same batches in memory.

    python tests/benchmarks/extraction_speed.py [--manifest corpus.csv] [--upstream wav2vec2_base] [--utterances 80]
        [--precision fp32|bf16] [--rounds 3] [--threads 1] [--out FILE.json]

Without a manifest english_l2.csv of WAVBENCH_CORPORA (or ../shared/corpora) is used. Both run in turn; what counts is
the ratio of medians, per second of the clock and per CPU second (of all threads, decoding and writing included).
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from wavbench.benchmark.speed_report import machine
from wavbench.upstream.audio import SAMPLE_RATE, load_audio
from wavbench.upstream.catalog import Upstream, load
from wavbench.upstream.extract import batch_seconds, extract
from wavbench.upstream.extraction_plan import blocks, durations
from wavbench.upstream.manifest import Manifest, read_manifest

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(os.environ.get("WAVBENCH_CORPORA") or ROOT.parent / "shared" / "corpora") / "english_l2.csv"


def first_of(manifest: Manifest, count: int) -> Manifest:
    return Manifest(path=manifest.path, table=manifest.table.iloc[:count].reset_index(drop=True), warnings=())


def decoded(manifest: Manifest, upstream: Upstream) -> list[list[torch.Tensor]]:
    """The batches of extraction, in memory."""
    table = manifest.table
    plan = blocks(durations(manifest), lambda _: 0, 1, batch_seconds(upstream))

    def samples(row: int) -> torch.Tensor:
        start, end = (float(table[name].iat[row]) if name in table else float("nan") for name in ("start", "end"))
        return torch.from_numpy(load_audio(manifest.audio_path(row), start, end))

    return [[samples(row) for row in batch] for block in plan for batch in block]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock, and of the CPU."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=RECORDED)
    parser.add_argument("--upstream", default="wav2vec2_base")
    parser.add_argument("--utterances", type=int, default=80)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    manifest = first_of(read_manifest(options.manifest), options.utterances)
    upstream = load(options.upstream, weights="random", seed=0, precision=options.precision)
    before, peaks = peak_mb(), {}
    batches = decoded(manifest, upstream)
    seconds = sum(len(one) for batch in batches for one in batch) / SAMPLE_RATE
    layers = range(upstream.num_states)
    shortest = min((one for batch in batches for one in batch), key=len)
    upstream.batch([shortest], layers).result()  # what is derived from weights is there before the first round
    times: dict[str, list[tuple[float, float]]] = {"extract": [], "forward": []}
    with tempfile.TemporaryDirectory() as folder:

        def stored() -> None:
            extract(upstream, manifest, Path(folder) / f"store{len(times['extract'])}")

        def forward() -> None:
            for batch in batches:
                upstream.batch(batch, layers).result()

        for _ in range(options.rounds):
            for name, work in (("extract", stored), ("forward", forward)):
                times[name].append(timed(work))
                peaks.setdefault(name, peak_mb())
    wall, cpu = (
        {name: seconds / statistics.median(one[place] for one in found) for name, found in times.items()}
        for place in (0, 1)
    )
    result = {
        "what": "extraction from files to a store on disk, against the bare forward pass",
        **{name: getattr(options, name) for name in ("upstream", "precision", "threads", "rounds")},
        **machine(upstream.device),
        "manifest": options.manifest.name,
        "utterances": len(manifest),
        "audio_seconds": round(seconds, 1),
        "extract_per_wall_second": round(wall["extract"], 3),
        "forward_per_wall_second": round(wall["forward"], 3),
        "ratio_per_wall_second": round(wall["extract"] / wall["forward"], 3),
        "extract_per_cpu_second": round(cpu["extract"], 3),
        "forward_per_cpu_second": round(cpu["forward"], 3),
        "ratio_per_cpu_second": round(cpu["extract"] / cpu["forward"], 3),
        "memory_before_mb": before,
        "peak_memory_mb": peaks["extract"],
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
