"""What a score costs, and whether heads agree."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark.cost_plots import head_robustness, pareto_front, score_by_cost
from wavbench.benchmark.foremost import MOST
from wavbench.benchmark.leaderboard import boards_of

BOTH = {"a": 50.0, "b": 40.0}


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_no_other_beats_in_both(higher: bool) -> None:
    for points in itertools.product(itertools.product((1.0, 2.0, 3.0), (1.0, 2.0)), repeat=4):
        costs, values = [cost for cost, _ in points], [value for _, value in points]
        sign = 1 if higher else -1
        beaten = [
            any(
                (c <= cost and sign * v >= sign * value and (c, v) != (cost, value))
                or ((c, v) == (cost, value) and other < place)
                for other, (c, v) in enumerate(points)
            )
            for place, (cost, value) in enumerate(points)
        ]
        front = pareto_front(costs, values, higher)
        assert sorted(front) == [place for place, lost in enumerate(beaten) if not lost]
        assert [costs[k] for k in front] == sorted(costs[k] for k in front)


def timed(make_record: Callable, upstream: str, value: float, seconds: float, **changes):
    cost = {"extract_s": seconds, "fit_s": 1.0, "store_mb": 4.0, "upstream_parameters": 2e6}
    return make_record(upstream=upstream, value=value, cost=cost, **changes)


def test_costs_are_drawn_with_their_front_a_figure_per_task(tmp_path: Path, make_record: Callable) -> None:
    records = [
        timed(make_record, name, value, seconds) for name, value, seconds in (("a", 50.0, 9.0), ("b", 40.0, 99.0))
    ]
    records += [timed(make_record, "a", 50.0, 0.0, task="lid")]  # alone, so there is nothing to compare
    figures = score_by_cost(boards_of(records), tmp_path)
    assert list(figures) == ["cost_er"]
    table = pd.read_csv(tmp_path / "cost_er.csv")
    assert table[["upstream", "seconds", "on_front"]].to_numpy().tolist() == [["a", 10.0, True], ["b", 100.0, False]]
    assert figures["cost_er"].read_text().count("Pareto front") == 1


def test_heads_are_compared_on_the_upstreams_that_both_have(tmp_path: Path, make_record: Callable) -> None:
    records = []
    for head, values in (("one", {"a": 50.0, "b": 40.0, "c": 30.0}), ("two", {"a": 41.0, "b": 42.0, "d": 9.0})):
        records += [make_record(upstream=name, value=value, head=head) for name, value in values.items()]
    figures = head_robustness(boards_of(records), tmp_path)
    assert list(figures) == ["heads"]
    table = pd.read_csv(tmp_path / "heads.csv")
    ranks = {(row.head, row.upstream): row.rank for row in table.itertuples()}
    assert ranks == {("one", "a"): 1, ("one", "b"): 2, ("two", "b"): 1, ("two", "a"): 2}


def test_one_head_or_one_shared_upstream_is_no_comparison(tmp_path: Path, make_record: Callable) -> None:
    assert head_robustness(boards_of([make_record(), make_record(upstream="b")]), tmp_path) == {}
    other = [make_record(head="one"), make_record(head="two")]
    assert head_robustness(boards_of(other), tmp_path) == {}


def test_agreement_of_heads_is_said(tmp_path: Path, make_record: Callable) -> None:
    records = [
        make_record(upstream=name, value=value, head=head)
        for head, values in (("one", (30.0, 40.0, 50.0)), ("two", (50.0, 40.0, 30.0)))
        for name, value in zip("abc", values, strict=True)
    ]
    figure = head_robustness(boards_of(records), tmp_path)["heads"]
    assert "Kendall's tau -1.00" in figure.read_text()


def test_heads_that_were_judged_by_other_trials_are_not_compared(tmp_path: Path, make_record: Callable) -> None:
    def board(head: str, trials: str) -> list:
        config = {**make_record().config, "trials": trials}
        return [make_record(upstream=name, value=value, head=head, config=config) for name, value in BOTH.items()]

    assert head_robustness(boards_of(board("one", "a.csv") + board("two", "b.csv")), tmp_path) == {}
    assert head_robustness(boards_of(board("one", "a.csv") + board("two", "a.csv")), tmp_path)


def test_the_cheap_end_of_the_front_is_shown_on_long_boards(tmp_path: Path, make_record: Callable) -> None:
    count = MOST + 6
    records = [timed(make_record, f"u{k:02d}", 90.0 - k, 1000.0 - 10 * k) for k in range(count)]  # all on the front
    records += [timed(make_record, f"v{k:02d}", 20.0 - k, 2000.0) for k in range(3)]
    score_by_cost(boards_of(records), tmp_path)
    table = pd.read_csv(tmp_path / "cost_er.csv")
    assert set(table["upstream"]) == {f"u{k:02d}" for k in range(count)}
    assert table["on_front"].all()
