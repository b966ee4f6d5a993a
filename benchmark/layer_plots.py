"""Analyses to figures: how alike layers are, what they hold, how large they are, and where utterances lie.

Everything is drawn from the files of results/analysis; no store is opened.
"""

import textwrap
from collections.abc import Collection, Iterable
from itertools import accumulate
from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.benchmark.analysis_record import CCA, CKA, NORMS, TSNE, Analysis
from wavbench.benchmark.figures import (
    COLOURS,
    MARKERS,
    axes_for,
    legend_beside,
    prepare,
    put_title,
    safe,
    save,
    short,
    styles,
)

ALIKE = "viridis"  # even steps to the eye and to people with any colour vision
ACROSS = 4  # panels of t-SNE beside each other
NAMED = 8  # values of a label that have a colour of their own in a t-SNE: the most frequent ones
GAP = 0.42  # inches between heat maps
LAYER = "layer (0: input of the first block)"


def analysis_figures(analyses: list[Analysis], folder: Path, wanted: Collection[str] = ()) -> dict[str, Path]:
    """All figures of some analyses; of several of the same thing the latest counts.

    Args:
        analyses: of any kinds and corpora.
        folder: made if absent.
        wanted: keys of analyses that count before any other.

    Returns:
        The SVG of each figure by name: `cka_<corpus>`, `cca_<corpus>`, `norms_<corpus>`, `tsne_<corpus>`.
    """
    prepare(folder)
    figures = {}
    for corpus in sorted({analysis.corpus for analysis in analyses}):
        own = [analysis for analysis in analyses if analysis.corpus == corpus]
        for kind, draw in ((CCA, _cca), (CKA, _cka), (NORMS, _norms), (TSNE, _tsne)):
            found = latest((analysis for analysis in own if analysis.kind == kind), wanted)
            if found:
                figures[f"{kind}_{corpus}"] = draw(found, names_of(own), folder / f"{kind}_{safe(corpus)}")
    return figures


def latest(analyses: Iterable[Analysis], wanted: Collection[str] = ()) -> list[Analysis]:
    """One analysis of each thing, the one made last, of the same sample as the last of its kind and label.

    Values of other utterances or other seeds cannot stand in one figure with them: classes and rows differ.
    """
    found, samples = {}, {}
    for analysis in sorted(analyses, key=lambda own: (own.key in wanted, own.started, own.key), reverse=True):
        sample = (analysis.corpus_hash, analysis.sample.get("seed"))
        if samples.setdefault((analysis.kind, analysis.label), sample) == sample:
            found.setdefault((analysis.kind, analysis.label, frozenset(_sides(analysis))), analysis)
    return list(found.values())


def names_of(analyses: Iterable[Analysis]) -> dict[tuple[str, str], str]:
    """A name for each upstream; behind one that several weights share, the beginning of their hash."""
    sides = sorted({side for analysis in analyses for side in _sides(analysis)})
    shared = [name for name, _ in sides]
    return {(name, hash): f"{name} #{hash[:6]}" if shared.count(name) > 1 else name for name, hash in sides}


def _sides(analysis: Analysis) -> list[tuple[str, str]]:
    return list(zip(analysis.upstreams, analysis.checkpoint_hashes, strict=True))


def _cka(found: list[Analysis], names: dict, stem: Path) -> Path:
    """A heat map for every two upstreams, in the lower half of a table of them."""
    import matplotlib.pyplot as plt

    pairs, counts, table = {}, {}, []
    for analysis in found:
        one, other = (names[side] for side in _sides(analysis))
        layers, values = analysis.layers, np.array(analysis.values["cka"])
        if one > other:
            one, other, layers, values = other, one, layers[::-1], values.T
        pairs[one, other] = (layers, values)
        counts |= {one: len(layers[0]), other: len(layers[1])}
        debiased = np.array(analysis.values["debiased"])
        for (i, j), value in np.ndenumerate(np.array(analysis.values["cka"])):
            place = {"upstream": names[_sides(analysis)[0]], "layer": analysis.layers[0][i]}
            place |= {"other": names[_sides(analysis)[1]], "other_layer": analysis.layers[1][j]}
            table.append(place | {"cka": value, "debiased": debiased[i, j], **analysis.sample})
    upstreams = sorted(counts, key=lambda name: (counts[name] == 1, name))  # filterbanks last: strips, not squares
    sizes = [max(0.19 * min(1, 5 / len(upstreams)) * counts[name], 0.4) for name in upstreams]
    width, height = sum(sizes) + GAP * len(sizes) + 2.4, max(sum(sizes) + GAP * len(sizes) + 1.35, 3.2)
    figure = plt.figure(figsize=(width, height))
    image = None
    for row, below in enumerate(upstreams):
        for column, left in enumerate(upstreams[: row + 1]):
            if (found_here := _pair(pairs, left, below)) is None:
                continue
            (across, up), values = found_here
            x = 0.8 + sum(sizes[:column]) + GAP * column
            y = 0.75 + sum(sizes[row + 1 :]) + GAP * (len(sizes) - 1 - row)
            axis = figure.add_axes((x / width, y / height, sizes[column] / width, sizes[row] / height))
            image = axis.imshow(values, origin="lower", aspect="auto", cmap=ALIKE, vmin=0, vmax=1)
            if left != below and min(values.shape) > 1:
                axis.plot(values.argmax(axis=1), range(len(up)), ".", color="white", markersize=3)
            _layer_ticks(axis.set_xticks, across)
            _layer_ticks(axis.set_yticks, up)
            axis.tick_params(labelsize=7)
            axis.spines[:].set_visible(False)
            if all(_pair(pairs, left, other) is None for other in upstreams[row + 1 :]):
                axis.set_xlabel(f"layer of\n{textwrap.fill(left, 18)}", fontsize=8)
            if column == 0:
                axis.set_ylabel(f"layer of\n{textwrap.fill(below, 18)}", fontsize=8)
    tall = min(height - 1.5, 3.0)
    bar = figure.colorbar(
        image, cax=figure.add_axes(((width - 1.3) / width, 0.75 / height, 0.18 / width, tall / height))
    )
    bar.set_label("linear CKA\n0: nothing in common, 1: the same\nbut for rotation and scale", fontsize=8)
    first, away = found[0], max(row["cka"] - row["debiased"] for row in table)
    told = f"How alike layers are, {first.corpus}: {first.sample['frames']:,} frames of {first.sample['utterances']:,} "
    told += f"utterances; debiased values are at most {max(away, 0):.3f} lower. White dots: the layer of the upstream "
    told += "below that is most like each layer of the one on the left."
    told = textwrap.fill(told, int(13 * width))
    figure.text(0.1 / width, 1 - 0.1 / height, told, fontsize=9, ha="left", va="top")
    return save(figure, pd.DataFrame(table), stem, fitted=True)


