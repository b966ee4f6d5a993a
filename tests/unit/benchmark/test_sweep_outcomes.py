"""What a sweep makes of failures, of records that others made, and of cells that others are at: plans are made up."""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wavbench.benchmark import experiment, states
from wavbench.benchmark import sweep as module
from wavbench.benchmark.cell import Cell, Job, Paths, Plan, told_apart
from wavbench.benchmark.record import exists, key_of
from wavbench.benchmark.states import DONE, FAILED, RUNNING, TO_DO, failed_before, read_state, standing, write_state
from wavbench.benchmark.sweep import Outcome, sweep
from wavbench.downstream.language.with_lm import Model
from wavbench.upstream.errors import UserError
from wavbench.upstream.listener import Listener


def job(upstream: str = "fbank", manifest: Path = Path("speech.csv"), **cell: object) -> Job:
    return Job(
        upstream=lambda: None, upstream_name=upstream, manifest=manifest, cell=Cell(**{"task": "er", "seed": 0} | cell)
    )


def key(one: Job) -> str:
    return key_of({"upstream": one.upstream_name, "task": one.cell.task, "seed": one.cell.seed})


def record(results: Path, one: Job) -> Path:
    path = results / f"runs/{key(one)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


class Planned(Plan):
    """A plan of nothing but its job."""

    @classmethod
    def of(cls, one: Job) -> "Planned":
        plan = object.__new__(cls)
        vars(plan).update(job=one, choices=("mix",))
        return plan

    def key(self, choice: str) -> str:
        return key(self.job)


class Bench:
    """Sweeps of which each cell calls `body`; counts what is planned, loaded and run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = Paths(folder, folder)
        self.planned, self.loaded, self.ran, self.said = [], [], [], []
        self.body: Callable[[Job], None] = lambda one: None
        bench = self

        def plan(planner: module.Planner, one: Job) -> Planned:
            bench.planned.append(one)
            if planner.upstreams.get("last") != one.upstream_name:
                bench.loaded.append(one.upstream_name)
                planner.upstreams["last"] = one.upstream_name
            return Planned.of(one)

        def run_cell(plan: Planned, paths: Paths, listener: Listener) -> list[Path]:
            if not exists(paths.results, key(plan.job)):
                bench.ran.append(plan.job)
                bench.body(plan.job)
            return [record(paths.results, plan.job)]

        monkeypatch.setattr(module.Planner, "plan", plan)
        monkeypatch.setattr(module, "run_cell", run_cell)
        monkeypatch.setattr(
            module, "missing", lambda plan, paths: [] if exists(paths.results, key(plan.job)) else ["mix"]
        )
        monkeypatch.setattr(module, "POLL_SECONDS", 0.01)

    def sweep(self, *jobs: Job, **how: object) -> list[Outcome]:
        return sweep(list(jobs), self.paths, Listener(say=self.said.append), **how)

    def begun(self, *jobs: Job) -> tuple[threading.Thread, threading.Event]:
        """A sweep in a thread that is at its first cell, and what lets it go on."""
        at, on = threading.Event(), threading.Event()
        body = self.body

        def held(one: Job) -> None:
            at.set()
            assert on.wait(60)
            body(one)

        self.body = held
        thread = threading.Thread(target=self.sweep, args=jobs)
        thread.start()
        assert at.wait(60)
        return thread, on

    @property
    def claim(self) -> Path:
        (path,) = (self.paths.results / "claims").glob("*.claim")
        return path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def fail(one: Job) -> None:
    raise UserError("no good")


def test_a_cell_that_is_at_work_for_longer_than_the_expiry_stays_its_workers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXPIRY", 1.0)
    first, on = bench.begun(job())
    assert json.loads(bench.claim.read_text())["expires_after_s"] == 1
    second = threading.Thread(target=bench.sweep, args=(job(),))
    second.start()
    time.sleep(1.5)
    assert standing(bench.paths.results, job())[0] == RUNNING
    on.set()
    for thread in (first, second):
        thread.join(60)
    assert len(bench.ran) == 1


def test_records_count_more_than_a_failure_that_was_noted(bench: Bench) -> None:
    results, bench.body = bench.paths.results, fail
    (failed,) = bench.sweep(job())
    assert "no good" in failed.error
    assert failed_before(results, job(), None).records == (key(job()),)
    path = record(results, job())  # as by `wavbench run`
    assert standing(results, job())[0] == DONE
    assert failed_before(results, job(), None) is None
    (done,) = bench.sweep(job())
    assert (done.error, done.records) == ("", (path,))
    assert read_state(results, job()).state == DONE
    path.unlink()
    assert standing(results, job())[0] == TO_DO


def test_what_was_done_on_another_manifest_is_to_do(bench: Bench, tmp_path: Path) -> None:
    results, one = bench.paths.results, job(manifest=tmp_path / "speech.csv")
    one.manifest.write_text("id,audio,split\n")
    record(results, one)
    bench.sweep(one)
    assert standing(results, one)[0] == DONE
    one.manifest.write_text("id,audio,split\na,a.wav,test\n")
    assert standing(results, one) == (TO_DO, None)
    one.manifest.unlink()  # where the corpus is not, its records still are
    assert standing(results, one)[0] == DONE


@pytest.mark.parametrize("name", ["trials.csv", "lm.arpa", "own.safetensors"])
def test_what_was_done_with_other_files_is_to_do(bench: Bench, tmp_path: Path, name: str) -> None:
    """Same names, other content: the sweep would run the cell, and says so."""
    for each in ("trials.csv", "lm.arpa", "own.safetensors"):
        (tmp_path / each).write_text("as it was")
    one = job(trials=tmp_path / "trials.csv", lm=Model(ngrams=str(tmp_path / "lm.arpa")))
    one = dataclasses.replace(one, weights=tmp_path / "own.safetensors")
    results = bench.paths.results
    for state, error in ((DONE, ""), (FAILED, "no good")):
        write_state(results, one, state, error=error, records=(record(results, one).stem,) if state == DONE else ())
        assert standing(results, one)[0] == state
        (tmp_path / name).write_text(f"another before {state}")
        assert standing(results, one) == (TO_DO, None)
    (tmp_path / name).unlink()
    assert standing(results, one)[0] == FAILED  # nobody can say


def test_shipped_weights_are_the_same_in_every_installation(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notes lie in a folder that machines share; weights lie in each one's own installation."""
    monkeypatch.setattr(states, "WEIGHTS", tmp_path)
    shipped = tmp_path / "fbank.safetensors"
    shipped.write_text("weights")
    one = dataclasses.replace(job(), weights=shipped)
    write_state(bench.paths.results, one, FAILED, error="no good")
    os.utime(shipped, (1, 1))
    assert standing(bench.paths.results, one)[0] == FAILED
    shipped.write_text("another")  # of one size
    assert standing(bench.paths.results, one) == (TO_DO, None)


