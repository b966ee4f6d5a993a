"""One cell: its key hangs on what determines the result, and its files name nobody."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from wavbench.benchmark import record as records
from wavbench.benchmark.cell import Cell, Paths, layer_choices, plan_cell
from wavbench.benchmark.collect import collect
from wavbench.benchmark.record import exists, read_record, read_scores
from wavbench.benchmark.run import run_cell
from wavbench.benchmark.stats import interval
from wavbench.downstream.metrics import METRICS
from wavbench.downstream.trials import draw_trials, write_trials
from wavbench.upstream.catalog import Upstream, load
from wavbench.upstream.errors import UserError
from wavbench.upstream.listener import Listener
from wavbench.upstream.manifest import read_manifest

COUNT = 36
SPEAKERS = [f"Ada-Lovelace-{k // 3:02d}" for k in range(COUNT)]  # twelve of three utterances
SPLIT = ["train"] * 18 + ["dev"] * 9 + ["test"] * 9
PHONES = ["pp a tt", "tt a pp a", "a pp"]
COLUMNS = {
    "id": [f"secret-utterance-{k:02d}" for k in range(COUNT)],
    "speaker": SPEAKERS,
    "split": SPLIT,
    "emotion": [("joy", "fear", "calm")[k % 3] for k in range(COUNT)],
    "language": [("en", "pl")[k % 2] for k in range(COUNT)],
    "phones": [PHONES[k % 3] for k in range(COUNT)],
    "phone_ends": [("0.1 0.2 0.3", "0.1 0.15 0.2 0.28", "0.12 0.3")[k % 3] for k in range(COUNT)],
    "text": [f"whispered words {k}" for k in range(COUNT)],
}


@pytest.fixture(scope="module")
def fbank() -> Upstream:
    return load("fbank")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, build_corpus: Callable) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), COUNT, shortest=0.3, longest=0.5, **COLUMNS)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, corpus: Path, fbank: Upstream) -> Paths:
    """Records of every task."""
    root = tmp_path_factory.mktemp("done")
    paths = Paths(root / "results", root / "stores")
    for task in ("er", "lid", "asv", "pr", "phones"):
        cell = Cell(task=task, budget_share=0.005)
        run_cell(plan_cell(cell, fbank, read_manifest(corpus), paths), paths, Listener())
    return paths


def key(corpus: Path, upstream: Upstream, folder: Path, layer: str | int = "mix", **cell) -> str:
    paths = Paths(folder / "results", folder / "stores")
    return plan_cell(Cell(**{"task": "asv", **cell}), upstream, read_manifest(corpus), paths).key(layer)


def changed(corpus: Path, folder: Path, column: str, row: int, value: str, name: str = "corpus.csv") -> Path:
    """A copy of a corpus with one cell of its table written anew (a new column where there was none)."""
    (folder / "audio").mkdir(parents=True)
    for path in (corpus.parent / "audio").iterdir():
        (folder / "audio" / path.name).write_bytes(path.read_bytes())
    table = pd.read_csv(corpus, dtype=str)
    if column not in table:
        table[column] = ""
    table.loc[row, column] = value
    table.to_csv(folder / name, index=False)
    return folder / name


def test_every_determinant_of_a_result_changes_its_key(
    tmp_path: Path, corpus: Path, fbank: Upstream, make_speech: Callable
) -> None:
    ids = pd.read_csv(corpus)["id"]
    trials = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, seed in zip(trials, (0, 1), strict=True):
        drawn = draw_trials(ids[27:].tolist(), SPEAKERS[27:], seed)
        write_trials(drawn.iloc[seed:], path)
    other = changed(corpus, tmp_path / "audio", "text", 0, "x")
    soundfile.write(other.parent / "audio/u0001.wav", make_speech(0.4, seed=99), 16_000)
    ruled = changed(corpus, tmp_path / "rule", "text", 0, "words of 0")
    ruled.with_suffix(".json").write_text('{"text": "words 1"}')
    tiny = [load("wav2vec2_tiny", weights="random", seed=seed) for seed in (0, 1)]
    keys = {
        "as it is": key(corpus, fbank, tmp_path),
        "task": key(corpus, fbank, tmp_path, task="lid"),
        "layer": key(corpus, fbank, tmp_path, 0),
        "seed": key(corpus, fbank, tmp_path, seed=1),
        "budget": key(corpus, fbank, tmp_path, budget_share=0.5),
        "trials": key(corpus, fbank, tmp_path, trials=trials[0]),
        "other trials": key(corpus, fbank, tmp_path, trials=trials[1]),
        "upstream": key(corpus, load("fbank_raw"), tmp_path),
        "weights": key(corpus, tiny[0], tmp_path),
        "other weights": key(corpus, tiny[1], tmp_path),
        "label": key(changed(corpus, tmp_path / "label", "speaker", 0, "Bob"), fbank, tmp_path),
        "split": key(changed(corpus, tmp_path / "split", "split", 0, "dev"), fbank, tmp_path),
        "id": key(changed(corpus, tmp_path / "id", "id", 0, "another"), fbank, tmp_path),
        "segment": key(changed(corpus, tmp_path / "start", "start", 0, "0.1"), fbank, tmp_path),
        "audio": key(other, fbank, tmp_path),
        "protocol": key(corpus, fbank, tmp_path, task="er", protocol="superb"),
        "emotions": key(corpus, fbank, tmp_path, task="er"),
        "transcripts": key(corpus, fbank, tmp_path, task="asr"),
        "how transcripts were normalised": key(ruled, fbank, tmp_path, task="asr"),
    }
    assert len(set(keys.values())) == len(keys), keys


def test_what_does_not_determine_a_result_leaves_its_key(
    tmp_path: Path, corpus: Path, fbank: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_it_is = key(corpus, fbank, tmp_path)
    assert key(corpus, fbank, tmp_path / "elsewhere") == as_it_is
    assert key(corpus, fbank, tmp_path, keep_frames=True) == as_it_is
    assert key(corpus, fbank, tmp_path, layers="all") == as_it_is
    described = changed(corpus, tmp_path / "described", "gender", 0, "x", "other.csv")
    described.with_suffix(".json").write_text('{"text": "words 1", "corpus": "mine"}')
    assert key(described, fbank, tmp_path) == as_it_is
    described.with_suffix(".json").write_text('{"corpus": ["mine"], "text": {"rule": 1}}')  # of another tool
    assert key(described, fbank, tmp_path) == as_it_is
    for column in ("text", "emotion", "gender"):  # asv reads none of them
        assert key(changed(corpus, tmp_path / column, column, 0, "x", "other.csv"), fbank, tmp_path) == as_it_is
    monkeypatch.setattr(records, "commit", lambda: "another")
    monkeypatch.setattr(records, "versions", lambda: {"torch": "9"})
    assert key(corpus, fbank, tmp_path) == as_it_is


def test_commit_time_and_cost_are_in_the_record_and_not_in_its_key(done: Paths) -> None:
    for record in collect(done.results).records:
        assert record.started
        assert {"extract_s", "extract_cpu_s", "audio_s", "fit_s", "fit_memory_mb", "store_mb", "parameters"} <= set(
            record.cost
        )
        assert all(np.isfinite(value) for value in record.cost.values())
        assert record.versions["torch"]


def test_no_file_for_git_names_an_utterance_a_speaker_or_a_word(done: Paths) -> None:
    files = [p for p in (done.results / "runs").iterdir() if not p.name.endswith(".predictions.csv")]
    assert len(files) == 13  # record and scores of five cells; two have classes and a matrix, one has trials
    for path in files:
        text = path.read_text()
        for private in ("secret-utterance", "Ada", "Lovelace", "whispered", "a pp", "pp a"):
            assert private not in text, (path.name, private)


def test_folds_are_not_named_after_the_speaker_left_out(
    tmp_path: Path, build_corpus: Callable, fbank: Upstream
) -> None:
    few = {**COLUMNS, "speaker": [f"Ada-{k % 4}" for k in range(COUNT)]}
    manifest = read_manifest(build_corpus(tmp_path, COUNT, 0.3, 0.5, **few))
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    plan = plan_cell(Cell(task="er", budget_share=0.005), fbank, manifest, paths)
    (path,) = run_cell(plan, paths, Listener())
    record = read_record(path)
    assert record.split == "leave one speaker out"
    assert len({fold["fold"] for fold in record.learning_rate_curve}) == len(record.learning_rate) == 4
    assert record.n == COUNT  # every utterance was in test once
    assert record.ci_unit == "utterance"
    assert "Ada" not in path.read_text() + path.with_suffix(".scores.csv").read_text()


def test_a_fold_of_other_sessions_is_another_result(tmp_path: Path, build_corpus: Callable, fbank: Upstream) -> None:
    keys = []
    for name, length in (("a", 12), ("b", 9)):
        sessions = [f"Ses{k // length}" for k in range(COUNT)]
        path = build_corpus(tmp_path / name, COUNT, 0.3, 0.5, **COLUMNS, session=sessions)
        keys += [key(path, fbank, tmp_path, task="er"), key(path, fbank, tmp_path, task="lid")]
    assert keys[0] != keys[2]
    assert keys[1] == keys[3]  # which does not fold


def test_values_and_intervals_can_be_recomputed_from_the_scores(done: Paths) -> None:
    found = collect(done.results).records
    assert {record.task for record in found} == {"er", "lid", "asv", "pr", "phones"}
    for record in found:
        scores = read_scores(done.results, record.key)
        assert len(scores) == record.n
        assert METRICS[record.metric](scores)[0] == pytest.approx(record.value, abs=1e-3)
        low, high, unit = interval(record.metric, scores)
        assert [low, high] == pytest.approx(record.ci95, abs=1e-3)
        assert unit == record.ci_unit


def test_predictions_are_kept_with_ids_and_text_for_those_who_may_read_them(done: Paths) -> None:
    by_task = {record.task: record.key for record in collect(done.results).records}
    table = pd.read_csv(done.results / "runs" / f"{by_task['pr']}.predictions.csv", keep_default_na=False)
    assert table["id"].tolist() == COLUMNS["id"][27:]
    assert table["reference"].tolist() == COLUMNS["phones"][27:]
    table = pd.read_csv(done.results / "runs" / f"{by_task['er']}.predictions.csv")
    assert table["reference"].tolist() == COLUMNS["emotion"][27:]


def test_a_cell_that_is_done_is_not_done_again(
    done: Paths, corpus: Path, fbank: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_cell(Cell(task="er", budget_share=0.005), fbank, read_manifest(corpus), done)
    monkeypatch.setattr("wavbench.benchmark.run.store_for", lambda *_: pytest.fail("it looked for features"))
    before = (done.results / "runs" / f"{plan.key('mix')}.json").read_bytes()
    (path,) = run_cell(plan, done, Listener())
    assert path.read_bytes() == before


def test_a_record_that_another_sweep_wrote_meanwhile_is_left(
    done: Paths, corpus: Path, fbank: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_cell(Cell(task="er", budget_share=0.005), fbank, read_manifest(corpus), done)
    looks = iter([False])  # it was not there when the cell began
    monkeypatch.setattr(records, "exists", lambda *_: next(looks, True))
    path = done.results / "runs" / f"{plan.key('mix')}.json"
    before = path.read_bytes()
    assert run_cell(plan, done, Listener()) == [path]
    assert path.read_bytes() == before


def test_the_same_cell_gives_the_same_numbers_anywhere(
    tmp_path: Path, done: Paths, corpus: Path, fbank: Upstream
) -> None:
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    for task in ("er", "asv"):
        plan = plan_cell(Cell(task=task, budget_share=0.005), fbank, read_manifest(corpus), paths)
        (path,) = run_cell(plan, paths, Listener())
        theirs = read_record(done.results / "runs" / path.name)
        ours = dataclasses.replace(read_record(path), cost=theirs.cost, started=theirs.started)
        # one store holds frames and the other means of them only: the same means
        assert dataclasses.replace(ours, store_fingerprint=theirs.store_fingerprint) == theirs


def test_drawn_trials_lie_beside_the_store_and_given_ones_are_kept_apart(
    tmp_path: Path, done: Paths, corpus: Path, fbank: Upstream
) -> None:
    manifest = read_manifest(corpus)
    drawn = sorted(done.stores.rglob("trials-test-0.csv"))
    assert len(drawn) == 1
    before = drawn[0].read_bytes()
    test = manifest.table[manifest.table["split"] == "test"]
    given = draw_trials(test["id"].tolist(), test["speaker"].tolist(), 0).iloc[::2]
    write_trials(given, tmp_path / "given.csv")
    paths = Paths(tmp_path / "results", done.stores)
    cell = Cell(task="asv", budget_share=0.005, trials=tmp_path / "given.csv")
    (path,) = run_cell(plan_cell(cell, fbank, manifest, paths), paths, Listener())
    record = read_record(path)
    assert record.n == len(given)
    assert record.config["trials"]
    assert "secret" not in path.read_text()
    assert drawn[0].read_bytes() == before


def test_labels_that_cannot_work_are_refused_before_features_are_made(
    tmp_path: Path, corpus: Path, fbank: Upstream
) -> None:
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    bad = changed(corpus, tmp_path / "corpus", "emotion", COUNT - 1, "envy")
    plan = plan_cell(Cell(task="er"), fbank, read_manifest(bad), paths)
    with pytest.raises(UserError, match="'envy' occurs in test and never in train"):
        run_cell(plan, paths, Listener())
    assert not list(tmp_path.rglob("store.json"))
    assert not exists(paths.results, plan.key("mix"))


def test_layers_are_mix_all_or_numbers_of_states() -> None:
    assert layer_choices("mix", 3) == ("mix",)
    assert layer_choices("all", 3) == ("mix", 0, 1, 2)
    assert layer_choices((2, 0, 2), 3) == (2, 0)
    for wrong in ((3,), (-1,), (0, 9)):
        with pytest.raises(UserError, match="has no layer"):
            layer_choices(wrong, 3)


def test_records_of_the_built_in_corpus_are_marked_synthetic(tmp_path: Path, corpus: Path, fbank: Upstream) -> None:
    made = changed(corpus, tmp_path / "made", "text", 0, "x")
    (made.parent / "corpus.json").write_text(json.dumps({"synthetic": True}))
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    (path,) = run_cell(
        plan_cell(Cell(task="lid", budget_share=0.005), fbank, read_manifest(made), paths), paths, Listener()
    )
    assert read_record(path).synthetic is True


def test_records_say_under_which_licence_the_recordings_are(tmp_path: Path, corpus: Path, fbank: Upstream) -> None:
    for licence, told in (("CC BY 4.0", {"licence": "CC BY 4.0"}), (["CC"], {}), ("", {})):
        paths = Paths(tmp_path / f"results {licence}", tmp_path / "stores")
        mine = changed(corpus, tmp_path / f"corpus {licence}", "gender", 0, "x", "mine.csv")
        mine.with_suffix(".json").write_text(json.dumps({"corpus": "mine", "licence": licence}))
        (record,) = run_cell(
            plan_cell(Cell(task="er", budget_share=0.005), fbank, read_manifest(mine), paths), paths, Listener()
        )
        assert {k: v for k, v in read_record(record).config.items() if k == "licence"} == told


def test_a_place_that_cannot_take_a_head_is_refused_before_anything_is_trained(
    tmp_path: Path, corpus: Path, fbank: Upstream
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    paths, manifest = Paths(tmp_path / "results", tmp_path / "stores"), read_manifest(corpus)
    for name, why in (
        ("file", "is no folder"),
        ("file/head", "is no folder"),
        ("dangling", "is no folder"),
        ("other", "it holds other things (thesis.tex)"),
    ):
        with pytest.raises(UserError, match="a head cannot be saved here") as caught:
            plan_cell(Cell(task="er", save=tmp_path / name), fbank, manifest, paths)
        assert why in caught.value.why
    killed = tmp_path / "killed"  # in the middle of its first save
    killed.mkdir()
    for name in ("head.safetensors", ".tmp-host-1-2-3.json"):
        (killed / name).write_text("")
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("head.json", "head.safetensors", "notes.txt"):
        (kept / name).write_text("{}")
    for place in (killed, kept, tmp_path / "new" / "head"):
        plan_cell(Cell(task="er", save=place), fbank, manifest, paths)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, corpus: Path, fbank: Upstream) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    with pytest.raises(UserError, match="a head cannot be saved here"):
        plan_cell(Cell(task="er", save=tmp_path / "shut" / "head"), fbank, read_manifest(corpus), paths)


def test_utterances_without_features_are_named_and_counted_in_the_record(
    tmp_path: Path, build_corpus: Callable, fbank: Upstream
) -> None:
    manifest = build_corpus(tmp_path / "corpus", COUNT, shortest=0.3, longest=0.5, **COLUMNS)
    audio = pd.read_csv(manifest)["audio"]
    for row in (0, COUNT - 1, COUNT - 2):  # one of train, two of test
        (manifest.parent / audio[row]).write_bytes(b"")
    said: list[str] = []
    listener = Listener(say=said.append)
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    cell = Cell(task="er", budget_share=0.005)
    (path,) = run_cell(plan_cell(cell, fbank, read_manifest(manifest), paths), paths, listener)
    (line,) = [line for line in said if line.startswith("left out")]
    assert line.startswith("left out: 2 of test, 1 of train that could not be used (first: secret-utterance-00: ")
    record = read_record(path)
    assert record.secondary["left_out"] == 2.0
    assert record.n == SPLIT.count("test") - 2
