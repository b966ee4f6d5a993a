"""Work shared among processes that are forked and forgotten: figures and tests of large reports use one core each."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

_jobs: list[Callable[[], Any]] = []  # what a forked worker finds in its memory, so that nothing has to be sent to it


def results_of(jobs: Sequence[Callable[[], Any]], workers: int) -> list[Any]:
    """What functions return, in their order.

    Args:
        jobs: the long ones first.
        workers: processes; with 1 this one works, and so it does on a system without fork.
    """
    if workers < 2 or len(jobs) < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return [job() for job in jobs]
    _jobs[:] = jobs
    try:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            return list(pool.map(_run, range(len(jobs))))
    finally:
        _jobs.clear()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(place: int) -> Any:
    return _jobs[place]()
