"""Trackers beside CSV files: they are told the same numbers, and a resumed run goes on with theirs."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from small_training import train, write_corpus

from wavbench.upstream import trackers
from wavbench.upstream.errors import UserError
from wavbench.upstream.trackers import check_trackers, make_trackers


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self, folder: Path, id: str | None) -> None:
        self.run_id, self.told, self.ended, self.hyperparameters = id or "new", [], [], None

    def log_hyperparams(self, values: dict) -> None:
        self.hyperparameters = values

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.told.append((step, metrics))

    def finalize(self, status: str) -> None:
        self.ended.append(status)


def test_a_tracker_is_told_every_row_and_goes_on_with_its_run(
    tmp_path: Path, make_speech: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(folder: Path, id: str | None) -> Kept:
        made.append(Kept(folder, id))
        return made[-1]

    monkeypatch.setattr(trackers, "_mlflow", make)
    monkeypatch.setattr(trackers, "check_trackers", lambda names: None)
    corpus = write_corpus(tmp_path / "corpus", make_speech)
    train("hubert", corpus, tmp_path / "run", trackers=["mlflow"])
    (kept,) = made
    assert kept.hyperparameters["objective"] == "hubert"
    assert kept.ended == ["success"]
    for kind in ("train", "dev"):
        table = pd.read_csv(tmp_path / f"run/{kind}.csv").set_index("step")
        told = {step: values for step, values in kept.told if f"{kind}/loss" in values}
        assert list(told) == list(table.index)
        for step, values in told.items():
            assert values[f"{kind}/loss"] == pytest.approx(table.loc[step, "loss"], rel=1e-5)
    assert json.loads((tmp_path / "run/trackers.json").read_text()) == {"mlflow": "new"}
    (again,) = make_trackers(["mlflow"], tmp_path / "run", {})
    assert again.run_id == "new"
    assert again.hyperparameters is None


@pytest.mark.parametrize("note", ["", "{", "[1]", '{"mlflow": 3}', "[" * 100_000, "\x00", None])
def test_a_note_of_runs_that_cannot_be_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str | None
) -> None:
    monkeypatch.setattr(trackers, "_mlflow", Kept)
    monkeypatch.setattr(trackers, "check_trackers", lambda names: None)
    path = tmp_path / "trackers.json"
    if note is not None:
        path.write_text(note)
    assert make_trackers([], tmp_path, {}) == []
    assert path.is_file() == (note is not None)
    (made,) = make_trackers(["mlflow"], tmp_path, {"rate": 1})
    assert (made.run_id, made.hyperparameters) == ("new", {"rate": 1})
    assert json.loads(path.read_text()) == {"mlflow": "new"}
    assert [file.name for file in tmp_path.iterdir()] == ["trackers.json"]


def test_trackers_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="trackers=tensorbord is not known"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package wandb"):
        check_trackers(["wandb"])


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_the_real_ones_take_what_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip("sqlalchemy" if name == "mlflow" else name)
    pytest.importorskip(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for step in (10, 20):
        (tracker,) = make_trackers([name], tmp_path, {"rate": 1e-3, "units": None, "splits": {"a": 1}})
        tracker.log_metrics({"train/loss": 1.0 / step}, step)
        tracker.finalize("success")
        ids.append(json.loads((tmp_path / "trackers.json").read_text())[name])
    assert ids[0] == ids[1]
    if name == "mlflow":
        history = tracker.experiment.get_metric_history(ids[0], "train/loss")
        assert [(found.step, found.value) for found in history] == [(10, 0.1), (20, 0.05)]
    else:
        assert list((tmp_path / "wandb").glob(f"offline-run-*-{ids[0]}"))
