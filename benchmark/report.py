"""`wavbench report`: the records of a results folder to tables, figures and a page."""

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wavbench.benchmark.analysis_record import read_analyses
from wavbench.benchmark.collect import collect
from wavbench.benchmark.exports import latex
from wavbench.benchmark.foremost import foremost, records_of
from wavbench.benchmark.forked import results_of, workers_for
from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.ranking import ranked
from wavbench.benchmark.record import write_text
from wavbench.benchmark.reference import read_reference
from wavbench.benchmark.tables import long_table, markdown, plain, spreadsheet
from wavbench.upstream.errors import UserError

MOST_NAMED = 20  # records that are named where none can be read


@dataclass(frozen=True)
class Report:
    """What a report left.

    Args:
        page: the HTML file.
        text: the boards for a terminal.
        problems: records, analyses, reference tables and figures that were left out, and why.
    """

    page: Path
    text: str
    problems: list[UserError]


def write_report(results: Path) -> Report:
    """leaderboard.csv, .md, .tex, .html and figures/ from the records and analyses of a results folder.

    Raises:
        UserError: there are no records that could be read.
    """
    from wavbench.benchmark.cost_plots import head_robustness, score_by_cost
    from wavbench.benchmark.hours_plots import hours_seen
    from wavbench.benchmark.layer_plots import analysis_figures
    from wavbench.benchmark.layer_scores import layers_all, mixes
    from wavbench.benchmark.page import write_page
    from wavbench.benchmark.plots import confusions, det_curves, label_budget, write_figures

    collected = collect(results)
    records = collected.records
    if not records and len(collected.problems) == 1:
        raise collected.problems[0]
    if not records:
        remedy = "`wavbench run` or `wavbench sweep` makes them; results=FOLDER says where they are"
        why = "; ".join(f"{problem.where}: {problem.what}" for problem in collected.problems[:MOST_NAMED])
        raise UserError("there are no records to report", where=results / "runs", why=why, remedy=remedy)
    analyses, damaged = read_analyses(results)
    boards = ranked(boards_of(records), results)
    reference = read_reference(results, boards)
    making = results / f".report-{uuid.uuid4().hex}"  # all of it is made before any of it stands in the old one's place
    try:
        folder, few = making / "figures", foremost(boards)
        shown = records_of(boards, few, records)
        jobs = [
            _guarded("cost", lambda: score_by_cost(boards, folder)),
            _guarded("mixes", lambda: mixes(shown, analyses, folder)),
            _guarded("scores and layers", lambda: write_figures(few, folder)),
            _guarded("verification", lambda: det_curves(few, results, folder)),
            _guarded("layers over all tasks", lambda: layers_all(shown, folder)),
            _guarded("confusions", lambda: confusions(boards, results, folder)),
            _guarded("analyses", lambda: analysis_figures(analyses, folder)),
            _guarded("labels", lambda: label_budget(records, folder)),
            _guarded("hours", lambda: hours_seen(records, folder)),
            _guarded("heads", lambda: head_robustness(boards, folder)),
        ]
        made = results_of(jobs, workers_for(len(records)))
        drawn = {name: path for own, _ in made for name, path in own.items()}
        undrawn = [problem for _, problem in made if problem]
        page = results / "leaderboard.html"
        write_page(boards, records, drawn, results, making / page.name, reference)
        write_text(making / "leaderboard.csv", spreadsheet(long_table(boards)))
        write_text(making / "leaderboard.md", markdown(boards))
        write_text(making / "leaderboard.tex", latex(boards))
        for path in sorted(path for path in making.rglob("*") if path.is_file()):
            place = results / path.relative_to(making)
            place.parent.mkdir(exist_ok=True)
            os.replace(path, place)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Report(page, plain(boards), [*collected.problems, *damaged, *reference.problems, *undrawn])


def _guarded(what: str, draw: Callable[[], dict[str, Path]]) -> Callable[[], tuple[dict[str, Path], UserError | None]]:
    """Figures, or why there are none: what one record or analysis holds must not cost the rest of the report."""

    def job() -> tuple[dict[str, Path], UserError | None]:
        try:
            return draw(), None
        except (OSError, MemoryError):  # nothing to do with what is drawn
            raise
        except Exception as error:
            return {}, UserError(
                f"the figures of {what} could not be drawn",
                why=f"{type(error).__name__}: {error}"[:300],
                remedy="a record or an analysis holds what no command of ours writes: find it and delete it",
            )

    return job
