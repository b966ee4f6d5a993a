"""What stands in the tables of a page."""

import math
from collections.abc import Callable

import pandas as pd

from wavbench.benchmark.cost_plots import seconds_of
from wavbench.benchmark.cost_tables import cost_by_upstream, cost_of_rows
from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.page_tables import (
    Table,
    board_table,
    carried,
    layer_table,
    number,
    overall_table,
    overview,
    published_table,
    winners,
)


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in line.cells] for line in table.lines]


def layers_of(make_record: Callable, values: list[float], upstream: str = "deep", half: float = 1.0) -> list:
    return [
        make_record(upstream=upstream, layers=k, layer_numbers=[k], value=value, ci95=[value - half, value + half])
        for k, value in enumerate(values)
    ]


def mix(make_record: Callable, weights: list[float], upstream: str = "deep", **changes):
    return make_record(upstream=upstream, layer_numbers=list(range(len(weights))), layer_weights=weights, **changes)


def test_winners_say_who_is_best_who_is_alike_and_what_is_better_than_all(make_record: Callable) -> None:
    records = [make_record(upstream=name, value=value) for name, value in (("a", 50.0), ("b", 49.0), ("c", 5.0))]
    records[2] = make_record(upstream="c", value=5.0, ci95=[4.0, 6.0])
    (line,) = texts(winners(boards_of(records)))
    assert line[:4] == ["er on emotions", "a", "50.00", "b"]
    assert line[5] == "25.0"
    (line,) = winners(boards_of(records)).lines
    assert line.cells[5].small == ""
    low = [make_record(upstream="a", value=20.0, ci95=[19.0, 21.0])]
    assert winners(boards_of(low)).lines[0].cells[5].small == "better than every row"
    assert winners(boards_of([make_record(layers=1)])).lines == ()


def test_many_that_are_as_good_as_the_best_are_counted(make_record: Callable) -> None:
    records = [make_record(upstream=f"u{k}", value=50.0 - k) for k in range(6)]
    assert texts(winners(boards_of(records)))[0][3] == "u1, u2, u3 and 2 more"


def test_a_layer_carries_a_task_where_its_interval_holds_few_others(make_record: Callable) -> None:
    best = mix(make_record, [0.25] * 4)
    (board,) = boards_of([best, *layers_of(make_record, [40.0, 55.0, 54.5, 50.0])])
    assert carried(board) == "layer 1 (55.00 alone; 2 within its interval)"
    (board,) = boards_of([best, *layers_of(make_record, [40.0, 55.0, 50.0, 50.0])])
    assert carried(board) == "layer 1 (55.00 alone)"
    (board,) = boards_of([best, *layers_of(make_record, [54.5, 55.0, 54.6, 54.7])])
    assert carried(board) == "none more than others: all are within the interval of layer 1 (55.00)"


def test_without_layers_alone_the_mix_says_which_if_it_leans_at_all(make_record: Callable) -> None:
    for weights, told in (
        ([0.1, 0.1, 0.7, 0.1], "no layer was scored alone; the mix takes most of layer 2 (70 %)"),
        ([0.3, 0.3, 0.2, 0.2], "no layer was scored alone, and the mix weighs them nearly alike"),
    ):
        (board,) = boards_of([mix(make_record, weights)])
        assert carried(board) == told
    flat = make_record(upstream="flat", value=60.0, layer_numbers=[0], layer_weights=[1.0])
    (board,) = boards_of([flat])
    assert carried(board) == "flat has one layer"
    (board,) = boards_of([flat, mix(make_record, [0.1, 0.9])])
    assert carried(board).startswith(
        "flat has one layer; deep: no layer was scored alone; the mix takes most of layer 1"
    )


