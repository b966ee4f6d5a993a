"""Work shared among processes."""

import os

import pytest

from wavbench.benchmark.forked import cores, results_of


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_jobs_whoever_does_them(workers: int) -> None:
    found = results_of([lambda name=name: (name, os.getpid()) for name in "abcd"], workers)
    assert [name for name, _ in found] == list("abcd")
    assert (os.getpid() in {worker for _, worker in found}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_goes_wrong_in_a_job_goes_wrong_here(workers: int) -> None:
    def broken() -> None:
        raise ValueError("no such colour")

    with pytest.raises(ValueError, match="no such colour"):
        results_of([broken, dict], workers)
    assert results_of([lambda: 1, lambda: 2], workers) == [1, 2]  # nothing is left of it


def test_there_is_a_core() -> None:
    assert cores() >= 1
