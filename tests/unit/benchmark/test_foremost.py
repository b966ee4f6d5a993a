"""The rows that figures show, and the processes that draw them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wavbench.benchmark.drawn import cores, drawn_by
from wavbench.benchmark.foremost import MOST, foremost, records_of
from wavbench.benchmark.leaderboard import boards_of


def many(make_record: Callable, count: int) -> list:
    records = [make_record(upstream=f"u{k:02d}", value=90.0 - k) for k in range(count - 1)]
    records += [make_record(upstream=f"u{k:02d}", value=90.0 - k, layers=1) for k in range(count - 1)]
    return [*records, make_record(upstream="fbank", value=1.0)]


def test_figures_show_the_best_rows_and_filterbanks(make_record: Callable) -> None:
    records = many(make_record, MOST + 5)
    (few,) = foremost(boards_of(records))
    names = [row.upstream for row in few.rows]
    assert names == [f"u{k:02d}" for k in range(MOST)] + ["fbank"]
    assert set(few.layers["upstream"]) == set(names) - {"fbank"}
    assert few.rows[-1].rank == MOST + 5
    kept = records_of([few], records)
    assert {record.upstream for record in kept} == set(names)
    assert len(kept) == 2 * MOST + 1


def test_short_boards_stay_as_they_are(make_record: Callable) -> None:
    records = many(make_record, MOST)
    boards = boards_of(records)
    assert foremost(boards) == boards
    assert records_of(boards, records) == records
    alone = [make_record(layers=1)]
    assert records_of(foremost(boards_of(alone)), alone) == alone


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_drawn_comes_together_whoever_draws_it(tmp_path: Path, workers: int) -> None:
    def job(name: str) -> Callable[[], dict[str, Path]]:
        def run() -> dict[str, Path]:
            path = tmp_path / f"{name}.svg"
            path.write_text(str(os.getpid()))
            return {name: path}

        return run

    found = drawn_by([job(name) for name in "abc"], workers)
    assert list(found) == ["a", "b", "c"]
    drawers = {path.read_text() for path in found.values()}
    assert (str(os.getpid()) in drawers) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_goes_wrong_in_a_figure_goes_wrong_in_the_report(workers: int) -> None:
    def broken() -> dict[str, Path]:
        raise ValueError("no such colour")

    with pytest.raises(ValueError, match="no such colour"):
        drawn_by([broken, dict], workers)


def test_there_is_a_core() -> None:
    assert cores() >= 1
