"""A training that takes a tenth of a second: a corpus of a few crops and an encoder of a few thousand weights."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pandas as pd
import soundfile
import torch
from torch import Tensor

from wavbench.upstream import catalog, pretraining, processes
from wavbench.upstream.lengths import samples_from_frames
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.models import data2vec, hubert, vq_wav2vec, vq_wav2vec_bert, wav2vec, wav2vec2, wavlm
from wavbench.upstream.objective import Targets
from wavbench.upstream.pretraining import Data, UnitSource
from wavbench.upstream.training import Settings

SMALL = wav2vec2.Config(
    conv_channels=(16,) * 7, dim=24, num_layers=2, num_heads=2, inner_dim=48, position_kernel=16, position_groups=4
)
SMALL_WAVLM = wavlm.Config(**dataclasses.asdict(SMALL), buckets=16, max_distance=40)
SMALL_DATA2VEC = data2vec.Config(
    **{**dataclasses.asdict(SMALL), "normalise": True, "conv_norm": "layer", "position_kernel": 5, "position_depth": 2}
)
NARROW = {"dim": 24, "num_layers": 3, "context_kernel": 2, "context_growth": 1, "residual_scale": 0.5}
SMALL_BERT = vq_wav2vec_bert.Config(
    code_dim=24, entries=8, vocabulary=12, dim=24, num_layers=2, num_heads=2, inner_dim=48, overlap=20
)
CONVOLUTIONAL = ("wav2vec", "vq_wav2vec")  # without dropouts
DATA = {"batch_seconds": 2.5, "crop_seconds": 0.8, "min_seconds": 0.3, "dev_seconds": 2.0}
SETTINGS = {"steps": 8, "peak_rate": 2e-3, "log_every": 2, "dev_every": 4, "save_every": 2}
OBJECTIVE = {
    "hubert": {"unit_dim": 16},
    "data2vec": {"top_blocks": 2, "decay_start": 0.9, "decay_end": 0.99, "decay_steps": 20},
    "wavlm": {"unit_dim": 16, "mixing_share": 0.6, "noise_share": 0.3},
    "wav2vec": {"prediction_steps": 4, "num_negatives": 5},
    "vq_wav2vec": {"prediction_steps": 4, "num_negatives": 5, "entries": 8, "gumbel_decay": 0.9},
    "vq_wav2vec_bert": {"mask_span": 4},
    "wav2vec2": {"num_negatives": 8, "entries": 8, "code_dim": 16, "compare_dim": 16},
}


@contextlib.contextmanager
def shrunk() -> Iterator[None]:
    """The preset "tiny" of all families is small, in this process and for so long."""
    with (
        mock.patch.dict(hubert.presets, tiny=SMALL),
        mock.patch.dict(wav2vec2.presets, tiny=SMALL),
        mock.patch.dict(data2vec.presets, tiny=SMALL_DATA2VEC),
        mock.patch.dict(wav2vec.presets, tiny=wav2vec.Config(**NARROW)),
        mock.patch.dict(vq_wav2vec.presets, tiny=vq_wav2vec.Config(**NARROW)),
        mock.patch.dict(vq_wav2vec_bert.presets, tiny=SMALL_BERT),
        mock.patch.dict(wavlm.presets, tiny=SMALL_WAVLM),
        # measuring it takes longer than the training
        mock.patch.object(pretraining, "peak_flops", return_value=1e12),
    ):
        yield


@functools.cache
def small_codes(seed: int = 0, **settings) -> catalog.Upstream:
    """A vq-wav2vec of random weights."""
    config = vq_wav2vec.Config(**{**NARROW, "quantizer": "kmeans", "entries": 8, **settings})
    model = catalog.build_random("vq_wav2vec", config, seed)
    return catalog.Upstream("codes", model, config=catalog.describe("vq_wav2vec", config), checkpoint="codes")


def source_of(objective: str, **given) -> UnitSource:
    """Where the units of an objective come from."""
    return UnitSource(**({"codes": small_codes()} if objective == "vq_wav2vec_bert" else {}), **given)


def regularisation_of(objective: str, layerdrop: float) -> dict[str, float]:
    """What the family has of dropouts."""
    if objective in CONVOLUTIONAL:
        return {}
    return {"dropout": 0.1} | (
        {"attention_dropout": 0.1} if objective == "vq_wav2vec_bert" else {"layerdrop": layerdrop}
    )


def write_corpus(folder: Path, make_speech: Callable, count: int = 18) -> Path:
    """Utterances of 0.4 to 1.1 s in two languages, every sixth of them for the dev loss."""
    (folder / "audio").mkdir(parents=True)
    seconds = np.random.default_rng(count).uniform(0.4, 1.1, count)
    for k in range(count):
        soundfile.write(folder / f"audio/u{k:02d}.wav", make_speech(seconds[k], k), 16_000)
    path = folder / "speech.csv"
    pd.DataFrame(
        {
            "id": [f"u{k:02d}" for k in range(count)],
            "audio": [f"audio/u{k:02d}.wav" for k in range(count)],
            "split": ["dev" if k % 6 == 5 else "train" for k in range(count)],
            "language": [("de", "pl")[k % 3 > 1] for k in range(count)],
        }
    ).to_csv(path, index=False)
    return path


def train(
    objective: str, manifest: Path, folder: Path, *, clusters: int = 6, launched=None, layerdrop: float = 0.0, **values
) -> Path:
    """Train or go on; values are those of `Settings`, `Data`, the objective's config and `pretrain`."""
    torch.set_num_threads(1)
    picked = [
        {name: values.pop(name) for name in list(values) if name in kind.__dataclass_fields__}
        for kind in (Settings, Data, pretraining.find_objective(objective).Config)
    ]
    settings = Settings(**{**SETTINGS, **picked[0]})
    if launched is None:
        launched = processes.make_fabric("cpu", 1, 1, settings.precision, unused=layerdrop > 0)
        launched.launch()
    with shrunk():
        return pretraining.pretrain(
            [read_manifest(manifest)],
            objective=objective,
            objective_config=pretraining.find_objective(objective).Config(**{**OBJECTIVE[objective], **picked[2]}),
            upstream=f"{objective}_tiny",
            settings=settings,
            data=Data(**{**DATA, **picked[1]}),
            folder=folder,
            decoded=manifest.parent / "decoded",
            fabric=launched,
            unit_source=values.pop("unit_source", None) or source_of(objective, clusters=clusters),
            regularisation=regularisation_of(objective, layerdrop),
            **values,
        )


