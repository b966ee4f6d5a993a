"""Scores over tasks: SUPERB's against values computed by hand, and its formula on boards of our own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark import overall
from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.overall import METRICS, relative_scores, superb_scores
from wavbench.upstream.errors import UserError

PUBLISHED = Path(__file__).parents[3] / "results/published/superb.csv"


def table(**rows: dict[str, float]) -> pd.DataFrame:
    """Rows that are at the topline of every metric but for the given columns."""
    at = {metric.column: 100 - metric.topline if metric.is_error else metric.topline for metric in METRICS}
    return pd.DataFrame([{"upstream": name, "parameters": 2e6, **at, **values} for name, values in rows.items()])


def test_filterbanks_score_nothing_and_the_toplines_a_thousand() -> None:
    floor = {metric.column: 100 - metric.fbank if metric.is_error else metric.fbank for metric in METRICS}
    scores = superb_scores(table(fbank={**floor, "parameters": 0.0}, topline={}))
    np.testing.assert_allclose(scores["superb_s"], [0, 1_000], atol=1e-9)
    np.testing.assert_allclose(scores["superb_s_public"], [0, 1_000], atol=1e-9)
    np.testing.assert_allclose(scores["superb_r"], [0, 1])
    np.testing.assert_allclose(scores["superb_sp"], [0, 500], atol=1e-9)  # filterbanks have 0 M and count as 1 M
    np.testing.assert_allclose(scores["superb_rp"], [0, 0.5])


def test_metrics_of_a_task_are_normalised_and_then_averaged() -> None:
    scores = superb_scores(table(topline={}, half={"sf_f1": (69.64 + 89.81) / 2}, worse={"pr_per": 82.01}))
    # half of one of two metrics of one of ten tasks; one whole task
    np.testing.assert_allclose(scores["superb_s"], [1_000, 975, 900])
    np.testing.assert_allclose(scores["superb_s_public"], [1_000, 1_000, 900])
    # beaten in slot filling: 2, 0, 1 of the others' ties count as not beaten
    np.testing.assert_allclose(scores["superb_r"], [(1 + 1) / 10, 1 / 10, 1 / 10])


def test_a_row_without_one_of_the_tasks_has_no_score_and_changes_no_other() -> None:
    scores = superb_scores(table(topline={}, partial={"ks_accuracy": np.nan, "st_bleu": np.nan}, more={}))
    assert scores["superb_s"].isna().tolist() == [False, True, False]
    assert scores["superb_s_public"].isna().tolist() == [False, True, False]
    assert scores["superb_r"].tolist()[::2] == [0, 0]


def test_a_table_that_is_none_is_refused_by_its_column() -> None:
    with pytest.raises(UserError, match="no column sd_der"):
        superb_scores(table(topline={}).drop(columns="sd_der"))
    with pytest.raises(UserError, match="er_accuracy that is no number: 64,9"):
        superb_scores(table(topline={"er_accuracy": "64,9"}))


def test_the_committed_table_has_the_scores_of_its_own_columns() -> None:
    found = pd.read_csv(PUBLISHED)
    pd.testing.assert_frame_equal(found[list(superb_scores(found))], superb_scores(found).round(4), check_dtype=False)
    by_name = found.set_index("upstream")["superb_s"]
    assert by_name.notna().all()  # all of them have the paper's ten tasks
    # by hand: ER of HuBERT Base alone is 1000 (64.92 - 48.23672168) / (67.62 - 48.23672168)
    one = overall._by_task(found).set_index(found["upstream"])
    assert one.loc["HuBERT Base", "ER"] == pytest.approx(860.71, abs=0.01)
    assert by_name.idxmax() == "WavLM Large"
    assert by_name["WavLM Large"] > 1_000 > by_name["HuBERT Base"] > by_name["wav2vec 2.0 Base"] > by_name["FBANK"]


def test_own_boards_score_between_filterbanks_and_their_best_row(make_record: Callable) -> None:
    def board(task: str, corpus: str, values: dict[str, float], **more: object) -> list:
        return [make_record(task=task, corpus=corpus, upstream=u, value=v, **more) for u, v in values.items()]

    errors = {"metric": "PER", "higher_is_better": False, "secondary": {}}
    records = [
        *board("er", "a", {"fbank": 20.0, "x": 60.0, "y": 40.0, "only_here": 50.0}),
        *board("pr", "b", {"fbank": 90.0, "x": 80.0, "y": 50.0}, **errors),
        *board("lid", "c", {"x": 1.0, "y": 2.0}),  # no filterbanks
        *board("asv", "d", {"fbank": 5.0, "x": 6.0, "y": 7.0}, **errors),  # nothing is better than filterbanks
    ]
    found = relative_scores(boards_of(records)).set_index("upstream")
    assert list(found.index) == ["y", "x", "fbank"]
    np.testing.assert_allclose(found["score"], [750, 625, 0])  # y: 500 and 1000; x: 1000 and 250
    np.testing.assert_allclose(found["borda"], [(1 + 2) / 2, (2 + 1) / 2, 0])
    assert found["boards"].eq(2).all()
    assert relative_scores([]).empty
