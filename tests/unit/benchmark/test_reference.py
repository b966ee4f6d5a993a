"""What a report shows beside its records."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.reference import counted_boards, read_reference

PUBLISHED = Path(__file__).parents[3] / "results/published/superb.csv"
FAR = {"ci95": [70.0, 90.0], "value": 80.0}


def board(make_record: Callable, **changes) -> list:
    """Filterbanks and a row that is told apart from them."""
    low = {"value": 20.0, "ci95": [10.0, 30.0]}
    return [make_record(upstream="fbank", **(low | changes)), make_record(upstream="good", **(FAR | changes))]


def test_boards_of_the_tasks_own_head_count_once_for_each_corpus(make_record: Callable) -> None:
    records = board(make_record)
    records += board(make_record, head="attentive")
    records += board(make_record, protocol="superb")
    records += board(make_record, adaptation="full", config={"budget": {"labels": "10min"}, "labels": 10.0})
    records += board(make_record, corpus="others")
    assert [found.name for found in counted_boards(boards_of(records))] == [
        "er on emotions, head mean_linear",
        "er on others",
    ]


def test_a_board_that_does_not_tell_the_best_from_filterbanks_does_not_count(make_record: Callable) -> None:
    tie = [make_record(upstream="fbank", value=45.0), make_record(upstream="good", value=50.0)]
    assert counted_boards(boards_of(tie)) == []
    assert counted_boards(boards_of([make_record(upstream="good")])) == []
    assert counted_boards(boards_of(board(make_record, task="none-such"))) == []


def test_synthetic_speech_counts_where_there_is_nothing_else(make_record: Callable) -> None:
    made, recorded = board(make_record, synthetic=True, corpus="made"), board(make_record)
    assert [found.corpus for found in counted_boards(boards_of(made))] == ["made"]
    assert [found.corpus for found in counted_boards(boards_of(made + recorded))] == ["emotions"]


def test_of_two_budgets_the_longer_board_counts(make_record: Callable) -> None:
    records = board(make_record, config={"budget": {"updates": 1}})
    records += [*board(make_record), make_record(upstream="third")]
    (found,) = counted_boards(boards_of(records))
    assert len(found.rows) == 3


def test_scores_over_tasks_are_those_of_the_boards_that_count(tmp_path: Path, make_record: Callable) -> None:
    found = read_reference(tmp_path, boards_of(board(make_record)))
    assert found.overall[["upstream", "score"]].to_numpy().tolist() == [["good", 1000.0], ["fbank", 0.0]]
    assert found.counted == ("er on emotions",)
    assert (found.published, found.speeds, found.problems) == (None, (), ())


def test_licences_come_from_records_the_file_and_readers(tmp_path: Path, make_record: Callable) -> None:
    (tmp_path / "corpora.csv").write_text("corpus,licence,source\nmine,CC0,me\nemotions,CC BY,them\n")
    records = [
        make_record(corpus="mine"),
        make_record(corpus="mini_librispeech-clean"),
        make_record(corpus="unknown"),
        make_record(corpus="emotions", config={"licence": "of the import"}),
    ]
    found = read_reference(tmp_path, boards_of(records)).licences
    assert found == {"mine": "CC0", "emotions": "of the import", "mini_librispeech-clean": "CC BY 4.0"}


@pytest.mark.parametrize("text", ["", "corpus\nmine\n", "\0"])
def test_damaged_licences_are_named(tmp_path: Path, make_record: Callable, text: str) -> None:
    (tmp_path / "corpora.csv").write_text(text)
    assert len(read_reference(tmp_path, boards_of([make_record()])).problems) == 1


def test_published_scores_are_made_anew_from_the_columns(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    text = PUBLISHED.read_text()
    header = text.splitlines()[0].split(",")
    lines = [line.split(",") for line in text.splitlines()[1:3]]
    for line in lines:
        line[header.index("superb_s")] = "9999"  # what somebody else wrote there counts nothing
    table = "\n".join(",".join(line) for line in [header, *lines])
    (tmp_path / "published" / "superb.csv").write_text(f"{table}\n")
    published = read_reference(tmp_path, []).published
    assert published["superb_s"].round(1).tolist() == [0.0, 148.6]


@pytest.mark.parametrize("text", ["", "upstream\nx\n", "upstream,parameters\nx,many\n", "upstream,parameters\nx,1\n"])
def test_damaged_published_scores_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "superb.csv").write_text(text)
    found = read_reference(tmp_path, [])
    assert found.published is None
    assert len(found.problems) == 1


def test_speeds_are_read_and_damaged_ones_named(tmp_path: Path) -> None:
    (tmp_path / "speed").mkdir()
    own = {"upstream": "x", "precision": "fp32", "threads": 1, "processor": "p", "extract_per_cpu_second": 6.3}
    endless = json.dumps(own | {"threads": float("inf")})
    for name, text in (("a", json.dumps(own)), ("b", "{"), ("c", "[]"), ("d", "{}"), ("e", endless)):
        (tmp_path / "speed" / f"extraction_{name}.json").write_text(text)
    reference = read_reference(tmp_path, [])
    (found,) = reference.speeds
    assert [Path(problem.where).stem[-1] for problem in reference.problems] == ["b", "c", "d", "e"]
    assert found == {"upstream": "x", "precision": "fp32", "threads": 1, "processor": "p", "rate": 6.3}
