"""Sweeps that people kill, that fail in part, and whose workers other engines start."""

import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark.collect import collect

TIMES = ["extract_s", "extract_cpu_s", "fit_s", "fit_memory_mb", "commit"]  # columns that differ from run to run
EXPERIMENT = """
upstreams:
  - {name: fbank}
  - {name: wav2vec2_tiny, weights: random, seed: 0}
cells:
  - {task: er, manifest: corpus.csv, layers: all, budget: 0.02}
  - {task: lid, manifest: corpus.csv, budget: 0.02}
  - {task: asv, manifest: corpus.csv, budget: 0.02}
head_seeds: [0, 1, 2]
"""
CELLS = 18

# children are forked from a process that has imported the slow things once
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", "pandas", "wavbench.benchmark.cli", "wavbench.benchmark.run"])


@pytest.fixture
def words(corpus: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """A function from the name of a folder to the words of a sweep into it."""
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)

    def words(folder: str = "a", experiment: str = "mine") -> list[str]:
        return [
            f"experiment={tmp_path / f'{experiment}.yaml'}",
            f"corpora={corpus.parent}",
            f"results={tmp_path / folder / 'results'}",
            f"stores={tmp_path / folder / 'stores'}",
        ]

    return words


def work(words: list[str]) -> None:
    import torch

    from wavbench.benchmark import cli

    torch.set_num_threads(1)
    raise SystemExit(cli.main(["sweep", *words]))


def records_in(results: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (results / "runs").glob("*.json")}


def board(wavbench: Callable, results: Path) -> pd.DataFrame:
    assert wavbench("report", f"results={results}").code == 0
    return pd.read_csv(results / "leaderboard.csv").drop(columns=TIMES, errors="ignore")


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_sweep_killed_at_random_moments_ends_as_one_that_was_not(
    wavbench: Callable, words: Callable, tmp_path: Path, kills: int
) -> None:
    whole = context.Process(target=work, args=(words("whole"),))
    began = time.monotonic()
    whole.start()
    whole.join(240)
    took = time.monotonic() - began
    assert whole.exitcode == 0
    results, seen, chance = tmp_path / "killed/results", {}, random.Random(5)
    for number in range(kills):
        workers = [context.Process(target=work, args=(words("killed"),)) for _ in range(1 + number % 2)]
        for worker in workers:
            worker.start()
        time.sleep(chance.uniform(0.05, max(took / 6, 0.8)))
        for worker in workers:
            worker.kill()
            worker.join()
        found = records_in(results)
        assert {name: found.get(name) for name in seen} == seen  # none is missing, none was written again
        seen = found
    last = context.Process(target=work, args=(words("killed"),))
    last.start()
    last.join(240)
    assert last.exitcode == 0
    found = records_in(results)
    assert {name: found[name] for name in seen} == seen
    pd.testing.assert_frame_equal(board(wavbench, results), board(wavbench, tmp_path / "whole/results"))
    assert found.keys() == records_in(tmp_path / "whole/results").keys()
    assert not list(results.rglob("*.claim"))
    done = wavbench("status", *words("killed"))
    assert done.code == 0
    assert f"{CELLS} cells, {CELLS} done, 0 running, 0 failed, 0 to do" in done.out


FAILING = """
upstreams: [{name: fbank}]
cells:
  - {task: lid, manifest: corpus.csv, budget: 0.02}
  - {task: er, manifest: corpus.csv, layers: 3, budget: 0.02}
"""


