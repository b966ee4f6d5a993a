"""What scores say of speakers that were not heard: intervals of a value, and which of several rows are told apart."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from wavbench.downstream.metrics import BLEU_COUNTS, METRICS, bleu_of_counts

RESAMPLES = 1_000
FLIPS = 10_000  # random exchanges of a test
EXACT = 13  # units up to which all their exchanges are looked at instead
MANY = 10  # speakers from which on speakers are resampled, not utterances
CHUNK = 50  # resamples computed at once
TOGETHER = 64  # pairs whose exchanges are computed at once
ITEM = ("utterance", "speaker", "utterance_b", "speaker_b", "target")  # columns that two rows must have alike
LEVEL = 0.05


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
    sides = [f"{unit}{suffix}" for suffix in ("", "_b") if f"{unit}{suffix}" in scores]
    codes, units = pd.factorize(pd.concat([scores[side] for side in sides], ignore_index=True))
    first = codes[: len(scores)]
    second = codes[len(scores) :] if len(sides) == 2 else None
    random = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        counts = _counts(random, len(units), min(CHUNK, resamples - start))
        weights = counts[:, first] if second is None else counts[:, first] * counts[:, second]
        if "target" in scores:  # a resample that lost one kind of trial says nothing
            target = scores["target"].to_numpy(bool)
            weights = weights[(weights[:, target].sum(1) > 0) & (weights[:, ~target].sum(1) > 0)]
        else:
            weights = weights[weights @ scores["ref_len" if "ref_len" in scores else "tokens"].to_numpy(float) > 0]
        yield weights.astype(float)


def _counts(random: np.random.Generator, units: int, resamples: int) -> Int[np.ndarray, "resamples units"]:
    return random.multinomial(units, np.full(units, 1 / units), size=resamples)


def pairwise(
    metric: str,
    rows: Sequence[Sequence[pd.DataFrame]],
    *,
    flips: int = FLIPS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Float[np.ndarray, "rows rows"]:
    """How likely so large a difference of two rows is if both were equal: two-sided p-values, 1 on the diagonal.

    Error rates, accuracies and BLEU: a sign-flip permutation test. All that a speaker said (an utterance where the
    scores name fewer than ten speakers) is given to one row or the other at random, `flips` times, or in all ways where
    there are few; the p-value is the share of exchanges with a difference as large, the given one among them. Seeds of
    a row are averaged. Verification: the scores of two rows are on two scales and cannot be exchanged, so the
    difference is compared with its own standard deviation over resamples of the speakers, the same ones for all rows.

    Args:
        metric: name of a metric.
        rows: for each row the scores of its seeds.
        flips: of the permutation test.
        resamples: of the speakers, for verification.
        seed: of both.

    Returns:
        NaN where two rows were not scored on the same test items.

    Source: Noreen 1989, Computer-intensive methods for testing hypotheses; Riezler and Maxwell 2005, for BLEU.
    """
    ordered = [
        [scores.sort_values(_items(scores), kind="stable").reset_index(drop=True) for scores in own] for own in rows
    ]
    found = np.full((len(rows), len(rows)), np.nan)
    np.fill_diagonal(found, 1.0)
    groups: list[list[int]] = []  # of rows with the same items
    for row, own in enumerate(ordered):
        if all(_alike(own[0], other) for other in own[1:]):
            place = next((group for group in groups if _alike(ordered[group[0]][0], own[0])), None)
            groups.append([row]) if place is None else place.append(row)
    test = {"EER": _bootstrapped, "BLEU": _exchanged}.get(metric, _flipped)
    for group in groups:
        pairs = list(combinations(range(len(group)), 2))
        if pairs:
            count = resamples if test is _bootstrapped else flips
            values = test(metric, [ordered[row] for row in group], pairs, count, seed)
            for (a, b), value in zip(pairs, values, strict=True):
                found[group[a], group[b]] = found[group[b], group[a]] = value
    return found


def columns_of(metric: str) -> tuple[str, ...]:
    """The columns of a scores table that a test of two rows reads."""
    own = {"EER": ("score", "target"), "BLEU": tuple(BLEU_COUNTS)}.get(metric, ("errors", "tokens"))
    return ("utterance", *own)


def _items(scores: pd.DataFrame) -> list[str]:
    return [name for name in ITEM if name in scores]


def _alike(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables in order have the same test items, references of the same length among them."""
    names = [*_items(one), *(name for name in ("tokens", "ref_len") if name in one)]
    return len(one) == len(other) and set(names) <= set(other) and one[names].equals(other[names])


