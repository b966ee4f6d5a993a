"""Long recordings: windows of a recording against the whole, and their shards against those of utterances."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wavbench.upstream import catalog, inference
from wavbench.upstream import extract as extraction
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.extract import extract
from wavbench.upstream.layers import conv
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.models import wav2vec2
from wavbench.upstream.store import open_store
from wavbench.upstream.verify import verify

SMALL = {
    "num_layers": 2, "dim": 48, "num_heads": 4, "inner_dim": 96, "conv_channels": (32,) * 7, "position_kernel": 16,
    "position_groups": 4,
}  # fmt: skip
LENGTH = 9 * 16_000 + 77


def small(preset: str) -> Upstream:
    stem, config = catalog.find_preset(preset)
    fields = {field.name for field in dataclasses.fields(config)}
    small = dataclasses.replace(config, **{name: value for name, value in SMALL.items() if name in fields})
    model = catalog.build_random(stem, small, 0)
    return Upstream(preset, model, config={"family": stem}, checkpoint="random")


def whole(upstream: Upstream, waveform: torch.Tensor) -> np.ndarray:
    return upstream(waveform[None], torch.tensor([len(waveform)])).states[0].numpy()


def in_parts(upstream: Upstream, waveform: torch.Tensor, layers: tuple[int, ...]) -> np.ndarray:
    parts = list(upstream.recording(waveform, layers))
    frames = max(first + len(states) for _, first, states in parts)
    found = np.full((len(layers), frames, upstream.dim), np.nan, np.float32)
    for layer, first, states in parts:
        assert np.isnan(found[layers.index(layer), first : first + len(states)]).all()  # each frame once
        found[layers.index(layer), first : first + len(states)] = states
    assert np.isfinite(found).all()
    return found


def distance(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


@pytest.fixture
def speech(make_speech: Callable[..., np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.resize(make_speech(10.0, 5), LENGTH).astype(np.float32))


@pytest.mark.parametrize(
    "preset", ["wav2vec2_base", "wav2vec2_large_lv60", "wavlm_base", "data2vec_base", "wav2vec_base", "fbank"]
)
def test_one_window_is_the_whole_recording(preset: str, speech: torch.Tensor) -> None:
    upstream = small(preset)
    layers = tuple(range(upstream.num_states))
    found = in_parts(upstream, speech, layers)
    assert distance(found, whole(upstream, speech)) <= 1e-5
    np.testing.assert_array_equal(in_parts(upstream, speech, layers[-1:]), found[-1:])


@pytest.mark.parametrize("preset", ["wav2vec2_base", "wav2vec2_large_lv60"])
def test_seams_of_convolutions_and_positions_cannot_be_seen(
    preset: str, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer 0 sees its neighbourhood only, so that windows with that much context are exact everywhere."""
    monkeypatch.setattr(wav2vec2, "WINDOW_FRAMES", 170)
    monkeypatch.setattr(wav2vec2, "CONTEXT_FRAMES", 8)
    upstream = small(preset)
    assert distance(in_parts(upstream, speech, (0,)), whole(upstream, speech)[:1]) <= 1e-5


