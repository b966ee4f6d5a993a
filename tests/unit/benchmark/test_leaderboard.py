"""Records to ranked tables: what is compared, in which direction, and what is a tie."""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.report import write_report
from wavbench.benchmark.tables import board_table, cell, describe, long_table, markdown, overview, plain
from wavbench.upstream.errors import UserError

FIGURES = ("scores", "layers_er", "layers_all", "mix_er", "mix_pr")
PER = {"task": "pr", "metric": "PER", "higher_is_better": False, "secondary": {}}


def test_the_highest_value_leads_where_higher_is_better(make_record: Callable) -> None:
    (board,) = boards_of([make_record(upstream=u, value=v) for u, v in (("a", 30.0), ("b", 70.0), ("c", 50.0))])
    assert [(row.rank, row.upstream) for row in board.rows] == [(1, "b"), (2, "c"), (3, "a")]


def test_the_lowest_value_leads_where_lower_is_better(make_record: Callable) -> None:
    (board,) = boards_of([make_record(**PER, upstream=u, value=v) for u, v in (("a", 30.0), ("b", 70.0), ("c", 50.0))])
    assert [row.upstream for row in board.rows] == ["a", "c", "b"]


def test_seeds_are_averaged_and_their_spread_is_said(make_record: Callable) -> None:
    records = [make_record(upstream="a", seed=k, value=v) for k, v in enumerate((50.0, 52.0, 57.0))]
    (board,) = boards_of([*records, make_record(upstream="b", value=40.0)])
    assert (board.rows[0].value, board.rows[0].seeds) == (53.0, 3)
    assert board.rows[0].deviation == pytest.approx(13.0**0.5)  # (9 + 1 + 16) / 2
    header, lines = board_table(board)
    assert [line[header.index("seeds")] for line in lines] == ["3, deviation 3.61", "1"]


def test_rows_whose_interval_meets_the_best_rows_are_marked_and_others_not(make_record: Callable) -> None:
    records = [
        make_record(upstream="best", value=70.0, ci95=[65.0, 75.0]),
        make_record(upstream="near", value=62.0, ci95=[58.0, 66.0]),
        make_record(upstream="touching", value=60.0, ci95=[55.0, 65.0]),
        make_record(upstream="far", value=50.0, ci95=[45.0, 64.9]),
    ]
    for board in (boards_of(records), boards_of([dataclasses.replace(r, **PER) for r in records])):
        tied = {row.upstream: row.tied for row in board[0].rows}
        assert tied["far"] is (board[0].rows[0].upstream == "far")
    tied = {row.upstream: row.tied for row in boards_of(records)[0].rows}
    assert tied == {"best": True, "near": True, "touching": True, "far": False}
    text = plain(boards_of(records)).splitlines()
    assert [line.split("]")[1].strip() for line in text if "]" in line] == ["best", "=", "=", ""]