def _pair(pairs: dict, left: str, below: str):
    """Layers across and up, and values [up, across], of two upstreams; None where they were not compared."""
    if (left, below) in pairs:
        (across, up), values = pairs[left, below]
        return (across, up), values.T
    if (below, left) in pairs:
        (up, across), values = pairs[below, left]
        return (across, up), values
    return None


def _cca(found: list[Analysis], names: dict, stem: Path) -> Path:
    """CCA by layer, a panel for each label, with what permuted labels score."""
    labels = sorted({analysis.label for analysis in found}, key=lambda label: (label not in ("phones", "words"), label))
    figure, axes = axes_for(len(labels), 3.6, width=6.6, most=2)
    style, table = styles(names.values()), []
    for axis, label in zip(axes, labels, strict=True):
        own = sorted((a for a in found if a.label == label), key=lambda analysis: names[_sides(analysis)[0]])
        last, handles = max(max(analysis.layers[0]) for analysis in own), {}
        # parts are the same for all: what one of them adds to every layer tells nothing of layers
        shift = np.mean([np.mean(analysis.values["weighted"], axis=0) for analysis in own], axis=0)
        shift = shift - shift.mean()
        for analysis in own:
            name = names[_sides(analysis)[0]]
            parts, layers = np.array(analysis.values["weighted"]), analysis.layers[0]
            mean, best = parts.mean(axis=1), int(parts.mean(axis=1).argmax())
            for k, layer in enumerate(layers):
                row = {"label": label, "upstream": name, "layer": layer, "cca": round(mean[k], 5)}
                row |= {f"part_{number}": value for number, value in enumerate(parts[k])}
                row |= {kind: round(float(np.mean(analysis.values[kind][k])), 5) for kind in ("plain", "fitted")}
                row |= {"permuted": round(float(np.mean(analysis.values["permuted"][k])), 5)}
                table.append(row | {n: analysis.values[n] for n in ("classes", "rows")} | analysis.sample)
            colour, marker = style[name]
            even = parts - shift
            line = draw_line(axis, layers, mean, even.min(axis=1), even.max(axis=1), last, colour, marker)
            where = "" if len(layers) == 1 else f" at layer {layers[best]}"
            handles[f"{name}: {mean[best]:.2f}{where}"] = line
            if len(layers) > 1:
                axis.plot(layers[best], mean[best], marker=marker, markersize=9, color=colour, fillstyle="none")
        none = np.concatenate([_permuted(analysis) for analysis in own], axis=None)
        handles["permuted labels"] = axis.axhspan(none.min(), none.max(), color="grey", alpha=0.3, linewidth=0)
        rows, classes = own[0].values["rows"], own[0].values["classes"]
        what = "segments" if "segments" in own[0].sample else "utterances"
        put_title(axis, f"{label} on {own[0].corpus}: {classes} classes, {rows:,} {what}", 60)
        axis.set_xlabel(f"{LAYER}; ring: best; band: over four parts", fontsize=8)
        axis.set_ylabel(f"CCA with {label}, held out,\nhigher: the layer says more of it", fontsize=8)
        axis.set_ylim(min(0, axis.get_ylim()[0]), min(max(axis.get_ylim()[1], 0.1), 1.02))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        legend_beside(axis, handles.values(), handles)
    return save(figure, pd.DataFrame(table), stem)


