"""Records to one table: who scored what, how surely, and which rows the intervals cannot tell from the best.

Only rows of one board share a ranking: the same task, corpus (by hash), protocol, adaptation and training budget. A row
is one upstream with one recipe: what is averaged differs in seeds alone.
"""

import json
import math
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from wavbench.benchmark.recipes import Recipe, labels_of, names_of, one_per_seed, recipe_of, without_lm
from wavbench.benchmark.record import Record, read_records, write_text
from wavbench.upstream.errors import UserError

MIX = "mix"
HEARD = " †"  # behind values of upstreams that know the corpus
ABOUT_HEARD = "† marks upstreams that were pretrained on audio of the corpus."


@dataclass(frozen=True)
class Row:
    """One upstream with one recipe on one board; several seeds are averaged.

    Args:
        upstream: its checkpoint, for people; behind it the settings in which it differs from others of its rows.
        checkpoint_hash: which weights exactly.
        value: in the board's unit.
        low: lower bound of the 95 % interval.
        high: upper bound.
        rank: 1 is best.
        tied: not told apart from the best row: by the tests of `ranking`, or by its interval where there are none.
        best_layer: number and value of the best single layer, None where layers were not probed.
        seeds: how many were averaged.
        heard: corpora of the board that the upstream was pretrained on.
        record: of the first seed.
        keys: of the records of all seeds.
        ranks: the first and last rank that it can have, given the rows that are told apart; None where none was tested.
        p_best: how likely so large a difference from the best row is if both are equal, after Holm's correction over
            all pairs of the board; NaN where they were not scored on the same test items.
    """

    upstream: str
    checkpoint_hash: str
    value: float
    low: float
    high: float
    rank: int
    tied: bool
    best_layer: tuple[int, float] | None
    seeds: int
    heard: tuple[str, ...]
    record: Record
    keys: tuple[str, ...] = ()
    ranks: tuple[int, int] | None = None
    p_best: float = math.nan


@dataclass(frozen=True)
class Board:
    """All rows that may be ranked against each other, best first, and every single layer that was probed."""

    task: str
    corpus: str
    corpus_hash: str
    synthetic: bool
    metric: str
    unit: str
    higher_is_better: bool
    chance: float | None
    ci_unit: str
    n: int
    split: str
    protocol: str
    updates: int
    training: str  # "" for heads on stores, otherwise how and on how many labels the upstream was trained with them
    rows: tuple[Row, ...]
    layers: pd.DataFrame  # upstream, layer, value, low, high
    head: str = ""  # where another board differs in nothing else that is said

    @property
    def name(self) -> str:
        mark = " (synthetic)" if self.synthetic and self.corpus != "synthetic" else ""
        protocol = "" if self.protocol == "clean" else f", protocol {self.protocol}"
        training = f", {self.training}" if self.training else ""
        head = f", head {self.head}" if self.head else ""
        return f"{self.task} on {self.corpus}{mark}{protocol}{training}{head}"


def boards_of(records: Iterable[Record]) -> list[Board]:
    """Group records into boards and rank their rows."""
    groups: dict[tuple, list[Record]] = {}
    hashes: dict[str, set[str]] = {}
    for record in records:
        groups.setdefault(board_key(record), []).append(record)
        hashes.setdefault(record.checkpoint, set()).add(record.checkpoint_hash)
    ambiguous = {name for name, found in hashes.items() if len(found) > 1}
    boards = [_board(group, ambiguous) for _, group in sorted(groups.items())]
    names = Counter(board.name for board in boards)
    return [replace(b, head=b.rows[0].record.head) if names[b.name] > 1 and b.rows else b for b in boards]


def board_key(record: Record) -> tuple:
    """What two records must share to be ranked against each other."""
    budget = record.config.get("budget", {})
    budget = json.dumps(budget | ({"labels": labels_of(record)} if "labels" in budget else {}), sort_keys=True)
    trials = str(record.config.get("trials", False))
    protocol = (record.protocol, record.protocol_version, record.adaptation)
    units = str(record.config.get("units", 0))  # what is written: characters, or so many pieces of words
    return (record.task, record.corpus, record.corpus_hash, *map(str, protocol), record.head, budget, trials, units)


