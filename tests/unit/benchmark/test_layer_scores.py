"""Score by layer on every task, and what mixes take from layers: numbers of records, with bands that say of what."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark import layer_scores
from wavbench.benchmark.layer_scores import band, layers_all, lines_of, mixes

PER = {"task": "pr", "metric": "PER", "higher_is_better": False, "secondary": {}}


def probed(make_record: Callable, name: str, values: list[float], **changes) -> list:
    return [make_record(upstream=name, layers=k, value=v, ci95=[v - 5, v + 5], **changes) for k, v in enumerate(values)]


@pytest.fixture
def records(make_record: Callable) -> list:
    twins = [
        record
        for seed, shift in ((0, 0.0), (1, 4.0), (2, 8.0))
        for record in probed(make_record, f"deep random seed {seed}", [20.0 + shift, 30.0 + shift])
    ]
    return [
        *probed(make_record, "deep", [40.0, 60.0]),
        *twins,
        *probed(make_record, "fbank", [35.0]),
        *probed(make_record, "deep", [70.0, 65.0], **PER),
        *probed(make_record, "fbank", [80.0], task="lid"),  # one layer is no curve
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What is drawn, by file name, before it is written."""
    found, save = {}, layer_scores.save

    def keep(figure, table, stem, **given):
        found[stem.name] = figure
        return save(figure, table, stem, **given)

    monkeypatch.setattr(layer_scores, "save", keep)
    return found


def test_random_twins_are_one_line_whose_band_is_the_range_over_seeds(tmp_path: Path, records: list) -> None:
    assert layers_all(records, tmp_path) == {"layers_all": tmp_path / "layers_all.svg"}
    table = pd.read_csv(tmp_path / "layers_all.csv").set_index(["task", "upstream", "layer"])
    twin = table.loc[("er", "deep random", 1)]
    assert twin[["value", "low", "high", "seeds"]].tolist() == [34.0, 30.0, 38.0, 3]
    assert twin["band"] == "range over seeds"
    one = table.loc[("er", "deep", 1)]
    assert one[["value", "low", "high", "seeds"]].tolist() == [60.0, 55.0, 65.0, 1]
    assert one["band"] == "95 % interval"


def test_there_is_a_panel_for_each_board_with_curves(tmp_path: Path, records: list, drawn: dict) -> None:
    layers_all(records, tmp_path)
    figure = drawn["layers_all"]
    shown = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_visible()}
    assert set(shown) == {"er on emotions", "pr on emotions"}
    assert shown["er on emotions"].get_ylabel() == "accuracy (%), higher is better"
    assert (
        shown["pr on emotions"].get_ylabel() == "PER, lower is better (%)"
        or "lower" in shown["pr on emotions"].get_ylabel()
    )
    across = [line for line in shown["er on emotions"].get_lines() if set(line.get_ydata()) == {35.0}]
    assert len(across) == 1  # filterbanks
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["deep", "deep random", "fbank", "chance"]


def test_an_upstream_looks_the_same_in_every_panel(tmp_path: Path, records: list, drawn: dict) -> None:
    layers_all(records, tmp_path)
    first, second = (axis for axis in drawn["layers_all"].axes if axis.get_visible())
    colour = {tuple(line.get_ydata()): line.get_color() for axis in (first, second) for line in axis.get_lines()}
    assert colour[(40.0, 60.0)] == colour[(70.0, 65.0)] != colour[(24.0, 34.0)]


def test_without_curves_there_is_no_figure(tmp_path: Path, make_record: Callable) -> None:
    assert layers_all([make_record()], tmp_path) == {}
    assert mixes([make_record(layer_numbers=[0], layer_weights=[1.0])], [], tmp_path) == {}


def test_fine_tuned_upstreams_are_on_other_boards(make_record: Callable) -> None:
    assert lines_of([make_record(adaptation="full")]) == []


def test_two_weights_and_two_recipes_of_one_name_are_lines_of_their_own(make_record: Callable) -> None:
    config = make_record().config
    two = [make_record(upstream="deep", checkpoint_hash=h) for h in ("aaaaaaaa", "bbbbbbbb")]
    stored = [make_record(upstream="wide", config=config | dtype) for dtype in ({}, {"dtype": "int8"})]
    ((_, lines),) = lines_of(two + stored)
    assert [line.name for line in lines] == ["deep #aaaaaa", "deep #bbbbbb", "wide", "wide, dtype=int8"]


def test_a_band_of_one_seed_is_its_interval(make_record: Callable) -> None:
    one, other = make_record(value=50.0, ci95=[45.0, 57.0]), make_record(value=40.0, ci95=[30.0, 50.0], seed=1)
    assert band([one]) == {"value": 50.0, "low": 45.0, "high": 57.0, "band": "95 % interval", "seeds": 1}
    assert band([one, other]) == {"value": 45.0, "low": 40.0, "high": 50.0, "band": "range over seeds", "seeds": 2}


