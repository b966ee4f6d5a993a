"""The figure of error against minutes of labels, and the boards of fine-tuned upstreams."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pandas as pd

from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.plots import label_budget, label_table
from wavbench.benchmark.report import write_report
from wavbench.benchmark.tables import long_table


def tuned(make_record: Callable, labels: str, minutes: float, value: float, dev: float = 50.0, **changes):
    config = {"budget": {"updates": 100, "labels": labels}, "labels": minutes, "labels_hash": f"hash of {labels}"}
    config |= {"random": changes.pop("random", False), "rate": value}
    name = "deep random seed 0" if config["random"] else "deep"
    basis = {"task": "pr", "metric": "PER", "higher_is_better": False, "adaptation": "full", "head": "linear"}
    basis |= {"upstream": "deep", "checkpoint": name, "checkpoint_hash": f"hash of {name}", "secondary": {}}
    basis |= {"learning_rate_curve": [{"fold": "", "dev": {"0.001": dev}, "updates": 100}]}
    return make_record(**basis | {"value": value, "ci95": [value - 2, value + 2], "config": config} | changes)


def test_a_figure_holds_a_line_with_pretraining_and_one_without(tmp_path: Path, make_record: Callable) -> None:
    records = [
        tuned(make_record, "10min", 10.1, 80.0),
        tuned(make_record, "all", 123.0, 60.0),
        tuned(make_record, "10min", 10.1, 90.0, random=True),
        tuned(make_record, "all", 123.0, 70.0, random=True),
        make_record(),  # a head on a store has no labels to speak of
    ]
    figures = label_budget(records, tmp_path)
    assert figures == {"labels_pr": tmp_path / "labels_pr.svg"}
    assert matplotlib.image.imread(tmp_path / "labels_pr.png").std() > 0.01
    assert "<svg" in figures["labels_pr"].read_text()
    table = pd.read_csv(tmp_path / "labels_pr.csv")
    assert table[["pretrained", "labels", "minutes", "value", "low", "high"]].to_numpy().tolist() == [
        [False, "10min", 10.1, 90.0, 88.0, 92.0],
        [False, "all", 123.0, 70.0, 68.0, 72.0],
        [True, "10min", 10.1, 80.0, 78.0, 82.0],
        [True, "all", 123.0, 60.0, 58.0, 62.0],
    ]


def test_the_recipe_is_chosen_on_dev_and_seeds_are_averaged(make_record: Callable) -> None:
    table = label_table(
        [
            tuned(make_record, "1h", 60.0, 50.0, dev=40.0),
            tuned(make_record, "1h", 60.0, 45.0, dev=41.0),  # better on test, which nobody may choose by
            tuned(make_record, "1h", 60.0, 60.0, dev=44.0, seed=1),
        ]
    )
    assert table[["value", "runs"]].to_numpy().tolist() == [[55.0, 2]]


def test_without_fine_tuning_there_is_no_such_figure(tmp_path: Path, make_record: Callable) -> None:
    assert label_budget([make_record()], tmp_path) == {}


def test_boards_tell_adaptations_and_amounts_of_labels_apart(
    tmp_path: Path, make_record: Callable, write_records: Callable
) -> None:
    records = [
        tuned(make_record, "10min", 10.1, 80.0),
        tuned(make_record, "10min", 10.1, 81.0, adaptation="lora"),
        tuned(make_record, "1h", 60.2, 70.0),
        tuned(make_record, "1h", 60.2, 75.0, random=True),
        make_record(task="pr", metric="PER", higher_is_better=False, head="linear"),
    ]
    boards = {board.name: board for board in boards_of(records)}
    assert {name: len(board.rows) for name, board in boards.items()} == {
        "pr on emotions": 1,
        "pr on emotions, full fine-tuning, labels=10min": 1,
        "pr on emotions, full fine-tuning, labels=1h": 2,
        "pr on emotions, lora fine-tuning, labels=10min": 1,
    }
    table = long_table(list(boards.values())).set_index("key")
    assert table.loc[records[1].key, "adaptation"] == "lora"
    assert table.loc[records[2].key, "labels_minutes"] == 60.2
    write_records(tmp_path, *records)
    done = write_report(tmp_path)
    assert "full fine-tuning, labels=1h" in done.text
    assert "Score by minutes of labels that the upstream was fine-tuned on: pr" in done.page.read_text()
    assert (tmp_path / "figures" / "labels_pr.svg").is_file()
