"""Many cells: those that are done are skipped, those that fail do not stop the rest.

Workers are identical: each walks over all cells and takes those that nobody has, through the same claims as
extraction. A finished record is never computed again, so a sweep that was killed goes on where it was.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wavbench.benchmark.cell import Cell, Paths, plan_cell
from wavbench.benchmark.record import key_of
from wavbench.benchmark.run import missing, run_cell
from wavbench.upstream import claims
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.listener import Listener
from wavbench.upstream.manifest import Manifest, corpus_name, read_manifest

EXPIRY = 3_600.0  # seconds; a cell's claim is not touched while it trains, its owner's death is seen at once


@dataclass(frozen=True, kw_only=True)
class Job:
    """One cell with what it runs on, by name.

    Args:
        upstream: loads it.
        upstream_name: for people.
        manifest: its path.
        root: folder that its audio is relative to; None for the manifest's own.
        cell: task, layers, seed.
    """

    upstream: Callable[[], Upstream]
    upstream_name: str
    manifest: Path
    root: Path | None = None
    cell: Cell

    @property
    def name(self) -> str:
        head = f" {self.cell.head}" if self.cell.head else ""
        protocol = "" if self.cell.protocol == "clean" else f" (protocol {self.cell.protocol})"
        return f"{self.cell.task}{head} on {corpus_name(self.manifest)} with {self.upstream_name}{protocol}"


@dataclass(frozen=True)
class Outcome:
    """What came of one job: records, or why there are none."""

    job: Job
    records: tuple[Path, ...]
    error: str


def sweep(jobs: list[Job], paths: Paths, listener: Listener, wait: bool = True) -> list[Outcome]:
    """Run all jobs that are not done.

    Args:
        jobs: in the order wanted; put those of one upstream and corpus together.
        wait: whether to wait for cells that other workers hold, so that every outcome is known at the end.
    """
    outcomes: dict[int, Outcome] = {}
    upstreams: dict[str, Upstream] = {}
    manifests: dict[Path, Manifest] = {}
    while len(outcomes) < len(jobs):
        took = False
        for number, job in enumerate(jobs):
            if number in outcomes:
                continue
            try:
                if job.upstream_name not in upstreams:
                    upstreams.clear()  # one at a time: seventeen large models do not fit into memory together
                    upstreams[job.upstream_name] = job.upstream()
                if job.manifest not in manifests:
                    manifests[job.manifest] = read_manifest(job.manifest, job.root)
                plan = plan_cell(job.cell, upstreams[job.upstream_name], manifests[job.manifest], paths)
                keys = [plan.key(choice) for choice in plan.choices]
                if not missing(plan, paths):
                    listener.say(f"done already: {job.name}")
                    outcomes[number] = Outcome(job, tuple(run_cell(plan, paths, listener)), "")
                    continue
                claim = claims.take(paths.results / "claims", key_of({"cell": keys}), EXPIRY)
                if claim is None:
                    continue
                with claim:
                    took = True
                    begun = time.monotonic()
                    records = tuple(run_cell(plan, paths, listener))
                listener.say(f"finished: {job.name} ({time.monotonic() - begun:.0f} s)")
                outcomes[number] = Outcome(job, records, "")
            except (UserError, OSError) as error:
                outcomes[number] = Outcome(job, (), str(error))
                listener.say(f"failed: {job.name}\n{error}")
            except Exception as error:  # one broken cell must not take the others with it
                outcomes[number] = Outcome(job, (), f"{type(error).__name__}: {error}")
                listener.say(f"failed: {job.name}\n{traceback.format_exc()}")
        if len(outcomes) < len(jobs) and not took:
            if not wait:
                break
            time.sleep(1.0)
    return [outcomes[number] for number in sorted(outcomes)]
