"""What all tests share: annotations checked at run time, speech made from a seed, small corpora, recorded speech."""

import os
from collections.abc import Callable
from pathlib import Path

from jaxtyping import install_import_hook

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each; before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The shapes in annotations are promises; here they are kept. Before any module of wavbench is imported.
install_import_hook("wavbench", "runtime_types.typed")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Machines are shared: how long drawing a case took says nothing of the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def make_speech() -> Callable[..., np.ndarray]:
    """A function from (seconds, seed, rate) to speech-like samples, float32 in [-1, 1].

    Syllables of a gliding voice with three formants, and a floor of noise: broad spectrum, pauses, no two frames
    alike. The same arguments give the same samples.
    """

    def make(seconds: float = 1.0, seed: int = 0, rate: int = 16_000) -> np.ndarray:
        random = np.random.default_rng(seed)
        time = np.arange(round(seconds * rate)) / rate
        pitch = random.uniform(90, 240) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(1, 3) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        voice = sum(
            np.sin(k * phase) / k * sum(np.exp(-(((k * pitch - f) / 300) ** 2)) for f in (500, 1_500, 2_500))
            for k in range(1, 20)
        )
        syllables = np.clip(np.sin(2 * np.pi * random.uniform(2, 5) * time + random.uniform(0, 6)), 0, None)
        samples = voice * syllables + 0.01 * random.standard_normal(len(time))
        return (0.5 * samples / max(np.abs(samples).max(initial=0), 1e-9)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def build_corpus(make_speech: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """A function that writes wav files and their manifest into a folder and returns the manifest's path."""

    def build(folder: Path, count: int = 6, shortest: float = 0.3, longest: float = 1.2, **columns: list) -> Path:
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        seconds = np.random.default_rng(count).uniform(shortest, longest, count)
        for k in range(count):
            soundfile.write(folder / f"audio/u{k:04d}.wav", make_speech(seconds[k], k), 16_000)
        table = pd.DataFrame(
            {
                "id": [f"u{k:04d}" for k in range(count)],
                "audio": [f"audio/u{k:04d}.wav" for k in range(count)],
                "split": [("train", "dev", "test")[k % 3] for k in range(count)],
                "speaker": [f"s{k % 3}" for k in range(count)],
                "text": [f"words of {k}" for k in range(count)],
                **columns,
            }
        )
        path = folder / "corpus.csv"
        table.to_csv(path, index=False)
        return path

    return build


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of recorded speech, for tests marked `real`."""
    folder = Path(os.environ.get("WAVBENCH_CORPORA") or ROOT.parent / "shared" / "corpora")
    if not folder.is_dir():
        pytest.skip(f"no recorded speech at {folder}; set WAVBENCH_CORPORA to its folder")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked slow run only when a -m expression asks for them."""
    if "slow" not in config.option.markexpr:
        skip = pytest.mark.skip(reason="slow: run with -m slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
