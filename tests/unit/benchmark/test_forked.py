"""Work shared among processes."""

import os

import pytest

from wavbench.benchmark.forked import mapped, results_of, workers_for
from wavbench.upstream.machine import cores


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


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_short_jobs_are_shared_in_parts_and_come_back_in_order(workers: int, count: int) -> None:
    assert mapped(lambda item: item**2, range(count), workers) == [item**2 for item in range(count)]


def test_there_is_a_core_and_few_records_are_worth_no_second_one() -> None:
    assert cores() >= 1
    assert workers_for(10) == 1
    assert workers_for(1_000) == cores()
