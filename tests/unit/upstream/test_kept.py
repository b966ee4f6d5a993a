"""Encoders kept along a training: they change nothing in it, survive its kills, and say how long they were trained."""

import copy
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from small_training import SMALL, shrunk, small_codes, train, weights_of, write_corpus

from wavbench.upstream import catalog, kept
from wavbench.upstream.checkpoints import write_checkpoint
from wavbench.upstream.errors import UserError
from wavbench.upstream.kept import Trained, heard_of, trained_of
from wavbench.upstream.training import Settings
from wavbench.upstream.unit_source import UnitSource

EVERY = {"steps": 7, "log_every": 1, "save_every": 3, "precision": "fp32", "layerdrop": 0.3}
OBJECTIVES = ["hubert", "data2vec", "wav2vec"]


class Stopped(Exception):
    """What a kill is in these tests."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


def stop_at(step: int):
    def report(status) -> None:
        if status.step == step:
            raise Stopped

    return report


def files(folder: Path) -> dict[str, object]:
    """What lies in the folder of kept encoders; safetensors writes its metadata in any order."""
    found = {}
    for path in (folder / kept.FOLDER).iterdir():
        is_table = path.suffix == ".csv"
        found[path.name] = path.read_text() if is_table else (trained_of(path), save(load_file(path)))
    return found


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_keeping_changes_no_result_and_stops_leave_the_same_files(
    objective: str, manifest: Path, tmp_path: Path
) -> None:
    train(objective, manifest, tmp_path / "plain", **EVERY)
    assert not (tmp_path / "plain" / kept.FOLDER).exists()
    train(objective, manifest, tmp_path / "whole", keep_every=2, **EVERY)
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "plain")
    for step in range(1, 8):  # before anything was kept, between a kept one and the state behind it, at the end
        folder = tmp_path / f"stopped{step}"
        with pytest.raises(Stopped):
            train(objective, manifest, folder, keep_every=2, report=stop_at(step), **EVERY)
        train(objective, manifest, folder, keep_every=2, **EVERY)
        assert weights_of(folder) == weights_of(tmp_path / "plain")
        assert files(folder) == files(tmp_path / "whole")


def test_a_kept_encoder_is_the_one_that_the_training_had_then(manifest: Path, tmp_path: Path) -> None:
    train("hubert", manifest, tmp_path / "long", keep_every=3, **EVERY)
    log = pd.read_csv(tmp_path / "long/train.csv").set_index("step")["audio_hours"]
    table = pd.read_csv(tmp_path / "long/kept/kept.csv")
    assert table["steps"].tolist() == [3, 6, 7]  # the last one, too
    for row in table.itertuples():
        path = tmp_path / "long/kept" / row.file
        told = trained_of(path)
        assert (told.run, told.steps, told.init) == ("hubert_tiny", row.steps, "")
        assert told.hours == row.hours == pytest.approx(log[row.steps], rel=1e-5)
        assert path.name == f"hubert_tiny_step{row.steps:06d}_{told.hours:.2f}h.safetensors"
    last = load_file(tmp_path / "long/kept" / table["file"].iloc[-1])
    final = load_file(tmp_path / "long/checkpoint.safetensors")
    assert all(torch.equal(last[name], final[name]) for name in final)
    first = load_file(tmp_path / "long/kept" / table["file"].iloc[0])
    assert any(not torch.equal(first[name], final[name]) for name in final)


def test_a_checkpoint_knows_the_corpora_that_it_has_heard(manifest: Path, tmp_path: Path) -> None:
    manifest.with_suffix(".json").write_text(json.dumps({"corpus": "librispeech"}))
    try:
        train("hubert", manifest, tmp_path / "first", keep_every=4, **EVERY)
    finally:
        manifest.with_suffix(".json").unlink()
    names = tuple(sorted({manifest.stem, "librispeech"}))
    for path in (tmp_path / "first").rglob("*.safetensors"):
        assert catalog.load(str(path)).pretraining == names
        assert catalog.load(str(path), weights="random").pretraining == ()
    # weights that a training began with have heard what they heard
    begun = catalog.load(str(tmp_path / "first"))
    begun.pretraining = ("voxpopuli",)
    train("hubert", manifest, tmp_path / "second", init=begun, **EVERY)
    assert heard_of(tmp_path / "second/checkpoint.safetensors") == tuple(sorted({manifest.stem, "voxpopuli"}))


def test_a_bert_has_heard_what_the_model_behind_its_codes_heard(manifest: Path, tmp_path: Path) -> None:
    codes = copy.copy(small_codes())
    codes.pretraining = ("voxpopuli",)
    train("vq_wav2vec_bert", manifest, tmp_path, unit_source=UnitSource(codes=codes), steps=1)
    assert heard_of(tmp_path / "checkpoint.safetensors") == tuple(sorted({manifest.stem, "voxpopuli"}))


def test_a_card_beside_a_checkpoint_may_know_more(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"x": torch.zeros(1)}, {"heard": '["mine"]'}))
    card = tmp_path / "a.md"
    card.write_text("# a\n\n- heard audio of: synthetic, mine,, timit \n- licence: CC0\n")
    assert heard_of(path) == ("mine", "synthetic", "timit")
    card.write_bytes(b"- heard audio of: \xff\xfe")
    assert heard_of(path) == ("mine",)
    card.write_text("- heard audio of: timit\n" + "x" * (1 << 20))
    assert heard_of(path) == ("mine",)


@pytest.mark.parametrize("told", ["{", "7", '{"a": 1}', "[1]", "null", "[" * 9_000])
def test_what_a_stranger_says_that_weights_have_heard_is_no_trouble(told: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"x": torch.zeros(1)}, {"heard": told, "trained": told}))
    assert heard_of(path) == ()
    assert trained_of(path) is None


def test_a_kept_encoder_is_an_upstream_that_knows_its_hours(manifest: Path, tmp_path: Path) -> None:
    train("hubert", manifest, tmp_path, keep_every=4, **EVERY)
    paths = sorted((tmp_path / "kept").glob("*.safetensors"))
    assert len(paths) == 2
    for path in paths:
        upstream = catalog.load(str(path))
        assert upstream.trained == trained_of(path)
        assert catalog.load(str(path), weights="random").trained is None
    with shrunk():
        assert catalog.load("hubert_tiny", weights="random").trained is None
    finished = catalog.load(str(tmp_path / "checkpoint.safetensors")).trained
    assert (finished.steps, finished.id) == (7, trained_of(paths[0]).id)


def test_runs_that_begin_with_weights_say_so_and_are_another_run(manifest: Path, tmp_path: Path) -> None:
    begin = catalog.load(str(train("hubert", manifest, tmp_path / "first", **EVERY)))
    train("hubert", manifest, tmp_path / "second", init=begin, **EVERY)
    first, second = (trained_of(tmp_path / name / "checkpoint.safetensors") for name in ("first", "second"))
    assert (first.init, second.init) == ("", begin.weights_hash)
    assert first.id != second.id


def test_what_is_kept_may_change_when_a_run_goes_on(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train("hubert", manifest, tmp_path, report=stop_at(4), **EVERY)
    train("hubert", manifest, tmp_path, keep_every=2, **EVERY)
    assert pd.read_csv(tmp_path / "kept/kept.csv")["steps"].tolist() == [4, 6, 7]


def test_keeping_less_than_never_is_refused() -> None:
    with pytest.raises(UserError, match="keep_every=-1"):
        Settings(steps=1, peak_rate=1.0, keep_every=-1)


@pytest.mark.parametrize(
    "told",
    ["", "{", "[]", "3", '{"run": "a"}', '{"run": 1, "id": "a", "steps": 1, "hours": 1.0}',
     '{"run": "a", "id": "a", "steps": 1, "hours": NaN}', '{"run": "a", "id": "a", "steps": 1, "hours": -1.0}',
     '{"run": "a", "id": "a", "steps": 1, "hours": 1.0, "more": 1}'],
)  # fmt: skip
def test_a_file_that_says_nothing_sensible_of_its_training_says_nothing(tmp_path: Path, told: str) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors", {"trained": told})
    assert trained_of(tmp_path / "a.safetensors") is None
    save_file({"weight": torch.zeros(2)}, tmp_path / "b.safetensors")
    assert trained_of(tmp_path / "b.safetensors") is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    told = Trained(run="hubert_tiny", id="a1", steps=20, hours=1.25, init="b2")
    model = catalog.build_random("hubert", SMALL, 0)
    write_checkpoint(tmp_path / "a.safetensors", "hubert", SMALL, model.state_dict(), trained=kept.plain(told))
    assert trained_of(tmp_path / "a.safetensors") == told
    assert json.loads(json.dumps(kept.plain(told))) == kept.plain(told)
    damaged = tmp_path / "c.safetensors"
    damaged.write_bytes(b"\x00")
    with pytest.raises(UserError, match="damaged"):
        trained_of(damaged)


def test_a_training_goes_on_beside_a_kept_file_that_is_damaged(manifest: Path, tmp_path: Path) -> None:
    train("hubert", manifest, tmp_path / "whole", keep_every=2, **EVERY)
    (tmp_path / "run/kept").mkdir(parents=True)
    (tmp_path / "run/kept/old.safetensors").write_bytes(b"\x00")
    (tmp_path / "run/kept/folder.safetensors").mkdir()
    said: list[str] = []
    train("hubert", manifest, tmp_path / "run", keep_every=2, say=said.append, **EVERY)
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    tables = [(tmp_path / name / "kept/kept.csv").read_text() for name in ("run", "whole")]
    assert tables[0] == tables[1]
    for name in ("old", "folder"):
        assert any("left out of" in line and f"{name}.safetensors is damaged" in line for line in said)
