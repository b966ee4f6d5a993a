"""One HTML file with everything in it: tables, drawings, records. Nothing is loaded from elsewhere.

The tables are in the file as text, so that it reads without its script, which sorts, filters and opens records. A
content security policy lets nothing run and nothing style but what stands in the file, by hash.
"""

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wavbench.benchmark.cost_tables import cost_by_upstream, cost_of_rows
from wavbench.benchmark.drawings import Drawings
from wavbench.benchmark.leaderboard import Board
from wavbench.benchmark.page_data import Reference, cells_of, data_block
from wavbench.benchmark.page_tables import (
    board_table,
    layer_table,
    overall_table,
    overview,
    published_table,
    winners,
)
from wavbench.benchmark.record import Record, write_text
from wavbench.benchmark.tables import ABOUT_TIES, about_marks

TASKS, LAYERS, COST, OVERALL = "tasks", "layers", "cost", "overall"  # tabs
KINDS = {  # of figures, by what their names begin with: the tab, and what they show
    "scores": (TASKS, "Scores of all boards with 95 % intervals"),
    "confusion": (TASKS, "Which class is taken for which, by the best upstream of a board, in % of the class"),
    "det": (TASKS, "Misses against false alarms of verification; curves further down and left are better"),
    "labels": (TASKS, "Score by minutes of labels that the upstream was fine-tuned on"),
    "layers": (LAYERS, "Score of each layer alone, every task; higher layers are further from the waveform"),
    "mix": (LAYERS, "What mixes take from each layer, beside what each layer scores alone"),
    "hours": (LAYERS, "Score by hours of audio seen in pretraining"),
    "cca": (LAYERS, "What layers hold of labels"),
    "cka": (LAYERS, "How alike layers are"),
    "norms": (LAYERS, "How large states are"),
    "tsne": (LAYERS, "Utterances in a plane"),
    "cost": (COST, "Score against seconds: on the grey line nothing cheaper is better"),
    "heads": (OVERALL, "The same upstreams under several heads of a task: lines cross where ranks hang on the head"),
}
FOLDER = Path(__file__).parent
NOTHING = Reference()


@dataclass(frozen=True)
class Figure:
    """A drawing of the page: its SVG, and the name of the file that holds its numbers."""

    name: str
    drawing: str
    words: str


def write_page(
    boards: list[Board],
    records: list[Record],
    figures: dict[str, Path],
    results: Path,
    path: Path,
    reference: Reference = NOTHING,
) -> None:
    """Write the page whole or not at all.

    Args:
        boards: ranked.
        records: all that boards were made of.
        figures: SVG files by name; a name begins with its kind, and kinds without an entry in KINDS stand with layers.
        results: folder that scores and confusions are in.
        path: of the page.
        reference: what is shown beside records.
    """
    import jinja2
    from markupsafe import Markup

    style, script = (FOLDER.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    drawings = Drawings()
    drawn = _by_tab(figures, drawings)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    data = cells_of(boards, records, results, reference.licences)
    text = environment.from_string(FOLDER.joinpath("page.html").read_text(encoding="utf-8")).render(
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=Markup(data_block(data)),
        places={cell["key"]: place for place, cell in enumerate(data["cells"])},
        shared=Markup(drawings.shared),
        figures=drawn,
        winners=winners(boards),
        overview=overview(boards),
        boards=[board_table(board) for board in boards if board.rows],
        layers=[layer_table(board) for board in boards if len(board.layers)],
        costs=cost_by_upstream(boards, records),
        rows=cost_of_rows(boards, records),
        overall=overall_table(reference.overall, boards),
        published=None if reference.published is None else published_table(reference.published),
        reference=reference,
        licences=[(corpus, reference.licences.get(corpus, "not recorded")) for corpus in _corpora(boards)],
        ties=ABOUT_TIES.replace("`", ""),
        marks=about_marks(boards),
        commits=sorted({record.commit for record in records if record.commit}),
        versions=max(records, key=lambda record: record.started).versions,
        latest=max(record.started for record in records),
        count=len(records),
        upstreams=len({row.upstream for board in boards for row in board.rows}),
    )
    write_text(path, text)


def policy(style: str, script: str) -> str:
    """A content security policy under which only this style and this script count, and pictures of the page's own."""
    own = {kind: f"'sha256-{_hash(text)}'" for kind, text in (("style", style), ("script", script))}
    return (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _by_tab(figures: dict[str, Path], drawings: Drawings) -> dict[str, list[tuple[str, list[Figure]]]]:
    """Figures of each tab in groups of one kind, with what the kind shows."""
    from markupsafe import Markup

    kinds = list(KINDS)
    found: dict[str, dict[str, list[Figure]]] = {tab: {} for tab in (TASKS, LAYERS, COST, OVERALL)}
    known = [(name.partition("_")[0], name) for name in figures]
    for kind, name in sorted(known, key=lambda pair: kinds.index(pair[0]) if pair[0] in kinds else len(kinds)):
        tab, about = KINDS.get(kind, (LAYERS, kind))
        words = f"{about}: {name.partition('_')[2]}" if "_" in name else about
        drawing = Markup(drawings.add(figures[name], words))
        found[tab].setdefault(about, []).append(Figure(figures[name].stem, drawing, words))
    return {tab: list(groups.items()) for tab, groups in found.items()}


def _corpora(boards: Iterable[Board]) -> list[str]:
    return sorted({board.corpus for board in boards})
