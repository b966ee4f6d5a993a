"""Extraction: what is computed again, and what is not."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from toy_extraction import Toy, computed, edit, expected, run, shards

from wavbench.upstream import claims
from wavbench.upstream import extract as extraction
from wavbench.upstream.audio import load_audio
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.shards import read_rows
from wavbench.upstream.store import Store, open_store


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
