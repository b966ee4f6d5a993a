"""Figures show the numbers of the records, and their tables hold them."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest

from wavbench.benchmark import plots
from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.plots import write_figures

PER = {"task": "pr", "metric": "PER", "higher_is_better": False, "secondary": {}}


@pytest.fixture
def records(make_record: Callable) -> list:
    layered = [make_record(upstream="deep", layers=k, value=30.0 + 3 * k, ci95=[20.0 + k, 50.0]) for k in (0, 1, 2, 10)]
    return [
        make_record(upstream="deep", value=55.25, ci95=[45.5, 65.75]),
        *layered,
        make_record(upstream="fbank", value=35.0, ci95=[30.0, 41.0]),
        make_record(upstream="fbank", layers=0, value=34.5, ci95=[30.0, 40.0]),
        make_record(**PER, upstream="deep", value=70.0, ci95=[60.0, 80.0]),
    ]


def test_every_figure_has_a_picture_a_drawing_and_its_numbers(tmp_path: Path, records: list) -> None:
    figures = write_figures(boards_of(records), tmp_path)
    assert figures == {name: tmp_path / f"{name}.svg" for name in ("scores", "layers_er")}  # pr has no single layers
    for name in figures:
        picture = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert picture.std() > 0.01  # something is drawn
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


def test_the_numbers_beside_a_figure_are_those_of_the_records(tmp_path: Path, records: list) -> None:
    write_figures(boards_of(records), tmp_path)
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores.set_index(["task", "upstream"])[["value", "low", "high"]].to_dict("index") == {
        ("er", "deep"): {"value": 55.25, "low": 45.5, "high": 65.75},
        ("er", "fbank"): {"value": 35.0, "low": 30.0, "high": 41.0},
        ("pr", "deep"): {"value": 70.0, "low": 60.0, "high": 80.0},
    }
    layers = pd.read_csv(tmp_path / "layers_er.csv")
    deep = layers[layers["upstream"] == "deep"]
    assert deep["layer"].tolist() == [0, 1, 2, 10]
    assert deep["value"].tolist() == [30.0, 33.0, 36.0, 60.0]
    assert deep["low"].tolist() == [20.0, 21.0, 22.0, 30.0]
    assert layers[layers["upstream"] == "fbank"]["value"].tolist() == [34.5]


def test_numbers_of_two_protocols_are_told_apart(tmp_path: Path, make_record: Callable) -> None:
    two = [
        make_record(upstream="deep", protocol=protocol, layers=layer, value=value)
        for protocol, value in (("clean", 40.0), ("superb", 60.0))
        for layer in ("mix", 0, 1)
    ]
    write_figures(boards_of(two), tmp_path)
    for name, rows in (("scores", 1), ("layers_er", 2)):
        values = pd.read_csv(tmp_path / f"{name}.csv").groupby("protocol")["value"].agg(list)
        assert values.to_dict() == {"clean": [40.0] * rows, "superb": [60.0] * rows}


def lines_of(figures: list) -> list:
    return [line for figure in figures for axis in figure.axes for line in axis.get_lines()]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What is drawn, by file name, before it is written."""
    found, save = {}, plots.save

    def keep(figure, table, stem):
        found[stem.name] = figure
        return save(figure, table, stem)

    monkeypatch.setattr(plots, "save", keep)
    return found


def test_an_upstream_of_one_layer_is_a_line_across(tmp_path: Path, records: list, drawn: dict) -> None:
    write_figures(boards_of(records), tmp_path)
    (axis,) = drawn["layers_er"].axes
    legend = axis.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    lines = dict(zip(names, legend.legend_handles, strict=True))
    drawn_as = {line.get_color(): line for line in axis.get_lines() if line.get_linestyle() != "--"}
    lines = {name: drawn_as[handle.get_color()] for name, handle in lines.items()}
    assert set(lines["fbank"].get_ydata()) == {34.5}
    assert list(lines["deep"].get_xdata()) == [0, 1, 2, 10]
    assert set(lines["chance"].get_ydata()) == {25.0}


def test_axes_say_unit_and_direction(tmp_path: Path, records: list, drawn: dict) -> None:
    write_figures(boards_of(records), tmp_path)
    labels = [axis.get_xlabel() for axis in drawn["scores"].axes if axis.get_visible()]
    assert labels == ["accuracy (%), higher is better", "PER (%), lower is better"]


