"""How fast a feature store writes, and reads one layer of all frames from the page cache, against other layouts.

Goals on one core: writing 300 MB/s, hashes and fsync included; reading 500 MB/s.

    python tests/benchmarks/store_io.py [--megabytes 400] [--repeats 5] [--folder FOLDER]
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from wavbench.upstream.shards import AudioStamp, Writer
from wavbench.upstream.store import Fingerprint, Info, create_store, open_store, seal

LAYERS, DIM = 13, 768  # of a BASE model
SHARD_BYTES = 160 << 20
STAMP = AudioStamp("0" * 32, 1, 2, float("nan"), float("nan"))


def made_utterances(megabytes: int) -> list[np.ndarray]:
    """Float32 states of utterances of 2 to 15 seconds whose float16 form has so many megabytes."""
    random, utterances, size = np.random.default_rng(0), [], 0
    noise = random.standard_normal((LAYERS, 1_000, DIM), dtype=np.float32)
    while size < megabytes * 1e6:
        frames = int(random.integers(100, 750))
        utterances.append(np.ascontiguousarray(noise[:, :frames]))
        size += LAYERS * frames * DIM * 2
    return utterances


def write_store(path: Path, utterances: list[np.ndarray]) -> None:
    fingerprint = Fingerprint(
        weights="",
        config={},
        layers=tuple(range(LAYERS)),
        kind="frames",
        dtype="float16",
        resampler="",
        normalisation="",
    )
    create_store(path, fingerprint, Info(upstream="", checkpoint="", manifest="", dim=DIM, frame_rate=50, parameters=0))
    writer, block = Writer(path / "shards", fingerprint.hash(), "float16", False), 0
    for position, states in enumerate(utterances):
        writer.add(position, f"u{position}", states, STAMP)
        if writer.bytes > SHARD_BYTES:
            writer.publish(f"{block:05d}", 1.0)
            block += 1
    writer.publish(f"{block:05d}", 1.0)
    seal(path)


def read_store(path: Path, layer: int) -> int:
    store = open_store(path)
    total = 0
    for first in range(0, len(store), 64):
        states, _ = store.read_frames(range(first, min(first + 64, len(store))), [layer])
        total += states.nbytes
    return total


def write_per_utterance(path: Path, utterances: list[np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for position, states in enumerate(utterances):
            file.create_dataset(f"u{position}", data=states.astype(np.float16), fletcher32=True)


def read_per_utterance(path: Path, layer: int) -> int:
    with h5py.File(path) as file:
        return sum(file[name][layer].nbytes for name in file)


def write_frame_major(path: Path, utterances: list[np.ndarray]) -> None:
    total = sum(states.shape[1] for states in utterances)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "states", (total, LAYERS, DIM), np.float16, chunks=(16, LAYERS, DIM), fletcher32=True
        )
        first = 0
        for states in utterances:
            data[first : first + states.shape[1]] = states.transpose(1, 0, 2).astype(np.float16)
            first += states.shape[1]


def read_frame_major(path: Path, layer: int) -> int:
    with h5py.File(path) as file:
        data = file["states"]
        return sum(data[first : first + 16_000, layer].nbytes for first in range(0, len(data), 16_000))


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=400, help="of float16 states")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    arguments = parser.parse_args()
    utterances = made_utterances(arguments.megabytes)
    frames = sum(states.shape[1] for states in utterances)
    whole, layer_bytes = frames * LAYERS * DIM * 2, frames * DIM * 2
    layouts = {
        "store": (write_store, read_store),
        "one dataset per utterance": (write_per_utterance, read_per_utterance),
        "frame-major": (write_frame_major, read_frame_major),
    }
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in layouts}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for repeat in range(arguments.repeats):
            for name, (write, read) in layouts.items():
                path = Path(folder) / f"{name}-{repeat}"
                rates[name][0].append(whole / 1e6 / seconds_of(lambda: write(path, utterances)))  # noqa: B023
                if read(path, 0) != layer_bytes:  # warms the cache too
                    raise RuntimeError(f"{name}: other bytes came back")
                rates[name][1].append(layer_bytes / 1e6 / seconds_of(lambda: read(path, 6)))  # noqa: B023
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{whole / 1e6:.0f} MB of {len(utterances)} utterances, {LAYERS} x {DIM}, medians of {arguments.repeats}")
    print(f"{'layout':<28}{'write MB/s':>12}{'best':>8}{'read one layer MB/s':>22}{'best':>8}{'against store':>16}")
    of_store = statistics.median(rates["store"][1])
    for name, (writes, reads) in rates.items():
        write, read = statistics.median(writes), statistics.median(reads)
        print(f"{name:<28}{write:>12.0f}{max(writes):>8.0f}{read:>22.0f}{max(reads):>8.0f}{read / of_store:>16.2f}")
    for goal, what, found in ((300, "write", rates["store"][0]), (500, "read", rates["store"][1])):
        print(f"goal {what} >= {goal} MB/s: {'met' if statistics.median(found) >= goal else 'MISSED'}")


if __name__ == "__main__":
    main()
