"""The rows that figures show."""

from collections.abc import Callable

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