def weights_of(folder: Path) -> str:
    """Hash of all that a finished training has learned, its optimizer's state and its exported encoders."""
    from safetensors.torch import load_file

    state = torch.load(folder / "last.pt", weights_only=True)
    digest = hashlib.blake2b(digest_size=16)
    tables = [state["module"], *state["optimizer"]["state"].values()]
    tables += [load_file(folder / name) for name in ("checkpoint.safetensors", "best.safetensors")]
    for table in tables:
        for name, tensor in sorted(table.items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(repr([state[name] for name in ("step", "epoch", "index", "hours", "best")]).encode())
    return digest.hexdigest()


def batch_of(objective: ModuleType, model: torch.nn.Module, counts: list[int]) -> tuple[Tensor, Tensor, Targets]:
    """Crops of so many frames for an objective's model, with noise behind the end of the shorter ones."""
    sizes = [samples_from_frames(count, model.encoder.conv.sizes) + 7 for count in counts]
    waveforms = torch.randn(len(counts), max(sizes), generator=torch.Generator().manual_seed(1)).double()
    random = np.random.default_rng(2)
    made = [objective.targets(model.config, count, None, random) for count in counts]
    packed = {name: torch.from_numpy(np.concatenate([one[name] for one in made])) for name in made[0]}
    return waveforms, torch.tensor(sizes), Targets(**packed)