def _flipped(
    metric: str, rows: list, pairs: list[tuple[int, int]], flips: int, seed: int
) -> Float[np.ndarray, " pairs"]:
    """Of sums over units: errors, as both rows have the same number of tokens."""
    codes, units = pd.factorize(rows[0][0][unit_of(rows[0][0])])
    errors = [np.mean([scores["errors"].to_numpy(float) for scores in own], axis=0) for own in rows]
    sums = np.stack([np.bincount(codes, values, len(units)) for values in errors], axis=1)  # (units, rows)
    first, second = np.array(pairs).T
    differences = sums[:, first] - sums[:, second]
    return _share(np.abs(differences.sum(axis=0)), lambda signs: np.abs(signs @ differences), len(units), flips, seed)


def _exchanged(
    metric: str, rows: list, pairs: list[tuple[int, int]], flips: int, seed: int
) -> Float[np.ndarray, " pairs"]:
    """Of a metric of sums that is no sum itself; counts of several seeds are added up."""
    codes, units = pd.factorize(rows[0][0][unit_of(rows[0][0])])
    sums = []
    for own in rows:
        counts = sum(scores[BLEU_COUNTS].to_numpy(float) for scores in own)
        sums.append(pd.DataFrame(counts).groupby(codes).sum().to_numpy())
    found = []
    for start in range(0, len(pairs), TOGETHER):
        first, second = np.array(pairs[start : start + TOGETHER]).T
        one, other = np.stack(sums)[first], np.stack(sums)[second]  # (pairs, units, counts)
        middle = (one + other).sum(axis=1) / 2
        halves = ((one - other) / 2).transpose(1, 0, 2).reshape(len(units), -1)

        def difference(
            signs: Float[np.ndarray, "flips units"], middle: np.ndarray = middle, halves: np.ndarray = halves
        ) -> Float[np.ndarray, "flips pairs"]:
            moved = (signs @ halves).reshape(len(signs), *middle.shape)
            return np.abs(bleu_of_counts(middle + moved) - bleu_of_counts(middle - moved))

        given = difference(np.ones((1, len(units))))[0]
        found.append(_share(given, difference, len(units), flips, seed))
    return np.concatenate(found)


def _share(given, difference, units: int, flips: int, seed: int) -> Float[np.ndarray, " pairs"]:
    """The share of exchanges whose difference is as large as the given one, but for rounding."""
    least = given - 1e-9 * np.maximum(given, 1.0)
    if units <= EXACT:
        signs = 1.0 - 2.0 * (np.arange(2**units)[:, None] >> np.arange(units) & 1)
        return (difference(signs) >= least).mean(axis=0)
    random, hits = np.random.default_rng(seed), np.ones(len(given))  # what was seen is one of them
    for start in range(0, flips, 1_000):
        count = min(1_000, flips - start)
        signs = 1.0 - 2.0 * random.integers(0, 2, (count, units), np.int8)
        hits += (difference(signs) >= least).sum(axis=0)
    return hits / (flips + 1)


def _bootstrapped(
    metric: str, rows: list, pairs: list[tuple[int, int]], resamples: int, seed: int
) -> Float[np.ndarray, " pairs"]:
    """Of what is no function of sums: the difference over its standard deviation as a normal deviate."""
    from scipy.special import ndtr

    given = np.array([np.mean([METRICS[metric](scores)[0] for scores in own]) for own in rows])
    drawn: list[list[np.ndarray]] = [[] for _ in rows]
    items = rows[0][0]  # the same in all rows, so that one draw serves all
    for weights in _resamples(items, unit_of(items), resamples, seed):
        for own, values in zip(rows, drawn, strict=True):
            values.append(np.mean([METRICS[metric](scores, weights) for scores in own], axis=0))
    drawn = [np.concatenate(values) for values in drawn]
    found = []
    for a, b in pairs:
        spread, apart = np.std(drawn[a] - drawn[b]), abs(given[a] - given[b])
        found.append(2 * ndtr(-apart / spread) if spread > 0 else float(apart == 0))
    return np.array(found)


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """p-values that may be held against one level though there are many; NaN are no tests.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted = np.full(len(p), np.nan)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    worst = 0.0
    for place, i in enumerate(order):
        worst = max(worst, min((len(order) - place) * p[i], 1.0))
        adjusted[i] = worst
    return adjusted


def told_apart(p: Float[np.ndarray, "rows rows"], level: float = LEVEL) -> Bool[np.ndarray, "rows rows"]:
    """Which pairs of rows are separated after Holm's correction over all pairs."""
    upper = np.triu_indices(len(p), 1)
    found = np.zeros(p.shape, bool)
    found[upper] = holm(p[upper]) <= level
    return found | found.T


def rank_ranges(apart: Bool[np.ndarray, "rows rows"]) -> list[tuple[int, int]]:
    """The ranks that each row can have, rows given best first: behind those that are surely better, before the worse.

    Ties are not transitive, so that a row can share ranks with two rows that are told apart.
    """
    return [(1 + int(own[:row].sum()), len(own) - int(own[row + 1 :].sum())) for row, own in enumerate(apart)]
