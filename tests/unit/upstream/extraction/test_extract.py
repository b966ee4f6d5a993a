"""Extraction: what is computed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from toy_extraction import DIM, STATES, computed, edit, expected, new_rows, run, shards, toy

from wavbench.upstream import extract as extraction
from wavbench.upstream.extraction_plan import BLOCK_SECONDS, Plan, blocks
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.store import open_store


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
