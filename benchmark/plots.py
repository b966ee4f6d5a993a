"""Boards to figures: PNG to look at, SVG for papers, CSV to plot again."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.benchmark.figures import (
    COLOURS,
    MARKERS,
    axes_for,
    in_two_lines,
    legend_beside,
    prepare,
    put_title,
    safe,
    save,
    score_label,
    short,
    styles,
)
from wavbench.benchmark.leaderboard import Board
from wavbench.benchmark.recipes import dev_of, labels_of, one_per_seed, recipe_of
from wavbench.benchmark.record import Record, read_scores
from wavbench.benchmark.tables import HEARD

POINTS = 200  # most of a DET curve
RATES = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # ticks of DET axes
CLASSES = 30  # most that a confusion matrix is drawn of
COUNTED = 12  # classes up to which its cells say their percent


def write_figures(boards: list[Board], folder: Path) -> dict[str, Path]:
    """All figures of some boards.

    Returns:
        The SVG of each figure by name: `scores`, and `layers_<task>` where single layers were probed.
    """
    prepare(folder)
    style = styles({row.upstream for board in boards for row in board.rows} | _probed(boards))
    figures = {"scores": _scores([board for board in boards if board.rows], style, folder)}
    for task in sorted({board.task for board in boards}):
        probed = [board for board in boards if board.task == task and len(board.layers)]
        if probed:
            figures[f"layers_{task}"] = _layers(task, probed, style, folder)
    return figures


def label_budget(records: list[Record], folder: Path) -> dict[str, Path]:
    """Score by minutes of labels, with and without pretraining: a figure per task that was fine-tuned.

    Of several recipes the one that did best on dev counts, averaged over its seeds.

    Returns:
        The SVG of each figure by name, `labels_<task>`.
    """
    prepare(folder)
    tuned = [record for record in records if labels_of(record)]
    return {f"labels_{task}": _labels(task, tuned, folder) for task in sorted({record.task for record in tuned})}


def det_curves(boards: list[Board], results: Path, folder: Path) -> dict[str, Path]:
    """Misses against false alarms of verification on axes of normal deviates: a figure per corpus, a panel per board.

    Each upstream's first seed, at the mix; upstreams whose scores are not beside their record are left out. Scores that
    are normal deviates lie on a straight line there. A curve of perfect scores has no points.

    Args:
        boards: all.
        results: that their records are of.
        folder: for the figures.

    Returns:
        The SVG of each figure by name, `det_<corpus>`.

    Source: Martin et al. 1997, The DET curve in assessment of detection task performance.
    """
    prepare(folder)
    found: dict[str, list[tuple[Board, dict[str, pd.DataFrame]]]] = {}
    for board in boards:
        if board.metric == "EER":
            scores = {row.upstream: _scores_of(results, row.record, ("score", "target")) for row in board.rows}
            curves = {
                name: det_points(own)
                for name, own in scores.items()
                if own is not None and own["target"].nunique() == 2
            }
            if curves:
                found.setdefault(board.corpus, []).append((board, curves))
    return {f"det_{corpus}": _det(corpus, panels, folder) for corpus, panels in found.items()}


def det_points(scores: pd.DataFrame) -> pd.DataFrame:
    """Miss and false-alarm rates at thresholds that are evenly far from each other on a DET curve, at most POINTS.

    Args:
        scores: columns `score` and `target`, trials of both kinds among them.
    """
    from scipy.special import ndtri
    from sklearn.metrics import det_curve

    alarm, miss, threshold = det_curve(scores["target"], scores["score"])
    curve = pd.DataFrame({"threshold": threshold, "miss": miss, "false_alarm": alarm})
    curve = curve[curve[["miss", "false_alarm"]].gt(0).all(axis=1) & curve[["miss", "false_alarm"]].lt(1).all(axis=1)]
    curve = curve.drop_duplicates(["miss", "false_alarm"]).reset_index(drop=True)
    if len(curve) <= POINTS:
        return curve
    along = ndtri(curve["miss"]) - ndtri(curve["false_alarm"])  # rises or falls from one end of the curve to the other
    along = (along - along.iloc[0]).abs()
    wanted = along.iloc[-1] * np.arange(POINTS) / (POINTS - 1)
    return curve.iloc[np.unique(np.searchsorted(along, wanted).clip(max=len(curve) - 1))].reset_index(drop=True)


def _det(corpus: str, panels: list[tuple[Board, dict[str, pd.DataFrame]]], folder: Path) -> Path:
    from scipy.special import ndtri

    figure, axes = axes_for(len(panels), 4.2, width=6.8)
    names, table = sorted({name for _, curves in panels for name in curves}), []
    for axis, (board, curves) in zip(axes, panels, strict=True):
        head = board.rows[0].record.head
        values = {row.upstream: row.record.value for row in board.rows}
        lowest = min((curve["miss"].min() for curve in curves.values() if len(curve)), default=0.01)
        lowest = min(lowest, *(curve["false_alarm"].min() for curve in curves.values() if len(curve)), 0.2)
        low, high = ndtri(max(lowest, RATES[0])), ndtri(RATES[-1])
        axis.plot([low, high], [low, high], color="grey", linestyle=":", linewidth=1)
        handles = []
        for name, curve in sorted(curves.items(), key=lambda item: values[item[0]]):
            place = names.index(name)
            style = {"color": COLOURS[place % len(COLOURS)], "linestyle": ("-", "--", "-.", ":")[place // 8 % 4]}
            handles += axis.plot(ndtri(curve["false_alarm"]), ndtri(curve["miss"]), linewidth=1.3, **style)
            about = {"corpus": corpus, "protocol": board.protocol, "head": head, "upstream": name}
            table.append(curve.round(6).assign(**about)[[*about, *curve]])
        ticks = [rate for rate in RATES if low <= ndtri(rate) <= high]
        words = [f"{100 * rate:g}" for rate in ticks]
        axis.set_xticks(ndtri(ticks), words)
        axis.set_yticks(ndtri(ticks), words)
        axis.set_xlim(low, high)
        axis.set_ylim(low, high)
        axis.set_box_aspect(1)
        axis.grid(alpha=0.25)
        put_title(axis, board.name if board.head else f"{board.name}, head {head}")
        axis.set_xlabel("false alarms (% of non-target trials)")
        axis.set_ylabel("misses (% of target trials)")
        labels = [f"{name}: EER {values[name]:.1f} %" for name in sorted(curves, key=lambda name: values[name])]
        legend_beside(axis, handles, labels)
    return save(figure, pd.concat(table, ignore_index=True), folder / f"det_{safe(corpus)}")


def confusions(boards: list[Board], results: Path, folder: Path) -> dict[str, Path]:
    """What the best upstream of each board of classes takes for what: a figure per task and corpus, a panel per board.

    The first seed at the mix. Boards of more than CLASSES classes, or whose scores are not there, have no panel.

    Args:
        boards: all.
        results: that their records are of.
        folder: for the figures.

    Returns:
        The SVG of each figure by name, that of `confusion_name`.
    """
    prepare(folder)
    found: dict[tuple[str, str], list[tuple[Board, pd.DataFrame]]] = {}
    for board in boards:
        if board.metric == "accuracy" and board.rows:
            scores = _scores_of(results, board.rows[0].record, ("label", "prediction"))
            if scores is None:
                continue
            label, prediction = scores["label"].astype(str), scores["prediction"].astype(str)
            classes = sorted({*label, *prediction})
            if len(classes) <= CLASSES:
                counts = pd.crosstab(label, prediction).reindex(index=classes, columns=classes, fill_value=0)
                found.setdefault((board.task, board.corpus), []).append((board, counts))
    return {confusion_name(task, corpus): _confused(task, corpus, own, folder) for (task, corpus), own in found.items()}


def confusion_name(task: str, corpus: str) -> str:
    """`confusion_<task>_<corpus>`, in which the first underscore behind the task is where it ends."""
    task = safe(task).replace("_", f"%{ord('_'):x}")
    return f"confusion_{task}_{safe(corpus)}"


def _confused(task: str, corpus: str, panels: list[tuple[Board, pd.DataFrame]], folder: Path) -> Path:
    size = max(2.2, 0.36 * max(len(counts) for _, counts in panels))
    figure, axes = axes_for(len(panels), size + 1.6, width=size + 2.2)
    table = []
    for axis, (board, counts) in zip(axes, panels, strict=True):
        best, classes = board.rows[0], list(counts.index)
        shares = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (row, column), share in np.ndenumerate(shares.to_numpy()) if len(classes) <= COUNTED else ():
            colour = "white" if share > 55 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(classes)), [short(name) for name in classes], rotation=90, fontsize=7)
        axis.set_yticks(range(len(classes)), [short(name) for name in classes], fontsize=7)
        axis.spines[:].set_visible(False)
        axis.set_xlabel("taken for")
        axis.set_ylabel("is (% of its row)")
        named = board.name if board.head else f"{board.name}, head {best.record.head}"
        put_title(axis, f"{named}: {best.upstream}")
        long = counts.rename_axis(index="label", columns="prediction").stack().rename("count").reset_index()
        long["percent"] = [round(shares.loc[row.label, row.prediction], 4) for row in long.itertuples()]
        about = {"task": task, "corpus": corpus, "protocol": board.protocol, "head": best.record.head}
        about["upstream"] = best.upstream
        table.append(long.assign(**about)[[*about, *long]])
    return save(figure, pd.concat(table, ignore_index=True), folder / confusion_name(task, corpus))


def _scores_of(results: Path, record: Record, columns: tuple[str, ...]) -> pd.DataFrame | None:
    """The scores beside a record, None where they are not there or hold something else."""
    if not (results / "runs" / f"{record.key}.scores.csv").is_file():
        return None
    scores = read_scores(results, record.key)
    return scores if set(columns) <= set(scores) else None


def _labels(task: str, records: list[Record], folder: Path) -> Path:
    table = label_table([record for record in records if record.task == task])
    panels = list(table.groupby(["corpus", "corpus_hash", "protocol"]))
    figure, axes = axes_for(len(panels), 3.4, width=6.4)
    lines = sorted({(row.upstream, row.adaptation) for row in table.itertuples()})
    unit = next(record for record in records if record.task == task)
    for axis, ((corpus, _, protocol), panel) in zip(axes, panels, strict=True):
        for (upstream, adaptation, pretrained), own in panel.groupby(["upstream", "adaptation", "pretrained"]):
            place = lines.index((upstream, adaptation))
            label = f"{upstream}{'' if pretrained else ' without pretraining'}, {adaptation}"
            style = {"color": COLOURS[place % len(COLOURS)], "linestyle": "-" if pretrained else "--"}
            style |= {} if pretrained else {"markerfacecolor": "white"}
            error = [own["value"] - own["low"], own["high"] - own["value"]]
            marker = MARKERS[place % len(MARKERS)]
            axis.errorbar(own["minutes"], own["value"], error, marker=marker, label=label, capsize=2, **style)
        axis.set_xscale("log")
        ticks = panel.drop_duplicates("minutes")
        axis.set_xticks(ticks["minutes"], [f"{minutes:.3g}" for minutes in ticks["minutes"]])
        axis.minorticks_off()
        remark = "" if protocol == "clean" else f", protocol {protocol}"
        put_title(axis, f"{task} on {corpus}{remark}")
        axis.set_xlabel("minutes of labels")
        axis.set_ylabel(score_label(unit))
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return save(figure, table, folder / f"labels_{safe(task)}")


def label_table(records: list[Record]) -> pd.DataFrame:
    """One line per upstream, adaptation and amount of labels, of the recipe that did best on dev over its seeds."""
    found: dict[tuple, dict[tuple, list[Record]]] = {}
    for record in records:
        line = (
            *(record.corpus, record.corpus_hash, record.protocol, record.upstream, record.adaptation),
            *(not record.config.get("random", False), labels_of(record)),
        )
        steps = json.dumps(record.config["budget"], sort_keys=True)
        found.setdefault(line, {}).setdefault((recipe_of(record), steps), []).append(record)
    names = ["corpus", "corpus_hash", "protocol", "upstream", "adaptation", "pretrained", "labels"]
    rows = []
    for line, recipes in found.items():
        runs = min((one_per_seed(own) for _, own in sorted(recipes.items())), key=_mean_dev)
        values = pd.DataFrame([[r.config["labels"], r.value, *r.ci95] for r in runs]).mean()
        numbers = dict(zip(("minutes", "value", "low", "high"), values.round(4), strict=True))
        rows.append(dict(zip(names, line, strict=True)) | numbers | {"runs": len(runs)})
    return pd.DataFrame(rows).sort_values([*names[:6], "minutes"], ignore_index=True)


def _mean_dev(records: list[Record]) -> float:
    return sum(map(dev_of, records)) / len(records)


def _probed(boards: list[Board]) -> set[str]:
    return {name for board in boards for name in board.layers["upstream"]}


def _scores(boards: list[Board], style: dict, folder: Path) -> Path:
    """Every board's rows with their intervals, best on top."""
    figure, axes = axes_for(max(len(boards), 1), [1.1 + 0.32 * len(board.rows) for board in boards] or 1.4)
    table = []
    for axis, board in zip(axes, boards, strict=False):
        places, colours = [-row.rank for row in board.rows], [style[row.upstream][0] for row in board.rows]
        bounds = [row.low for row in board.rows], [row.high for row in board.rows]
        axis.hlines(places, *bounds, colors=colours, linewidth=2.5, alpha=0.5)
        for row, place in zip(board.rows, places, strict=True):
            colour, marker = style[row.upstream]
            axis.plot(row.value, place, marker=marker, color=colour, markersize=6)
            table.append(
                {"task": board.task, "corpus": board.corpus, "protocol": board.protocol, "upstream": row.upstream}
                | {"value": row.value, "low": row.low, "high": row.high, "pretrained_on": " ".join(row.heard)}
            )
        if board.chance is not None:
            axis.axvline(board.chance, color="grey", linestyle=":", linewidth=1)
            axis.annotate("chance", (board.chance, 0.02), xycoords=("data", "axes fraction"), fontsize=7, color="grey")
        names = [f"{in_two_lines(row.upstream)}{f' {HEARD}' * bool(row.heard)}" for row in board.rows]
        axis.set_yticks([-row.rank for row in board.rows], names, fontsize=8)
        axis.set_ylim(-len(board.rows) - 0.7, -0.3)
        put_title(axis, board.name)
        known = f"\n{HEARD} pretrained on audio of this corpus" if any(row.heard for row in board.rows) else ""
        axis.set_xlabel(f"{score_label(board)}{known}")
        axis.grid(axis="x", alpha=0.25)
    columns = ["task", "corpus", "protocol", "upstream", "value", "low", "high", "pretrained_on"]
    return save(figure, pd.DataFrame(table, columns=columns), folder / "scores")


