"""Extraction: what is computed, what is computed again, and what is not."""

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

from wavbench.upstream import claims
from wavbench.upstream import extract as extraction
from wavbench.upstream.audio import load_audio
from wavbench.upstream.audio_index import audio_hashes
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract, fingerprint_of, store_path
from wavbench.upstream.extraction_plan import BLOCK_SECONDS, Plan, blocks, durations, ways_out
from wavbench.upstream.features import Features
from wavbench.upstream.manifest import Manifest, read_manifest
from wavbench.upstream.shards import Rows, read_rows
from wavbench.upstream.store import Store, open_store

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


@pytest.fixture
def corpus(tmp_path: Path, build_corpus: Callable[..., Path]) -> Path:
    """The manifest of twelve short files."""
    return build_corpus(tmp_path / "corpus", 12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def run(corpus: Path, path: Path, **arguments) -> Store:
    """A float32 store in four or so shards."""
    arguments = {"dtype": "float32", "block_bytes": 12_000, **arguments}
    return extract(toy(), read_manifest(corpus), path, **arguments)


# what is computed


def test_the_store_holds_the_states_of_every_utterance_in_manifest_order(corpus: Path, path: Path) -> None:
    store = run(corpus, path)
    manifest = read_manifest(corpus)
    assert store.ids == manifest.table["id"].tolist()
    assert len(shards(path)) >= 4
    for id in store:
        np.testing.assert_allclose(store[id].states, expected(manifest, id), rtol=1e-4, atol=1e-5)
    assert open_store(path).ids == store.ids
    assert (path / "rejected.jsonl").read_text() == ""


def test_chosen_layers_and_pooled_means_are_those_of_all_frames(corpus: Path, path: Path, tmp_path: Path) -> None:
    frames, some = run(corpus, path), run(corpus, tmp_path / "some", layers=[2, 0, 2])
    pooled = run(corpus, tmp_path / "pooled", pooled=True)
    assert some.layers == (0, 2)
    rows = range(len(frames))
    for row in rows:
        np.testing.assert_array_equal(some.read_frames([row], [2])[0][0], frames.read_frames([row], [2])[0][0])
    for one, other in zip(pooled.read_pooled(rows, [0, 1, 2]), frames.read_pooled(rows, [0, 1, 2]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_segments_of_one_file_are_features_of_the_cut_sound(
    tmp_path: Path, path: Path, make_speech: Callable[..., np.ndarray]
) -> None:
    soundfile.write(tmp_path / "long.wav", make_speech(3.0, 7), 16_000, subtype="FLOAT")
    corpus = tmp_path / "c.csv"
    rows = [("a", "0.5", "1.25"), ("b", "", "0.5"), ("c", "1.25", ""), ("d", "0.5", "1.25")]
    table = pd.DataFrame(rows, columns=["id", "start", "end"]).assign(audio="long.wav", split="train")
    table.to_csv(corpus, index=False)
    store = run(corpus, path)
    speech = torch.from_numpy(make_speech(3.0, 7))
    for id, first, last in (("a", 8_000, 20_000), ("b", 0, 8_000), ("c", 20_000, 48_000)):
        cut = speech[None, first:last]
        states = toy()(cut, torch.tensor([cut.shape[1]])).states[0]
        np.testing.assert_allclose(store[id].states, states, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(store["a"].states, store["d"].states)
    before = shards(path)
    edit(corpus, lambda table: table.assign(end=table["end"].where(table["id"] != "a", "1.3")))
    assert len(run(corpus, path)["a"]) == 39
    assert computed(path, before) == ["a"]


def test_an_utterance_larger_than_a_block_has_a_shard_of_its_own(
    corpus: Path, path: Path, make_speech: Callable[..., np.ndarray]
) -> None:
    soundfile.write(corpus.parent / "audio/u0005.wav", make_speech(20.0, 5), 16_000)
    run(corpus, path)
    of_long = [rows for rows in new_rows(path, set()) if "u0005" in rows.ids]
    assert [rows.ids for rows in of_long] == [["u0005"]]


def test_blocks_are_no_larger_than_asked_and_cover_every_row_once() -> None:
    seconds = np.random.default_rng(0).uniform(0.5, 20, 500)
    plan = blocks(seconds, lambda s: int(s * 1_000), 100_000, extraction.BATCH_SECONDS)
    rows = [row for block in plan for batch in block for row in batch]
    assert sorted(rows) == list(range(500))
    for block in plan:
        here = [row for batch in block for row in batch]
        assert sum(int(seconds[row] * 1_000) for row in here) <= 100_000
        assert sorted(here) == list(range(min(here), max(here) + 1))
        for batch in block:
            assert len(batch) == 1 or sum(seconds[row] for row in batch) <= extraction.BATCH_SECONDS
            assert np.ptp(seconds[batch]) <= np.ptp(seconds[here])
    hour = blocks(np.full(400, 60.0), lambda s: 1, 10**9, 48.0)  # a pooled store: bytes alone would make one block
    assert all(sum(len(batch) for batch in block) <= BLOCK_SECONDS / 60 for block in hour)


def test_the_plan_foretells_rows_and_size(corpus: Path, path: Path) -> None:
    plans: list[Plan] = []
    steps: list[tuple[int, int]] = []
    store = run(corpus, path, announce=plans.append, progress=lambda *step: steps.append(step))
    assert plans[0].rows == 12
    assert plans[0].todo == tuple(range(12))
    frame = STATES * DIM * 4  # bytes
    spare = plans[0].todo_bytes - int(store.lengths.sum()) * frame
    assert 0 <= spare <= 12 * 3 * frame  # a model gives a frame or two less than its rate promises
    assert steps[0] == (0, 12)
    assert steps[-1] == (12, 12)
    assert steps == sorted(steps)
    run(corpus, path, announce=plans.append)
    assert plans[1].todo == ()
    assert plans[1].todo_bytes == 0


def test_work_is_published_as_often_as_asked(corpus: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "BATCH_SECONDS", 0.1)  # every utterance a batch
    run(corpus, path, block_bytes=1 << 30, publish_seconds=0.0)
    assert len(shards(path)) == 12


# what is computed again


def test_nothing_is_computed_again_when_nothing_changed(corpus: Path, path: Path) -> None:
    run(corpus, path)
    content = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    run(corpus, path)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == content


def test_a_corrected_transcript_voids_nothing(corpus: Path, path: Path) -> None:
    run(corpus, path)
    before = shards(path)
    edit(corpus, lambda table: table.assign(text="corrected", speaker="s9", split="test", language="en"))
    run(corpus, path)
    assert shards(path) == before


def test_another_modification_time_of_the_same_bytes_voids_nothing(corpus: Path, path: Path) -> None:
    run(corpus, path)
    before = shards(path)
    for file in (corpus.parent / "audio").iterdir():
        os.utime(file, (1, 1))
    run(corpus, path)
    assert shards(path) == before


@pytest.mark.parametrize("seconds", [0.8, None])
def test_changed_audio_voids_its_row_alone(
    corpus: Path, path: Path, seconds: float | None, make_speech: Callable[..., np.ndarray]
) -> None:
    first = run(corpus, path)
    kept = {id: first[id].states for id in first}
    file = corpus.parent / "audio/u0004.wav"
    samples = make_speech(seconds or len(load_audio(file)) / 16_000, 99)
    before = shards(path)
    soundfile.write(file, samples, 16_000)
    os.utime(file, ns=(1, 1))
    store = run(corpus, path)
    assert computed(path, before) == ["u0004"]
    assert store.ids == first.ids
    np.testing.assert_allclose(store["u0004"].states, expected(read_manifest(corpus), "u0004"), rtol=1e-4, atol=1e-5)
    for id in kept:
        if id != "u0004":
            np.testing.assert_array_equal(store[id].states, kept[id])


def test_audio_that_is_changed_back_gives_its_features_back(
    corpus: Path, path: Path, make_speech: Callable[..., np.ndarray]
) -> None:
    first = run(corpus, path)["u0004"].states
    file = corpus.parent / "audio/u0004.wav"
    shutil.copy2(file, file.with_suffix(".old"))
    soundfile.write(file, make_speech(0.8, 99), 16_000)
    assert run(corpus, path)["u0004"].states.shape != first.shape
    shutil.copy2(file.with_suffix(".old"), file)
    before = shards(path)
    np.testing.assert_allclose(run(corpus, path)["u0004"].states, first, rtol=1e-5, atol=1e-6)
    assert computed(path, before) == ["u0004"]


@pytest.mark.parametrize("place", [0, 6, 12])
def test_one_more_row_is_computed_alone_wherever_it_stands(
    corpus: Path, path: Path, place: int, make_speech: Callable[..., np.ndarray]
) -> None:
    run(corpus, path)
    before = shards(path)
    soundfile.write(corpus.parent / "audio/more.wav", make_speech(0.5, 50), 16_000)
    row = {"id": "more", "audio": "audio/more.wav", "split": "train", "speaker": "", "text": ""}
    manifest = edit(
        corpus, lambda t: pd.concat([t[:place], pd.DataFrame([row]), t[place:]], ignore_index=True)[list(t.columns)]
    )
    store = run(corpus, path)
    assert computed(path, before) == ["more"]
    assert store.ids == manifest.table["id"].tolist()
    assert store.ids[place] == "more"


def test_rows_that_the_manifest_no_longer_has_stay_behind_the_others(corpus: Path, path: Path) -> None:
    run(corpus, path)
    before = shards(path)
    manifest = edit(corpus, lambda table: table[3:])
    store = run(corpus, path)
    assert shards(path) == before
    assert store.ids == [*manifest.table["id"], "u0000", "u0001", "u0002"]


def test_a_deleted_shard_is_computed_again_to_the_same_bit(corpus: Path, path: Path) -> None:
    first = run(corpus, path)
    states = {id: first[id].states for id in first}
    gone = path / "shards" / sorted(shards(path))[1]
    lost = read_rows(gone).ids
    gone.unlink()
    before = shards(path)
    assert sorted(open_store(path).ids) == sorted(set(states) - set(lost))
    store = run(corpus, path)
    assert computed(path, before) == sorted(lost)
    assert store.ids == first.ids
    for id in states:
        np.testing.assert_array_equal(store[id].states, states[id])


def test_missing_rows_are_computed_in_the_batches_of_an_uninterrupted_run(
    corpus: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "BATCH_SECONDS", 2.0)
    batches: list[tuple[int, ...]] = []
    forward = Toy.forward
    monkeypatch.setattr(Toy, "forward", lambda *given: (batches.append(tuple(given[2].tolist())), forward(*given))[1])
    run(corpus, path, block_bytes=20_000, publish_seconds=0.0)
    first, before = list(batches), shards(path)
    assert max(len(batch) for batch in first) >= 2
    for place in (0, 1, -1):
        batches.clear()
        (path / "shards" / sorted(before)[place]).unlink()
        run(corpus, path, block_bytes=20_000)
        assert len(batches) == 1
        assert batches[0] in first
        before = shards(path)
    rows = read_rows(path / "shards" / sorted(before)[0])
    assert len(rows.ids) >= 2
    batches.clear()
    edit(corpus, lambda table: table.assign(end=table["id"].map(lambda id: "0.25" if id == rows.ids[0] else "")))
    run(corpus, path, block_bytes=20_000)
    assert len(batches) == 1  # one void row drags its batch along, and no more


def test_an_interrupted_run_goes_on_to_the_same_bits(
    corpus: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "BATCH_SECONDS", 2.0)
    whole = run(corpus, tmp_path / "whole", block_bytes=20_000)

    def interrupt(done: int, _: int) -> None:
        if done >= 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(corpus, path, block_bytes=20_000, publish_seconds=0.0, progress=interrupt)
    assert list((path / "claims").iterdir()) == []
    before = shards(path)
    assert before
    store = run(corpus, path, block_bytes=20_000)
    assert 0 < len(computed(path, before)) < 12
    assert store.ids == whole.ids
    for id in whole:
        np.testing.assert_array_equal(store[id].states, whole[id].states)


def test_what_a_worker_that_was_killed_meanwhile_left_behind_is_removed(corpus: Path, path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = {**claims.owner(), "pid": child.pid, "token": "t"}
    left = [path / "shards" / f".tmp-{dead['host']}-{dead['pid']}-{dead['born']}-abc.h5", path / "claims/old.claim"]

    def leave(done: int, _: int) -> None:
        for file in left if done == 12 else ():
            file.write_text(json.dumps(dead))

    run(corpus, path, progress=leave)
    assert not any(file.exists() for file in left)


def test_a_block_that_a_living_worker_holds_is_waited_for(corpus: Path, path: Path) -> None:
    manifest = read_manifest(corpus)
    run(corpus, path)
    name = sorted(shards(path))[0]
    (path / "shards" / name).unlink()
    claim = claims.take(path / "claims", name.rpartition("-")[0])
    done: list[Store] = []
    worker = threading.Thread(target=lambda: done.append(run(corpus, path)))
    worker.start()
    time.sleep(1.0)
    assert not done
    with claim:
        pass  # the other worker gives up
    worker.join(timeout=30)
    assert done[0].ids == manifest.table["id"].tolist()


# rejected audio


def test_refused_audio_is_listed_with_reasons_and_the_rest_is_written(corpus: Path, path: Path) -> None:
    audio = corpus.parent / "audio"
    (audio / "u0001.wav").write_text("no sound")
    (audio / "u0003.wav").write_bytes(b"")
    (audio / "u0005.wav").unlink()
    soundfile.write(audio / "u0007.wav", np.zeros(700), 16_000)
    bad = {"u0001": "decoded", "u0003": "0 bytes", "u0005": "no such file", "u0007": "shorter than one frame of toy"}
    store = run(corpus, path)
    listed = [json.loads(line) for line in (path / "rejected.jsonl").read_text().splitlines()]
    assert {line["id"] for line in listed} == set(bad) == set(store.rejected)
    for line in listed:
        assert bad[line["id"]] in line["reason"]
    assert len(store) + len(store.rejected) == 12
    before = shards(path)
    assert len(run(corpus, path)) == 8
    assert shards(path) == before  # refused once, not again and again


def test_repaired_audio_is_taken_on_the_next_run_and_broken_audio_leaves(
    corpus: Path, path: Path, make_speech: Callable[..., np.ndarray]
) -> None:
    file = corpus.parent / "audio/u0001.wav"
    good = file.read_bytes()
    for content in (b"no sound", good, b"no sound", good):
        file.write_bytes(content)
        os.utime(file, ns=(len(content), len(content)))  # each state has its own time, and returns to it
        before = shards(path) if path.exists() else None
        store = run(corpus, path)
        if before is not None:
            assert computed(path, before) == ["u0001"]
        assert ("u0001" in store) == (content == good)
        assert ("u0001" in store.rejected) == (content != good)
        assert (path / "rejected.jsonl").read_text().count("\n") == (content != good)
        assert store.ids == [id for id in read_manifest(corpus).table["id"] if content == good or id != "u0001"]


def test_a_corpus_without_one_good_file_is_a_store_of_reasons(corpus: Path, path: Path) -> None:
    shutil.rmtree(corpus.parent / "audio")
    store = run(corpus, path)
    assert len(store) == 0
    assert len(store.rejected) == 12


# what is refused


@pytest.mark.parametrize(
    ("arguments", "seed", "name"),
    [
        ({"dtype": "float16"}, 0, "dtype"),
        ({"layers": [0, 1]}, 0, "layers"),
        ({"pooled": True}, 0, "kind"),
        ({}, 1, "weights"),
    ],
)
def test_a_store_of_something_else_is_refused_by_name(
    corpus: Path, path: Path, arguments: dict, seed: int, name: str
) -> None:
    run(corpus, path)
    before = shards(path)
    with pytest.raises(UserError) as error:
        extract(toy(seed), read_manifest(corpus), path, **{"dtype": "float32", **arguments})
    assert error.value.what == f"the store was made with another {name}"
    assert shards(path) == before


def test_too_little_disk_is_refused_before_anything_is_written(
    corpus: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 1_000, 1_000))
    with pytest.raises(UserError, match=r"the disk has 0\.00 GB free") as error:
        run(corpus, path)
    assert not path.exists()
    seconds, remedy = durations(read_manifest(corpus)), error.value.remedy
    values = sum(int(second * 50) for second in seconds) * DIM  # of one state
    pooled = 12 * DIM * 8
    sizes = {
        "dtype=int8": STATES * (values + 12 * DIM * 4 + pooled),
        "layers=1": 4 * values + pooled,
        "pool=mean": STATES * pooled,
        "features=streamed": 0,
    }
    fingerprint = fingerprint_of(toy(), None, False, "float32")
    assert ways_out(fingerprint, DIM, 50.0, seconds.tolist()) == sizes
    for way, size in sizes.items():
        assert f"{way} ({size / 1e9:.2f} GB" in remedy
    pooled_store = fingerprint_of(toy(), [1, 2], True, "float16")
    assert ways_out(pooled_store, DIM, 50.0, [1.0]) == {"layers=2": DIM * 8, "features=streamed": 0}


def test_a_header_that_promises_years_does_not_count_against_the_disk(corpus: Path, path: Path) -> None:
    file = corpus.parent / "audio/years.flac"
    soundfile.write(file, np.zeros(16_000), 16_000)
    content = bytearray(file.read_bytes())
    content[21] |= 0x0F
    content[22:26] = struct.pack(">I", 2**32 - 1)
    file.write_bytes(content)
    manifest = edit(corpus, lambda t: t.assign(audio=["audio/years.flac", *t["audio"][1:]]))
    assert durations(manifest)[0] <= 3_600
    store = run(corpus, path)
    assert len(store) + len(store.rejected) == 12


def test_states_beyond_float16_are_an_error_that_names_the_layer_and_float32_takes_them(
    corpus: Path, path: Path, tmp_path: Path
) -> None:
    loud = toy()
    with torch.no_grad():
        loud.model.weight[:, DIM : 2 * DIM] *= 1e5
    with pytest.raises(UserError, match="layer 1 reaches") as error:
        extract(loud, read_manifest(corpus), path, dtype="float16")
    assert "dtype=float32" in error.value.remedy
    assert list((path / "claims").iterdir()) == []
    assert shards(path) == set()
    assert len(extract(loud, read_manifest(corpus), tmp_path / "wide", dtype="float32")) == 12
    assert len(extract(loud, read_manifest(corpus), tmp_path / "without", dtype="float16", layers=[0, 2])) == 12


def test_states_that_are_no_numbers_are_an_error_that_names_the_layer(corpus: Path, path: Path) -> None:
    broken = toy()
    with torch.no_grad():
        broken.model.weight[0, 2 * DIM] = float("nan")
    with pytest.raises(UserError, match="layer 2 of the upstream gives NaN"):
        extract(broken, read_manifest(corpus), path, dtype="float32")
    assert shards(path) == set()


@pytest.mark.parametrize("layer", [3, -1])
def test_layers_that_are_not_there_are_refused(layer: int) -> None:
    with pytest.raises(UserError, match=f"toy has no layer {layer}") as error:
        fingerprint_of(toy(), [0, layer], False, "float16")
    assert "from 0 to 2" in error.value.remedy


def test_types_that_are_not_stored_are_refused() -> None:
    with pytest.raises(UserError, match="bfloat16"):
        fingerprint_of(toy(), None, False, "bfloat16")


def test_a_store_lies_where_its_corpus_and_fingerprint_say(corpus: Path, tmp_path: Path) -> None:
    manifest = read_manifest(corpus)
    prints = [
        fingerprint_of(toy(seed), layers, pooled, "float16")
        for seed, layers, pooled in ((0, None, False), (1, None, False), (0, [1], False), (0, None, True))
    ]
    paths = {store_path(tmp_path, manifest, toy(), each) for each in prints}
    assert len(paths) == 4
    assert {path.parent for path in paths} == {next(iter(paths)).parent}
    assert store_path(tmp_path, manifest, toy(), prints[0]) in paths


def test_audio_of_another_root_is_not_taken_for_that_of_the_first(
    corpus: Path, tmp_path: Path, make_speech: Callable
) -> None:
    found = []
    for seed, name in enumerate(("one", "two")):  # files of the same names, sizes and times
        for audio in read_manifest(corpus).table["audio"]:
            place = tmp_path / name / audio
            place.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(place, make_speech(0.5, seed=seed), 16_000)
            os.utime(place, (1e9, 1e9))
        manifest = read_manifest(corpus, tmp_path / name)
        store = store_path(tmp_path / "stores", manifest, toy(), fingerprint_of(toy(), None, False, "float16"))
        hashes = audio_hashes(manifest, store.parent / "audio.json")
        id = manifest.table["id"].iat[0]
        states = extract(toy(), manifest, store)[id].states
        np.testing.assert_allclose(states, expected(manifest, id), rtol=1e-2, atol=1e-2)
        found.append(hashes[0])
    assert found[0] != found[1]
    own = read_manifest(corpus, corpus.parent)
    prints = fingerprint_of(toy(), None, False, "float16")
    assert store_path(tmp_path, own, toy(), prints) == store_path(tmp_path, read_manifest(corpus), toy(), prints)


# memory of the device


def test_a_batch_that_does_not_fit_is_computed_in_halves(
    corpus: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, batch = [], Upstream.batch

    def short_of_memory(self: Upstream, waveforms: list, layers: tuple):
        sizes.append(len(waveforms))
        if len(waveforms) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch(self, waveforms, layers)

    monkeypatch.setattr(Upstream, "batch", short_of_memory)
    store = run(corpus, path)
    assert max(sizes) > 2
    manifest = read_manifest(corpus)
    for id in store:
        np.testing.assert_allclose(store[id].states, expected(manifest, id), rtol=1e-4, atol=1e-5)


def test_one_utterance_that_does_not_fit_is_an_error_that_leaves_the_rest(
    corpus: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, longest = Upstream.batch, max(durations(read_manifest(corpus)))

    def short_of_memory(self: Upstream, waveforms: list, layers: tuple):
        if max(len(waveform) for waveform in waveforms) >= 16_000 * longest - 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch(self, waveforms, layers)

    monkeypatch.setattr(Upstream, "batch", short_of_memory)
    with pytest.raises(UserError, match="exceeds the device"):
        run(corpus, path)
    monkeypatch.undo()
    assert len(run(corpus, path)) == 12
    assert not list((path / "claims").iterdir())


def test_an_error_behind_the_model_stops_the_run_and_gives_the_block_back(
    corpus: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wavbench.upstream import shards

    monkeypatch.setattr(shards, "pool", lambda states: (_ for _ in ()).throw(UserError("no pooling today")))
    with pytest.raises(UserError, match="no pooling today"):
        run(corpus, path)
    assert not list((path / "claims").iterdir())
    monkeypatch.undo()
    assert len(run(corpus, path)) == 12
