"""One HTML file with everything in it: tables, figures, how to read them. Nothing is loaded from elsewhere."""

import base64
from pathlib import Path

from wavbench.benchmark.leaderboard import Board
from wavbench.benchmark.plots import confusion_name
from wavbench.benchmark.record import Record, write_text
from wavbench.benchmark.tables import ABOUT_HEARD, ABOUT_TIES, board_table, describe, overview

OF_LAYERS = {  # what figures of layers show, by what their names begin with
    "layers": "Score by layer, every task",
    "mix": "What mixes take from each layer, beside what each layer scores alone",
    "hours": "Score by hours of audio seen in pretraining",
    "cca": "What layers hold of labels",
    "cka": "How alike layers are",
    "norms": "How large states are",
    "tsne": "Utterances in a plane",
}
TEMPLATE = Path(__file__).with_name("page.html")


def write_page(
    boards: list[Board], records: list[Record], figures: dict[str, Path], layers: dict[str, Path], path: Path
) -> None:
    """Write the page whole or not at all.

    Args:
        figures: SVG files by name, as plots.write_figures returns them.
        layers: those of layers, which have a part of their own.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    header, lines = overview(boards)
    images = {name: _inline(figure) for name, figure in figures.items()}
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        header=header,
        lines=lines,
        boards=[
            {
                "name": board.name,
                "about": describe(board),
                "synthetic": board.synthetic,
                "table": board_table(board),
                "figure": images.get(f"layers_{board.task}") if _first_of_task(board, boards) else None,
                "labels": images.get(f"labels_{board.task}") if _first_of_task(board, boards) else None,
                "scores": [
                    (images[name], f"{what}, {board.task} on {board.corpus}")
                    for name, what in (
                        (f"det_{board.corpus}" if board.metric == "EER" else "", "Misses against false alarms"),
                        (confusion_name(board.task, board.corpus), "Which class is taken for which"),
                    )
                    if name in images and _first_of_corpus(board, boards)
                ],
                "task": board.task,
            }
            for board in boards
        ],
        ties=ABOUT_TIES.replace("`", ""),
        heard=ABOUT_HEARD if any(row.heard for board in boards for row in board.rows) else "",
        scores=images["scores"],
        layers=[
            (_inline(figure), f"{OF_LAYERS[name.partition('_')[0]]}: {name.partition('_')[2]}")
            for name, figure in layers.items()
        ],
        commits=sorted({record.commit for record in records if record.commit}),
        versions=max(records, key=lambda record: record.started).versions,
        latest=max(record.started for record in records),
        count=len(records),
    )
    write_text(path, text)


def _first_of_task(board: Board, boards: list[Board]) -> bool:
    """A task's figure shows all its corpora, so it stands once, at the first."""
    return next(other for other in boards if other.task == board.task) is board


def _first_of_corpus(board: Board, boards: list[Board]) -> bool:
    """The figures of scores show all heads and protocols of a task on a corpus."""
    here = (board.task, board.corpus)
    return next(other for other in boards if (other.task, other.corpus) == here) is board


def _inline(figure: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure.read_bytes()).decode()