def test_looking_for_records_fails_for_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, results = job(manifest=tmp_path / "speech.csv"), bench.paths.results
    one.manifest.write_text("id,audio,split\n")
    record(results, one)

    def unwritable(*_: object, **__: object) -> None:
        raise PermissionError("a colleague's folder")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_state", unwritable)
        module.look_up([one], bench.paths, lambda done, total: None)
    assert standing(results, one)[0] == TO_DO
    module.look_up([one], bench.paths, lambda done, total: None)
    assert standing(results, one)[0] == DONE


def test_a_failure_without_words_is_one(bench: Bench, capsys: pytest.CaptureFixture) -> None:
    def quiet(one: Job) -> None:
        raise TimeoutError

    bench.body = quiet
    (failed,) = bench.sweep(job())
    assert (failed.error, failed.records) == ("TimeoutError", ())
    (again,) = bench.sweep(job())
    assert (again.error, again.records) == ("TimeoutError", ())
    assert experiment._ended(2, 0, [("er", ""), ("lid", "\n")], bench.paths.results) == 1
    assert capsys.readouterr().err.count("no reason was noted") == 1


def test_a_failing_cell_is_run_by_one_of_two_workers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.body = fail
    first, on = bench.begun(job())
    looked = threading.Event()

    def late(folder: Path, name: str, expiry: float):
        """A worker that has planned the cell, and asks for it when the other one is through."""
        on.set()
        first.join(60)
        looked.set()
        return take(folder, name, expiry)

    take = module.claims.take
    monkeypatch.setattr(module.claims, "take", late)
    (failed,) = bench.sweep(job())
    assert looked.is_set()
    assert "no good" in failed.error
    assert len(bench.ran) == 1
    assert not list(bench.paths.results.rglob("*.claim"))