def test_what_failed_is_noted_and_tried_again_only_when_asked(
    wavbench: Callable, words: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing.yaml").write_text(FAILING)
    own = words(experiment="failing")
    assert wavbench("status", *own).lines[0].endswith("2 cells, 0 done, 0 running, 0 failed, 2 to do")
    assert wavbench("sweep", *own).code == 1
    again = wavbench("sweep", *own)
    assert again.code == 1
    assert "failed before: er on corpus with fbank" in again.out
    assert "done already: lid on corpus with fbank" in again.out
    assert "failed: er on corpus with fbank: error: the upstream has no layer 3" in again.err
    assert "retry_failed=true" in again.err
    done = wavbench("status", *own)
    assert done.code == 1
    assert done.lines[0].endswith("2 cells, 1 done, 0 running, 1 failed, 0 to do")
    assert "the upstream has no layer 3" in done.out
    plan = wavbench("sweep", "--dry", *own)
    assert "cells as earlier sweeps left them: 1 done, 1 failed" in plan.out
    tried = wavbench("sweep", "--retry-failed", *own)
    assert "failed before" not in tried.out
    assert "failed: er on corpus with fbank" in tried.out
    # mended in the meantime
    (tmp_path / "failing.yaml").write_text(FAILING.replace("layers: 3", "layers: 0"))
    assert wavbench("sweep", *own).code == 0


def test_a_note_that_cannot_be_read_is_no_note(wavbench: Callable, words: Callable, tmp_path: Path) -> None:
    (tmp_path / "failing.yaml").write_text(FAILING.replace("layers: 3", "layers: 0"))
    own = words(experiment="failing")
    assert wavbench("sweep", *own).code == 0
    notes = sorted((tmp_path / "a/results/cells").glob("*.json"))
    assert len(notes) == 2
    for note, text in zip(notes, ("{", json.dumps({"state": "done"})), strict=True):
        note.write_text(text)
    assert wavbench("sweep", *own).out.count("done already:") == 2
    assert wavbench("status", *own).code == 0


def test_cells_are_known_by_their_records_where_no_sweep_noted_them(
    wavbench: Callable, words: Callable, tmp_path: Path
) -> None:
    (tmp_path / "failing.yaml").write_text(FAILING.replace("layers: 3", "layers: 0"))
    own = words(experiment="failing")
    assert wavbench("sweep", *own).code == 0
    shutil.rmtree(tmp_path / "a/results/cells")
    next((tmp_path / "a/results/runs").glob("*.json")).unlink()
    assert wavbench("status", *own).lines[0].endswith("1 done, 0 running, 0 failed, 1 to do")
    plan = wavbench("sweep", *own, "dry=true").out
    assert "1 done, 1 to do" in plan
    assert ("0 of 1" in plan, "1 of 1" in plan) == (True, True)  # what it will take is counted of what is left


def test_a_cell_whose_worker_was_killed_is_to_do(
    wavbench: Callable, words: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "a/results"
    worker = context.Process(target=work, args=(words(),))
    worker.start()
    running = ""
    until = time.monotonic() + 120
    while not running and time.monotonic() < until:
        out = wavbench("status", *words()).out
        running = out if "running for" in out else ""
    worker.kill()
    worker.join()
    assert running
    assert ", 0 running, " in wavbench("status", *words()).out
    assert list((results / "claims").glob("*.claim"))


ENGINES = {
    "joblib": [],
    "submitit": ["engine=cluster:local,timeout_min:4"],
    "ray": ["engine=num_cpus:1"],
}


@pytest.mark.parametrize("launcher", ENGINES)
def test_workers_of_an_engine_share_the_cells(
    wavbench: Callable, words: Callable, tmp_path: Path, launcher: str
) -> None:
    pytest.importorskip(launcher)
    (tmp_path / "few.yaml").write_text(EXPERIMENT.replace("[0, 1, 2]", "[0]"))
    done = wavbench("sweep", *words(experiment="few"), f"launcher={launcher}", "workers=2", *ENGINES[launcher])
    assert done.code == 0, done
    assert f"6 cells, 2 workers by {launcher}" in done.out
    assert "6 of 6 cells done, 0 failed" in done.out
    assert len(collect(tmp_path / "a/results").records) == 2 + 14 + 2 + 2
    assert not list((tmp_path / "a").rglob("*.claim"))


def test_an_engine_that_is_not_there_and_options_it_does_not_have_are_refused(
    refused: Callable, words: Callable
) -> None:
    assert "launcher=slrm is not known" in refused("sweep", *words(), "launcher=slrm", "workers=2")
    assert "launcher=local has no options" in refused("sweep", *words(), "workers=2", "engine=gpus:1")
    screen = refused("sweep", *words(), "launcher=submitit", "engine=cluster:local,nonsense:1")
    assert "launcher=submitit refuses engine=" in screen
    assert "nonsense" in screen