WEIGHTS = {"layer_numbers": [0, 1], "layer_weights": [0.75, 0.25]}


def shares(folder: Path) -> dict:
    table = pd.read_csv(folder / "mix_er.csv")
    return {(row.protocol, row.upstream, row.layer): row.share_percent for row in table.itertuples()}


def test_a_mix_of_states_as_they_are_is_weighed_by_their_norms(
    tmp_path: Path, make_record: Callable, make_analysis: Callable
) -> None:
    # norms 2 and 8: 0.75 x 2 = 1.5 and 0.25 x 8 = 2
    norms = make_analysis("norms")
    record = make_record(upstream="deep", protocol="superb", **WEIGHTS)
    assert set(mixes([record], [norms], tmp_path)) == {"mix_er"}
    assert shares(tmp_path) == {("superb", "deep", 0): 42.8571, ("superb", "deep", 1): 57.1429}
    table = pd.read_csv(tmp_path / "mix_er.csv")
    assert table["weight"].tolist() == [0.75, 0.25]
    assert table["norm_in_the_mix"].tolist() == [2.0, 8.0]


def test_a_mix_of_standardised_states_is_its_weights(
    tmp_path: Path, make_record: Callable, make_analysis: Callable
) -> None:
    mixes([make_record(upstream="deep", **WEIGHTS)], [make_analysis("norms")], tmp_path)
    assert shares(tmp_path) == {("clean", "deep", 0): 75.0, ("clean", "deep", 1): 25.0}


def test_norms_of_other_weights_count_for_nothing(
    tmp_path: Path, make_record: Callable, make_analysis: Callable
) -> None:
    record = make_record(upstream="deep", protocol="superb", **WEIGHTS)
    assert mixes([record], [make_analysis("norms", checkpoint_hashes=["another"])], tmp_path) == {}


def test_norms_of_the_same_corpus_are_preferred(tmp_path: Path, make_record: Callable, make_analysis: Callable) -> None:
    even = {"norm": [1.0, 1.0], "deviation": [0.0, 0.0]}
    found = [make_analysis("norms", corpus="aa", values=even), make_analysis("norms")]
    mixes([make_record(upstream="deep", protocol="superb", **WEIGHTS)], found, tmp_path)
    assert shares(tmp_path)[("superb", "deep", 1)] == 57.1429
    mixes([make_record(upstream="deep", protocol="superb", **WEIGHTS)], found[:1], tmp_path)
    assert shares(tmp_path)[("superb", "deep", 1)] == 25.0


def test_shares_stand_alone_where_no_single_layer_of_the_task_was_scored(
    tmp_path: Path, make_record: Callable, drawn: dict
) -> None:
    mixes([make_record(upstream="deep", corpus=name, **WEIGHTS) for name in "abc"], [], tmp_path)
    assert len([axis for axis in drawn["mix_er"].axes if axis.get_visible()]) == 3
    titles = [axis.get_title(loc="left").replace("\n", " ") for axis in drawn["mix_er"].axes[:3]]
    assert [title.partition(":")[0] for title in titles] == ["er on a", "er on b", "er on c"]


def test_scores_of_single_layers_stand_beside_the_shares(tmp_path: Path, make_record: Callable, drawn: dict) -> None:
    records = [make_record(upstream="deep", **WEIGHTS), *probed(make_record, "deep", [40.0, 60.0])]
    mixes(records, [], tmp_path)
    alone, taken = drawn["mix_er"].axes
    assert [40.0, 60.0] in [list(line.get_ydata()) for line in alone.get_lines()]
    assert [75.0, 25.0] in [list(line.get_ydata()) for line in taken.get_lines()]
    assert taken.get_ylabel() == "share of the mix (%)"
    assert pd.read_csv(tmp_path / "mix_er.csv")["score_alone"].tolist() == [40.0, 60.0]


def test_weights_of_one_name_are_told_apart_though_each_is_on_another_board(make_record: Callable) -> None:
    records = [
        make_record(checkpoint="best.safetensors", checkpoint_hash=hash * 40, task=task)
        for hash, task in (("a", "er"), ("b", "lid"))
    ]
    names = [line.name for _, own in lines_of(records) for line in own]
    assert names == ["best.safetensors #aaaaaa", "best.safetensors #bbbbbb"]


def test_the_legend_of_all_tasks_stays_inside_and_leaves_the_panel_its_size(
    tmp_path: Path, make_record: Callable, drawn: dict
) -> None:
    records = [
        make_record(upstream=f"an_upstream_of_long_name_{k:02d}", layers=layer) for k in range(12) for layer in (0, 1)
    ]
    layers_all(records, tmp_path)
    figure = drawn["layers_all"]
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    (axis,) = figure.axes
    assert axis.get_position().height * figure.get_figheight() > 2
