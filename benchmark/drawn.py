"""Figures drawn by several processes: matplotlib uses one core, and a large report has dozens of panels."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

Job = Callable[[], dict[str, Path]]

_jobs: list[Job] = []  # what a forked worker finds in its memory, so that nothing has to be sent to it


def drawn_by(jobs: Sequence[Job], workers: int) -> dict[str, Path]:
    """Run functions that draw, and put together what they return.

    Args:
        jobs: the long ones first.
        workers: processes; 1 draws here, and so does a system without fork.
    """
    if workers < 2 or len(jobs) < 2 or "fork" not in multiprocessing.get_all_start_methods():
        found = [job() for job in jobs]
    else:
        _jobs[:] = jobs
        context = multiprocessing.get_context("fork")
        try:
            with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
                found = list(pool.map(_run, range(len(jobs))))
        finally:
            _jobs.clear()
    return {name: path for own in found for name, path in own.items()}


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(place: int) -> dict[str, Path]:
    return _jobs[place]()