def test_the_best_row_stands_on_top_in_either_direction(tmp_path: Path, make_record: Callable, drawn: dict) -> None:
    for direction, best in (({}, "high"), (PER, "low")):
        records = [make_record(**direction, upstream=u, value=v) for u, v in (("low", 20.0), ("high", 80.0))]
        write_figures(boards_of(records), tmp_path)
        axis = drawn["scores"].axes[0]
        assert dict(zip(axis.get_yticks(), [t.get_text() for t in axis.get_yticklabels()], strict=True))[-1] == best


def test_scores_of_upstreams_that_know_the_corpus_are_marked(
    tmp_path: Path, make_record: Callable, drawn: dict
) -> None:
    config = make_record().config | {"heard": ["emotions"]}
    records = [make_record(upstream="knows", value=80.0, config=config), make_record(upstream="new", value=20.0)]
    write_figures(boards_of(records), tmp_path)
    axis = drawn["scores"].axes[0]
    assert {text.get_text() for text in axis.get_yticklabels()} == {"knows †", "new"}
    assert axis.get_xlabel().endswith("† pretrained on audio of this corpus")


def test_names_that_look_like_formulas_are_drawn_as_they_are(
    tmp_path: Path, make_record: Callable, drawn: dict
) -> None:
    name = "cost$\\nothing$_{x"
    records = [make_record(upstream=name, corpus=name), make_record(upstream=name, corpus=name, layers=0)]
    write_figures(boards_of(records), tmp_path)
    assert drawn["scores"].axes[0].get_yticklabels()[0].get_text() == name


def test_one_of_many_upstreams_looks_like_no_other(tmp_path: Path, make_record: Callable, drawn: dict) -> None:
    write_figures(boards_of([make_record(upstream=f"u{k:02d}", value=float(k)) for k in range(20)]), tmp_path)
    marks = [line for line in lines_of([drawn["scores"]]) if line.get_marker() not in ("", "None", None)]
    styles = {(line.get_color(), line.get_marker()) for line in marks}
    assert len(marks) == len(styles) == 20


def test_an_upstream_whose_name_begins_with_a_line_is_in_the_legend(
    tmp_path: Path, make_record: Callable, drawn: dict
) -> None:
    write_figures(boards_of([make_record(upstream="_mine", layers=k) for k in range(2)]), tmp_path)
    assert "_mine" in [text.get_text() for text in drawn["layers_er"].axes[0].get_legend().get_texts()]


def test_boards_without_a_mix_draw_their_layers(tmp_path: Path, make_record: Callable) -> None:
    figures = write_figures(boards_of([make_record(layers=3, value=41.0)]), tmp_path)
    assert set(figures) == {"scores", "layers_er"}
    assert pd.read_csv(tmp_path / "scores.csv").empty


def test_a_single_probed_layer_of_a_deep_upstream_is_a_point_beside_its_mix(
    tmp_path: Path, make_record: Callable, drawn: dict
) -> None:
    records = [make_record(upstream="deep", layers=layer, value=50.0 + layer) for layer in range(4)]
    records += [make_record(upstream="other", layers=2, value=40.0), make_record(upstream="other", value=45.0)]
    write_figures(boards_of(records), tmp_path)
    lines = [line for line in drawn["layers_er"].axes[0].get_lines() if 40.0 in line.get_ydata()]
    assert [list(line.get_xdata()) for line in lines] == [[2]]
    assert [45.0 in line.get_ydata() for line in drawn["layers_er"].axes[0].get_lines()].count(True) == 1


def test_long_names_leave_room_for_the_scores(tmp_path: Path, make_record: Callable, drawn: dict) -> None:
    names = [f"vq_wav2vec_bert_tiny_step{k:06d}_35.27h.safetensors" for k in (1, 2)]
    records = [make_record(upstream=name, task=task) for name in names for task in ("er", "lid")]
    figures = write_figures(boards_of(records), tmp_path)
    assert all(axis.get_position().width > 0.2 for axis in drawn["scores"].axes)
    assert set(pd.read_csv(figures["scores"].with_suffix(".csv"))["upstream"]) == set(names)
    ticks = [tick.get_text() for tick in drawn["scores"].axes[0].get_yticklabels()]
    assert len(set(ticks)) == 2  # they are told apart


def test_panels_are_as_tall_as_their_rows_need(tmp_path: Path, make_record: Callable, drawn: dict) -> None:
    records = [make_record(upstream=f"u{k}") for k in range(9)]
    records += [make_record(upstream=f"u{k}", task=task) for k in range(2) for task in ("a", "b", "c")]
    write_figures(boards_of(records), tmp_path)
    heights = [axis.get_position().height for axis in drawn["scores"].axes if axis.get_visible()]
    assert heights[-1] > 1.5 * heights[0]  # er comes after a, b, c: in a row of its own
