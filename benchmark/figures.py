"""What all figures share: colours and marks, panels, axis labels, and how they are written with their numbers."""

import hashlib
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from wavbench.benchmark.leaderboard import Board
from wavbench.benchmark.record import Record, write_text
from wavbench.benchmark.tables import spreadsheet

# Okabe and Ito's colours, told apart by people with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vP*X"
TITLE = 40  # characters of a panel's title in a line
LEGEND = 44  # characters of a name in a legend
TICK = 30  # and of one beside an axis in a line
LONGEST = 100  # bytes of a file's name that a name of a record becomes


def prepare(folder: Path) -> None:
    """Make the folder and have matplotlib draw the same bytes on every machine, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "wavbench", "font.size": 9, "axes.spines.top": False})
    matplotlib.rcParams.update({"axes.spines.right": False, "legend.frameon": False, "svg.fonttype": "path"})
    matplotlib.rcParams.update({"text.parse_math": False})  # a name with dollars is a name
    folder.mkdir(parents=True, exist_ok=True)


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each name; the second eight get the same colours with other markers."""
    colours = len(COLOURS)
    names = sorted(set(names))
    return {n: (COLOURS[k % colours], MARKERS[(k + k // colours) % len(MARKERS)]) for k, n in enumerate(names)}


def axes_for(count: int, height: float | Sequence[float], width: float = 4.4, most: int = 3):
    """A figure and so many axes, at most `most` beside each other; inches of one panel, or a height of each."""
    import matplotlib.pyplot as plt

    columns = min(count, most)
    rows = -(-count // columns)
    each = [height] * count if isinstance(height, int | float) else list(height)
    tall = [max(each[row * columns : (row + 1) * columns]) for row in range(rows)]  # panels side by side are alike
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns + 0.6, sum(tall)), squeeze=False, height_ratios=tall
    )
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    return figure, axes.flat[:count]


def put_title(axis, text: str, width: int = TITLE) -> None:
    """A panel's title, in as many lines as it takes."""
    axis.set_title(textwrap.fill(text, width), fontsize=9, loc="left")


def legend_beside(axis, handles: Iterable, names: Iterable[str]) -> None:
    """A legend to the right of the axes; given names, as matplotlib would leave out those with a leading underscore."""
    told = [between(name, LEGEND) for name in names]
    axis.legend(list(handles), told, fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))


def legend_below(figure, handles: dict, panels: int, remark: str = "") -> None:
    """One legend for all panels, and a remark above it, for which the figure grows; lays the figure out.

    Args:
        figure: of `axes_for`.
        handles: by name, in this order.
        panels: how many axes it has; as many columns the legend has, three at most.
        remark: a line of text.
    """
    columns = max(1, min(3, panels))
    inches = 0.2 * -(-len(handles) // columns) + (0.4 if remark else 0.15)
    height = figure.get_figheight() + inches
    figure.set_figheight(height)
    foot = inches / height
    figure.tight_layout(rect=(0, foot, 1, 1))
    told = [between(name, LEGEND) for name in handles]
    figure.legend(list(handles.values()), told, loc="lower left", bbox_to_anchor=(0.01, 0), ncols=columns, fontsize=8)
    if remark:
        figure.text(0.02, foot, remark, va="top", fontsize=8)


def score_label(scored: Board | Record) -> str:
    """Metric, unit and direction, for an axis."""
    better = "higher is better" if scored.higher_is_better else "lower is better"
    unit = f" ({scored.unit})" if scored.unit != scored.metric else ""
    return f"{scored.metric}{unit}, {better}"


def save(figure, table: pd.DataFrame, stem: Path, *, fitted: bool = False) -> Path:
    """Write the picture, the drawing and every number in them beside each other.

    Args:
        figure: of matplotlib; closed.
        table: what is drawn.
        stem: path without a suffix; its name may hold dots.
        fitted: whether the axes have been laid out already.

    Returns:
        The SVG.
    """
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    if not fitted:
        figure.tight_layout()
    path = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg", "csv")}
    figure.set_dpi(150)  # what savefig does, without drawing everything once more to see how large it is
    FigureCanvasAgg(figure).print_png(path["png"], metadata={"Software": None})
    figure.set_dpi(100)
    FigureCanvasSVG(figure).print_svg(path["svg"], metadata={"Date": None})
    plt.close(figure)
    write_text(path["csv"], spreadsheet(table))
    return path["svg"]


def safe(name: str) -> str:
    """A name from a record as a part of a file name: no two become one, none leaves the folder, none is too long."""
    whole = re.sub(r"[^\w.-]", lambda found: f"%{ord(found[0]):x}", name)
    if len(whole.encode()) <= LONGEST:
        return whole
    digest = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
    return f"{whole.encode()[:LONGEST].decode(errors='ignore')}~{digest}"


def between(name: str, most: int) -> str:
    """A name of so many characters at most, cut in the middle: what tells names apart is often at their ends."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[len(name) - half :]}"


def in_two_lines(name: str) -> str:
    """A name beside an axis, which must leave room for what is drawn."""
    whole = between(name, 2 * TICK)
    if len(whole) <= TICK:
        return whole
    place = max(whole.rfind(mark, TICK // 2, TICK) for mark in "_ -/") + 1 or TICK
    return f"{whole[:place]}\n{whole[place:]}"


def short(name: str, most: int = 18) -> str:
    """A name cut to so many characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