def test_who_waits_loads_nothing(bench: Bench) -> None:
    jobs = [job(upstream, seed=seed) for upstream in ("a", "b") for seed in (0, 1)]
    first, on = bench.begun(jobs[0])
    bench.loaded.clear()
    bench.planned.clear()
    claim = bench.claim
    claim.rename(claim.with_suffix(".aside"))
    for one in jobs:  # another worker has all of them
        module.claims.take(claim.parent, key_of({"cell": [key(one)]}))
    second = threading.Thread(target=bench.sweep, args=jobs)
    second.start()
    until = time.monotonic() + 30
    while len(bench.planned) < 4:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.3)  # it looks thirty times
    for one in jobs[1:]:
        record(bench.paths.results, one)
    on.set()
    for thread in (first, second):
        thread.join(60)
        assert not thread.is_alive()
    assert bench.loaded == ["a", "b"]
    assert len(bench.planned) == 4


def test_a_failure_that_cannot_be_noted_does_not_stop_the_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **values: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_state", full)
    outcomes = bench.sweep(job(seed=0), job(seed=1))
    assert ["No space left" in outcome.error for outcome in outcomes] == [True, True]


def test_cells_that_would_share_a_name_say_in_what_they_differ() -> None:
    alone = told_apart([job(), job(task="lid", seed=1)])
    assert [one.name for one in alone] == ["er on speech with fbank", "lid on speech with fbank"]
    jobs = [job(seed=seed, layers=layers) for seed in (0, 1) for layers in ("mix", (1, 2))]
    assert [one.name for one in told_apart(jobs)] == [
        "er on speech with fbank, seed 0, layers mix",
        "er on speech with fbank, seed 0, layers 1+2",
        "er on speech with fbank, seed 1, layers mix",
        "er on speech with fbank, seed 1, layers 1+2",
    ]
    two = told_apart([job(budget_share=0.1, lm=Model(ngrams="a.arpa")), job(), job(manifest=Path("b/speech.csv"))])
    assert two[0].name == "er on speech with fbank, budget 0.1, lm a.arpa, speech.csv"
    assert len({one.name for one in two}) == 3


def test_the_note_of_a_cell_is_found_however_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lm = Model(ngrams="lm.arpa")
    write_state(tmp_path, job(lm=lm, trials=Path("trials.csv")), FAILED, error="no good")
    absolute = Model(ngrams=str(tmp_path / "lm.arpa"))
    same = job(
        manifest=tmp_path / "speech.csv", lm=absolute, trials=tmp_path / "trials.csv", keep_frames=True,
        head_device="cuda:0",
    )  # fmt: skip
    for one in (same, dataclasses.replace(same, root=tmp_path, apart=", seed 0")):
        assert read_state(tmp_path, one).error == "no good"
    for other in ({"seed": 1}, {"layers": "all"}, {"layers": (0,)}, {"budget_share": 0.5}, {"head": "linear"},
                  {"protocol": "superb"}, {"units": 5}, {"features": "streamed"}, {"dtype": "int8"}, {"lm": None},
                  {"lm": Model()}, {"trials": None}):  # fmt: skip
        assert read_state(tmp_path, job(**{"lm": lm, "trials": Path("trials.csv")} | other)) is None


@pytest.mark.parametrize(
    "change",
    [{"records": ["x/../y"]}, {"records": ["\0"]}, {"records": ["a" * 300]}, {"claim": "a" * 5_000}, {"at": 10**400},
     {"at": "now"}, {"at": float("nan")}, {"error": "[" * 10}, {"records": "ab"}, {"state": []}, {"cell": None},
     {"read": "x"}, {"read": {"lm": 1}}],
)  # fmt: skip
def test_a_note_of_odd_values_is_none(tmp_path: Path, change: dict) -> None:
    write_state(tmp_path, job(), FAILED, error="no good", records=("ab",), claim="ab")
    (path,) = (tmp_path / states.FOLDER).iterdir()
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | change))
    assert standing(tmp_path, job())[0] == (FAILED if "error" in change else TO_DO)
    path.write_text(json.dumps(values)[:-1] + ', "more": ' + "[" * 100_000)
    assert standing(tmp_path, job()) == (TO_DO, None)
    os.unlink(path)
    assert failed_before(tmp_path, job(), None) is None
