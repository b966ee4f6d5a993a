"""Many cells: those that are done are skipped, those that fail do not stop the rest.

Workers are identical: each walks over all cells and takes those that nobody has, through the same claims as
extraction. A finished record is never computed again, so a sweep that was killed goes on where it was.
"""

import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from wavbench.benchmark.cell import Job, Paths, Plan, plan_cell
from wavbench.benchmark.record import key_of
from wavbench.benchmark.run import missing, run_cell
from wavbench.benchmark.states import DONE, FAILED, RUNNING, failed_before, standing, write_state
from wavbench.upstream import claims
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.listener import Listener
from wavbench.upstream.manifest import Manifest, read_manifest

EXPIRY = 3_600.0  # seconds; a cell's claim is not touched while it trains, its owner's death is seen at once


@dataclass(frozen=True)
class Outcome:
    """What came of one job: records, or why there are none."""

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
    planner = Planner(paths)
    while len(outcomes) < len(jobs):
        took = False
        for number, job in enumerate(jobs):
            if number in outcomes:
                continue
            if failed := failed_before(paths.results, job, retry_since):
                outcomes[number] = Outcome(job, (), failed.error)
                listener.say(f"failed before: {job.name}")
                continue
            try:
                plan = planner.plan(job)
                keys = tuple(plan.key(choice) for choice in plan.choices)
                if not missing(plan, paths):
                    listener.say(f"done already: {job.name}")
                    outcomes[number] = Outcome(job, tuple(run_cell(plan, paths, listener)), "")
                    if standing(paths.results, job)[0] != DONE:
                        write_state(paths.results, job, DONE, records=keys)
                    continue
                name = key_of({"cell": list(keys)})
                claim = claims.take(paths.results / "claims", name, EXPIRY)
                if claim is None:
                    continue
                with claim:
                    took = True
                    write_state(paths.results, job, RUNNING, records=keys, claim=name)
                    begun = time.monotonic()
                    records = tuple(run_cell(plan, paths, listener))
                    write_state(paths.results, job, DONE, records=keys)
                listener.say(f"finished: {job.name} ({time.monotonic() - begun:.0f} s)")
                outcomes[number] = Outcome(job, records, "")
            except (UserError, OSError) as error:
                outcomes[number] = Outcome(job, (), str(error))
                write_state(paths.results, job, FAILED, error=str(error))
                listener.say(f"failed: {job.name}\n{error}")
            except Exception as error:  # one broken cell must not take the others with it
                outcomes[number] = Outcome(job, (), f"{type(error).__name__}: {error}")
                write_state(paths.results, job, FAILED, error=outcomes[number].error, trace=traceback.format_exc())
                listener.say(f"failed: {job.name}\n{traceback.format_exc()}")
        if len(outcomes) < len(jobs) and not took:
            if not wait:
                break
            time.sleep(1.0)
    return [outcomes[number] for number in sorted(outcomes)]