def _board(records: list[Record], ambiguous: set[str]) -> Board:
    """One board; a checkpoint's name that several weights share is followed by the beginning of their hash."""
    first = records[0]
    by_upstream: dict[tuple[str, str], dict[Recipe, dict[str | int, list[Record]]]] = {}
    for record in records:
        name = record.checkpoint
        name = f"{name} #{record.checkpoint_hash[:6]}" if name in ambiguous else name
        recipe = recipe_of(record) if record.layers == MIX else without_lm(recipe_of(record))
        recipes = by_upstream.setdefault((name, record.checkpoint_hash), {})
        recipes.setdefault(recipe, {}).setdefault(record.layers, []).append(record)
    sign = -1 if first.higher_is_better else 1
    layers, mixes = [], []
    for (upstream, _), recipes in by_upstream.items():
        names = names_of(recipes)
        probed = {
            recipe: [{"layer": k, **_mean(own)} for k, own in sorted((k, v) for k, v in choices.items() if k != MIX)]
            for recipe, choices in recipes.items()
        }
        for recipe, choices in recipes.items():
            layers += [{"upstream": upstream + names[recipe], **own} for own in probed[recipe]]
            if MIX in choices:
                own = probed.get(without_lm(recipe), [])
                best = min(own, key=lambda found: sign * found["value"], default=None)
                mixes.append((upstream + names[recipe], one_per_seed(choices[MIX]), best))
    layers = pd.DataFrame(layers, columns=["upstream", "layer", "value", "low", "high"])
    mixes.sort(key=lambda item: (sign * _mean(item[1])["value"], item[0]))
    rows = []
    for place, (upstream, found, layer) in enumerate(mixes):
        mean, best = _mean(found), _mean(mixes[0][1])
        rows.append(
            Row(
                upstream=upstream,
                checkpoint_hash=found[0].checkpoint_hash,
                rank=place + 1,
                tied=mean["low"] <= best["high"] and best["low"] <= mean["high"],
                best_layer=(layer["layer"], layer["value"]) if layer else None,
                seeds=len(found),
                heard=tuple(found[0].config.get("heard", ())),
                record=min(found, key=lambda record: record.seed),
                keys=tuple(record.key for record in sorted(found, key=lambda record: record.seed)),
                **mean,
            )
        )
    return Board(
        task=first.task,
        corpus=first.corpus,
        corpus_hash=first.corpus_hash,
        synthetic=first.synthetic,
        metric=first.metric,
        unit=first.unit,
        higher_is_better=first.higher_is_better,
        chance=first.secondary.get("chance"),
        ci_unit=first.ci_unit,
        n=first.n,
        split=first.split,
        protocol=first.protocol,
        updates=int(first.config.get("budget", {}).get("updates", 0)),
        training=training_of(first),
        rows=tuple(rows),
        layers=layers,
    )


def training_of(record: Record) -> str:
    """How a head came to be that saw audio and not a store, "" for one that saw a store."""
    labels = labels_of(record)
    return f"{record.adaptation} fine-tuning, labels={labels}" if labels else ""


def _mean(records: list[Record]) -> dict[str, float]:
    """Value and bounds, averaged over seeds."""
    records = one_per_seed(records)
    return {
        "value": sum(record.value for record in records) / len(records),
        "low": sum(record.ci95[0] for record in records) / len(records),
        "high": sum(record.ci95[1] for record in records) / len(records),
    }


