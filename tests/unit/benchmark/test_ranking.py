"""Rows of a board by the ranks that their scores leave them, kept as long as the scores are the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark import ranking
from wavbench.benchmark.comparing import Compared, compare
from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.ranking import CACHE, ranked
from wavbench.benchmark.record import Record, write_record
from wavbench.benchmark.tables import markdown, plain


def scores_of(share: float, seed: int = 0) -> pd.DataFrame:
    """Utterances of twelve speakers; who is right where depends on `seed`."""
    wrong = (np.random.default_rng(seed).uniform(size=120) >= share).astype(int)
    names = {"utterance": [f"u{k}" for k in range(120)], "speaker": np.repeat([f"s{k}" for k in range(12)], 10)}
    return pd.DataFrame(names | {"errors": wrong, "tokens": 1, "label": "a", "prediction": "a"})


@pytest.fixture
def write(tmp_path: Path, make_record: Callable) -> Callable:
    def write(upstream: str, share: float, seed: int = 0, **values: object) -> Record:
        scores = scores_of(share, seed=1)
        value = float(100 * (1 - scores["errors"].mean()))
        record = make_record(upstream=upstream, value=value, ci95=[value - 1, value + 1], seed=seed, **values)
        write_record(tmp_path, record, scores, None)
        return record

    return write


def test_ranks_come_from_tests_of_all_pairs(tmp_path: Path, write: Callable) -> None:
    records = [write(name, share) for name, share in (("a", 0.9), ("b", 0.88), ("c", 0.6), ("d", 0.3))]
    (board,) = ranked(boards_of(records), tmp_path)
    assert [(row.upstream, row.ranks) for row in board.rows] == [
        ("a", (1, 2)),
        ("b", (1, 2)),
        ("c", (3, 3)),
        ("d", (4, 4)),
    ]
    assert [row.tied for row in board.rows] == [True, True, False, False]
    tested = compare("accuracy", [{0: scores_of(share, seed=1)} for share in (0.9, 0.88, 0.6, 0.3)])
    assert board.rows[1].p_best == pytest.approx(tested.adjusted[0, 1], abs=1e-5)


def test_all_seeds_of_a_row_are_compared(tmp_path: Path, write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [write("a", 0.9, seed=seed) for seed in (2, 0, 1)] + [write("b", 0.5)]
    seen = []

    def compared(metric: str, rows: list) -> Compared:
        seen.append([list(own) for own in rows])
        return Compared(np.ones((2, 2)), np.ones((2, 2)))

    monkeypatch.setattr(ranking, "compare", compared)
    (board,) = ranked(boards_of(records), tmp_path)
    assert seen == [[[0, 1, 2], [0]]]
    assert board.rows[0].keys == tuple(records[place].key for place in (1, 2, 0))


def test_a_row_without_scores_keeps_what_its_interval_says(tmp_path: Path, write: Callable) -> None:
    records = [write("a", 0.9), write("b", 0.6), write("c", 0.3)]
    (tmp_path / f"runs/{records[1].key}.scores.csv").write_text("errors\nmany\n")
    (tmp_path / f"runs/{records[2].key}.scores.csv").unlink()
    (board,) = ranked(boards_of(records), tmp_path)
    assert [row.ranks for row in board.rows] == [None] * 3  # nothing was tested
    assert [row.tied for row in board.rows] == [True, False, False]
    assert [row.scored for row in board.rows] == [True, True, False]
    assert plain([board]).count("‡") == 1 + 1  # the row and what the sign means
    assert "‡ marks values that cannot be computed again" in markdown([board])
    assert np.isnan([row.p_best for row in board.rows]).tolist() == [False, True, True]


def test_several_processes_find_what_one_does(tmp_path: Path, write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        write(name, share, task=task) for task in ("er", "lid", "ks") for name, share in (("a", 0.9), ("b", 0.6))
    ]
    found = []
    for many, workers in ((100, 1), (1, 2)):
        monkeypatch.setattr(ranking, "MANY", many)
        monkeypatch.setattr(ranking, "cores", lambda workers=workers: workers)
        found.append([board.rows for board in ranked(boards_of(records), tmp_path)])
        (tmp_path / CACHE).unlink()
    assert found[0] == found[1]


def test_nothing_is_computed_twice_and_other_scores_are_compared_anew(
    tmp_path: Path, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [write("a", 0.9), write("b", 0.6)]

    def rows_of(found: list[Record]) -> list:
        return [board.rows for board in ranked(boards_of(found), tmp_path)]

    first = rows_of(records)
    with monkeypatch.context() as patch:
        patch.setattr(ranking, "compare", None)
        assert rows_of(records) == first
        records.append(write("b", 0.2, seed=1))
        with pytest.raises(TypeError):
            ranked(boards_of(records), tmp_path)
    for broken in ("{", "[]", '{"version": 2, "p": {}}', '{"version": 0}', '{"version": 2, "p": 7}'):
        (tmp_path / CACHE).write_text(broken)
        assert rows_of(records[:2]) == first
    text = (tmp_path / CACHE).read_text()
    (tmp_path / CACHE).write_text(text.replace("1.0", '"x"'))
    assert rows_of(records[:2]) == first


def test_draws_of_labels_under_one_seed_are_all_compared(
    tmp_path: Path, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = {"budget": {"updates": 10, "labels": "10min"}, "labels": 10.0}
    records = [write("a", 0.9, config=tuned | {"labels_hash": name}, key=f"{k:020x}") for k, name in enumerate("xyz")]
    records.append(write("b", 0.5, config=tuned | {"labels_hash": "x"}, key=f"{9:020x}"))
    seen = []

    def compared(metric: str, rows: list) -> Compared:
        seen.append([len(own) for own in rows])
        return Compared(np.ones((2, 2)), np.ones((2, 2)))

    monkeypatch.setattr(ranking, "compare", compared)
    (board,) = ranked(boards_of(records), tmp_path)
    assert [row.seeds for row in board.rows] == [3, 1]
    assert seen == [[3, 1]]