def test_an_overview_has_a_column_for_each_board_and_gaps_where_nothing_was_run(make_record: Callable) -> None:
    records = [make_record(upstream="a"), make_record(upstream="b", value=40.0)]
    records.append(make_record(upstream="b", task="lid", corpus="languages"))
    table = overview(boards_of(records))
    assert [column.title for column in table.columns] == ["upstream", "er", "lid"]
    assert texts(table) == [["a", "50.00", ""], ["b", "40.00", "50.00"]]
    assert [line.cells[1].best for line in table.lines] == [True, False]
    assert table.lines[1].cells[1].small == "[40.00, 60.00] · 2"


def test_contamination_is_marked_and_said(make_record: Callable) -> None:
    config = make_record().config | {"heard": ["emotions"]}
    (board,) = boards_of([make_record(upstream="knows", value=70.0, config=config), make_record(upstream="new")])
    found = overview([board]).lines[0].cells[1]
    assert (found.mark, found.title) == ("†", "pretrained on audio of emotions")


def test_intervals_are_drawn_on_one_axis_of_a_board(make_record: Callable) -> None:
    records = [
        make_record(upstream="a", value=60.0, ci95=[50.0, 70.0]),
        make_record(upstream="b", value=30.0, ci95=[20.0, 40.0]),
    ]
    table = board_table(boards_of(records)[0])
    place = [column.title for column in table.columns].index("95 % interval")
    bars = [line.cells[place].bar for line in table.lines]
    assert [bar[:3] for bar in bars] == [(95.2, 125.6, 156.0), (4.0, 34.4, 64.8)]
    assert all(bar[3] == 19.2 for bar in bars)  # chance, 25
    alone = board_table(boards_of([make_record(ci95=[50.0, 50.0], secondary={})])[0])
    assert all(math.isfinite(point) for point in alone.lines[0].cells[place].bar)


def test_layers_show_the_best_of_a_row_and_what_lies_in_its_interval(make_record: Callable) -> None:
    records = [mix(make_record, [0.5, 0.5, 0.0]), *layers_of(make_record, [40.0, 55.0, 54.5])]
    records += [make_record(upstream="flat", layer_numbers=[0], layer_weights=[1.0], value=60.0)]
    records += layers_of(make_record, [60.0], "flat")
    table = layer_table(boards_of(records)[0])
    assert texts(table) == [["flat", "60.0", "", "", "60.0"], ["deep", "40.0", "55.0", "54.5", "50.0"]]
    deep = table.lines[1].cells
    assert [cell.best for cell in deep] == [False, False, True, False, False]
    assert [cell.shade >= 0 for cell in deep] == [False, False, True, True, False]
    assert not table.lines[0].cells[1].best  # the only one is no choice
    assert deep[1].key == records[1].key


def test_costs_are_told_by_upstream_and_by_row(make_record: Callable) -> None:
    cost = {"extract_s": 10.0, "fit_s": 2.0, "fit_memory_mb": 300.0, "store_mb": 4.0, "parameters": 1000.0}
    cost["upstream_parameters"] = 2e6
    records = [
        make_record(cost=cost),
        make_record(cost={**cost, "extract_s": 30.0, "fit_memory_mb": 900.0}, task="lid"),
        make_record(upstream="slow", value=40.0, cost={**cost, "extract_s": 50.0}),
    ]
    boards = boards_of(records)
    assert texts(cost_by_upstream(boards, records)) == [["fbank", "2.0", "2", "900"], ["slow", "2.0", "1", "300"]]
    older = {name: value for name, value in cost.items() if name != "fit_memory_mb"} | {"peak_memory_mb": 5_000.0}
    mixed = [make_record(cost=cost), make_record(cost=older, task="lid"), make_record(upstream="old", cost=older)]
    assert [row[-1] for row in texts(cost_by_upstream(boards_of(mixed), mixed))] == ["≤ 5,000", "≤ 5,000"]
    mixed[0] = make_record(cost=cost | {"fit_memory_mb": 6_000.0})
    assert [row[-1] for row in texts(cost_by_upstream(boards_of(mixed), mixed))] == ["6,000", "≤ 5,000"]
    rows = texts(cost_of_rows(boards, records))
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("fbank", "er on emotions", "yes"),
        ("slow", "er on emotions", ""),
        ("fbank", "lid on emotions", "yes"),
    ]


