"""Records of encoders kept along a training to figures: score against the hours of audio that they had seen."""

from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.benchmark.figures import axes_for, legend_beside, prepare, put_title, safe, save, score_label, styles
from wavbench.benchmark.foremost import TWIN
from wavbench.benchmark.layer_scores import BAND, band
from wavbench.benchmark.leaderboard import MIX, Board, board_key, boards_of
from wavbench.benchmark.recipes import one_per_seed, recipe_of
from wavbench.benchmark.record import Record


def hours_seen(records: list[Record], folder: Path) -> dict[str, Path]:
    """Score by hours of audio: a figure for each task, a line for each training of which several moments were scored.

    A line begins at 0 hours with random twins of the same shape where they have records, unless the training began with
    weights of another one. Of each encoder the mix of layers counts.

    Returns:
        The SVG of each figure by name, `hours_<task>`.
    """
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        if record.adaptation == "frozen" and record.layers == MIX and not recipe_of(record):
            groups.setdefault(board_key(record), []).append(record)
    found = [(boards_of(own)[0], own) for _, own in sorted(groups.items())]
    panels = [(board, own[0].head, lines) for board, own in found if (lines := _lines(own))]
    figures = {}
    for task in dict.fromkeys(board.task for board, _, _ in panels):
        own = [panel for panel in panels if panel[0].task == task]
        figures[f"hours_{task}"] = _draw(own, folder / f"hours_{safe(task)}")
    return figures


def _lines(records: list[Record]) -> dict[str, dict[float, list[Record]]]:
    """Records by hours, of each training of which two moments are known, by its name."""
    runs: dict[tuple[str, str], dict[float, list[Record]]] = {}
    for record in records:
        if trained := record.config.get("pretraining"):
            runs.setdefault((trained["run"], trained["id"]), {}).setdefault(trained["hours"], []).append(record)
    names = [run for run, _ in runs]
    lines = {}
    for (run, id), moments in runs.items():
        first = next(iter(moments.values()))[0]
        if len(moments) == 1:
            continue
        if not first.config["pretraining"].get("init"):
            shape = _shape(first)
            twins = [r for r in records if TWIN.fullmatch(r.checkpoint) and _shape(r) == shape]
            moments |= {0.0: twins} if twins and shape else {}
        name = f"{run} #{id}" if names.count(run) > 1 else run
        name += ", begun with trained weights" if first.config["pretraining"].get("init") else ""
        lines[name] = {hours: one_per_seed(moments[hours]) for hours in sorted(moments)}
    return lines


def _shape(record: Record) -> dict:
    """Of an encoder; families of one shape, as hubert and wav2vec 2.0, have the same untrained networks."""
    return {name: value for name, value in record.config.get("upstream", {}).items() if name != "family"}


def _draw(panels: list[tuple[Board, str, dict]], stem: Path) -> Path:
    prepare(stem.parent)
    figure, axes = axes_for(len(panels), 3.4, width=6.4, most=2)
    style, table = styles(name for _, _, lines in panels for name in lines), []
    for axis, (board, head, lines) in zip(axes, panels, strict=True):
        handles = {}
        for name, moments in sorted(lines.items()):
            points = [band(own) for own in moments.values()]
            value, low, high = (np.array([point[kind] for point in points]) for kind in ("value", "low", "high"))
            colour, marker = style[name]
            axis.fill_between(list(moments), low, high, color=colour, alpha=0.15, linewidth=0)
            (handles[name],) = axis.plot(list(moments), value, marker=marker, markersize=4, color=colour)
            about = {"task": board.task, "corpus": board.corpus, "protocol": board.protocol, "head": head}
            about |= {"training": name}
            table += [about | {"hours": hours, **p} for hours, p in zip(moments, points, strict=True)]
        if board.chance is not None:
            handles["chance"] = axis.axhline(board.chance, color="grey", linestyle=":", linewidth=1)
        put_title(axis, f"{board.name}, head {head}", 60)
        axis.set_xlabel("hours of audio seen in pretraining (0: random weights)")
        axis.set_ylabel(score_label(board))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.25)
        axis.annotate(f"band: {BAND}", (0, -0.24), xycoords="axes fraction", fontsize=7, color="grey")
        legend_beside(axis, handles.values(), handles)
    return save(figure, pd.DataFrame(table), stem)