def long_table(boards: list[Board]) -> pd.DataFrame:
    """One line per row of every board, for leaderboard.csv."""
    lines = []
    for board in boards:
        for row in board.rows:
            record = row.record
            lines.append(
                {
                    "task": board.task,
                    "corpus": board.corpus,
                    "synthetic": board.synthetic,
                    "rank": row.rank,
                    "upstream": row.upstream,
                    "metric": board.metric,
                    "unit": board.unit,
                    "higher_is_better": board.higher_is_better,
                    "value": round(row.value, 4),
                    "ci95_low": round(row.low, 4),
                    "ci95_high": round(row.high, 4),
                    "ci_unit": board.ci_unit,
                    "interval_meets_best": row.tied,
                    "chance": board.chance,
                    "best_layer": row.best_layer[0] if row.best_layer else "",
                    "best_layer_value": round(row.best_layer[1], 4) if row.best_layer else "",
                    **{f"secondary_{name}": value for name, value in record.secondary.items() if name != "chance"},
                    "n": record.n,
                    "seeds": row.seeds,
                    "split": record.split,
                    "pretrained_on": " ".join(row.heard),
                    "protocol": f"{record.protocol} {record.protocol_version}",
                    "updates": board.updates,
                    "adaptation": record.adaptation,
                    "labels_minutes": record.config.get("labels", ""),
                    "head": record.head,
                    "learning_rate": " ".join(f"{rate:g}" for rate in record.learning_rate),
                    **record.cost,
                    "corpus_hash": board.corpus_hash,
                    "checkpoint_hash": row.checkpoint_hash,
                    "key": record.key,
                }
            )
    return pd.DataFrame(lines, columns=None if lines else ["task", "corpus", "rank", "upstream", "value"])


def overview(boards: list[Board]) -> tuple[list[str], list[list[str]]]:
    """Upstreams x boards: header and cells; `=` marks what the intervals cannot tell from the best."""
    names = sorted({row.upstream for board in boards for row in board.rows})
    header = ["upstream"]
    for board in boards:
        remarks = ", synthetic" if board.synthetic else ""
        remarks += "" if board.protocol == "clean" else f", protocol {board.protocol}"
        remarks += f", {board.training}" if board.training else ""
        remarks += f", {board.head}" if board.head else ""
        header.append(
            f"{board.task} ({board.corpus}{remarks}), {board.metric} {'↑' if board.higher_is_better else '↓'}"
        )
    lines = []
    for name in names:
        cells = [name]
        for board in boards:
            row = next((row for row in board.rows if row.upstream == name), None)
            cells.append(cell(row) if row else "")
        lines.append(cells)
    return header, lines


def cell(row: Row) -> str:
    """A value with its interval."""
    mark = " **best**" if row.rank == 1 else " =" if row.tied else ""
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]{HEARD if row.heard else ''}{mark}"


def markdown(boards: list[Board]) -> str:
    """leaderboard.md."""
    header, lines = overview(boards)
    text = ["# Leaderboard", "", *_markdown_table(header, lines), ""]
    text += [
        "Values are those of the layer mix, with 95 % bootstrap intervals. **best** is the best value of a column, `=` "
        "marks rows whose interval meets the best row's: not told apart by this test set."
        + (f" {ABOUT_HEARD}" if any(row.heard for board in boards for row in board.rows) else ""),
        "",
    ]
    for board in boards:
        text += [f"## {board.name}", "", describe(board), ""]
        text += [*_markdown_table(*board_table(board)), ""]
    return "\n".join(text)


def describe(board: Board) -> str:
    """One sentence on how a board was measured."""
    direction = "higher" if board.higher_is_better else "lower"
    chance = f"; knowing nothing scores {board.chance:.1f}" if board.chance is not None else ""
    unit = f" in {board.unit}" if board.unit != board.metric else ""
    made = " Speech made by a synthesiser." if board.synthetic else ""
    made += f" {ABOUT_HEARD}" if any(row.heard for row in board.rows) else ""
    return (
        f"{board.metric}{unit}, {direction} is better{chance}. {board.n} test "
        f"{'trials' if board.metric == 'EER' else 'utterances'} ({board.split}), intervals over {board.ci_unit}s, "
        f"{board.updates} updates.{made}"
    )


