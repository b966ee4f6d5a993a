"""A record has one key, one file written whole, and nothing in it that names a person."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark import record as records
from wavbench.benchmark.collect import collect
from wavbench.benchmark.record import (
    FIELDS,
    exists,
    hashed,
    key_of,
    read_record,
    read_scores,
    scores_bytes,
    write_record,
    write_text,
)
from wavbench.upstream.errors import UserError

SCORES = pd.DataFrame({"utterance": ["0a", "1e5"], "speaker": ["01", "02"], "errors": [0, 1], "tokens": [1, 1]})


def test_a_record_reads_back_as_it_was(tmp_path: Path, make_record: Callable) -> None:
    record = make_record(corpus="mówią «€»", layers=7, value=50.0, n=2)
    path = write_record(tmp_path, record, SCORES, None)
    assert path == tmp_path / "runs" / f"{record.key}.json"
    assert read_record(path) == record
    assert collect(tmp_path).records == [record]
    assert exists(tmp_path, record.key)
    assert not exists(tmp_path, "another")


def test_scores_read_back_with_their_hashes_as_text(tmp_path: Path, make_record: Callable) -> None:
    record = make_record()
    write_record(tmp_path, record, SCORES, None)
    pd.testing.assert_frame_equal(read_scores(tmp_path, record.key), SCORES)  # "1e5" and "01" are no numbers


@pytest.mark.parametrize("classes", [["NA", "nan"], ["None", "null"], ["01", "1"], ["", "1e3"]])
def test_classes_are_words_whatever_they_look_like(tmp_path: Path, make_record: Callable, classes: list[str]) -> None:
    record, table = make_record(), SCORES.assign(label=classes, prediction=classes[::-1])
    write_record(tmp_path, record, table, None)
    pd.testing.assert_frame_equal(read_scores(tmp_path, record.key), table)


@pytest.mark.parametrize("value", ["nan", "inf", "", "much"])
def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, make_record: Callable, value: str) -> None:
    record = make_record()
    write_record(tmp_path, record, SCORES.assign(errors=["1", value]), None)
    with pytest.raises(UserError, match="scores of a record cannot be read"):
        read_scores(tmp_path, record.key)


TRIALS = pd.DataFrame(
    {
        "utterance": ["0a", "0a", "1e5"],
        "speaker": ["01", "01", "02"],
        "utterance_b": ["0b", "1e5", "0b"],
        "speaker_b": ["01", "02", "01"],
        "score": [0.9, 0.2, 0.1],
        "target": [1, 0, 0],
    }
)


def test_trials_are_written_once_for_all_that_are_judged_by_them(tmp_path: Path, make_record: Callable) -> None:
    first, second, other = (make_record(upstream=name) for name in "abc")
    tables = [
        TRIALS,
        TRIALS.assign(score=[1.0, 2.0, 3.0], score_snorm=[0.1, 0.2, 0.3]),
        TRIALS.assign(target=[1, 1, 0]),
    ]
    for record, table in zip((first, second, other), tables, strict=True):
        write_record(tmp_path, record, table, None)
    assert len(list((tmp_path / "runs").glob("*.trials.csv"))) == 2
    for record, table in zip((first, second, other), tables, strict=True):
        pd.testing.assert_frame_equal(read_scores(tmp_path, record.key), table, check_like=True)


@pytest.mark.parametrize("spoilt", ["gone", "others", "fewer"])
def test_scores_whose_trials_are_not_theirs_are_refused(tmp_path: Path, make_record: Callable, spoilt: str) -> None:
    record = make_record()
    write_record(tmp_path, record, TRIALS, None)
    sound, trials = scores_bytes(tmp_path, record.key), next((tmp_path / "runs").glob("*.trials.csv"))
    if spoilt == "gone":
        trials.unlink()
    elif spoilt == "others":
        trials.write_text(trials.read_text().replace("0b", "0c"))
    else:
        scores = tmp_path / f"runs/{record.key}.scores.csv"
        scores.write_text(scores.read_text().rsplit("\n", 2)[0] + "\n")
    assert scores_bytes(tmp_path, record.key) != sound  # what was verified once is looked at again
    with pytest.raises(UserError, match="scores of a record cannot be read"):
        read_scores(tmp_path, record.key)


def test_a_damaged_file_of_trials_is_mended_by_the_next_record(tmp_path: Path, make_record: Callable) -> None:
    first, second = make_record(upstream="a"), make_record(upstream="b")
    write_record(tmp_path, first, TRIALS, None)
    trials = next((tmp_path / "runs").glob("*.trials.csv"))
    trials.write_text(trials.read_text()[:40])
    write_record(tmp_path, second, TRIALS, None)
    for record in (first, second):
        assert len(read_scores(tmp_path, record.key)) == 3


@pytest.mark.parametrize("name", ["", ".", "../x.csv", "/", "a" * 400, "0" * 20 + ".trials.csv"])
def test_scores_that_name_other_files_as_their_trials_are_refused(
    tmp_path: Path, make_record: Callable, name: str
) -> None:
    record = make_record()
    write_record(tmp_path, record, TRIALS, None)
    (tmp_path / f"runs/{record.key}.scores.csv").write_text(f"# rows of {name}\nscore\n0.1\nx\n")
    assert scores_bytes(tmp_path, record.key)
    with pytest.raises(UserError, match="scores of a record cannot be read"):
        read_scores(tmp_path, record.key)


def test_a_column_is_of_the_trials_or_of_the_scores(tmp_path: Path, make_record: Callable) -> None:
    record = make_record()
    write_record(tmp_path, record, TRIALS, None)
    path = tmp_path / f"runs/{record.key}.scores.csv"
    path.write_text(path.read_text().replace("score\n0.9\n0.2\n0.1", "score,speaker\n0.9,a\n0.2,b\n0.1,c"))
    with pytest.raises(UserError, match="scores of a record cannot be read") as caught:
        read_scores(tmp_path, record.key)
    assert "speaker stand with the trials and with the scores" in caught.value.why


def test_predictions_lie_in_a_file_that_git_ignores(tmp_path: Path, make_record: Callable) -> None:
    record = make_record()
    write_record(tmp_path, record, SCORES, pd.DataFrame({"id": ["u"], "reference": ["a b"], "hypothesis": ["a"]}))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        f"{record.key}.json",
        f"{record.key}.scores.csv",
        f"{record.key}.predictions.csv",
    }
    ignored = (Path(__file__).parents[3] / ".gitignore").read_text().split()
    assert "*.predictions.csv" in ignored


def test_the_key_of_equal_values_is_equal_in_any_order() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": "1"})
    assert key_of({"a": [1, 2]}) != key_of({"a": [2, 1]})


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "table.csv", "old")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_text(tmp_path / "table.csv", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "old"


def test_a_record_that_exists_has_its_scores(
    tmp_path: Path, make_record: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, whole = [], records.write_text

    def write(path: Path, text: str) -> None:
        written.append(path.name)
        if path.name.endswith(".scores.csv"):
            raise KeyboardInterrupt
        whole(path, text)

    record = make_record()
    monkeypatch.setattr(records, "write_text", write)
    with pytest.raises(KeyboardInterrupt):
        write_record(tmp_path, record, SCORES, SCORES)
    assert written == [f"{record.key}.scores.csv"]
    assert not exists(tmp_path, record.key)


def test_a_record_that_could_not_be_written_whole_is_not_there(
    tmp_path: Path, make_record: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, calls, fsync = make_record(), [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError("no space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_record(tmp_path, record, SCORES, None)
    assert not exists(tmp_path, record.key)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{record.key}.scores.csv"]


def damage(text: str) -> dict[str, str]:
    """A record's text, spoilt in every way that happens."""
    values = json.loads(text)
    changed = {
        "no list": [1, 2],
        "another schema": values | {"schema": 99},
        "a number beyond all floats": values | {"value": 10**400},
        "a cost beyond all floats": values | {"cost": values["cost"] | {"extract_s": 10**400}},
        "a control character": values | {"checkpoint": "b\u0001c"},
        "a control character in a name": values | {"secondary": {"b\u0001c": 1.0}},
        "a field less": {k: v for k, v in values.items() if k != "value"},
        "a field more": values | {"surprise": 1},
        "a word for a number": values | {"value": "high"},
        "a number for a word": values | {"task": 3},
        "truth for a number": values | {"n": True},
        "one bound": values | {"ci95": [1.0]},
        "words for bounds": values | {"ci95": ["a", "b"]},
        "half a layer": values | {"layers": 0.5},
        "a list for a table": values | {"cost": []},
        "no cost": values | {"cost": {}},
        "a list for a budget": values | {"config": {"budget": [1]}},
        "labels without minutes": values | {"config": {"budget": {"labels": "1h"}}},
        "a number for labels": values | {"config": {"budget": {"labels": 1}, "labels": 60.0}},
        "a word for updates": values | {"config": {"budget": {"updates": "many"}}},
        "a word for corpora": values | {"config": {"heard": "all"}},
        "a curve without dev": values | {"learning_rate_curve": [{}]},
        "no number": values | {"value": float("nan")},
        "a layer by name": values | {"layers": "top"},
        "more layers than weights": values | {"layer_numbers": [0, 1, 2]},
        "half a character": values | {"upstream": "a\ud800"},
        "no bound": values | {"ci95": [1.0, float("inf")]},
        "the key of another": values | {"key": "0" * 20},
        "a key that is a path": values | {"key": "../../x"},
        "nothing": None,
    }
    return {name: json.dumps(value) for name, value in changed.items()} | {
        "cut off": text[: len(text) // 2],
        "empty": "",
        "deep": "[" * 100_000,
        "other text": "hello",
    }


def test_a_damaged_or_foreign_record_is_one_clear_screen(tmp_path: Path, make_record: Callable) -> None:
    path = write_record(tmp_path, make_record(), SCORES, None)
    for name, text in damage(path.read_text()).items():
        path.write_text(text)
        with pytest.raises(UserError) as error:
            read_record(path)
        screen = error.value.screen()
        assert str(path) in screen, name
        assert "delete it and run its cell again" in screen, name
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError):
        read_record(path)


def test_missing_scores_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scores of a record cannot be read") as error:
        read_scores(tmp_path, "k")
    assert "k.scores.csv" in error.value.where


def test_hashes_name_nobody_and_differ_by_corpus() -> None:
    names = ["Ada", "Bob", "", "Ada"]
    hashes = hashed(names, "corpus")
    assert hashes[0] == hashes[3] != hashes[1]
    assert hashes[2] == ""
    assert not set(hashes) & set(hashed(["Ada", "Bob"], "another corpus"))
    assert all(len(text) == 8 and int(text, 16) >= 0 for text in hashes if text)


def test_the_fields_are_those_of_the_design() -> None:
    design = """schema key task corpus corpus_hash split upstream checkpoint checkpoint_hash store_fingerprint protocol
    adaptation head layers layer_weights seed learning_rate learning_rate_curve metric unit higher_is_better value ci95
    ci_unit n secondary cost versions commit started config"""
    assert set(design.split()) <= FIELDS
    assert {field.name for field in dataclasses.fields(records.Record)} == FIELDS


def test_versions_name_python_torch_and_wavbench() -> None:
    assert {"python", "torch", "wavbench", "h5py"} <= set(records.versions())
    assert records.versions()["wavbench"] != "not installed"
