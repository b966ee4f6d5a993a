"""Features computed on the fly are those of a float32 store, and train the head that the store trains."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from wavbench.downstream import batches as in_batches
from wavbench.downstream.batches import FrameBatches, PooledBatches, Readable, ready
from wavbench.downstream.fit import HeadStack, fit
from wavbench.downstream.heads import linear, mean_linear
from wavbench.downstream.objectives import Classify, Ctc
from wavbench.downstream.probe import probe, usable_rows
from wavbench.downstream.spec import Budget, load_task
from wavbench.downstream.streamed import Streamed
from wavbench.upstream.catalog import Upstream, build_random, families, family, load
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract
from wavbench.upstream.features import Features
from wavbench.upstream.inference import batch_states
from wavbench.upstream.manifest import Manifest, read_manifest
from wavbench.upstream.models import wav2vec2
from wavbench.upstream.row_states import frames_of
from wavbench.upstream.store import Store

COUNT = 18
PHONES = ("a pp tt", "tt a", "pp a")
RATES = [3e-3, 1e-2]
BUDGET = Budget(updates=24, batch=4, evaluate_every=8, learning_rates=tuple(RATES))


@pytest.fixture(scope="module")
def fbank() -> Upstream:
    return load("fbank")


@pytest.fixture(scope="module")
def tiny() -> Upstream:
    sizes = {"dim": 24, "num_layers": 2, "num_heads": 2, "inner_dim": 48, "position_kernel": 16, "position_groups": 4}
    model = build_random("wav2vec2", wav2vec2.Config(conv_channels=(16,) * 7, **sizes), 0)
    return Upstream("tiny", model, config={}, checkpoint="tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, build_corpus: Callable) -> Manifest:
    """Files at other rates, a segment of a longer one, an utterance of one frame and three that cannot be used."""
    folder = tmp_path_factory.mktemp("corpus")
    columns = {
        "phones": [PHONES[k % 3] for k in range(COUNT)],
        "emotion": [("joy", "calm")[k % 2] for k in range(COUNT)],
    }
    path = build_corpus(folder, COUNT, 0.3, 0.8, **columns)
    for row, rate in ((1, 8_000), (2, 44_100)):
        samples = soundfile.read(folder / f"audio/u{row:04d}.wav")[0]
        soundfile.write(folder / f"audio/u{row:04d}.wav", samples, rate)
    soundfile.write(folder / "audio/u0004.wav", np.zeros(410), 16_000)
    (folder / "audio/u0007.wav").write_bytes(b"")
    (folder / "audio/u0010.wav").write_bytes(b"RIFF of nothing")
    soundfile.write(folder / "audio/u0013.wav", np.zeros(300), 16_000)
    table = pd.read_csv(path).assign(start=np.nan, end=np.nan)
    table.loc[5, ["start", "end"]] = [0.05, 0.25]
    table.to_csv(path, index=False)
    return read_manifest(path)


def stored(upstream: Upstream, manifest: Manifest, folder: Path, pooled: bool = False) -> Store:
    return extract(upstream, manifest, folder / "store", pooled=pooled, dtype="float32")


def streamed(upstream: Upstream, manifest: Manifest, **options) -> Streamed:
    return Streamed(upstream, manifest, manifest.table["id"].tolist(), Path("nowhere"), **options)


@pytest.mark.parametrize("name", ["fbank", "tiny"])
def test_streamed_features_and_their_refusals_are_those_of_a_float32_store(
    name: str, corpus: Manifest, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = request.getfixturevalue(name)
    store = stored(upstream, corpus, tmp_path)
    monkeypatch.setattr("wavbench.upstream.extract.BATCH_SECONDS", 1.0)  # several passes
    live = streamed(upstream, corpus)
    assert isinstance(store, Readable)
    assert isinstance(live, Readable)
    assert (live.ids, live.rejected, live.layers) == (store.ids, store.rejected, store.layers)
    assert len(live.rejected) >= 3
    assert live.fingerprint == store.fingerprint
    np.testing.assert_array_equal(live.lengths, store.lengths)
    rows = np.random.default_rng(0).permutation(len(store.ids))
    for layers in (store.layers, store.layers[-1:]):
        theirs, ours = store.read_frames(rows, layers), live.read_frames(rows, layers)
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5 * np.abs(theirs[0]).max())
    for ours, theirs in zip(live.read_pooled(rows, store.layers), store.read_pooled(rows, store.layers), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def heads_on(batches, objective, rows: np.ndarray, head) -> HeadStack:
    torch.manual_seed(0)
    stack = HeadStack(2, [], batches.layers, lambda n: head.build(n, batches.dim, objective.outputs), batches.dim)
    train, dev = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return fit(stack, objective, batches, train, dev, RATES, BUDGET, False, seed=0).model


@pytest.mark.parametrize("held", [True, False])
def test_a_streamed_frame_head_is_the_head_of_a_float32_store(
    held: bool, tiny: Upstream, corpus: Manifest, tmp_path: Path
) -> None:
    store, live = stored(tiny, corpus, tmp_path), streamed(tiny, corpus, budget=None if held else 0)
    table = usable_rows(corpus, load_task("pr"), store)
    assert usable_rows(corpus, load_task("pr"), live).equals(table)
    lengths, ids = store.lengths[[store.row(id) for id in table["id"]]], table["id"].tolist()
    rows = np.flatnonzero(lengths > 8)
    objective = Ctc([str(text).split() for text in table["phones"]], rows, lengths, 50.0)
    ours = FrameBatches(live, ids, live.layers, rows, budget=None if held else 0)
    theirs = FrameBatches(store, ids, store.layers, rows)
    assert (ours.held is not None) == held
    torch.testing.assert_close(ours.shift, theirs.shift, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.scale, theirs.scale, rtol=1e-4, atol=1e-5)
    one, other = (heads_on(batches, objective, rows, linear) for batches in (ours, theirs))
    for name, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    fresh = HeadStack(2, [], len(store.layers), lambda n: linear.build(n, store.dim, objective.outputs))
    assert not torch.allclose(one.mix.logits, fresh.mix.logits, atol=1e-3)  # something was learned


def test_a_streamed_pooled_head_is_the_head_of_a_store_and_costs_one_pass(
    tiny: Upstream, corpus: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, passes = stored(tiny, corpus, tmp_path, pooled=True), []
    live = streamed(tiny, corpus, pooled=True)
    ids, rows = store.ids, np.arange(len(store.ids))
    emotion = dict(zip(corpus.table["id"], corpus.table["emotion"], strict=True))
    objective = Classify([emotion[id] for id in ids], rows)
    batch = tiny.batch
    monkeypatch.setattr(
        tiny, "batch", lambda waveforms, layers: passes.append(len(waveforms)) or batch(waveforms, layers)
    )
    trained = []
    for source in (live, live, store):  # the second as another fold would
        made = PooledBatches(source, ids, store.layers, ("mean",), rows)
        trained.append(heads_on(made, objective, rows, mean_linear))
    assert sum(passes) == len(ids)
    for name, value in trained[2].state_dict().items():
        torch.testing.assert_close(trained[0].state_dict()[name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(trained[1].state_dict()[name], trained[0].state_dict()[name])
    with pytest.raises(UserError, match="needs frames"):
        FrameBatches(live, ids, live.layers, rows)


def test_a_task_on_streamed_features_scores_as_on_the_store(
    fbank: Upstream, corpus: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = corpus.table.assign(split=[("train", "train", "dev", "test")[k % 4] for k in range(COUNT)])
    manifest, task = replace(corpus, table=table), load_task("pr")
    store, live = stored(fbank, manifest, tmp_path), streamed(fbank, manifest)
    monkeypatch.setattr(in_batches, "free_memory", lambda: 0)  # nothing is held
    results = [
        probe(task, source, usable_rows(manifest, task, source), ["mix", 0], budget=BUDGET) for source in (live, store)
    ]
    for ours, theirs in zip(*results, strict=True):
        assert ours.scores["hypothesis"].tolist() == theirs.scores["hypothesis"].tolist()
        assert ours.curve[0]["dev"] == pytest.approx(theirs.curve[0]["dev"])


def test_a_long_recording_streams_in_parts(
    tiny: Upstream, corpus: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("wavbench.upstream.extract", "wavbench.downstream.streamed"):
        monkeypatch.setattr(f"{module}.WHOLE_SECONDS", 0.5)
    store, live = stored(tiny, corpus, tmp_path), streamed(tiny, corpus, budget=0)
    assert store.lengths.max() > 25
    rows = np.arange(len(store.ids))
    theirs = store.read_frames(rows, store.layers)[0]
    np.testing.assert_allclose(live.read_frames(rows, store.layers)[0], theirs, rtol=1e-4, atol=1e-5 * theirs.max())
    for ours, same in zip(live.read_pooled(rows, [2]), store.read_pooled(rows, [2]), strict=True):
        np.testing.assert_allclose(ours, same, rtol=1e-4, atol=1e-5 * np.abs(same).max())


def test_every_family_counts_its_frames_as_one_convolution() -> None:
    counted = []
    for stem in families():
        if stem in ("hub", "whisper"):  # no preset that is small
            continue
        name, config = min(
            family(stem).presets.items(), key=lambda preset: preset[1].dim if hasattr(preset[1], "dim") else 0
        )
        with torch.device("cpu"):
            model = family(stem).build(_small(config)).eval()
        upstream = Upstream(stem, model, config={}, checkpoint=name)
        hop = round(16_000 / upstream.frame_rate)
        least = upstream.min_samples
        for samples in (least, least + 1, least + hop - 1, least + hop, least + 7 * hop - 1, 4_801, 5_000):
            states = batch_states(model, [torch.randn(samples)], [0], torch.device("cpu")).result()[0]
            assert states.shape[1] == frames_of(upstream, samples), (stem, samples)
        counted.append(stem)
        assert frames_of(upstream, least - 1) == 0
    assert len(counted) >= 7


def _small(config):
    sizes = {"num_layers": 1, "inner_dim": 16, "conv_channels": (16,) * 7}
    return replace(config, **{name: size for name, size in sizes.items() if hasattr(config, name)})


def test_an_upstream_that_counts_otherwise_is_refused_by_name(corpus: Manifest) -> None:
    class Other(torch.nn.Module):
        num_states, dim, frame_rate, min_samples = 1, 2, 50.0, 400

        def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> Features:
            frames = int(lengths.max()) // 320 + 2
            return Features(torch.ones(len(lengths), 1, frames, 2), lengths // 320 + 2, 50.0)

    live = streamed(Upstream("other", Other(), config={}, checkpoint="other"), corpus)
    with pytest.raises(UserError, match="frames where") as error:
        live.read_frames([0], [0])
    assert error.value.remedy == "features=stored"


def test_what_is_large_has_the_same_statistics_taken_in_pieces(
    fbank: Upstream, corpus: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(fbank, corpus, tmp_path)
    rows = np.arange(len(store.ids))
    whole = FrameBatches(store, store.ids, store.layers, rows)
    monkeypatch.setattr(in_batches, "AT_ONCE", 4_000)
    parts = FrameBatches(store, store.ids, store.layers, rows, budget=0)
    torch.testing.assert_close(parts.shift, whole.shift, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.scale, whole.scale, rtol=1e-5, atol=1e-5)


def test_batches_that_are_not_in_memory_are_made_one_ahead_in_their_order() -> None:
    class Slow:
        held = None

        def __init__(self) -> None:
            self.asked, self.threads = [], set()

        def take(self, rows: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
            self.asked.append(int(rows[0]))
            self.threads.add(threading.get_ident())
            return torch.full((1, 1, 1), float(rows[0])), rows

    slow, seen = Slow(), []
    for rows, states, _ in ready((np.array([k]) for k in range(5)), slow):
        assert states.item() == rows[0]
        seen.append(int(rows[0]))
        assert len(slow.asked) <= len(seen) + 1  # never further ahead
    assert seen == slow.asked == list(range(5))
    assert threading.get_ident() not in slow.threads
    endless = ready((np.array([k]) for k in range(10**9)), slow)
    next(endless)
    endless.close()

    class Broken(Slow):
        def take(self, rows: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
            raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        next(ready(iter([np.array([0])]), Broken()))


def test_audio_that_changes_under_the_head_is_named(fbank: Upstream, build_corpus: Callable, tmp_path: Path) -> None:
    manifest = read_manifest(build_corpus(tmp_path, 3))
    live = streamed(fbank, manifest, budget=0)
    soundfile.write(tmp_path / "audio/u0001.wav", np.zeros(5_000), 16_000)
    with pytest.raises(UserError, match="audio of u0001 has changed"):
        live.read_frames([1], [0])
