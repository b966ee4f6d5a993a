"""What a page knows of a record, in few words."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.page_data import BINS, FREQUENT, MATRIX, cells_of, data_block
from wavbench.benchmark.record import write_record

ASR = {"metric": "WER", "higher_is_better": False, "task": "asr"}


@pytest.fixture
def told(tmp_path: Path, make_record: Callable) -> Callable[..., dict]:
    """A function from scores and changed fields of a record to what a page knows of it, shared texts put in."""

    def tell(scores: pd.DataFrame | None = None, confusion: pd.DataFrame | None = None, **changes) -> dict:
        record = make_record(**changes)
        if scores is not None:
            write_record(tmp_path, record, scores, None, confusion=confusion)
        found = json.loads(data_block(cells_of(boards_of([record]), [record], tmp_path, {"emotions": "CC0"})))
        (cell,) = found["cells"]
        for name in ("about", "config", "checkpoint"):
            cell[name] = found["texts"][cell[name]]
        for name in ("confusion", "errors", "secondary", "cost", "weights"):
            if cell.get(name):
                cell[name][0] = found["texts"][cell[name][0]]
        return cell

    return tell


def test_a_record_is_told_with_where_it_comes_from(told: Callable) -> None:
    cell = told(config={"budget": {"updates": 9}, "heard": ["emotions"], "upstream": {"dim": 4}})
    assert cell["checkpoint"] == ["fbank", "hash of fbank"]
    assert cell["store"] == "f00d"
    assert cell["value"] == [50, 40, 60]
    about = cell["about"]
    assert (about["licence"], about["protocol"], about["head"]) == ("CC0", "clean 1", "mean_linear")
    assert (about["commit"], about["heard"]) == ("0123456789ab", ["emotions"])
    assert json.loads(cell["config"]) == {"budget": {"updates": 9}, "upstream": {"dim": 4}}
    assert cell["secondary"] == [["macro_recall", "chance"], 45, 25]
    assert cell["weights"] == [[0, 1], 0.5, 0.5]


def test_the_curve_of_learning_rates_has_the_chosen_one_before_it(told: Callable) -> None:
    curve = [{"fold": "a", "dev": {"0.001": 50.0, "0.01": 40.5}}, {"fold": "b", "dev": {"0.001": 1.0, "0.01": 2.0}}]
    cell = told(learning_rate=[0.001, 0.01], learning_rate_curve=curve)
    assert [fold[0] for fold in cell["rates"]] == [0.001, 0.01]
    assert [fold[2:] for fold in cell["rates"]] == [[50, 40.5], [1, 2]]


def test_missing_and_damaged_files_leave_their_part_out(told: Callable, tmp_path: Path) -> None:
    assert {"confusion", "frequent", "errors"}.isdisjoint(told())
    for scores in (
        pd.DataFrame({"utterance": ["a"]}),
        pd.DataFrame({"errors": ["many"], "tokens": [1]}),
        pd.DataFrame({"errors": [float("inf")], "tokens": [1]}),
        pd.DataFrame({"errors": [], "tokens": []}),
    ):
        assert "errors" not in told(scores, **ASR)
    for damaged in (pd.DataFrame({"joy": [1]}), pd.DataFrame({"label": ["joy"], "fear": [1]})):
        assert "confusion" not in told(pd.DataFrame({"errors": [1], "tokens": [2]}), damaged)


def test_error_rates_of_utterances_are_counted_in_bins(told: Callable) -> None:
    errors = told(pd.DataFrame({"errors": [0, 1, 5, 10, 9], "tokens": [10, 10, 10, 10, 0]}), **ASR)["errors"]
    assert errors[0] == ["utterances by error rate (%)"]
    assert errors[1:3] == [0, 100]
    counts = errors[3]
    assert (len(counts), sum(counts), counts[0], counts[-1]) == (BINS, 4, 1, 1)  # what has no tokens has no rate
    assert told(pd.DataFrame({"errors": [25, 1], "tokens": [10, 10]}), **ASR)["errors"][2] == 200


def test_right_and_wrong_are_counted_by_speaker(told: Callable) -> None:
    scores = pd.DataFrame({"speaker": list("aabbcc"), "errors": [0, 0, 0, 1, 1, 1], "tokens": 1})
    errors = told(scores)["errors"]
    assert errors[0] == ["speakers by error rate (%)"]
    assert [place for place, count in enumerate(errors[3]) if count] == [0, BINS // 2, BINS - 1]
    assert "errors" not in told(scores.assign(speaker="a"))


def test_trials_are_counted_by_score_and_kind(told: Callable) -> None:
    scores = pd.DataFrame({"score": [0.0, 0.1, 0.9, 1.0], "target": [0, 0, 1, 1]})
    errors = told(scores, metric="EER", higher_is_better=False)["errors"]
    assert errors[0][1:] == ["same speaker", "different speakers"]
    assert (errors[3][-1], errors[4][0]) == (1, 1)
    assert told(scores.assign(score=2.0), metric="EER", higher_is_better=False)["errors"][3][0] == 2


def test_scores_that_no_bins_can_hold_are_left_out(told: Callable) -> None:
    scores = pd.DataFrame({"score": [-1e308, 0.1, 0.9, 1e308], "target": [0, 0, 1, 1]})
    assert "errors" not in told(scores, metric="EER", higher_is_better=False)


def test_few_classes_are_a_matrix_and_many_their_most_frequent_confusions(told: Callable) -> None:
    def matrix(count: int) -> pd.DataFrame:
        names = [f"c{k:02d}" for k in range(count)]
        counts = pd.DataFrame(0, index=names, columns=names).rename_axis("label")
        counts.iloc[0, 1], counts.iloc[2, 1], counts.iloc[1, 1] = 7, 9, 50
        return counts

    scores = pd.DataFrame({"errors": [1], "tokens": [1]})
    few = told(scores, matrix(MATRIX))["confusion"]
    assert few[0][:2] == ["c00", "c01"]
    assert (len(few) - 1, few[1][1]) == (MATRIX, 7)
    many = told(scores, matrix(MATRIX + 1))["frequent"]
    assert many == [MATRIX + 1, ["c02", "c01", 9], ["c00", "c01", 7]]
    assert len(many) <= FREQUENT + 1


def test_the_records_of_all_seeds_and_layers_are_there_and_know_each_other(
    tmp_path: Path, make_record: Callable
) -> None:
    records = [make_record(seed=0), make_record(seed=1), make_record(layers=0), make_record(layers=1)]
    cells = cells_of(boards_of(records), records, tmp_path, {})["cells"]
    assert {cell["key"] for cell in cells} == {record.key for record in records}
    by_seed = [cell for cell in cells if "seeds" in cell]
    assert [[cells[place]["seed"] for place in cell["seeds"]] for cell in by_seed] == [[0, 1], [0, 1]]


def test_texts_of_many_records_stand_once(tmp_path: Path, make_record: Callable) -> None:
    records = [make_record(upstream=f"upstream {k}") for k in range(20)]
    found = cells_of(boards_of(records), records, tmp_path, {})
    assert len({cell["about"] for cell in found["cells"]}) == len({cell["config"] for cell in found["cells"]}) == 1
    assert len({cell["checkpoint"] for cell in found["cells"]}) == 20


def test_a_data_block_ends_no_tag_and_has_no_number_that_json_lacks() -> None:
    values = {
        "name": "</script><!--\u2028\u2029&",
        "value": [float("nan"), float("inf"), 1 / 3, 2.0, 1e300, True, None],
    }
    text = data_block(values)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"name": values["name"], "value": [None, None, 0.333333, 2, 1e300, True, None]}
