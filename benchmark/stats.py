"""Intervals for scores: what a value would have been on other speakers."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from wavbench.downstream.metrics import BLEU_COUNTS, METRICS

RESAMPLES = 1_000
MANY = 10  # speakers from which on speakers are resampled, not utterances
CHUNK = 250  # resamples computed at once
MOST_WEIGHTS = 20_000_000  # that are held at once; fewer resamples where there are many units


def interval(metric: str, scores: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float, str]:
    """Percentile bootstrap, 95 %.

    Speakers are resampled where the scores name ten or more, because utterances of one speaker are alike; otherwise
    utterances are. A verification trial has two sides and counts as often as the product of theirs.

    Args:
        metric: name of a metric.
        scores: columns of a scores file: `utterance`, perhaps `speaker` (and `utterance_b`, `speaker_b`), and what
            the metric reads.
        resamples: how many.
        seed: of the resampling.

    Returns:
        Lower and upper bound in the metric's unit, and what was resampled: "speaker" or "utterance".

    Source: Efron 1979; Bisani and Ney 2004, for error rates.
    """
    unit = unit_of(scores)
    units = units_of([scores], unit)
    groups, chunks = groups_of(scores, unit, units), []
    if "target" in scores:  # a resample that lost one kind of trial says nothing
        needed, table, how = kinds_of(scores, groups.group), scores, {"group": groups.group}
    else:
        names = BLEU_COUNTS if "ref_len" in scores else ["errors", "tokens"]
        table, how = scores[names].astype(float).groupby(groups.group).sum(), {}
        needed = table[["ref_len" if "ref_len" in scores else "tokens"]].to_numpy()
    for counts in draws(len(units), resamples, seed, len(groups.members[0])):
        weights = weights_of(groups, counts)
        chunks.append(METRICS[metric](table, weights[(weights @ needed > 0).all(axis=1)], **how))
    values = np.concatenate(chunks)
    if not len(values):  # nothing to count, however often it is drawn
        values = METRICS[metric](scores)
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high), unit


def unit_of(scores: pd.DataFrame) -> str:
    """What is resampled: "speaker" where every row names one and there are enough, else "utterance"."""
    columns = [name for name in ("speaker", "speaker_b") if name in scores]
    speakers = pd.concat([scores[name].fillna("").astype(str) for name in columns]) if columns else pd.Series(dtype=str)
    return "speaker" if len(speakers) and (speakers != "").all() and speakers.nunique() >= MANY else "utterance"


class Groups(NamedTuple):
    """Rows that count equally often in every resample: what a unit said, or all trials of two units.

    Args:
        group: of each row.
        members: for each side of a row, the unit of each group.
    """

    group: Int[np.ndarray, " rows"]
    members: tuple[Int[np.ndarray, " groups"], ...]


def groups_of(scores: pd.DataFrame, unit: str, units: pd.Index) -> Groups:
    """The rows of a table by their units."""
    sides = [units.get_indexer(scores[side]) for side in _sides(scores, unit)]
    number = sides[0] if len(sides) == 1 else sides[0] * len(units) + sides[1]
    distinct, group = np.unique(number, return_inverse=True)
    members = (distinct,) if len(sides) == 1 else (distinct // len(units), distinct % len(units))
    return Groups(group.astype(np.int64), members)


def kinds_of(scores: pd.DataFrame, group: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "groups 2"]:
    """How many trials of each kind a group has."""
    target = scores["target"].to_numpy(bool)
    size = int(group.max()) + 1
    return np.stack([np.bincount(group[kind], minlength=size) for kind in (target, ~target)], axis=1).astype(float)


def _sides(scores: pd.DataFrame, unit: str) -> list[str]:
    return [f"{unit}{suffix}" for suffix in ("", "_b") if f"{unit}{suffix}" in scores]


def units_of(tables: list[pd.DataFrame], unit: str) -> pd.Index:
    """All speakers or utterances of some tables, in the order of their first mention."""
    return pd.Index(pd.unique(pd.concat([table[side] for table in tables for side in _sides(table, unit)])))


def draws(units: int, resamples: int, seed: int, groups: int) -> Iterator[Int[np.ndarray, "chunk units"]]:
    """How often each unit is drawn in each resample, so many of these at a time as weights of groups have room."""
    random = np.random.default_rng(seed)
    chunk = max(min(CHUNK, MOST_WEIGHTS // max(groups, 1)), 1)
    for start in range(0, resamples, chunk):
        yield _counts(random, units, min(chunk, resamples - start))


def weights_of(groups: Groups, counts: Int[np.ndarray, "chunk units"]) -> Float[np.ndarray, "chunk groups"]:
    """How often each group counts: one of trials as often as the product of its sides."""
    weights = counts[:, groups.members[0]].astype(float)
    for members in groups.members[1:]:
        weights *= counts[:, members]
    return weights


def _counts(random: np.random.Generator, units: int, resamples: int) -> Int[np.ndarray, "resamples units"]:
    return random.multinomial(units, np.full(units, 1 / units), size=resamples)
