"""Boards for other programs: no cell is a formula, no name is a command, and what the Hub reads it reads back."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
from huggingface_hub import parse_eval_result_entries
from ruamel.yaml import YAML

from wavbench.benchmark.exports import card_table, escaped, eval_results, latex, record_schema
from wavbench.benchmark.leaderboard import Board, boards_of
from wavbench.benchmark.tables import spreadsheet
from wavbench.upstream.errors import UserError

ROOT = Path(__file__).parents[3]
NASTY = '=HYPERLINK("x")|\\input{/etc/passwd} 100% #1_a ~^<b>\nend'


@pytest.fixture
def boards(make_record: Callable) -> list[Board]:
    errors = {"task": "pr", "metric": "PER", "higher_is_better": False, "secondary": {}, "corpus": "read_speech"}
    return boards_of(
        [
            make_record(upstream="best", value=70.0, ci95=[65.0, 75.0]),
            make_record(upstream="near", value=66.0, ci95=[60.0, 72.0]),
            make_record(upstream=NASTY, value=50.0, ci95=[45.0, 55.0]),
            make_record(**errors, upstream="best", value=30.0, ci95=[28.0, 32.0]),
            make_record(**errors, upstream="near", value=20.0, ci95=[18.0, 22.0]),
        ]
    )


def test_no_text_of_a_spreadsheet_is_a_formula_and_numbers_stay_numbers() -> None:
    cells = ["=1+1", "+49", "-x", "@sum", "\tx", "plain", "", "a=b", None, "\n=1", "＝1+1", "a;=cmd", "a; b", "a\n+1"]
    text = spreadsheet(pd.DataFrame({"name": cells, "value": [-1.5, *range(2, 15)]}))
    read = list(csv.DictReader(io.StringIO(text)))
    plain = ["'=1+1", "'+49", "'-x", "'@sum", "'\tx", "plain", "", "a=b", ""]
    assert [row["name"] for row in read] == [*plain, "'\n'=1", "'＝1+1", "a;'=cmd", "a; b", "a\n'+1"]
    assert read[0]["value"] == "-1.5"


def test_the_best_is_bold_and_what_is_not_told_apart_from_it_underlined(boards: list[Board]) -> None:
    lines = latex(boards).splitlines()
    assert lines[1] == "\\begin{tabular}{lrr}"
    assert lines[3] == r"upstream & er on emotions & pr on read\_speech \\"
    assert lines[4] == r" & accuracy $\uparrow$ & PER $\downarrow$ \\"
    assert r"best & \textbf{70.00} & 30.00 \\" in lines
    assert r"near & \underline{66.00} & \textbf{20.00} \\" in lines
    (last,) = (line for line in lines if "HYPERLINK" in line)
    assert last.endswith(r"& 50.00 & -- \\")


def test_no_name_is_an_option_of_the_row_before() -> None:
    assert escaped("[2em] *x") == "{[}2em] {*}x"


def test_no_name_is_a_command_of_latex(boards: list[Board]) -> None:
    text = escaped(NASTY)
    assert text == (
        r'=HYPERLINK("x")|\textbackslash{}input\{/etc/passwd\} 100\% \#1\_a \textasciitilde{}\textasciicircum{}'
        r"\textless{}b\textgreater{} end"
    )
    commands = set(re.findall(r"\\[a-z]+", latex(boards)))
    own = {"begin", "end", "toprule", "midrule", "bottomrule", "textbf", "underline", "uparrow", "downarrow"}
    allowed = own | {"usepackage", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater"}
    assert commands <= {f"\\{name}" for name in allowed}


def test_the_hub_reads_its_files_back(boards: list[Board]) -> None:
    files = eval_results(boards, "near", {"emotions": "me/emotions", "pr/read_speech": "you/read.speech-1"})
    assert sorted(files) == ["er_emotions.yaml", "pr_read_speech.yaml"]
    (entry,) = parse_eval_result_entries(YAML(typ="safe").load(files["pr_read_speech.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("you/read.speech-1", "pr", 20.0)
    assert entry.date == "2026-01-01T00:00:00+00:00"
    assert entry.notes.startswith("PER (%), 95 % interval 18.00 to 22.00; frozen, protocol clean 1, head mean_linear")
    assert eval_results(boards, "near", {"other": "me/x"}) == {}


def test_rows_that_would_share_a_file_have_their_own(make_record: Callable) -> None:
    boards = boards_of([make_record(head=head) for head in ("mean_linear", "attentive")])
    assert sorted(eval_results(boards, "fbank", {"emotions": "me/x"})) == ["er_emotions-2.yaml", "er_emotions.yaml"]


def test_an_upstream_without_rows_and_an_id_that_is_none_are_refused(boards: list[Board]) -> None:
    with pytest.raises(UserError, match="no board has a row 'bst'") as error:
        card_table(boards, "bst")
    assert "best" in error.value.remedy
    with pytest.raises(UserError, match="no id of a data set"):
        eval_results(boards, "best", {"emotions": "../x"})


def test_a_card_has_a_line_per_board(boards: list[Board]) -> None:
    lines = card_table(boards, "near").splitlines()
    assert lines[0] == "## Evaluation"
    assert lines[4].startswith(
        "| er | emotions | accuracy ↑ | 66.00 | 60.00 to 72.00 | 2 = | 3 | frozen, protocol clean 1"
    )
    assert lines[5].startswith("| pr | read_speech | PER ↓ | 20.00 |")


def test_the_committed_schema_is_that_of_the_record() -> None:
    assert json.loads((ROOT / "docs/record.schema.json").read_text()) == record_schema()
    jsonschema.Draft202012Validator.check_schema(record_schema())


def test_every_committed_record_validates_and_damaged_ones_do_not() -> None:
    validator = jsonschema.Draft202012Validator(record_schema())
    paths = sorted((ROOT / "results/runs").glob("*.json"))
    assert len(paths) > 100
    for path in paths:
        values = json.loads(path.read_text())
        assert not list(validator.iter_errors(values)), path
    for change in ({"schema": 0}, {"key": "../x"}, {"value": "1"}, {"ci95": [1.0]}, {"cost": {}}, {"more": 1},
                   {"layers": "foo"}, {"layers": -1}, {"n": -5}, {"metric": "luck"},
                   {"learning_rate_curve": [{"fold": ""}]}):  # fmt: skip
        assert list(validator.iter_errors(values | change)), change


def test_exports_say_which_upstreams_know_the_corpus(make_record: Callable) -> None:
    config = make_record().config | {"heard": ["emotions"]}
    known = make_record(upstream="knows", value=70.0, ci95=[69.0, 71.0], config=config)
    boards = boards_of([known, make_record(upstream="new", value=20.0, ci95=[19.0, 21.0])])
    lines = latex(boards).splitlines()
    assert r"knows & \textbf{70.00}$^\dagger$ \\" in lines
    assert r"new & 20.00 \\" in lines
    assert r"$^\dagger$ marks upstreams that were pretrained on audio of the corpus." in "".join(lines)
    assert "70.00 †" in card_table(boards, "knows")
    assert "† marks" in card_table(boards, "knows")
    assert "†" not in card_table(boards, "new")
    (file,) = eval_results(boards, "knows", {"emotions": "a/b"}).values()
    assert "pretrained on audio of emotions" in " ".join(file.split())
