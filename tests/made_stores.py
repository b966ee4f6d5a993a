"""Stores filled with made-up states."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wavbench.upstream.shards import AudioStamp, Writer
from wavbench.upstream.store import Fingerprint, Info, Store, create_store, seal

FINGERPRINT = Fingerprint(
    weights="w" * 32,
    config={"family": "toy", "dim": 8},
    layers=(0, 1, 2),
    kind="frames",
    dtype="float32",
    resampler="soxr HQ",
    normalisation="none",
)
INFO = Info(upstream="toy", checkpoint="toy", manifest="corpus.csv", dim=8, frame_rate=50.0, parameters=0)
STAMP = AudioStamp("0" * 32, 1, 2, float("nan"), float("nan"))
LENGTHS = (3, 300, 1, 256, 17, 40, 255, 257, 2, 9)  # frames; on both sides of a chunk's 256


def made_states(lengths: Sequence[int] = LENGTHS, layers: int = 3, dim: int = 8) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    scale = 10.0 ** random.integers(-3, 3, (layers, 1, dim))
    return {
        f"u{k}": (scale * random.standard_normal((layers, n, dim))).astype(np.float32) for k, n in enumerate(lengths)
    }


def fill(
    path: Path, states: dict[str, np.ndarray], fingerprint: Fingerprint = FINGERPRINT, per_shard: int = 4
) -> Store:
    """A sealed store; shards are published last to first, utterances added last to first."""
    create_store(path, fingerprint, INFO)
    ids = list(states)
    for start in reversed(range(0, len(ids), per_shard)):
        writer = Writer(path / "shards", fingerprint.hash(), fingerprint.dtype, fingerprint.kind == "mean")
        for position in reversed(range(start, min(start + per_shard, len(ids)))):
            writer.add(position, ids[position], states[ids[position]], STAMP)
        writer.publish(f"{start:05d}-block", 1.0)
    return seal(path, ids)


def a_shard(store: Store) -> Path:
    return sorted((store.path / "shards").glob("*.h5"))[0]
