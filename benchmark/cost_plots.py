"""Boards to figures of what a score costs, and of whether another head would have ranked upstreams alike."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from wavbench.benchmark.figures import (
    axes_for,
    legend_below,
    prepare,
    put_title,
    safe,
    save,
    score_label,
    short,
    styles,
)
from wavbench.benchmark.foremost import foremost
from wavbench.benchmark.leaderboard import Board, Row, board_key

CUT = 28  # characters of a name beside its mark
MOST = 12  # upstreams of a panel of heads
FRONT, CHANCE = "Pareto front (larger): nothing cheaper is better", "knowing nothing"


def pareto_front(costs: list[float], values: list[float], higher_is_better: bool) -> list[int]:
    """Places of what nothing cheaper or equally cheap beats, cheapest first.

    Args:
        costs: the less the better.
        values: of the same rows.
        higher_is_better: of the values.

    Returns:
        Of equal rows the first.
    """
    sign = -1 if higher_is_better else 1
    front: list[int] = []
    for place in sorted(range(len(costs)), key=lambda k: (costs[k], sign * values[k], k)):
        if not front or sign * values[place] < sign * values[front[-1]]:
            front.append(place)
    return front


def seconds_of(row: Row) -> float:
    """What a row took: extraction, and the heads that were trained at once with their search."""
    return row.record.cost["extract_s"] + row.fit_seconds


def score_by_cost(boards: list[Board], folder: Path) -> dict[str, Path]:
    """Score against seconds of extraction and fit with the Pareto front: a figure per task, a panel per board.

    Boards on which fewer than two rows took any time have no panel. Of a long board the best rows are shown and all
    that are on the front, as its cheap end is what people look for.

    Returns:
        The SVG of each figure by name, `cost_<task>`.
    """
    figures = {}
    boards = [_with_front(board, few) for board, few in zip(boards, foremost(boards), strict=True)]
    for task in dict.fromkeys(board.task for board in boards):
        panels = [board for board in boards if board.task == task and len(_timed(board)) > 1]
        if panels:
            prepare(folder)
            figures[f"cost_{task}"] = _costs(panels, folder / f"cost_{safe(task)}")
    return figures


def head_robustness(boards: list[Board], folder: Path) -> dict[str, Path]:
    """Ranks of the same upstreams under several heads of a task: a panel per task and corpus, lines that cross if heads
    disagree.

    Returns:
        The SVG by its name, `heads`; nothing where no task has two heads with two upstreams in common.
    """
    panels = [(name, own) for name, own in _by_head(boards).items() if len(_shared(own)) > 1]
    if not panels:
        return {}
    prepare(folder)
    most = max(min(len(_shared(own)), MOST) for _, own in panels)
    figure, axes = axes_for(len(panels), 1.3 + 0.3 * most, width=7.2, most=2)
    table: list[dict] = []
    for axis, ((task, corpus, *_), own) in zip(axes, panels, strict=True):
        _draw_heads(axis, task, corpus, own, table)
    return {"heads": save(figure, pd.DataFrame(table), folder / "heads")}


def _with_front(board: Board, few: Board) -> Board:
    """The rows of a cut board, and those on the front of the whole one."""
    rows = _timed(board)
    front = pareto_front([seconds_of(row) for row in rows], [row.value for row in rows], board.higher_is_better)
    shown = {id(row) for row in (*few.rows, *(rows[k] for k in front))}
    return replace(board, rows=tuple(row for row in board.rows if id(row) in shown))


def _timed(board: Board) -> list[Row]:
    return [row for row in board.rows if seconds_of(row) > 0]


def _costs(boards: list[Board], stem: Path) -> Path:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = axes_for(len(boards), 3.3, width=4.2)
    style, table, handles = styles(row.upstream for board in boards for row in board.rows), [], {}
    for axis, board in zip(axes, boards, strict=True):
        rows = _timed(board)
        costs, values = [seconds_of(row) for row in rows], [row.value for row in rows]
        front = pareto_front(costs, values, board.higher_is_better)
        (line,) = axis.step([costs[k] for k in front], [values[k] for k in front], where="post", color="grey", zorder=1)
        colours = [style[row.upstream][0] for row in rows]
        axis.vlines(costs, [row.low for row in rows], [row.high for row in rows], colors=colours, linewidth=0.8)
        for place, row in enumerate(rows):
            colour, marker = style[row.upstream]
            looks = {"color": colour, "marker": marker, "linestyle": "none"}
            looks |= (
                {"markersize": 9, "markeredgecolor": "black"} if place in front else {"markersize": 5, "alpha": 0.8}
            )
            axis.plot(costs[place], values[place], **looks)
            handles[row.upstream] = Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=5)
            table.append(
                {"task": board.task, "corpus": board.corpus, "board": board.name, "upstream": row.upstream}
                | {"seconds": round(costs[place], 2), "value": row.value, "low": row.low, "high": row.high}
                | {"parameters": row.record.cost["upstream_parameters"], "on_front": place in front}
            )
        handles[FRONT] = line
        if board.chance is not None:
            handles[CHANCE] = axis.axhline(board.chance, color="grey", linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        put_title(axis, board.name)
        axis.set_xlabel("seconds of extraction, fit and search (log)")
        axis.set_ylabel(score_label(board))
        axis.grid(alpha=0.25)
    told = {name: handles[name] for name in sorted(handles, key=lambda name: (name in (FRONT, CHANCE), name))}
    legend_below(figure, told, len(boards))
    return save(figure, pd.DataFrame(table), stem, fitted=True)


def _by_head(boards: list[Board]) -> dict[tuple, dict[str, Board]]:
    """Boards that differ in their heads alone, by head, where there are several; of two budgets the longer board."""
    found: dict[tuple, dict[str, Board]] = {}
    for board in boards:
        if board.rows and not board.training:
            record = board.rows[0].record
            *_, trials, units, metric = board_key(record)
            key = board_key(record)[:6], trials, units, metric
            heads = found.setdefault((board.task, board.corpus, *key), {})
            head = record.head
            if head not in heads or len(board.rows) > len(heads[head].rows):
                heads[head] = board
    return {here: heads for here, heads in found.items() if len(heads) > 1}


def _shared(heads: dict[str, Board]) -> list[str]:
    """Upstreams that stand on all of the boards, in the order of the first."""
    boards = list(heads.values())
    sets = [{row.upstream for row in board.rows} for board in boards[1:]]
    return [row.upstream for row in boards[0].rows if all(row.upstream in own for own in sets)]


def _draw_heads(axis, task: str, corpus: str, heads: dict[str, Board], table: list[dict]) -> None:
    names = _shared(heads)
    style = styles(names)
    ranks: dict[str, list[int]] = {name: [] for name in names}
    texts: dict[str, list[str]] = {name: [] for name in names}
    for head, board in heads.items():
        own = [row for row in board.rows if row.upstream in ranks]
        for place, row in enumerate(own, 1):
            ranks[row.upstream].append(place)
            texts[row.upstream].append(f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]")
            table.append(
                {"task": task, "corpus": corpus, "head": head, "upstream": row.upstream, "rank": place}
                | {"value": row.value, "low": row.low, "high": row.high}
            )
    drawn = [name for name in names if min(ranks[name]) <= MOST]
    places = list(range(len(heads)))
    for name in drawn:
        colour, marker = style[name]
        axis.plot(places, ranks[name], color=colour, marker=marker, linewidth=1.6, clip_on=False)
        sides = ((0, -0.06, "right"), (len(places) - 1, len(places) - 0.94, "left"))
        for side, x, align in sides:
            words = f"{short(name, CUT)}  {texts[name][side]}" if align == "right" else texts[name][side]
            axis.annotate(words, (x, ranks[name][side]), ha=align, va="center", fontsize=7.5, annotation_clip=False)
    axis.set_xlim(-1.6 * max(len(places) - 1, 1), len(places) - 1 + 0.7)
    axis.set_ylim(max(max(own) for own in ranks.values()) + 0.6, 0.4)
    axis.set_xticks(places, list(heads))
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    metric = next(iter(heads.values()))
    agreement = f", Kendall's tau {_tau(ranks):.2f}" if len(names) > 2 else ""
    put_title(axis, f"{task} on {corpus}: rank by head ({metric.metric}){agreement}", 80)


def _tau(ranks: dict[str, list[int]]) -> float:
    """Agreement of the first head with the last one: 1 the same order, 0 none."""
    from scipy.stats import kendalltau

    return float(kendalltau([own[0] for own in ranks.values()], [own[-1] for own in ranks.values()]).statistic)
