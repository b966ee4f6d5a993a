"""Extraction: audio that is rejected, what is refused, and memory that runs out."""

import json
import os
import shutil
import struct
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from toy_extraction import DIM, STATES, computed, edit, expected, run, shards, toy

from wavbench.upstream.audio_index import audio_hashes
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract, fingerprint_of, store_path
from wavbench.upstream.extraction_plan import durations, ways_out
from wavbench.upstream.manifest import read_manifest


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