def _layers(task: str, boards: list[Board], style: dict, folder: Path) -> Path:
    """Score by layer, one panel per board; upstreams of a single layer and mixes as horizontal lines."""
    figure, axes = axes_for(len(boards), 3.4, width=6.4)
    table = []
    for axis, board in zip(axes, boards, strict=True):
        last = int(board.layers["layer"].max())
        mixes = {row.upstream: row for row in board.rows}
        named = {}  # handles by name
        for upstream, own in board.layers.groupby("upstream"):
            colour, marker = style[upstream]
            own = own.sort_values("layer")
            table.append(own.assign(corpus=board.corpus, protocol=board.protocol))
            if list(own["layer"]) == [0] and last > 0:  # has no other layer
                named[upstream] = axis.axhline(own["value"].iloc[0], color=colour, linewidth=1.2)
                axis.fill_between([0, last], own["low"].iloc[0], own["high"].iloc[0], color=colour, alpha=0.08)
                continue
            (named[upstream],) = axis.plot(own["layer"], own["value"], marker=marker, markersize=4, color=colour)
            axis.fill_between(own["layer"], own["low"], own["high"], color=colour, alpha=0.15, linewidth=0)
            if upstream in mixes:
                mix = mixes[upstream].value
                axis.axhline(mix, color=colour, linewidth=1, linestyle="--", alpha=0.7)
        if board.chance is not None:
            named["chance"] = axis.axhline(board.chance, color="grey", linestyle=":", linewidth=1)
        put_title(axis, board.name)
        axis.set_xlabel("layer (0: input of the first block); dashed: mix of all layers")
        axis.set_ylabel(score_label(board))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        legend_beside(axis, named.values(), named)
    table = pd.concat(table, ignore_index=True).assign(task=task)
    columns = ["task", "corpus", "protocol", "upstream", "layer", "value", "low", "high"]
    return save(figure, table[columns], folder / f"layers_{safe(task)}")
