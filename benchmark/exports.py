"""Boards for other programs: spreadsheets, LaTeX, the Hugging Face Hub; and what a record is, as JSON Schema."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import replace

from wavbench.benchmark.figures import safe
from wavbench.benchmark.leaderboard import MIX, Board, Row
from wavbench.benchmark.record import COSTS, SCHEMA, Record
from wavbench.benchmark.tables import (
    ABOUT,
    HEARD,
    about_marks,
    heard_of,
    markdown_table,
    marks_of,
    overview_names,
    printable,
    ranks_of,
)
from wavbench.downstream.metrics import METRICS
from wavbench.upstream.errors import UserError

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "[": "{[}", "*": "{*}",  # a row that begins with one of them would end the row before with an option
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
DAGGER = r"$^\dagger$"


def latex(boards: list[Board]) -> str:
    """One table of upstreams by boards for a paper: best in bold, what is not told apart from it underlined.

    Needs the package booktabs.
    """
    found = {(row.upstream, place): row for place, board in enumerate(boards) for row in board.rows}
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(boards)}}}",
        "\\toprule",
        " & ".join(["upstream", *(escaped(board.name) for board in boards)]) + r" \\",
        " & ".join(["", *(f"{escaped(b.metric)} ${_arrow(b)}$" for b in boards)]) + r" \\",
        "\\midrule",
    ]
    for name in overview_names(boards):
        cells = [_latex_cell(found.get((name, place))) for place in range(len(boards))]
        lines.append(" & ".join([escaped(name), *cells]) + r" \\")
    known = any(row.heard for row in found.values())
    about = ABOUT[HEARD].replace(HEARD, DAGGER)
    foot = [f"\\midrule\n\\multicolumn{{{len(boards) + 1}}}{{l}}{{\\footnotesize {about}}} \\\\"] if known else []
    return "\n".join([*lines, *foot, "\\bottomrule", "\\end{tabular}", ""])


def _arrow(board: Board) -> str:
    return r"\uparrow" if board.higher_is_better else r"\downarrow"


def _latex_cell(row: Row | None) -> str:
    if row is None:
        return "--"
    value, known = f"{row.value:.2f}", DAGGER if row.heard else ""
    if row.rank == 1:
        return rf"\textbf{{{value}}}{known}"
    return (rf"\underline{{{value}}}" if row.tied else value) + known


def escaped(text: str) -> str:
    """Text in which LaTeX sees no command; line ends and other control characters become blanks."""
    return "".join(LATEX.get(character, character) for character in printable(text))


def rows_of(boards: list[Board], upstream: str) -> list[tuple[Board, Row]]:
    """The rows of one upstream.

    Raises:
        UserError: it stands on no board.
    """
    found = [(board, row) for board in boards for row in board.rows if row.upstream == upstream]
    if not found:
        raise UserError(
            f"no board has a row {upstream!r}",
            remedy=f"one of: {', '.join(overview_names(boards)) or 'there are none'}",
        )
    return found


def eval_results(boards: list[Board], upstream: str, datasets: Mapping[str, str]) -> dict[str, str]:
    """Files for the folder `.eval_results` of a model on the Hugging Face Hub, by name.

    Args:
        boards: all.
        upstream: whose rows.
        datasets: the id on the Hub of each corpus that has one, as corpus or task/corpus; the others are left out.

    Raises:
        UserError: the upstream stands on no board, or an id is none.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from ruamel.yaml import YAML
    from ruamel.yaml.compat import StringIO

    wrong = [id for id in datasets.values() if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", id)]
    if wrong:
        raise UserError(f"{wrong[0]!r} is no id of a data set", remedy="datasets=CORPUS:ORGANISATION/NAME")
    files: dict[str, str] = {}
    for board, row in rows_of(boards, upstream):
        id = datasets.get(f"{board.task}/{board.corpus}", datasets.get(board.corpus))
        if id is None:
            continue
        record = row.record
        entry = EvalResultEntry(
            dataset_id=id,
            task_id=board.task,
            value=round(row.value, 4),
            date=record.started,
            notes=f"{board.metric} ({board.unit}), 95 % interval {row.low:.2f} to {row.high:.2f}; "
            f"{how(board, record)}, {row.seeds} seed{'s' * (row.seeds > 1)}"
            f"{'; ' * bool(row.heard)}{heard_of(row)}",
        )
        text = StringIO()
        YAML(typ="safe", pure=True).dump(eval_result_entries_to_yaml([entry]), text)
        name = f"{safe(board.task)}_{safe(board.corpus)}"
        count = sum(other.rpartition("-")[0] == name or other == name for other in files)
        files[f"{name}-{count + 1}" if count else name] = text.getvalue()
    return {f"{name}.yaml": text for name, text in files.items()}


def how(board: Board, record: Record) -> str:
    """How a value came to be, in a few words."""
    words = [record.adaptation, f"protocol {record.protocol} {record.protocol_version}", f"head {record.head}"]
    return ", ".join([*words, f"{board.updates} updates", *([board.training] if board.training else [])])


def card_table(boards: list[Board], upstream: str) -> str:
    """The rows of one upstream as a section of its model card."""
    header = ["task", "corpus", "metric", "value", "95 % interval", "ranks", "of", "how"]
    lines = []
    for board, row in rows_of(boards, upstream):
        metric, interval = (
            f"{board.metric} {'↑' if board.higher_is_better else '↓'}",
            f"{row.low:.2f} to {row.high:.2f}",
        )
        own = [f"{row.value:.2f}{marks_of(row)}", interval, ranks_of(row), str(len(board.rows)), how(board, row.record)]
        lines.append([board.task, board.corpus, metric, *own])
    about = about_marks([replace(board, rows=(row,)) for board, row in rows_of(boards, upstream)])
    return "\n".join(["## Evaluation", "", *markdown_table(header, lines), "", *([about, ""] if about else [])])


def record_schema() -> dict:
    """What a record is, as JSON Schema (draft 2020-12)."""
    hints = typing.get_type_hints(Record)
    properties = {field.name: _schema_of(hints[field.name]) for field in dataclasses.fields(Record)}
    properties["schema"] = {"const": SCHEMA}
    properties["key"] = {"type": "string", "pattern": "^[0-9a-f]{20}$"}
    properties["ci95"] |= {"minItems": 2, "maxItems": 2}
    properties["layers"] = {"anyOf": [{"const": MIX}, {"type": "integer", "minimum": 0}]}
    properties["metric"] = {"enum": sorted(METRICS)}
    properties["n"] |= {"minimum": 0}
    rates = {"type": "object", "additionalProperties": {"type": "number"}}
    properties["learning_rate_curve"]["items"] |= {"properties": {"dev": rates}, "required": ["dev"]}
    properties["cost"] |= {"required": sorted(COSTS)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A finished cell of wavbench",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _schema_of(hint: object) -> dict:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return {"anyOf": [_schema_of(part) for part in inner]}
    if origin is list:
        return {"type": "array", "items": _schema_of(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(inner[1])}
    if hint is dict:
        return {"type": "object"}
    return {"type": {str: "string", bool: "boolean", int: "integer", float: "number"}[hint]}
