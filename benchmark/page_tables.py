"""Boards to the tables of a page: what is written in each cell, what it is sorted by, and which record it opens."""

from dataclasses import dataclass

import pandas as pd

from wavbench.benchmark.leaderboard import Board, Row
from wavbench.benchmark.overall import METRICS
from wavbench.benchmark.tables import HEARD, describe, heard_of, marks_of, overview_names, ranks_of

SHADES = 5  # of cells between the last and the first of a column
WITHIN = 2  # shade of a layer within the interval of the best one
WIDTH = 160  # of the axis that intervals are drawn on
EVEN = 1.6  # times its even share, above which a layer's weight stands out
NAMED = 3  # upstreams as good as the best that are named
UNTOLD = ("chance", "classes", "trials")  # secondary numbers that have no column


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: that stands in it; a column that holds no names is sorted by the first number of it.
        small: text of less weight behind it.
        key: of the record that it opens; "" for none.
        shade: 0 for the last to SHADES - 1 for the first, -1 for none.
        best: whether nothing is better.
        mark: what is said about it in a sign.
        title: what the sign means.
        bar: places of lower bound, value, upper bound and chance on the axis; empty for no drawing.
    """

    text: str
    small: str = ""
    key: str = ""
    shade: int = -1
    best: bool = False
    mark: str = ""
    title: str = ""
    bar: tuple[float, ...] = ()


@dataclass(frozen=True)
class Column:
    """A heading.

    Args:
        title: of the column.
        note: under it.
        down: whether the greatest stand first when it is sorted by.
        words: that the filter finds it by, where it is a board.
        name: whether it holds names and not numbers.
    """

    title: str
    note: str = ""
    down: bool = False
    words: str = ""
    name: bool = False


@dataclass(frozen=True)
class Line:
    """A row with words that the filter finds it by beside the names in it."""

    cells: tuple[Cell, ...]
    words: str = ""


@dataclass(frozen=True)
class Table:
    """A table with what stands over it."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    title: str = ""
    about: str = ""
    words: str = ""
    badges: tuple[str, ...] = ()


EMPTY = Cell("")


def words_of(board: Board) -> str:
    """What the filter finds a board by."""
    return " ".join([board.name, board.metric, *(["synthetic"] if board.synthetic else [])])


def winners(boards: list[Board]) -> Table:
    """Who wins each board, who is as good, and which layer carries it."""
    columns = (
        Column("task and corpus", name=True),
        Column("best", name=True),
        Column("score", "95 % interval", down=True),
        Column("not told apart from it", name=True),
        Column("layer that carries it", "by its score alone, or by its weight", name=True),
        Column("knowing nothing", "scores"),
    )
    lines = []
    for board in boards:
        if not board.rows:
            continue
        best = board.rows[0]
        alike = [f"{row.upstream}{marks_of(row)}" for row in board.rows[1:] if row.tied]
        others = ", ".join(alike[:NAMED]) + (f" and {len(alike) - NAMED} more" if len(alike) > NAMED else "")
        arrow = "↑" if board.higher_is_better else "↓"
        cells = (
            Cell(board.name, small=f"{board.metric}\N{NO-BREAK SPACE}{arrow}"),
            Cell(best.upstream, key=best.record.key, best=True, **known(best)),
            Cell(f"{best.value:.2f}", _between(best), best.record.key),
            Cell(others or "-"),
            Cell(carried(board)),
            _nothing(board),
        )
        lines.append(Line(cells, board.metric))
    return Table(columns, tuple(lines))


def carried(board: Board) -> str:
    """Which layer of the best upstream that has several scores best alone, or weighs most in its mix."""
    best = board.rows[0]
    row = next((row for row in board.rows if len(row.record.layer_numbers) > 1), None)
    if row is None:
        return f"{best.upstream} has one layer"
    prefix = "" if row is best else f"{best.upstream} has one layer; {row.upstream}: "
    own = board.layers[board.layers["upstream"] == row.upstream]
    if row.best_layer and len(own) > 1:
        layer, value = row.best_layer
        place = own[own["layer"] == layer].iloc[0]
        alike = [int(x.layer) for x in own.itertuples() if x.layer != layer and place.low <= x.value <= place.high]
        if len(alike) == len(own) - 1:
            return f"{prefix}none more than others: all are within the interval of layer {layer} ({value:.2f})"
        within = f"; {_ranges(alike)} within its interval" if alike else ""
        return f"{prefix}layer {layer} ({value:.2f} alone{within})"
    weights = row.record.layer_weights
    if not weights:
        return f"{prefix}no layer was scored alone"
    most = max(range(len(weights)), key=lambda k: weights[k])
    if weights[most] * len(weights) < EVEN:
        return f"{prefix}no layer was scored alone, and the mix weighs them nearly alike"
    number = row.record.layer_numbers[most]
    return f"{prefix}no layer was scored alone; the mix takes most of layer {number} ({100 * weights[most]:.0f} %)"