@pytest.mark.parametrize(
    "change",
    [
        {"task": "lid"},
        {"corpus": "others"},
        {"corpus_hash": "another"},
        {"protocol": "superb"},
        {"protocol_version": 2},
        {"adaptation": "full"},
        {"head": "ecapa"},
        {"config": {"budget": {"updates": 20, "batch": 32}, "upstream": {}, "trials": False}},
        {"config": {"budget": {"updates": 2000, "batch": 32}, "upstream": {}, "trials": "a1"}},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_what_was_measured_otherwise_is_never_ranked_together(make_record: Callable, change: dict) -> None:
    boards = boards_of([make_record(upstream="a", value=10.0), make_record(upstream="b", value=90.0, **change)])
    assert len(boards) == 2
    assert all([row.rank for row in board.rows] == [1] for board in boards)


def test_two_trial_lists_are_two_boards(make_record: Callable) -> None:
    config = make_record().config
    records = [make_record(upstream=t, config=config | {"trials": t}) for t in ("hash of one", "hash of two")]
    assert len(boards_of(records)) == 2


def test_cost_commit_and_upstream_config_do_not_part_a_board(make_record: Callable) -> None:
    other = make_record(upstream="b", commit="fff", seed=0)
    other = dataclasses.replace(other, config=other.config | {"upstream": {"dim": 3}}, started="2027-01-01T00:00:00")
    assert len(boards_of([make_record(), other])) == 1


def test_seeds_are_averaged(make_record: Callable) -> None:
    values = ((0, 40.0, [30.0, 50.0]), (1, 50.0, [42.0, 58.0]), (2, 60.0, [54.0, 66.0]))
    (board,) = boards_of([make_record(seed=s, value=v, ci95=c) for s, v, c in values])
    (row,) = board.rows
    assert (row.value, row.low, row.high, row.seeds) == (50.0, 42.0, 58.0, 3)
    assert row.record.seed == 0


def test_the_best_layer_is_named_in_the_metrics_direction(make_record: Callable) -> None:
    for direction, best in (({}, (2, 60.0)), (PER, (0, 30.0))):
        layers = [make_record(**direction, layers=k, value=v) for k, v in ((0, 30.0), (1, 40.0), (2, 60.0))]
        (board,) = boards_of([make_record(**direction), *layers])
        assert board.rows[0].best_layer == best
        assert board.layers["layer"].tolist() == [0, 1, 2]
    assert boards_of([make_record()])[0].rows[0].best_layer is None


def test_ten_layers_stand_in_the_order_of_numbers(make_record: Callable) -> None:
    (board,) = boards_of([make_record(layers=k) for k in (10, 9, 2, 11, 0)])
    assert board.layers["layer"].tolist() == [0, 2, 9, 10, 11]


def test_two_checkpoints_of_one_name_are_two_rows_everywhere(make_record: Callable) -> None:
    records = [
        make_record(upstream="mine", checkpoint_hash=h, value=v) for h, v in (("aaaa1111", 40.0), ("bb22", 60.0))
    ]
    records += [
        make_record(upstream="mine", checkpoint_hash=r.checkpoint_hash, layers=k, value=r.value + k)
        for r in records
        for k in (0, 1)
    ]
    boards = boards_of([*records, make_record(upstream="alone")])
    names = [row.upstream for row in boards[0].rows]
    assert len(set(names)) == 3
    assert "alone" in names
    _, lines = overview(boards)
    assert sorted(line[1].split()[0] for line in lines) == ["40.00", "50.00", "60.00"]
    by_value = {row.value: row.best_layer for row in boards[0].rows}
    assert by_value[40.0] == (1, 41.0)
    assert by_value[60.0] == (1, 61.0)


def test_the_table_has_a_line_per_row_with_all_that_a_paper_needs(make_record: Callable) -> None:
    records = [make_record(), make_record(upstream="b", value=45.0, synthetic=False), make_record(**PER, upstream="b")]
    table = long_table(boards_of(records))
    assert table[["task", "upstream", "rank", "value"]].to_numpy().tolist() == [
        ["er", "fbank", 1, 50.0],
        ["er", "b", 2, 45.0],
        ["pr", "b", 1, 50.0],
    ]
    wanted = {"ci95_low", "ci95_high", "ci_unit", "n", "seeds", "protocol", "corpus_hash", "checkpoint_hash", "key"}
    wanted |= {"synthetic", "extract_s", "fit_s", "told_apart_from_best", "rank_first", "rank_last", "p_best"}
    assert wanted <= set(table)
    assert table["chance"].tolist()[:2] == [25.0, 25.0]


def test_pipes_do_not_break_markdown_tables(make_record: Callable) -> None:
    text = markdown(boards_of([make_record(upstream="a|b", corpus="x|y")]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "a\\|b" in text
    unescaped = [line.replace("\\|", "").count("|") for line in rows]
    assert unescaped[:3] == [3, 3, 3]
    assert len(set(unescaped[3:])) == 1
    assert "a\\\\\\|b" in markdown(boards_of([make_record(upstream="a\\|b")]))  # the backslash escapes no sign of ours


def test_names_begin_no_line_of_markdown(make_record: Callable) -> None:
    text = markdown(boards_of([make_record(task="er\n\n[click](http://x)", split="test\n# more")]))
    assert not any(line.startswith(("[click]", "# more")) for line in text.splitlines())


def test_markdown_marks_best_and_ties_and_says_how_it_was_measured(make_record: Callable) -> None:
    records = [
        make_record(),
        make_record(upstream="near", value=45.0),
        make_record(upstream="far", ci95=[1.0, 2.0], value=1.5),
    ]
    text = markdown(boards_of(records))
    assert "50.00 [40.00, 60.00] **best**" in text
    assert "45.00 [40.00, 60.00] =" in text
    assert "1.50 [1.00, 2.00] |" in text
    assert "higher is better; knowing nothing scores 25.0" in text
    assert "intervals over speakers, 2000 updates" in text


def test_synthetic_speech_is_marked_wherever_it_is_ranked(make_record: Callable) -> None:
    boards = boards_of([make_record(synthetic=True)])
    assert "(synthetic)" in boards[0].name
    assert "synthesiser" in describe(boards[0])
    assert "synthetic" in overview(boards)[0][1]
    assert "(synthetic)" in plain(boards)
    assert long_table(boards)["synthetic"].tolist() == [True]
    assert "synth" not in markdown(boards_of([make_record()]))


def test_intervals_over_utterances_are_said_so(make_record: Callable) -> None:
    assert "intervals over utterances" in describe(boards_of([make_record(ci_unit="utterance")])[0])


def test_an_upstream_without_a_score_leaves_its_cell_empty(make_record: Callable) -> None:
    boards = boards_of([make_record(upstream="a"), make_record(**PER, upstream="b")])
    _, lines = overview(boards)
    assert [[bool(text) for text in line[1:]] for line in lines] == [[True, False], [False, True]]
    assert cell(boards[0].rows[0]).endswith("**best**")


def test_a_report_of_everything_is_written(tmp_path: Path, make_record: Callable, write_records: Callable) -> None:
    layers = [make_record(layers=k, value=40.0 + k) for k in range(3)]
    write_records(tmp_path, make_record(), *layers, make_record(**PER, synthetic=True))
    done = write_report(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name not in ("runs", ".cache")]
    names = {str(path.relative_to(tmp_path)) for path in files}
    figures = {f"figures/{stem}.{kind}" for stem in FIGURES for kind in ("png", "svg", "csv")}
    assert names == {f"leaderboard.{kind}" for kind in ("csv", "md", "tex", "html")} | figures
    assert done.page == tmp_path / "leaderboard.html"
    assert "er on emotions" in done.text
    with open(tmp_path / "leaderboard.csv", newline="") as file:
        assert [row["task"] for row in csv.DictReader(file)] == ["er", "pr"]


def test_the_same_records_give_the_same_bytes(tmp_path: Path, make_record: Callable, write_records: Callable) -> None:
    write_records(tmp_path, make_record(), make_record(upstream="b"), *[make_record(layers=k) for k in range(3)])

    def contents() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    write_report(tmp_path)
    first = contents()
    write_report(tmp_path)
    assert contents() == first


def test_single_layers_alone_make_a_report_too(tmp_path: Path, make_record: Callable, write_records: Callable) -> None:
    write_records(tmp_path, make_record(layers=2, value=41.0))
    done = write_report(tmp_path)
    assert done.page.is_file()
    assert "er on emotions" in done.text
    assert "41.00" in done.text
    assert pd.read_csv(tmp_path / "leaderboard.csv").empty
    assert pd.read_csv(tmp_path / "figures" / "layers_er.csv")["value"].tolist() == [41.0]


def test_no_records_is_an_error_that_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records") as error:
        write_report(tmp_path)
    assert "wavbench run" in error.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_an_upstream_that_was_pretrained_on_the_corpus_is_marked_and_the_mark_explained(make_record: Callable) -> None:
    config = make_record().config
    records = [
        make_record(upstream="knows", value=70.0, config={**config, "heard": ["emotions"]}),
        make_record(upstream="new", value=60.0),
    ]
    (board,) = boards_of(records)
    assert [(row.upstream, row.heard) for row in board.rows] == [("knows", ("emotions",)), ("new", ())]
    assert cell(board.rows[0]) == "70.00 [40.00, 60.00] † **best**"
    assert "†" not in cell(board.rows[1])
    assert "were pretrained on audio of the corpus" in describe(board)
    assert markdown([board]).count("were pretrained on") == 2
    assert plain([board]).count("†") == 2
    assert long_table([board])["pretrained_on"].tolist() == ["emotions", ""]
    (unmarked,) = boards_of(records[1:])
    assert "pretrained" not in markdown([unmarked])


def test_protocols_have_boards_of_their_own_with_their_names(make_record: Callable) -> None:
    boards = boards_of([make_record(), make_record(protocol="superb", value=55.0)])
    assert sorted(board.name for board in boards) == ["er on emotions", "er on emotions, protocol superb"]
    assert "protocol superb" in " ".join(overview(boards)[0])


def test_no_two_boards_have_one_name(make_record: Callable) -> None:
    config = make_record().config
    changes = [
        {},
        {"corpus_hash": "d00d1e"},
        {"config": config | {"budget": {"updates": 10, "batch": 32}}},
        {"config": config | {"budget": {"updates": 2000, "batch": 8}}},
        {"protocol_version": 9},
    ]
    boards = boards_of([make_record(**change) for change in changes])
    names = [board.name for board in boards]
    assert len(set(names)) == len(set(overview(boards)[0][1:])) == 5
    two = [board.name for board in boards_of([make_record(), make_record(corpus_hash="d00d1e")])]
    assert sorted(name.rpartition(", ")[2] for name in two) == ["corpus #c0ffee", "corpus #d00d1e"]


def test_boards_that_differ_in_their_head_alone_say_it(make_record: Callable) -> None:
    records = [make_record(key="1" * 20, head="linear"), make_record(key="2" * 20, head="blstm")]
    boards = boards_of(records)
    names = sorted(board.name for board in boards)
    assert [name.rpartition(", ")[2] for name in names] == ["head blstm", "head linear"]
    assert len(set(overview(boards)[0])) == 3
    assert ", head " not in boards_of(records[:1])[0].name
