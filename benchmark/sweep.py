"""Many cells: those that are done are skipped, those that fail do not stop the rest.

Workers are identical: each walks over all cells and takes those that nobody has, through the same claims as
extraction. A finished record is never computed again, so a sweep that was killed goes on where it was.
"""

import contextlib
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wavbench.benchmark.cell import Job, Paths, Plan, plan_cell
from wavbench.benchmark.record import exists, key_of
from wavbench.benchmark.run import missing, run_cell
from wavbench.benchmark.states import DONE, FAILED, RUNNING, TO_DO, failed_before, standing, write_state
from wavbench.upstream import claims
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.listener import Listener
from wavbench.upstream.manifest import Manifest, read_manifest

EXPIRY = 300.0  # seconds without a sign of life, after which another worker takes a cell
POLL_SECONDS = 1.0  # between looks at what other workers do


@dataclass(frozen=True)
class Outcome:
    """What came of one job: records, or why there are none; a job without records has failed."""

    job: Job
    records: tuple[Path, ...]
    error: str


class Planner:
    """Jobs to plans: one upstream is loaded at a time, manifests are kept.

    Args:
        paths: of records and stores.
    """

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.upstreams: dict[str, Upstream] = {}
        self.manifests: dict[Path, Manifest] = {}

    def plan(self, job: Job) -> Plan:
        """What a job's cell is, and all that its result depends on.

        Raises:
            UserError: its upstream, manifest or labels are not what it needs.
        """
        if job.upstream_name not in self.upstreams:
            self.upstreams.clear()  # seventeen large models do not fit into memory together
            self.upstreams[job.upstream_name] = job.upstream()
        if job.manifest not in self.manifests:
            self.manifests[job.manifest] = read_manifest(job.manifest, job.root)
        return plan_cell(job.cell, self.upstreams[job.upstream_name], self.manifests[job.manifest], self.paths)


def sweep(
    jobs: list[Job], paths: Paths, listener: Listener, wait: bool = True, retry_since: float | None = None
) -> list[Outcome]:
    """Run all jobs that are not done and did not fail before.

    Args:
        jobs: in the order wanted; put those of one upstream and corpus together.
        paths: of records and stores.
        listener: told what goes on.
        wait: whether to wait for cells that other workers hold, so that every outcome is known at the end.
        retry_since: try cells again that failed before this time (seconds since 1970); None leaves them failed.
    """
    outcomes: dict[int, Outcome] = {}
    workers = [_Worker(job, paths, listener, retry_since) for job in jobs]
    planner, counted = Planner(paths), 0.0
    while len(outcomes) < len(jobs):
        known = len(outcomes)
        for number, worker in enumerate(workers):
            if number not in outcomes and (outcome := worker.outcome(planner)):
                outcomes[number] = outcome
                last = len(outcomes) == len(jobs)
                if wait and (last or time.monotonic() - counted > POLL_SECONDS):  # one worker speaks for all
                    ended = [standing(paths.results, other)[0] in (DONE, FAILED) for other in jobs]
                    listener.progress("cells", max(len(outcomes), sum(ended)), len(jobs))
                    counted = time.monotonic()
        if len(outcomes) == known:
            if not wait:
                break
            time.sleep(POLL_SECONDS)
    return [outcomes[number] for number in sorted(outcomes)]


def look_up(jobs: Sequence[Job], paths: Paths, progress: Callable[[int, int], None]) -> None:
    """Note cells that no sweep has noted here and whose records are there, as in a fresh clone.

    Args:
        jobs: whose upstreams are quickly loaded.
        paths: of records and stores.
        progress: called with jobs looked at and in all.
    """
    planner = Planner(paths)
    for number, job in enumerate(jobs):
        if standing(paths.results, job)[0] == TO_DO and job.manifest.is_file():
            with contextlib.suppress(Exception):  # what is wrong with it is said when it is run
                plan = planner.plan(job)
                if not missing(plan, paths):
                    keys = tuple(plan.key(choice) for choice in plan.choices)
                    write_state(paths.results, job, DONE, records=keys)
        progress(number + 1, len(jobs))


class _Worker:
    """This process at one job, from the first look at it until its outcome is known."""

    def __init__(self, job: Job, paths: Paths, listener: Listener, retry_since: float | None) -> None:
        self.job, self.paths, self.listener, self.retry_since = job, paths, listener, retry_since
        self.keys: tuple[str, ...] = ()  # of its records, once it was planned

    def outcome(self, planner: Planner) -> Outcome | None:
        """What came of the job, by this worker or another; None while another one has it."""
        try:
            return self._failed_before() or self._recorded() or self._run(planner)
        except Exception as error:  # one broken cell must not take the others with it
            return self._failed(error)

    def _failed_before(self) -> Outcome | None:
        if not (note := failed_before(self.paths.results, self.job, self.retry_since)):
            return None
        self.listener.say(f"failed before: {self.job.name}")
        return Outcome(self.job, (), note.error or "no reason was noted")

    def _recorded(self) -> Outcome | None:
        """What another worker recorded since the job was planned: nothing has to be loaded to see it."""
        results = self.paths.results
        if not self.keys or self.job.cell.save is not None or not all(exists(results, key) for key in self.keys):
            return None
        return self._done_already(tuple(results / "runs" / f"{key}.json" for key in self.keys))

    def _run(self, planner: Planner) -> Outcome | None:
        """Plan and run it under its claim.

        A job that another worker has is planned once: its upstream may be large, and is not to be loaded to wait.
        """
        plan = None if self.keys else self._planned(planner)
        if plan and not missing(plan, self.paths):
            return self._done_already(tuple(run_cell(plan, self.paths, self.listener)))
        name = key_of({"cell": list(self.keys)})
        claim = claims.take(self.paths.results / "claims", name, EXPIRY)
        if claim is None:
            return None
        with claims.kept(claim, EXPIRY):
            # it may have come to an end elsewhere since the last look
            if ended := self._failed_before() or self._recorded():
                return ended
            try:
                plan = plan or self._planned(planner)
                write_state(self.paths.results, self.job, RUNNING, records=self.keys, claim=name)
                begun = time.monotonic()
                records = tuple(run_cell(plan, self.paths, self.listener))
                write_state(self.paths.results, self.job, DONE, records=self.keys)
            except Exception as error:
                return self._failed(error)  # noted before the claim is given back: nobody runs it again
        self.listener.say(f"finished: {self.job.name} ({time.monotonic() - begun:.0f} s)")
        return Outcome(self.job, records, "")

    def _planned(self, planner: Planner) -> Plan:
        plan = planner.plan(self.job)
        self.keys = tuple(plan.key(choice) for choice in plan.choices)
        return plan

    def _done_already(self, records: tuple[Path, ...]) -> Outcome:
        self.listener.say(f"done already: {self.job.name}")
        found, note = standing(self.paths.results, self.job)
        if found != DONE or note.state != DONE:
            write_state(self.paths.results, self.job, DONE, records=self.keys)
        return Outcome(self.job, records, "")

    def _failed(self, error: Exception) -> Outcome:
        told = isinstance(error, (UserError, OSError))  # in words that are for people
        text = str(error) or type(error).__name__ if told else f"{type(error).__name__}: {error}"
        trace = "" if told else traceback.format_exc()
        with contextlib.suppress(OSError):  # as on a full disk; the outcome is known without the note
            write_state(self.paths.results, self.job, FAILED, records=self.keys, error=text, trace=trace)
        self.listener.say(f"failed: {self.job.name}\n{trace or text}")
        return Outcome(self.job, (), text)
