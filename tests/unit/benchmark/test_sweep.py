"""Many cells, several workers: each cell once, whatever breaks or dies on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from wavbench.benchmark import sweep as module
from wavbench.benchmark.cell import Cell, Job, Paths, plan_cell
from wavbench.benchmark.collect import collect
from wavbench.benchmark.sweep import sweep
from wavbench.upstream import claims
from wavbench.upstream.catalog import load
from wavbench.upstream.listener import Listener
from wavbench.upstream.manifest import read_manifest

COUNT, SHARE = 36, 0.003
TASKS = ("er", "lid")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, build_corpus: Callable) -> Path:
    return build_corpus(
        tmp_path_factory.mktemp("corpus"),
        COUNT,
        shortest=0.3,
        longest=0.4,
        speaker=[f"s{k // 3}" for k in range(COUNT)],
        split=["train"] * 18 + ["dev"] * 9 + ["test"] * 9,
        emotion=[("joy", "fear", "calm")[k % 3] for k in range(COUNT)],
        language=[("en", "pl")[k % 2] for k in range(COUNT)],
    )


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "results", tmp_path / "stores")


def job(corpus: Path, task: str, upstream: str = "fbank", **more) -> Job:
    return Job(
        upstream=lambda: load(upstream, **more),
        upstream_name=upstream,
        manifest=corpus,
        cell=Cell(task=task, budget_share=SHARE),
    )


class Said:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.listener = Listener(say=self.lines.append)

    def count(self, beginning: str) -> int:
        return sum(line.startswith(beginning) for line in self.lines)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_done_cells_are_skipped_and_their_features_are_not_needed(corpus: Path, paths: Paths) -> None:
    jobs, said = [job(corpus, task) for task in TASKS], Said()
    first = sweep(jobs, paths, said.listener)
    assert [outcome.error for outcome in first] == ["", ""]
    assert said.count("finished:") == 2
    before = contents(paths.results)
    shutil.rmtree(paths.stores)
    said = Said()
    again = sweep(jobs, paths, said.listener)
    assert said.count("done already:") == 2
    assert [outcome.records for outcome in again] == [outcome.records for outcome in first]
    assert contents(paths.results) == before
    assert not list(paths.stores.rglob("*.h5"))


def test_a_record_that_is_missing_is_the_only_one_computed(corpus: Path, paths: Paths) -> None:
    jobs = [job(corpus, task) for task in TASKS]
    outcomes = sweep(jobs, paths, Listener())
    outcomes[1].records[0].unlink()
    kept = outcomes[0].records[0].read_bytes()
    said = Said()
    sweep(jobs, paths, said.listener)
    assert (said.count("done already:"), said.count("finished:")) == (1, 1)
    assert outcomes[0].records[0].read_bytes() == kept
    assert outcomes[1].records[0].is_file()


def test_a_cell_that_fails_does_not_stop_the_others(
    corpus: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Job(
        upstream=lambda: 1 / 0, upstream_name="broken", manifest=corpus, cell=Cell(task="er", budget_share=SHARE)
    )
    jobs = [broken, job(corpus, "er", "fbnk"), job(corpus, "pr"), job(corpus, "lid")]
    said = Said()
    outcomes = sweep(jobs, paths, said.listener)
    assert [bool(outcome.error) for outcome in outcomes] == [True, True, True, False]
    assert outcomes[0].error.startswith("ZeroDivisionError")
    assert "unknown upstream 'fbnk'" in outcomes[1].error
    assert "no values in column 'phones'" in outcomes[2].error
    assert (said.count("failed:"), said.count("finished:")) == (3, 1)
    assert len(collect(paths.results).records) == 1
    assert not list(paths.results.rglob("*.claim"))  # nothing stays claimed


def test_an_interruption_leaves_no_claim_and_goes_on_later(
    corpus: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, run = [job(corpus, task) for task in TASKS], module.run_cell

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(jobs, paths, Listener())
    assert not list(paths.results.rglob("*.claim"))
    monkeypatch.setattr(module, "run_cell", run)
    assert [outcome.error for outcome in sweep(jobs, paths, Listener())] == ["", ""]


def test_two_workers_compute_each_cell_once(corpus: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job(corpus, task, upstream) for upstream in ("fbank", "fbank_raw") for task in TASKS]
    said, results, computed, run = [Said(), Said()], {}, [], module.run_cell

    def counted(plan, *arguments):
        if module.missing(plan, paths):
            computed.append(plan.key("mix"))
        return run(plan, *arguments)

    monkeypatch.setattr(module, "run_cell", counted)
    both = threading.Barrier(2)

    def work(rank: int) -> None:
        both.wait()
        results[rank] = sweep(jobs[:: 1 - 2 * rank], paths, said[rank].listener)

    workers = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(outcome.error == "" for outcomes in results.values() for outcome in outcomes)
    assert [len(outcomes) for outcomes in results.values()] == [4, 4]
    assert sorted(computed) == sorted(set(computed))
    assert len(computed) == 4
    assert said[0].count("finished:") + said[1].count("finished:") == 4
    assert {o.records for o in results[0]} == {o.records for o in results[1]}


def test_a_helper_does_not_wait_for_cells_of_others(corpus: Path, paths: Paths) -> None:
    plan = plan_cell(Cell(task="er", budget_share=SHARE), load("fbank"), read_manifest(corpus), paths)
    with claims.take(paths.results / "claims", module.key_of({"cell": [plan.key("mix")]})):
        outcomes = sweep([job(corpus, task) for task in TASKS], paths, Listener(), wait=False)
    assert [outcome.job.cell.task for outcome in outcomes] == ["lid"]


def test_the_claim_of_a_killed_worker_is_taken(corpus: Path, paths: Paths) -> None:
    plan = plan_cell(Cell(task="er", budget_share=SHARE), load("fbank"), read_manifest(corpus), paths)
    folder, key = paths.results / "claims", module.key_of({"cell": [plan.key("mix")]})
    code = (
        "import sys, time; from pathlib import Path; from wavbench.upstream import claims\n"
        f"claims.take(Path({str(folder)!r}), {key!r}); print('taken', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "taken\n"
    assert json.loads((folder / f"{key}.claim").read_text())["pid"] == worker.pid
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    (outcome,) = sweep([job(corpus, "er")], paths, Listener())
    assert outcome.error == ""
    assert not list(folder.glob("*.claim"))


def test_upstreams_and_manifests_are_loaded_once(corpus: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, reads, read = [], [], module.read_manifest

    def upstream():
        loads.append(1)
        return load("fbank")

    monkeypatch.setattr(module, "read_manifest", lambda *given: reads.append(given) or read(*given))
    jobs = [
        Job(upstream=upstream, upstream_name="fbank", manifest=corpus, cell=Cell(task=task, budget_share=SHARE))
        for task in TASKS
    ]
    sweep(jobs, paths, Listener())
    assert (len(loads), len(reads)) == (1, 1)
