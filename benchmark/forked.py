"""Work shared among processes that are forked and forgotten: figures and tests of large reports use one core each."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from wavbench.upstream.machine import cores

MANY = 200  # records from which on several processes work
PARTS = 4  # that each worker is given of many short jobs, as some take longer than others

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


def mapped(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> list[Any]:
    """What a function returns for many items, in their order.

    Args:
        function: quick, so that several items make one job.
        items: that it is called with.
        workers: processes, as for `results_of`.
    """
    size = -(-len(items) // (PARTS * workers)) or 1
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [found for own in results_of([partial(_each, function, part) for part in parts], workers) for found in own]


def _each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]


def workers_for(records: int) -> int:
    """Processes that a report of so many records is worth."""
    return cores() if records >= MANY else 1


def _run(place: int) -> Any:
    return _jobs[place]()
