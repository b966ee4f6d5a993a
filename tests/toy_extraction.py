"""A toy upstream, and what its extraction left in a store."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from wavbench.upstream.audio import load_audio
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.extract import extract
from wavbench.upstream.features import Features
from wavbench.upstream.manifest import Manifest, read_manifest
from wavbench.upstream.shards import Rows, read_rows
from wavbench.upstream.store import Store

DIM, STATES = 8, 3


class Toy(nn.Module):
    """Windows of 25 ms times a matrix: three states of eight channels, 50 frames per second."""

    num_states, dim, frame_rate, min_samples = STATES, DIM, 50.0, 720

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(400, STATES * DIM, generator=random))

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> Features:
        states = waveforms.unfold(1, 400, 320) @ self.weight  # (batch, frames, states x dim)
        states = states.unflatten(2, (STATES, DIM)).transpose(1, 2)
        return Features(states, (lengths - 400) // 320 + 1, 50.0)


def toy(seed: int = 0) -> Upstream:
    return Upstream("toy", Toy(seed), config={"family": "toy", "dim": DIM}, checkpoint="toy")


def expected(manifest: Manifest, id: str, upstream: Upstream | None = None) -> np.ndarray:
    row = manifest.table["id"].tolist().index(id)
    samples = torch.from_numpy(load_audio(manifest.audio_path(row)))[None]
    return (upstream or toy())(samples, torch.tensor([samples.shape[1]])).states[0].numpy()


def shards(store: Path) -> set[str]:
    return {path.name for path in (store / "shards").glob("*.h5")}


def new_rows(store: Path, before: set[str]) -> list[Rows]:
    return [read_rows(store / "shards" / name) for name in sorted(shards(store) - before)]


def computed(store: Path, before: set[str]) -> list[str]:
    """Utterances in shards that were not there before."""
    return sorted(id for rows in new_rows(store, before) for id in [*rows.ids, *rows.rejected])


def edit(manifest: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Manifest:
    change(pd.read_csv(manifest, dtype=str, keep_default_na=False)).to_csv(manifest, index=False)
    return read_manifest(manifest)


def run(corpus: Path, path: Path, **arguments) -> Store:
    """A float32 store in four or so shards."""
    arguments = {"dtype": "float32", "block_bytes": 12_000, **arguments}
    return extract(toy(), read_manifest(corpus), path, **arguments)