def test_statistics_of_the_first_convolution_do_not_depend_on_how_they_are_summed(
    speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = small("wav2vec2_base")
    before = whole(upstream, speech)
    monkeypatch.setattr(conv, "WINDOWS", 1_000)
    assert distance(whole(upstream, speech), before) <= 1e-5


def test_the_seam_error_of_a_trained_model_is_small(speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shipped HuBERT over 18 s in windows of 6 s with 3 s of context; more context, less error."""
    upstream, speech = catalog.load("hubert_tiny"), torch.cat([speech, speech])
    reference, errors = whole(upstream, speech), {}
    monkeypatch.setattr(wav2vec2, "WINDOW_FRAMES", 300)
    for context in (0, 150):
        monkeypatch.setattr(wav2vec2, "CONTEXT_FRAMES", context)
        found = in_parts(upstream, speech, tuple(range(upstream.num_states)))
        errors[context] = [distance(a, b) for a, b in zip(found, reference, strict=True)]
        seam = slice(295, 305)
        at_seam = max(distance(a[seam], b[seam]) for a, b in zip(found, reference, strict=True))
        print(f"context {context / 50:g} s: relative L2 {max(errors[context]):.4f}, at a seam {at_seam:.4f}")
    assert max(errors[150]) <= 0.1
    assert max(errors[150]) < max(errors[0])


@pytest.mark.parametrize(
    ("dtype", "pooled"), [("float16", False), ("float32", False), ("int8", False), ("float32", True)]
)
def test_a_long_recording_is_stored_as_any_utterance(
    dtype: str, pooled: bool, tmp_path: Path, build_corpus: Callable[..., Path], speech: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    manifest = build_corpus(tmp_path / "corpus", 3)
    soundfile.write(manifest.parent / "audio/u0001.wav", speech.numpy(), 16_000)
    upstream = small("wav2vec2_base")
    options = {"dtype": dtype, "pooled": pooled, "layers": (0, 2)}
    plain = extract(upstream, read_manifest(manifest), tmp_path / "plain", **options)
    monkeypatch.setattr(extraction, "WHOLE_SECONDS", 5.0)
    extract(upstream, read_manifest(manifest), tmp_path / "long", **options)
    store = open_store(tmp_path / "long")
    assert store.ids == plain.ids
    assert verify(tmp_path / "long") == []
    pairs = list(zip(store.read_pooled(range(3), (0, 2)), plain.read_pooled(range(3), (0, 2)), strict=True))
    pairs += [] if pooled else [(store[id].states, plain[id].states) for id in plain.ids]
    for found, reference in pairs:
        assert found.shape == reference.shape
        assert distance(np.float32(found), np.float32(reference)) <= (2e-2 if dtype == "int8" else 2e-3)
    assert len(list((tmp_path / "long/shards").glob("*.h5"))) >= 2
    assert not list((tmp_path / "long/shards").glob(".tmp*"))


def test_a_recording_does_not_put_its_reader_into_inference(speech: torch.Tensor) -> None:
    for _ in small("wav2vec2_base").recording(speech, (0, 2)):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")


def test_what_came_before_a_recording_is_published_before_it_and_timed_apart(
    tmp_path: Path, build_corpus: Callable[..., Path], speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = build_corpus(tmp_path / "corpus", 3)
    soundfile.write(manifest.parent / "audio/u0001.wav", speech.numpy(), 16_000)
    upstream, found = small("wav2vec2_base"), []

    def slow(*arguments: object) -> Iterator[inference.Part]:
        found.extend((tmp_path / "store/shards").glob("[!.]*.h5"))
        time.sleep(3.0)
        yield from upstream_recording(*arguments)

    upstream_recording = upstream.recording
    monkeypatch.setattr(upstream, "recording", slow)
    monkeypatch.setattr(extraction, "WHOLE_SECONDS", 5.0)
    began = time.monotonic()
    store = extract(upstream, read_manifest(manifest), tmp_path / "store")
    assert len(found) == 1
    assert store.extract_seconds <= time.monotonic() - began


def test_a_model_that_fails_on_a_recording_leaves_nothing_half_written(
    tmp_path: Path, build_corpus: Callable[..., Path], speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wavbench.upstream.errors import UserError

    manifest = build_corpus(tmp_path / "corpus", 1)
    soundfile.write(manifest.parent / "audio/u0000.wav", speech.numpy(), 16_000)
    monkeypatch.setattr(extraction, "WHOLE_SECONDS", 5.0)
    upstream = small("wav2vec2_base")
    with torch.no_grad():
        upstream.model.transformer.blocks[1].feed_forward.out.bias[0] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite"):
        extract(upstream, read_manifest(manifest), tmp_path / "store")
    assert not list((tmp_path / "store/shards").iterdir())
    assert not list((tmp_path / "store/claims").iterdir())


def test_the_file_of_a_recording_in_the_making_shows_signs_of_life(
    tmp_path: Path, build_corpus: Callable[..., Path], speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of means nothing is written before the end; workers on other machines clear away files that lie idle."""
    manifest = build_corpus(tmp_path / "corpus", 1)
    soundfile.write(manifest.parent / "audio/u0000.wav", speech.numpy(), 16_000)
    monkeypatch.setattr(extraction, "WHOLE_SECONDS", 5.0)
    upstream, idle = small("wav2vec2_base"), []
    parts = upstream.recording

    def slowly(*given: object) -> Iterator:
        for part in parts(*given):
            yield part
            (temporary,) = (tmp_path / "store/shards").glob(".tmp*")
            idle.append(time.time() - temporary.stat().st_mtime)
            os.utime(temporary, (0, 0))

    monkeypatch.setattr(upstream, "recording", slowly)
    extract(upstream, read_manifest(manifest), tmp_path / "store", pooled=True)
    assert len(idle) > 1
    assert max(idle) < 600
