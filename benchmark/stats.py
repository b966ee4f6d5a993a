"""Intervals for scores: what a value would have been on other speakers."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from wavbench.downstream.metrics import METRICS

RESAMPLES = 1_000
MANY = 10  # speakers from which on speakers are resampled, not utterances
CHUNK = 50  # resamples computed at once


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
    values = [METRICS[metric](scores, weights) for weights in _resamples(scores, unit, resamples, seed)]
    values = np.concatenate(values)
    if not len(values):  # nothing to count, however often it is drawn
        values = METRICS[metric](scores)
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high), unit


def unit_of(scores: pd.DataFrame) -> str:
    """What is resampled: "speaker" where every row names one and there are enough, else "utterance"."""
    columns = [name for name in ("speaker", "speaker_b") if name in scores]
    speakers = pd.concat([scores[name].fillna("").astype(str) for name in columns]) if columns else pd.Series(dtype=str)
    return "speaker" if len(speakers) and (speakers != "").all() and speakers.nunique() >= MANY else "utterance"


def _resamples(scores: pd.DataFrame, unit: str, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "chunk rows"]]:
    """How often each row counts in each resample, without those in which nothing is left to score."""
    units = units_of([scores], unit)
    for counts in draws(len(units), resamples, seed):
        weights = weights_of(scores, unit, units, counts)
        if "target" in scores:  # a resample that lost one kind of trial says nothing
            target = scores["target"].to_numpy(bool)
            weights = weights[(weights[:, target].sum(1) > 0) & (weights[:, ~target].sum(1) > 0)]
        else:
            weights = weights[weights @ scores["ref_len" if "ref_len" in scores else "tokens"].to_numpy(float) > 0]
        yield weights


def _sides(scores: pd.DataFrame, unit: str) -> list[str]:
    return [f"{unit}{suffix}" for suffix in ("", "_b") if f"{unit}{suffix}" in scores]


def units_of(tables: list[pd.DataFrame], unit: str) -> pd.Index:
    """All speakers or utterances of some tables, in the order of their first mention."""
    return pd.Index(pd.unique(pd.concat([table[side] for table in tables for side in _sides(table, unit)])))


def draws(units: int, resamples: int, seed: int) -> Iterator[Int[np.ndarray, "chunk units"]]:
    """How often each unit is drawn in each resample, CHUNK of these at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        yield _counts(random, units, min(CHUNK, resamples - start))


def weights_of(
    scores: pd.DataFrame, unit: str, units: pd.Index, counts: Int[np.ndarray, "chunk units"]
) -> Float[np.ndarray, "chunk rows"]:
    """How often each row counts: a trial as often as the product of its sides."""
    weights = np.ones((len(counts), len(scores)))
    for side in _sides(scores, unit):
        weights = weights * counts[:, units.get_indexer(scores[side])]
    return weights


def _counts(random: np.random.Generator, units: int, resamples: int) -> Int[np.ndarray, "resamples units"]:
    return random.multinomial(units, np.full(units, 1 / units), size=resamples)