def _nothing(board: Board) -> Cell:
    """What an answer scores that has not listened, and whether that is better than all rows."""
    if board.chance is None:
        return Cell("-")
    sign = 1 if board.higher_is_better else -1
    better = sign * board.chance >= sign * board.rows[0].value
    return Cell(f"{board.chance:.1f}", "better than every row" if better else "")


def overview(boards: list[Board]) -> Table:
    """Upstreams x boards."""
    boards = [board for board in boards if board.rows]
    columns = [Column("upstream", name=True)]
    by_name = []
    for board in boards:
        remarks = [board.corpus, *([board.training] if board.training else []), *([board.head] if board.head else [])]
        remarks += ["synthetic"] if board.synthetic and board.corpus != "synthetic" else []
        remarks += [] if board.protocol == "clean" else [board.protocol]
        arrow = "↑" if board.higher_is_better else "↓"
        note = f"{', '.join(remarks)}, {board.metric}\N{NO-BREAK SPACE}{arrow}"
        columns.append(Column(board.task, note, board.higher_is_better, words_of(board)))
        by_name.append({row.upstream: row for row in board.rows})
    lines = []
    for name in overview_names(boards):
        cells = [Cell(name)]
        cells += [
            _score(board, own[name]) if name in own else EMPTY for board, own in zip(boards, by_name, strict=True)
        ]
        lines.append(Line(tuple(cells)))
    return Table(tuple(columns), tuple(lines))


def board_table(board: Board) -> Table:
    """One board: scores with intervals as text and as drawings, tests, layers, the numbers beside the metric."""
    extra = sorted({k for row in board.rows for k in row.record.secondary if k not in UNTOLD})
    extra = [name for name in extra if any(row.record.secondary.get(name) for row in board.rows)]
    low, high = _axis(board)
    columns = (
        Column("upstream", name=True),
        Column("ranks", "possible"),
        Column(board.metric, f"{board.unit} {'↑' if board.higher_is_better else '↓'}", board.higher_is_better),
        Column("95 % interval", f"axis {low:.4g} to {high:.4g}", board.higher_is_better),
        Column("p", "against the best"),
        Column("best layer", "alone, by test score"),
        Column("mix takes most of", "layer"),
        *(Column(name.replace("_", " ")) for name in extra),
        Column("learning rate", "chosen on dev"),
        Column("seeds", "and their deviation"),
    )
    lines = []
    for row in board.rows:
        weights, numbers = row.record.layer_weights, row.record.layer_numbers
        most = max(range(len(weights)), key=lambda k: weights[k]) if len(weights) > 1 else None
        layer = Cell("-") if row.best_layer is None else Cell(f"{row.best_layer[0]}", f"{row.best_layer[1]:.2f}")
        taken = Cell("-") if most is None else Cell(f"{numbers[most]}", f"{100 * weights[most]:.0f} %")
        rates = row.record.learning_rate
        cells = (
            Cell(row.upstream),
            Cell(ranks_of(row)),
            _score(board, row, interval=False),
            Cell(_between(row), bar=_bar(board, row, low, high)),
            Cell("-" if row.rank == 1 or pd.isna(row.p_best) else _p(row.p_best)),
            layer,
            taken,
            *(number(row.record.secondary.get(name), 2) for name in extra),
            Cell(" ".join(f"{rate:g}" for rate in sorted(set(rates)))),
            Cell(str(row.seeds), "" if pd.isna(row.deviation) else f"{row.deviation:.2f}"),
        )  # fmt: skip
        lines.append(Line(cells))
    badges = ["synthetic speech"] if board.synthetic else []
    badges += [f"protocol {board.protocol}"] if board.protocol != "clean" else []
    badges += ["fine-tuned"] if board.training else []
    return Table(columns, tuple(lines), board.name, describe(board), words_of(board), tuple(badges))


def layer_table(board: Board) -> Table:
    """Upstreams x single layers of one board: the best layer of each row, and those within its interval."""
    layers = sorted({int(layer) for layer in board.layers["layer"]})
    columns = [Column("upstream", name=True), *(Column(str(layer), down=board.higher_is_better) for layer in layers)]
    columns.append(Column("mix", down=board.higher_is_better))
    mixes = {row.upstream: row for row in board.rows}
    sign = 1 if board.higher_is_better else -1
    probed = {str(name): own for name, own in board.layers.groupby("upstream", sort=False)}
    lines = []
    for name in sorted(probed, key=lambda name: (mixes[name].rank if name in mixes else len(mixes) + 1, name)):
        found = {int(x.layer): x for x in probed[name].itertuples()}
        best = max(found.values(), key=lambda x: sign * x.value)
        cells = [Cell(name, **known(mixes.get(name)))]
        for layer in layers:
            x = found.get(layer)
            if x is None:
                cells.append(EMPTY)
                continue
            several = len(found) > 1
            shade = WITHIN if several and best.low <= x.value <= best.high else -1
            words = f"layer {layer}: {x.value:.2f} [{x.low:.2f}, {x.high:.2f}]"
            cells.append(Cell(f"{x.value:.1f}", "", x.key, shade, several and x is best, title=words))
        mix = mixes.get(name)
        cells.append(Cell(f"{mix.value:.1f}", key=mix.record.key) if mix else EMPTY)
        lines.append(Line(tuple(cells)))
    arrow = "higher" if board.higher_is_better else "lower"
    about = f"{board.metric}, {arrow} is better; layer 0 is the input of the first block"
    return Table(tuple(columns), tuple(lines), board.name, about, words_of(board))


