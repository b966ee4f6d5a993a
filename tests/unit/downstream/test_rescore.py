"""A saved head on stored features scores as it did when it was trained, and changed decisions are counted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from wavbench.downstream.probe import probe, usable_rows
from wavbench.downstream.rescore import SavedBatches, changed, chosen_splits, rescore
from wavbench.downstream.saved import Saved, load_heads, save_heads
from wavbench.downstream.spec import CLEAN, Budget, load_task
from wavbench.upstream.catalog import Upstream, build_random
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract
from wavbench.upstream.manifest import Manifest, read_manifest
from wavbench.upstream.models import wav2vec2
from wavbench.upstream.store import Store

COUNT = 24
BUDGET = Budget(updates=6, batch=4, evaluate_every=3, learning_rates=(1e-2,))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, build_corpus: Callable) -> Manifest:
    columns = {
        "speaker": [f"s{k % 4}" for k in range(COUNT)],
        "split": ["train"] * 8 + ["dev"] * 8 + ["test"] * 8,
        "emotion": [("joy", "calm", "fear")[k // 4 % 3] for k in range(COUNT)],
        "phones": [("pp a tt", "tt a", "a pp")[k % 3] for k in range(COUNT)],
        "text": [("tap it", "it", "a pit")[k % 3] for k in range(COUNT)],
        "translation": [("Ja", "Nein", "Ach ja")[k % 3] for k in range(COUNT)],
    }
    return read_manifest(build_corpus(tmp_path_factory.mktemp("corpus"), COUNT, 0.3, 0.5, **columns))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> dict[str, Store]:
    sizes = {"dim": 24, "num_layers": 2, "num_heads": 2, "inner_dim": 48, "position_kernel": 16, "position_groups": 4}
    model = build_random("wav2vec2", wav2vec2.Config(conv_channels=(16,) * 7, **sizes), 0)
    upstream, folder = Upstream("small", model, config={}, checkpoint="small"), tmp_path_factory.mktemp("stores")
    return {dtype: extract(upstream, manifest, folder / dtype, dtype=dtype) for dtype in ("float32", "float16", "int8")}


def trained(name: str, manifest: Manifest, store: Store, folder: Path, layer: str | int) -> tuple[Saved, pd.DataFrame]:
    task = load_task(name)
    (result,) = probe(task, store, usable_rows(manifest, task, store), [layer], budget=BUDGET)
    save_heads(
        folder, result.heads, task=name, objective=task.objective, name=task.head, upstream={}, about={"value": 0}
    )
    return load_heads(folder), result.scores


@pytest.mark.parametrize(("name", "layer"), [("er", "mix"), ("pr", "mix"), ("pr", 1), ("asr", "mix"), ("asv", 2)])
def test_a_saved_head_scores_again_as_it_did(
    name: str, layer: str | int, manifest: Manifest, stores: dict[str, Store], tmp_path: Path
) -> None:
    store, task = stores["float32"], load_task(name)
    saved, before = trained(name, manifest, store, tmp_path, layer)
    table = usable_rows(manifest, task, store)
    lengths = store.lengths[[store.row(id) for id in table["id"]]]
    splits = chosen_splits(saved, task, CLEAN, table)
    assert len(splits) == len(saved.heads) == (4 if name == "er" else 1)
    again = rescore(saved, task, CLEAN, store, table, lengths, splits)
    shared = [column for column in before if column in again and "snorm" not in column]
    assert {"row"} < set(shared)
    pd.testing.assert_frame_equal(again[shared], before[shared].reset_index(drop=True), rtol=1e-4, atol=1e-5)
    assert changed(again, again)[0] == 0
    for dtype in ("float16", "int8"):
        other = rescore(saved, task, CLEAN, stores[dtype], table, lengths, splits)
        count, decisions = changed(again, other)
        assert 0 <= count <= decisions
    if layer == 2:  # the scores themselves move: it is not the same store that is read
        assert not np.array_equal(other["score"], again["score"])


def test_a_store_of_the_tested_rows_alone_is_enough_and_another_corpus_is_refused(
    manifest: Manifest, stores: dict[str, Store], tmp_path: Path
) -> None:
    task, store = load_task("pr"), stores["float32"]
    saved, before = trained("pr", manifest, store, tmp_path, "mix")
    table = usable_rows(manifest, task, store)
    (split,) = chosen_splits(saved, task, CLEAN, table, most=3)
    assert split.test.tolist() == [16, 20, 23]  # evenly spaced, both ends among them
    lengths = np.ones(len(table), np.int64)
    some = rescore(saved, task, CLEAN, store, table, lengths, [split])
    expected = before.set_index("row").loc[split.test, "hypothesis"].tolist()
    assert some["hypothesis"].tolist() == expected
    other = table.assign(phones="zz")
    with pytest.raises(UserError, match="other labels"):
        rescore(saved, task, CLEAN, store, other, lengths, [split])
    with pytest.raises(UserError, match=r"1 heads.*4 folds"):
        chosen_splits(saved, load_task("er"), CLEAN, table)


def test_statistics_are_those_of_the_stored_frames(
    manifest: Manifest, stores: dict[str, Store], tmp_path: Path
) -> None:
    saved, _ = trained("er", manifest, stores["float32"], tmp_path, "mix")
    head, store = saved.heads[0], stores["int8"]
    wide = replace(head, **{name: torch.cat([getattr(head, name)] * 2, dim=2) for name in ("shift", "scale")})
    states, lengths = SavedBatches(store, store.ids, wide, ("mean", "std")).take(np.array([5, 2]))
    assert lengths is None
    for place, row in enumerate((5, 2)):
        frames = torch.from_numpy(store.read_frames([row], head.layers)[0])
        plain = torch.cat([frames.mean(dim=1), frames.std(dim=1, correction=0)], dim=1)

        torch.testing.assert_close(states[:, place], (plain - wide.shift[:, 0]) * wide.scale[:, 0])


def test_changed_decisions_are_counted_by_hand() -> None:
    classes = pd.DataFrame({"prediction": ["a", "b", "c"]})
    assert changed(classes, pd.DataFrame({"prediction": ["a", "c", "b"]})) == (2, 3)
    phones = pd.DataFrame({"hypothesis": ["aa b", "c"]})
    assert changed(phones, pd.DataFrame({"hypothesis": ["aa bb", "c d"]})) == (2, 3)
    characters = pd.DataFrame({"hypothesis": ["aa b", "c"], "unseen": 0})
    assert changed(characters, pd.DataFrame({"hypothesis": ["aa bb", "c d"], "unseen": 0})) == (3, 5)
    trials = pd.DataFrame({"score": [0.9, 0.6, 0.4, 0.1], "target": [1, 1, 0, 0]})  # accepted from 0.6 on
    assert changed(trials, pd.DataFrame({"score": [0.9, 0.59, 0.7, 0.1], "target": [1, 1, 0, 0]})) == (2, 4)
    with pytest.raises(ValueError, match="no decisions"):
        changed(pd.DataFrame({"errors": [1]}), pd.DataFrame({"errors": [1]}))
