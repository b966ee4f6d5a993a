"""Records to one table: who scored what, how surely, and which rows the intervals cannot tell from the best.

Only rows of one board share a ranking: the same task, corpus (by hash), protocol, adaptation and training budget. A row
is one upstream with one recipe: what is averaged differs in seeds alone.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from wavbench.benchmark.recipes import Recipe, labels_of, names_of, one_per_seed, recipe_of, without_lm
from wavbench.benchmark.record import Record, key_of

MIX = "mix"


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
        deviation: of their values (standard deviation, n - 1); NaN of a single seed.
        heard: corpora of the board that the upstream was pretrained on.
        record: of the first seed.
        keys: of the records of all seeds.
        head_seeds: these seeds.
        ranks: the first and last rank that it can have, given the rows that are told apart; None where none was tested.
        fit_seconds: that the heads of its first seed took, with their search; of all layer choices trained in one pass,
            as nobody can say what the mix alone would have taken.
        fitted: layer choices of that pass.
        scored: whether its scores are there, so that anybody can compute the value again.
        p_best: how likely so large a difference from the best row is if both are equal, held against all pairs of the
            board; NaN where they were not scored on the same test items.
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
    head_seeds: tuple[int, ...] = ()
    deviation: float = math.nan
    ranks: tuple[int, int] | None = None
    p_best: float = math.nan
    fit_seconds: float = math.nan
    fitted: int = 1
    scored: bool = True


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
    layers: pd.DataFrame  # upstream, layer, value, low, high, key of the record of its first seed
    head: str = ""  # where another board differs in nothing else that is said
    apart: str = ""  # and where that does not tell them apart either

    @property
    def name(self) -> str:
        mark = " (synthetic)" if self.synthetic and self.corpus != "synthetic" else ""
        protocol = "" if self.protocol == "clean" else f", protocol {self.protocol}"
        training = f", {self.training}" if self.training else ""
        head = f", head {self.head}" if self.head else ""
        apart = f", {self.apart}" if self.apart else ""
        return f"{self.task} on {self.corpus}{mark}{protocol}{training}{head}{apart}"


def boards_of(records: Iterable[Record]) -> list[Board]:
    """Group records into boards and rank their rows."""
    groups: dict[tuple, list[Record]] = {}
    hashes: dict[str, set[str]] = {}
    for record in records:
        groups.setdefault(board_key(record), []).append(record)
        hashes.setdefault(record.checkpoint, set()).add(record.checkpoint_hash)
    ambiguous = {name for name, found in hashes.items() if len(found) > 1}
    firsts = [group[0] for _, group in sorted(groups.items())]
    boards = [_board(group, ambiguous) for _, group in sorted(groups.items())]
    names = Counter(board.name for board in boards)
    boards = [replace(b, head=r.head) if names[b.name] > 1 else b for b, r in zip(boards, firsts, strict=True)]
    alike: dict[str, list[int]] = {}
    for place, board in enumerate(boards):
        alike.setdefault(board.name, []).append(place)
    for places in alike.values():
        for place, apart in zip(places, _differences([firsts[k] for k in places]), strict=True):
            boards[place] = replace(boards[place], apart=apart)
    return boards


def _differences(firsts: list[Record]) -> list[str]:
    """What boards of one name differ in, from a record of each; "" for a single one."""
    said = [
        {
            "corpus": f"corpus #{record.corpus_hash[:6]}",
            "version": f"version {record.protocol_version}",
            "updates": f"{record.config.get('budget', {}).get('updates', 0)} updates",
            "trials": f"trials {record.config.get('trials', False)}",
            "units": f"units {record.config.get('units', 0)}",
        }
        for record in firsts
    ]
    differing = [name for name in said[0] if len({own[name] for own in said}) > 1]
    found = [", ".join(own[name] for name in differing) for own in said]
    if len(set(found)) == len(found):
        return found
    return [f"{own} #{key_of({'board': board_key(r)})[:6]}".strip() for own, r in zip(found, firsts, strict=True)]


def board_key(record: Record) -> tuple:
    """What two records must share to be ranked against each other."""
    budget = record.config.get("budget", {})
    budget = json.dumps(budget | ({"labels": labels_of(record)} if "labels" in budget else {}), sort_keys=True)
    trials = str(record.config.get("trials", False))
    protocol = (record.protocol, record.protocol_version, record.adaptation)
    units = str(record.config.get("units", 0))  # what is written: characters, or so many pieces of words
    return (
        record.task,
        record.corpus,
        record.corpus_hash,
        *map(str, protocol),
        record.head,
        budget,
        trials,
        units,
        record.metric,
    )


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
            recipe: [
                {"layer": k, **_mean(own), "key": _first(own).key}
                for k, own in sorted((k, v) for k, v in choices.items() if k != MIX)
            ]
            for recipe, choices in recipes.items()
        }
        for recipe, choices in recipes.items():
            layers += [{"upstream": upstream + names[recipe], **own} for own in probed[recipe]]
            if MIX in choices:
                own = probed.get(without_lm(recipe), [])
                best = min(own, key=lambda found: sign * found["value"], default=None)
                mixes.append((upstream + names[recipe], one_per_seed(choices[MIX]), best))
    layers = pd.DataFrame(layers, columns=["upstream", "layer", "value", "low", "high", "key"])
    mixes.sort(key=lambda item: (sign * _mean(item[1])["value"], item[0]))
    rows = []
    for place, (upstream, found, layer) in enumerate(mixes):
        mean, best = _mean(found), _mean(mixes[0][1])
        together = [record for record in records if _pass(record) == _pass(_first(found))]
        rows.append(
            Row(
                upstream=upstream,
                checkpoint_hash=found[0].checkpoint_hash,
                rank=place + 1,
                tied=mean["low"] <= best["high"] and best["low"] <= mean["high"],
                best_layer=(layer["layer"], layer["value"]) if layer else None,
                seeds=len(found),
                deviation=statistics.stdev(record.value for record in found) if len(found) > 1 else math.nan,
                heard=tuple(found[0].config.get("heard", ())),
                record=_first(found),
                keys=tuple(record.key for record in sorted(found, key=lambda record: record.seed)),
                head_seeds=tuple(sorted(record.seed for record in found)),
                fit_seconds=sum(record.cost["fit_s"] for record in together),
                fitted=len(together),
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


def _pass(record: Record) -> tuple:
    """What records of a board share whose heads were trained at once."""
    return record.checkpoint_hash, record.seed, record.started, record.store_fingerprint


def _first(records: list[Record]) -> Record:
    return min(records, key=lambda record: record.seed)


def _mean(records: list[Record]) -> dict[str, float]:
    """Value and bounds, averaged over seeds."""
    records = one_per_seed(records)
    return {
        "value": sum(record.value for record in records) / len(records),
        "low": sum(record.ci95[0] for record in records) / len(records),
        "high": sum(record.ci95[1] for record in records) / len(records),
    }
