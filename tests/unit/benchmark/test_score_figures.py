"""DET curves and confusion matrices: figures that are drawn from the scores beside records."""

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark import plots
from wavbench.benchmark.collect import collect
from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.plots import confusions, det_curves, det_points
from wavbench.benchmark.record import Record, write_record
from wavbench.benchmark.report import write_report
from wavbench.downstream.metrics import METRICS, error_curve

EER = {"task": "asv", "metric": "EER", "higher_is_better": False, "corpus": "voices", "head": "projection"}


def trials(count: int, apart: float, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    target = random.random(count) < 0.3
    return pd.DataFrame({"score": random.normal(apart * target, 1.0).round(5), "target": target.astype(int)})


def answers(classes: int = 3) -> pd.DataFrame:
    """Class k is taken for itself three times in four, else for the next."""
    label = np.repeat([f"class{k:02d}" for k in range(classes)], 4)
    prediction = label.copy()
    prediction[::4] = [f"class{(k + 1) % classes:02d}" for k in range(classes)]
    errors = (label != prediction).astype(int)
    return pd.DataFrame({"errors": errors, "tokens": 1, "label": label, "prediction": prediction})


@pytest.fixture
def results(tmp_path: Path, make_record: Callable) -> tuple[Path, list]:
    """A folder with two verification records and two of classes, and their boards."""

    def measured(scores: pd.DataFrame, **values: object) -> tuple[Record, pd.DataFrame]:
        metric = values.get("metric", "accuracy")
        return make_record(**values, n=len(scores), value=float(METRICS[metric](scores)[0])), scores

    found = [
        measured(trials(4_000, 1.0), **EER, upstream="near"),
        measured(trials(4_000, 2.0, 1), **EER, upstream="far"),
        measured(answers().assign(errors=1), upstream="worse"),
        measured(answers(), upstream="better"),
    ]
    for record, scores in found:
        write_record(tmp_path, record, scores, None)
    return tmp_path, boards_of([record for record, _ in found])


def test_a_curve_is_drawn_for_every_upstream_with_its_numbers_beside_it(results: tuple) -> None:
    folder, boards = results
    figures = det_curves(boards, folder, folder / "figures")
    assert figures == {"det_voices": folder / "figures/det_voices.svg"}
    assert matplotlib.image.imread(folder / "figures/det_voices.png").std() > 0.01
    table = pd.read_csv(folder / "figures/det_voices.csv")
    assert set(table["upstream"]) == {"near", "far"}
    assert set(table["head"]) == {"projection"}
    assert table.groupby("upstream").size().between(100, 200).all()


def test_every_point_of_a_curve_is_the_count_of_a_plain_loop() -> None:
    scores = trials(3_000, 1.5)
    points = det_points(scores)
    assert len(points) <= plots.POINTS
    same, other = (scores["score"][scores["target"] == kind].to_numpy() for kind in (1, 0))
    for point in points.itertuples():
        assert point.miss == pytest.approx(np.mean([score < point.threshold for score in same]))
        assert point.false_alarm == pytest.approx(np.mean([score >= point.threshold for score in other]))


def test_a_thinned_curve_stays_beside_the_whole_one() -> None:
    scores = trials(5_000, 1.2)
    points = det_points(scores)
    miss, alarm = (rates[0] for rates in error_curve(scores.astype({"target": bool})))
    inside = (miss > 0) & (miss < 1) & (alarm > 0) & (alarm < 1)
    between = np.interp(alarm[inside], points["false_alarm"][::-1], points["miss"][::-1])
    assert np.abs(between - miss[inside]).max() < 0.02


def test_a_short_curve_is_kept_whole_and_perfect_scores_have_no_points() -> None:
    scores = pd.DataFrame({"score": [4.0, 3.0, 2.0, 1.0], "target": [1, 0, 1, 0]})
    points = det_points(scores)
    assert points[["miss", "false_alarm"]].to_numpy().tolist() == [[0.5, 0.5]]
    assert det_points(pd.DataFrame({"score": [4.0, 3.0], "target": [1, 0]})).empty


def test_perfect_scores_are_drawn_without_a_fault(tmp_path: Path, make_record: Callable) -> None:
    record = make_record(**EER, upstream="perfect", value=0.0)
    write_record(tmp_path, record, pd.DataFrame({"score": [4.0, 3.0, 0.0], "target": [1, 1, 0]}), None)
    det_curves(boards_of([record]), tmp_path, tmp_path / "figures")
    assert pd.read_csv(tmp_path / "figures/det_voices.csv").empty


def test_the_matrix_of_the_best_upstream_is_drawn_by_rows(results: tuple) -> None:
    folder, boards = results
    figures = confusions(boards, folder, folder / "figures")
    assert figures == {"confusion_er_emotions": folder / "figures/confusion_er_emotions.svg"}
    table = pd.read_csv(folder / "figures/confusion_er_emotions.csv")
    assert set(table["upstream"]) == {"better"}
    shares = table.pivot(index="label", columns="prediction", values="percent")
    assert shares.to_numpy().tolist() == [[75.0, 25.0, 0.0], [0.0, 75.0, 25.0], [25.0, 0.0, 75.0]]
    assert table["count"].sum() == 12


def test_many_classes_have_no_matrix(tmp_path: Path, make_record: Callable) -> None:
    for classes, drawn in ((30, True), (31, False)):
        record = make_record(task="sid", corpus=f"c{classes}")
        write_record(tmp_path, record, answers(classes), None)
        assert bool(confusions(boards_of([record]), tmp_path, tmp_path / "figures")) is drawn


def test_records_without_their_scores_are_left_out_of_figures(tmp_path: Path, make_record: Callable) -> None:
    boards = boards_of([make_record(), make_record(**EER)])
    assert det_curves(boards, tmp_path, tmp_path / "figures") == {}
    assert confusions(boards, tmp_path, tmp_path / "figures") == {}


@pytest.mark.parametrize("name", ["../../up", "a/b", "zażółć 1", "con%2f"])
def test_a_name_of_a_corpus_is_no_path(tmp_path: Path, make_record: Callable, name: str) -> None:
    record = make_record(**EER | {"corpus": name})
    write_record(tmp_path, record, trials(50, 1.0), None)
    (figure,) = det_curves(boards_of([record]), tmp_path, tmp_path / "figures").values()
    assert figure.parent == tmp_path / "figures"
    assert {path.suffix for path in figure.parent.iterdir()} == {".svg", ".png", ".csv"}


def test_no_two_corpora_share_a_file() -> None:
    names = ["a b", "a_b", "a/b", "a%2fb", "a", "ą"]
    assert len({plots.safe(name) for name in names}) == len(names)


def test_names_with_dots_and_underscores_share_no_file(tmp_path: Path, make_record: Callable) -> None:
    pairs = [("lid", "lang.v1"), ("lid", "lang.v2"), ("classify-a", "b_c"), ("classify-a_b", "c")]
    records = [make_record(task=task, corpus=corpus, value=75.0, n=12) for task, corpus in pairs]
    for record in records:
        write_record(tmp_path, record, answers(), None)
    figures = confusions(boards_of(records), tmp_path, tmp_path / "figures")
    assert set(figures.values()) == set((tmp_path / "figures").glob("*.svg"))
    assert len(figures) == len(pairs)
    assert {"confusion_lid_lang.v1.png", "confusion_classify-a_b_c.csv", "confusion_classify-a%5fb_c.svg"} <= {
        path.name for path in (tmp_path / "figures").iterdir()
    }
    page = write_report(tmp_path).page.read_text()
    labels = re.findall(r'<svg[^>]* aria-label="([^"]*)"', page)
    assert len([label for label in labels if label.startswith("Which class is taken for which")]) == len(pairs)


def test_classes_called_na_are_drawn(tmp_path: Path, make_record: Callable) -> None:
    record = make_record(value=75.0, n=12)
    scores = answers().replace({"class00": "NA", "class01": "01", "class02": "1"})
    write_record(tmp_path, record, scores, None)
    write_report(tmp_path)
    table = pd.read_csv(tmp_path / "figures/confusion_er_emotions.csv", dtype=str, keep_default_na=False)
    assert set(table["label"]) == {"NA", "01", "1"}


def test_a_report_that_fails_changes_nothing(results: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, boards = results
    write_report(folder)

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    (better,) = (row.record for board in boards for row in board.rows if row.upstream == "better")
    path = folder / "runs" / f"{better.key}.json"
    path.write_text(path.read_text().replace("0123456789ab", "ba9876543210"))
    collect(folder)
    before = contents()

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(plots, "confusions", full)
    with pytest.raises(OSError, match="full"):
        write_report(folder)
    assert contents() == before


def test_a_figure_that_cannot_be_drawn_costs_itself_alone(results: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = results
    monkeypatch.setattr(plots, "confusions", None)
    done = write_report(folder)
    (problem,) = done.problems
    assert "the figures of confusions could not be drawn" in problem.screen()
    assert (folder / "figures/scores.svg").is_file()
    assert (folder / "figures/det_voices.svg").is_file()
    assert not (folder / "figures/confusion_er_emotions.svg").exists()


def test_both_kinds_of_figures_are_on_the_page_once(results: tuple) -> None:
    folder, _ = results
    page = write_report(folder).page.read_text()
    for words in ('Misses against false alarms[^"]*: voices', 'Which class is taken for which[^"]*: er_emotions'):
        assert len(re.findall(rf'<svg[^>]* aria-label="{words}"', page)) == 1
    assert (folder / "figures/det_voices.png").is_file()