def _permuted(analysis: Analysis) -> np.ndarray:
    """What each permutation of labels scored, [layer, permutation]: the mean over parts, as scores are."""
    table = np.array(analysis.values["permuted"])
    return table.reshape(len(table), -1, len(analysis.values["weighted"][0])).mean(axis=2)


def _norms(found: list[Analysis], names: dict, stem: Path) -> Path:
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (axis,) = axes_for(1, 3.4, width=6.6)
    style, table, handles = styles(names.values()), [], {}
    found = sorted(found, key=lambda analysis: names[_sides(analysis)[0]])
    last = max(max(analysis.layers[0]) for analysis in found)
    for analysis in found:
        name, layers = names[_sides(analysis)[0]], analysis.layers[0]
        norm, spread = (np.array(analysis.values[kind]) for kind in ("norm", "deviation"))
        for k, layer in enumerate(layers):
            row = {"upstream": name, "layer": layer, "norm": norm[k], "deviation": spread[k]}
            table.append(row | {"dim": analysis.dims[0]} | analysis.sample)
        low = np.maximum(norm - spread, norm / 100)  # the axis has no zero
        handles[name] = draw_line(axis, layers, norm, low, norm + spread, last, *style[name])
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, place: f"{value:g}")  # its own is a formula
    axis.yaxis.set_minor_formatter(NullFormatter())
    put_title(axis, f"How large states are, {found[0].corpus}", 60)
    axis.set_xlabel(LAYER)
    axis.set_ylabel("L2 norm of a state (no unit):\nmean and deviation over frames", fontsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    legend_beside(axis, handles.values(), handles)
    return save(figure, pd.DataFrame(table), stem)


def _tsne(found: list[Analysis], names: dict, stem: Path) -> Path:
    """Rows of panels for each label, in them one for each upstream."""
    import matplotlib.pyplot as plt

    labels = sorted({analysis.label for analysis in found})
    by_label = {label: [a for a in found if a.label == label] for label in labels}
    columns = min(max(len(own) for own in by_label.values()), ACROSS)
    depths = [-(-len(by_label[label]) // columns) for label in labels]
    figure, axes = plt.subplots(sum(depths), columns, figsize=(3.4 * columns + 1.4, 4.0 * sum(depths)), squeeze=False)
    table, ends = [], list(accumulate(depths))
    for label, depth, end in zip(labels, depths, ends, strict=True):
        row = axes[end - depth : end].ravel()
        own = sorted(by_label[label], key=lambda analysis: names[_sides(analysis)[0]])
        counts = pd.Series([v for v in own[0].values["label"] if v]).value_counts()
        frequent = sorted(sorted(counts.index, key=lambda value: (-counts[value], value))[:NAMED])
        for axis, analysis in zip(row, own, strict=False):
            name, values = names[_sides(analysis)[0]], analysis.values
            points = pd.DataFrame({kind: values[kind] for kind in ("utterance", "x", "y", "label")})
            about = {"upstream": name, "layer": values["layer"], "column": label}
            table.append(points.assign(**about)[[*about, *points]])
            rest = points[~points["label"].isin(frequent)]
            others = axis.scatter(rest["x"], rest["y"], s=6, color="lightgrey", linewidth=0)
            handles = {}
            for value, colour, marker in zip(frequent, COLOURS, MARKERS, strict=False):
                part = points[points["label"] == value]
                drawn = axis.scatter(part["x"], part["y"], s=14, color=colour, marker=marker, linewidth=0, alpha=0.85)
                handles[short(value)] = drawn
            if len(rest):
                handles[f"{rest['label'].nunique()} others" if len(counts) > NAMED else "no label"] = others
            near, chance = 100 * values["neighbour"], 100 * values["chance"]
            put_title(axis, f"{name}, layer {values['layer']} ({values['chosen']})", 44)
            axis.set_xlabel(f"nearest one has the same {label}: {near:.0f} % (chance {chance:.0f} %)", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_box_aspect(1)
            if analysis is own[min(columns, len(own)) - 1]:
                legend_beside(axis, handles.values(), handles)
        row[0].set_ylabel(
            f"{label}, {len(own[0].values['x']):,} utterances (axes have no unit:\nonly who is near whom counts)"
        )
        for spare in row[len(own) :]:
            spare.set_visible(False)
    return save(figure, pd.concat(table, ignore_index=True), stem)


def draw_line(axis, layers: list[int], values, low, high, last: int, colour: str, marker: str, stroke: str = "-"):
    """A line by layer with its band; an upstream that has layer 0 alone is a line across, up to the last of others."""
    if list(layers) == [0] and last > 0:
        axis.fill_between([0, last], low[0], high[0], color=colour, alpha=0.08, linewidth=0)
        return axis.axhline(values[0], color=colour, linewidth=1.2, linestyle="--")
    axis.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
    return axis.plot(layers, values, marker=marker, markersize=4, color=colour, linestyle=stroke)[0]


def _layer_ticks(put, layers: list[int]) -> None:
    step = 1 if len(layers) < 6 else 4 if len(layers) > 8 else 2
    put(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