def test_heads_that_were_trained_at_once_are_one_cost(make_record: Callable) -> None:
    """Ten layers in one pass are no cheaper than the mix alone."""
    cost = make_record().cost | {"extract_s": 1.0, "fit_s": 7.0}
    alone = make_record(upstream="alone", started="2026-01-01T00:00:00+00:00", cost=cost)
    shared = [make_record(upstream="all", layers=k, cost=cost) for k in ("mix", *range(10))]
    other_seed = make_record(upstream="all", seed=1, layers=3, cost=cost)
    boards = boards_of([alone, *shared, other_seed])
    place = [column.title for column in cost_of_rows(boards, []).columns].index("fit and search")
    found = {row.cells[0].text: row.cells[place] for row in cost_of_rows(boards, []).lines}
    assert {name: (cell.text, cell.small) for name, cell in found.items()} == {"alone": ("7", "1"), "all": ("77", "11")}
    assert {row.upstream: seconds_of(row) for row in boards[0].rows} == {"alone": 8.0, "all": 78.0}


def test_cpu_seconds_of_extraction_are_told_where_they_are_known(make_record: Callable) -> None:
    known = make_record().cost | {"extract_s": 10.0, "audio_s": 200.0}
    records = [make_record(cost=known | {"extract_cpu_s": 16.0}), make_record(upstream="other", cost=known)]
    table = cost_by_upstream(boards_of(records), records)
    place = [column.note for column in table.columns].index("s per CPU second of extraction")
    assert [row[place] for row in texts(table)] == ["12.5", "-"]


def test_winners_that_know_the_corpus_are_marked_wherever_they_are_named(make_record: Callable) -> None:
    config = make_record().config | {"heard": ["emotions"]}
    records = [make_record(upstream=name, value=value, config=config) for name, value in (("a", 70.0), ("b", 69.9))]
    records += [make_record(upstream=name, layers=0, config=config) for name in ("a", "b")]
    boards = boards_of(records)
    best = winners(boards).lines[0].cells
    assert (best[1].mark, best[1].title, best[3].text) == ("†", "pretrained on audio of emotions", "b †")
    assert [line.cells[0].mark for line in layer_table(boards[0]).lines] == ["†", "†"]
    assert [line.cells[0].mark for line in cost_of_rows(boards, records).lines] == ["†", "†"]
    scores = pd.DataFrame({"upstream": ["a", "new"], "score": [1.0, 2.0], "borda": [0.0, 1.0]})
    assert [line.cells[0].mark for line in overall_table(scores, boards).lines] == ["†", ""]


def test_the_rate_of_extraction_is_known_from_any_record_of_the_corpus(make_record: Callable) -> None:
    known = make_record().cost | {"extract_s": 10.0}
    records = [make_record(cost={**known, "audio_s": 200.0}), make_record(upstream="other", cost=known)]
    table = cost_by_upstream(boards_of(records), records)
    place = [column.title for column in table.columns].index("audio")
    assert [row[place] for row in texts(table)] == ["20.0", "20.0"]
    streamed = [make_record(cost={**known, "audio_s": 200.0, "store_mb": 0.0})]
    assert texts(cost_by_upstream(boards_of(streamed), streamed))[0][place] == "-"


def test_published_rows_keep_their_gaps() -> None:
    row = {"upstream": "x", "parameters": 2_500_000, "pretraining_corpus": None, "pr_per": 5.0, "st_bleu": None}
    table = published_table(pd.DataFrame([{**row, "superb_s": 900.4, "superb_s_public": None}]))
    assert texts(table) == [["x", "900", "-", "2.5", "-", "5.00", "-"]]


def test_numbers_have_commas_and_no_minus_before_nothing() -> None:
    assert [number(value, 1).text for value in (1234.56, -0.04, -1.0, None, math.nan)] == [
        "1,234.6",
        "0.0",
        "-1.0",
        "-",
        "-",
    ]
