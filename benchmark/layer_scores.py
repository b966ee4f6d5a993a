"""Records to figures of layers: what each layer scores on every task, and what a mix of layers takes from each.

A line is an upstream with one recipe. Random twins of one model are one line, whatever the seed of their weights; its
band is the range over seeds. Of a single seed the band is the 95 % interval of its score.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.benchmark.analysis_record import NORMS, Analysis
from wavbench.benchmark.figures import (
    axes_for,
    legend_below,
    legend_beside,
    prepare,
    put_title,
    safe,
    save,
    score_label,
    styles,
)
from wavbench.benchmark.foremost import line_of
from wavbench.benchmark.layer_plots import LAYER, draw_line
from wavbench.benchmark.leaderboard import MIX, Board, board_key, boards_of
from wavbench.benchmark.recipes import names_of, one_per_seed, recipe_of, without_lm
from wavbench.benchmark.record import Record

RAW = ("superb",)  # protocols whose mixes are of states as they are; others standardise every dimension of every layer
UNTRAINED = "-."  # stroke of random twins
BAND = "range over seeds, or 95 % interval of a single one"


@dataclass(frozen=True)
class Line:
    """An upstream with one recipe on a board: its records by layer, the mix among them."""

    name: str
    by_layer: dict[str | int, list[Record]]

    @property
    def layers(self) -> list[int]:
        return sorted(layer for layer in self.by_layer if layer != MIX)


def lines_of(records: Iterable[Record]) -> list[tuple[Board, list[Line]]]:
    """Boards of frozen upstreams with the lines that are drawn on them, both by name."""
    groups: dict[tuple, list[Record]] = {}
    hashes: dict[str, set[str]] = {}
    for record in records:
        hashes.setdefault(record.checkpoint, set()).add(record.checkpoint_hash)
        if record.adaptation == "frozen":
            groups.setdefault(board_key(record), []).append(record)
    shared = {name for name, found in hashes.items() if len(found) > 1}
    found = [(boards_of(own)[0], _lines(own, shared), own[0].head) for _, own in sorted(groups.items())]
    names = Counter(board.name for board, _, _ in found)
    return [(replace(board, head=head) if names[board.name] > 1 else board, own) for board, own, head in found]


def layers_all(records: list[Record], folder: Path) -> dict[str, Path]:
    """Score by layer of every upstream on every task: a panel for each board on which single layers were scored.

    Returns:
        The SVG by its name, `layers_all`; nothing where there are none.
    """
    panels = [(board, own) for board, own in lines_of(records) if any(len(line.layers) > 1 for line in own)]
    if not panels:
        return {}
    prepare(folder)
    figure, axes = axes_for(len(panels), 3.3, width=4.2)
    style, table, handles = styles(line.name for _, own in panels for line in own if line.layers), [], {}
    for axis, (board, own) in zip(axes, panels, strict=True):
        handles |= _draw_scores(axis, board, own, style, table)
        put_title(axis, board.name)
        axis.set_xlabel(LAYER, fontsize=8)
    told = {name: handles[name] for name in sorted(handles, key=lambda name: (name == "chance", name))}
    legend_below(figure, told, len(panels), f"band: {BAND}")
    return {"layers_all": save(figure, pd.DataFrame(table), folder / "layers_all", fitted=True)}


def mixes(records: list[Record], analyses: list[Analysis], folder: Path) -> dict[str, Path]:
    """What a mix takes from each layer, beside what each layer scores alone: a figure per task, a row for each board.

    A weight alone says little of states of unequal size, so it is multiplied by the layer's norm in what was mixed.
    Where features were standardised before the mix, all layers had the same; else norms come from an analysis of the
    same weights, and upstreams without one are left out.

    Returns:
        The SVG of each figure by name, `mix_<task>`.
    """
    norms = _norms(analyses)
    boards = [(board, own, shares) for board, own in lines_of(records) if (shares := _shares(board, own, norms))]
    figures = {}
    for task in dict.fromkeys(board.task for board, _, _ in boards):
        panels = [panel for panel in boards if panel[0].task == task]
        prepare(folder)
        probed = any(line.layers for _, own, _ in panels for line in own)  # else there is nothing to stand beside it
        figure, axes = axes_for((1 + probed) * len(panels), 3.4, width=5.6, most=2)
        style, table = styles(line.name for _, own, _ in panels for line in own), []
        pairs = zip(axes[::2], axes[1::2], strict=True) if probed else ((None, axis) for axis in axes)
        for (score, share), (board, own, shares) in zip(pairs, panels, strict=False):
            handles = _draw_shares(share, board, own, shares, style, table)
            if score is None:
                put_title(share, f"{board.name}: {share.get_title(loc='left')}", 60)
            elif any(line.layers for line in own):
                handles = _draw_scores(score, board, own, style, []) | handles
                score.set_xlabel(LAYER, fontsize=8)
            else:
                score.axis("off")
                score.text(0.5, 0.5, "no single layer was scored", ha="center", transform=score.transAxes, color="grey")
            if score is not None:
                put_title(score, f"{board.name}: each layer alone", 60)
            share.set_xlabel(LAYER, fontsize=8)
            legend_beside(share, handles.values(), handles)
        figures[f"mix_{task}"] = save(figure, pd.DataFrame(table), folder / f"mix_{safe(task)}")
    return figures


def _lines(records: list[Record], shared: set[str]) -> list[Line]:
    """Records of one board by upstream, recipe and layer; names that several weights share get their hash behind."""
    by_name: dict[str, dict] = {}
    for record in records:
        name = line_of(record.checkpoint)
        name += f" #{record.checkpoint_hash[:6]}" if record.checkpoint in shared else ""
        recipe = without_lm(recipe_of(record))
        by_name.setdefault(name, {}).setdefault(recipe, {}).setdefault(record.layers, []).append(record)
    found = []
    for name, recipes in by_name.items():
        told = names_of(recipes)
        for recipe, by_layer in recipes.items():
            found.append(Line(name + told[recipe], {k: one_per_seed(own) for k, own in by_layer.items()}))
    return sorted(found, key=lambda line: line.name)


def band(records: list[Record]) -> dict[str, float | str | int]:
    """Mean value, bounds, and what these are, of records of one recipe that differ in seeds."""
    values = [record.value for record in records]
    low, high = (min(values), max(values)) if len(values) > 1 else records[0].ci95
    kind = "range over seeds" if len(values) > 1 else "95 % interval"
    return {"value": float(np.mean(values)), "low": low, "high": high, "band": kind, "seeds": len(values)}


def _draw_scores(axis, board: Board, own: list[Line], style: dict, table: list[dict]) -> dict:
    """Score by layer of every line; the handles of a legend."""
    last = max((line.layers[-1] for line in own if line.layers), default=0)
    handles = {}
    for line in own:
        if line.layers:
            points = [band(line.by_layer[layer]) for layer in line.layers]
            value, low, high = (np.array([point[name] for point in points]) for name in ("value", "low", "high"))
            stroke = UNTRAINED if " random" in line.name else "-"
            handles[line.name] = draw_line(axis, line.layers, value, low, high, last, *style[line.name], stroke)
            about = {**_about(board), "upstream": line.name}
            table += [about | {"layer": k, **point} for k, point in zip(line.layers, points, strict=True)]
    if board.chance is not None:
        handles["chance"] = axis.axhline(board.chance, color="grey", linestyle=":", linewidth=1)
    axis.set_ylabel(score_label(board))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    return handles


def _draw_shares(axis, board: Board, own: list[Line], shares: dict, style: dict, table: list[dict]) -> dict:
    """Share of the mix by layer of every line; the handles of a legend."""
    handles = {}
    by_name = {line.name: line for line in own}
    for name, found in shares.items():
        layers, share = found["layers"], 100 * found["share"]  # (seeds, layers)
        mean, low, high = share.mean(axis=0), share.min(axis=0), share.max(axis=0)
        handles[name] = draw_line(axis, layers, mean, low, high, layers[-1], *style[name])
        for k, layer in enumerate(layers):
            row = {**_about(board), "upstream": name, "layer": layer, "weight": found["weight"][:, k].mean().round(6)}
            row |= {"norm_in_the_mix": found["norm"][k], "share_percent": mean[k].round(4), "low": low[k].round(4)}
            row |= {"high": high[k].round(4), "seeds": len(share)}
            alone = by_name[name].by_layer.get(layer)
            table.append(row | {"score_alone": band(alone)["value"] if alone else ""})
    kind = "weight x norm of its states" if board.protocol in RAW else "its weight: states were standardised first"
    put_title(axis, f"What the mix takes from each layer ({kind})", 60)
    axis.set_ylabel("share of the mix (%)")
    axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    return handles


def _shares(board: Board, own: list[Line], norms: dict) -> dict[str, dict]:
    """Layers, weights, norms and shares of the mixes of lines that have several layers and whose norms are known."""
    found = {}
    for line in own:
        mixed = [record for record in line.by_layer.get(MIX, ()) if len(record.layer_weights) > 1]
        if not mixed or len({tuple(record.layer_numbers) for record in mixed}) > 1:
            continue
        layers = mixed[0].layer_numbers
        norm = [1.0] * len(layers)
        if board.protocol in RAW:
            known = norms.get((mixed[0].checkpoint, mixed[0].checkpoint_hash), {})
            if not known or not set(layers) <= set(first := known.get(board.corpus, next(iter(known.values())))):
                continue
            norm = [first[layer] for layer in layers]
        weight = np.array([record.layer_weights for record in mixed])
        share = weight * norm
        share = share / np.maximum(share.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        found[line.name] = {"layers": layers, "weight": weight, "norm": norm, "share": share}
    return found


def _norms(analyses: list[Analysis]) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """Mean norms by weights, corpus and layer; the latest where there are several."""
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for one in sorted((a for a in analyses if a.kind == NORMS), key=lambda analysis: analysis.started):
        own = found.setdefault((one.upstreams[0], one.checkpoint_hashes[0]), {})
        own[one.corpus] = dict(zip(one.layers[0], one.values["norm"], strict=True))
    return found


def _about(board: Board) -> dict[str, str]:
    return {"task": board.task, "corpus": board.corpus, "protocol": board.protocol, "board": board.name}