def board_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Header and cells of one board."""
    extra = sorted({k for row in board.rows for k in row.record.secondary if k not in ("chance", "classes", "trials")})
    extra = [name for name in extra if any(row.record.secondary.get(name) for row in board.rows)]
    header = [
        "rank",
        "upstream",
        board.metric,
        "95 % interval",
        "best layer",
        *(name.replace("_", " ") for name in extra),
    ]
    header += ["extract s", "fit s", "store MB", "parameters"]
    lines = []
    for row in board.rows:
        cost = row.record.cost
        best = f"{row.best_layer[0]}: {row.best_layer[1]:.2f}" if row.best_layer else "-"
        more = [f"{row.record.secondary[name]:.2f}" if name in row.record.secondary else "-" for name in extra]
        line = [f"{row.rank}{' =' if row.tied and row.rank > 1 else ''}", row.upstream]
        line += [f"{row.value:.2f}{HEARD if row.heard else ''}"]
        line += [f"{row.low:.2f} to {row.high:.2f}", best, *more]
        line += [f"{cost['extract_s']:.0f}", f"{cost['fit_s']:.0f}", f"{cost['store_mb']:.1f}"]
        lines.append([*line, f"{cost['upstream_parameters'] / 1e6:.1f} M"])
    return header, lines


def plain(boards: list[Board]) -> str:
    """The boards as text for a terminal."""
    text = []
    for board in boards:
        text += [board.name, f"  {describe(board)}"]
        width = max((len(row.upstream) for row in board.rows), default=0)
        for row in board.rows:
            mark = "best" if row.rank == 1 else "=" if row.tied else ""
            best = f"  best layer {row.best_layer[0]}: {row.best_layer[1]:.2f}" if row.best_layer else ""
            interval = f"[{row.low:6.2f}, {row.high:6.2f}]"
            heard = HEARD if row.heard else ""
            line = f"  {row.rank:2d}  {row.upstream:{width}}  {row.value:6.2f} {interval} {mark:4}{heard}{best}"
            text.append(line.rstrip())
        if not board.rows:
            text += [f"  {x.upstream}  layer {x.layer}: {x.value:.2f}" for x in board.layers.itertuples()]
        text.append("")
    return "\n".join(text).rstrip()


def write_report(results: Path) -> tuple[Path, str]:
    """leaderboard.csv, .md, .html and figures/ from the records of a results folder.

    Returns:
        The page, and the boards as text.

    Raises:
        UserError: there are no records.
    """
    from wavbench.benchmark.page import write_page
    from wavbench.benchmark.plots import confusions, det_curves, label_budget, write_figures

    records = read_records(results)
    if not records:
        remedy = "`wavbench run` or `wavbench sweep` makes them; results=FOLDER says where they are"
        raise UserError("there are no records to report", where=results / "runs", remedy=remedy)
    boards = boards_of(records)
    making = results / f".report-{uuid.uuid4().hex}"  # all of it is made before any of it stands in the old one's place
    try:
        drawn = write_figures(boards, making / "figures") | label_budget(records, making / "figures")
        drawn |= det_curves(boards, results, making / "figures") | confusions(boards, results, making / "figures")
        page = results / "leaderboard.html"
        write_page(boards, records, drawn, making / page.name)
        write_text(making / "leaderboard.csv", long_table(boards).to_csv(index=False, lineterminator="\n"))
        write_text(making / "leaderboard.md", markdown(boards))
        for made in sorted(path for path in making.rglob("*") if path.is_file()):
            place = results / made.relative_to(making)
            place.parent.mkdir(exist_ok=True)
            os.replace(made, place)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return page, plain(boards)


def _markdown_table(header: list[str], lines: list[list[str]]) -> list[str]:
    escaped = [[text.replace("|", "\\|") for text in line] for line in [header, *lines]]
    return [f"| {' | '.join(escaped[0])} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(x)} |" for x in escaped[1:])]