def overall_table(scores: pd.DataFrame, boards: list[Board]) -> Table:
    """Scores over several boards, with a mark at upstreams that were pretrained on audio of one of their corpora."""
    heard: dict[str, set[str]] = {}
    for row in (row for board in boards for row in board.rows):
        heard.setdefault(row.upstream, set()).update(row.heard)
    columns = (Column("upstream", name=True), Column("score", "mean over boards", down=True),
               Column("Borda", "rows that it beats, mean over boards", down=True))  # fmt: skip
    lines = []
    for x in scores.itertuples():
        known = sorted(heard.get(x.upstream, ()))
        mark = {"mark": HEARD, "title": f"pretrained on audio of {', '.join(known)}"} if known else {}
        lines.append(Line((Cell(x.upstream, **mark), number(x.score, 0), number(x.borda, 2))))
    return Table(columns, tuple(lines))


def published_table(published: pd.DataFrame) -> Table:
    """Rows of others' publications."""
    errors = {metric.column: metric.is_error for metric in METRICS}
    scores = [name for name in published if name.startswith("superb_")]
    numbers = [metric.column for metric in METRICS if metric.column in published]
    columns = [Column("upstream", name=True), Column("superb_s", "of the paper's tasks", down=True),
               Column("superb_s", "of the public set", down=True), Column("parameters", "millions"),
               Column("pretrained on", name=True)]  # fmt: skip
    names = [name for name in scores if name not in ("superb_s", "superb_s_public")]
    for name in numbers:
        task, _, metric = name.partition("_")
        columns.append(Column(task.upper(), f"{metric} {'↓' if errors[name] else '↑'}", not errors[name]))
    columns += [Column(name.replace("_public", ""), "public set" if name.endswith("_public") else "paper's tasks",
                       down=True) for name in names]  # fmt: skip
    lines = []
    for row in published.to_dict("records"):
        corpus = row.get("pretraining_corpus")
        cells = [Cell(str(row["upstream"])), number(row.get("superb_s"), 0), number(row.get("superb_s_public"), 0)]
        cells += [number(row["parameters"] / 1e6, 1), Cell("-" if pd.isna(corpus) else str(corpus))]
        cells += [number(row.get(name), 2) for name in (*numbers, *names)]
        lines.append(Line(tuple(cells), "published superb"))
    return Table(tuple(columns), tuple(lines))


def _score(board: Board, row: Row, interval: bool = True) -> Cell:
    mark, title = ("=", "not told apart from the best") if row.tied and row.rank > 1 else ("", "")
    if row.heard:
        title = f"{heard_of(row)} {title}".strip()
    if not row.scored:
        title = f"its scores are not there {title}".strip()
    mark = f"{marks_of(row)} {mark}".strip()
    small = f"{_between(row)} · {ranks_of(row).replace(' =', '')}" if interval else ""
    others = len(board.rows) - 1
    shade = round((SHADES - 1) * (1 - (row.rank - 1) / others)) if others else -1
    return Cell(f"{row.value:.2f}", small, row.record.key, shade, row.rank == 1, mark, title)


def known(row: Row | None) -> dict[str, str]:
    """The mark at the name of an upstream that was pretrained on the corpus, for a cell."""
    return {"mark": HEARD, "title": heard_of(row)} if row and row.heard else {}


def _between(row: Row) -> str:
    return f"[{row.low:.2f}, {row.high:.2f}]"


def _axis(board: Board) -> tuple[float, float]:
    low, high = min((row.low for row in board.rows), default=0), max((row.high for row in board.rows), default=1)
    return low, high if high > low else low + 1


def _bar(board: Board, row: Row, low: float, high: float) -> tuple[float, ...]:
    points = [row.low, row.value, row.high]
    if board.chance is not None and low <= board.chance <= high:
        points.append(board.chance)
    return tuple(round(4 + (WIDTH - 8) * (point - low) / (high - low), 1) for point in points)


def number(value: float | None, digits: int) -> Cell:
    """A cell with a number, or a dash where there is none."""
    if value is None or pd.isna(value):
        return Cell("-")
    text = f"{value:,.{digits}f}"
    return Cell(text.removeprefix("-") if not text.strip("-0.,") else text)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7 as `1-3, 7`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(own[0]) if len(own) == 1 else f"{own[0]}-{own[-1]}" for own in parts)
