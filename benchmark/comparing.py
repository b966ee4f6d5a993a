"""Which rows of a board are told apart: paired tests on the same test items, and the ranks that they leave."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from wavbench.benchmark.stats import RESAMPLES, Groups, draws, groups_of, kinds_of, unit_of, units_of, weights_of
from wavbench.downstream.metrics import BLEU_COUNTS, METRICS, bleu_of_counts

FLIPS = 10_000  # random exchanges of a test
EXACT = 13  # units up to which all their exchanges are looked at instead
PILOT = 1_000  # exchanges that a difference's spread is taken from
CHUNK = 1_000  # exchanges computed at once
TOGETHER = 64  # and pairs
ITEM = ("utterance", "utterance_b", "speaker", "speaker_b", "target")  # columns that two rows must have alike
LEVEL = 0.05

Scores = Mapping[int, pd.DataFrame]  # of one row, by seed


class Compared(NamedTuple):
    """Tests of all pairs of rows; NaN where two rows have no test items in common, 1 on the diagonal.

    Args:
        p: how likely so large a difference is if both rows are equal, two-sided.
        adjusted: the same, held against all pairs of the board at once.
    """

    p: Float[np.ndarray, "rows rows"]
    adjusted: Float[np.ndarray, "rows rows"]


def compare(
    metric: str, rows: Sequence[Scores], *, flips: int = FLIPS, resamples: int = RESAMPLES, seed: int = 0
) -> Compared:
    """Test every pair of rows.

    Error rates, accuracies and BLEU: a sign-flip permutation test. All that a speaker said (an utterance where the
    scores name fewer than ten speakers) is given to one row or the other at random, `flips` times, or in all ways where
    there are few; p is the share of exchanges with a difference as large, the given one among them. A row whose scores
    count more tokens (frames at a higher rate) is scaled to the others'. Seeds of a row are averaged; how far they lie
    apart, over all rows of the board that have several, is added to what exchanges vary by, so that a row is not told
    apart by its seed. Where no row has two seeds that is not known and not in the test.

    The correction for many pairs is Holm's step-down in its resampled form: all pairs see the same exchanges, and each
    is held against the largest difference among those that are not yet rejected. Holm's own factors would be lost on
    few speakers: ten of them have 1,024 exchanges, so that from eight rows on nothing could ever be told apart.

    Verification: scores of two rows are on two scales and cannot be exchanged. The difference, averaged over the seeds
    that both rows have with the same trials, is held against its standard deviation over resamples of the speakers (the
    same ones for all rows and seeds) and over seeds, as a normal deviate; Holm's correction. Rows whose shared seeds
    say the contrary of all their seeds are not told apart.

    Args:
        metric: name of a metric.
        rows: for each row its scores by seed.
        flips: of the permutation test.
        resamples: of the speakers, for verification.
        seed: of both.

    Source: Noreen 1989, Computer-intensive methods for testing hypotheses; Riezler and Maxwell 2005, for BLEU; Holm
        1979; Westfall and Young 1993, Resampling-based multiple testing, algorithm 2.8, for the step-down.
    """
    ordered = _in_order(rows)
    p, adjusted = (np.full((len(rows), len(rows)), np.nan) for _ in range(2))
    for matrix in (p, adjusted):
        np.fill_diagonal(matrix, 1.0)
    groups = [list(range(len(rows)))] if metric == "EER" else _same_items(ordered)
    tested = [group for group in groups if len(group) > 1]
    for group in tested:
        pairs = list(combinations(range(len(group)), 2))
        chosen = [ordered[row] for row in group]
        if metric == "EER":
            raw = _resampled(chosen, pairs, resamples, seed)
            held = holm(raw)
        else:
            raw, held = _exchanged(metric, [list(own.values()) for own in chosen], pairs, flips, seed)
        held = np.minimum(held * len(tested), 1.0)
        for (a, b), value, corrected in zip(pairs, raw, held, strict=True):
            for one, other in ((group[a], group[b]), (group[b], group[a])):
                p[one, other], adjusted[one, other] = value, corrected
    return Compared(p, adjusted)


def columns_of(metric: str) -> tuple[str, ...]:
    """The columns of a scores table that a test of two rows reads."""
    own = {"EER": ("score", "target"), "BLEU": tuple(BLEU_COUNTS)}.get(metric, ("errors", "tokens"))
    return ("utterance", *own)


def _in_order(rows: Sequence[Scores]) -> list[dict[int, pd.DataFrame]]:
    """Tables sorted by their items; those with the same items, as those of a test set mostly are, by one sorting."""
    sorted_before: list[tuple[pd.DataFrame, np.ndarray]] = []

    def order_of(scores: pd.DataFrame) -> np.ndarray:
        names = [name for name in ITEM if name in scores]
        for other, order in sorted_before:
            if names == [name for name in ITEM if name in other] and _alike(scores, other):
                return order
        order = scores[names].reset_index(drop=True).sort_values(names, kind="stable").index.to_numpy()
        sorted_before.append((scores, order))
        return order

    return [{seed: own.iloc[order_of(own)].reset_index(drop=True) for seed, own in row.items()} for row in rows]


def _alike(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables have the same test items in the same order, by all that both of them say of these."""
    names = [name for name in ITEM if name in one and name in other]
    return len(one) == len(other) and all(
        np.array_equal(one[name].to_numpy(), other[name].to_numpy())
        or (one[name].astype(str).to_numpy() == other[name].astype(str).to_numpy()).all()
        for name in names
    )


def _same_items(rows: Sequence[Scores]) -> list[list[int]]:
    """Rows by what they were scored on; one whose seeds were not scored on the same items is in no group."""
    groups: list[list[int]] = []
    for row, own in enumerate(rows):
        first, *others = own.values()
        if all(_alike(first, other) for other in others):
            place = next((group for group in groups if _alike(next(iter(rows[group[0]].values())), first)), None)
            groups.append([row]) if place is None else place.append(row)
    return groups


def _exchanged(
    metric: str, rows: list[list[pd.DataFrame]], pairs: list[tuple[int, int]], flips: int, seed: int
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """p-values of metrics of sums over units, alone and held against all pairs."""
    columns = BLEU_COUNTS if metric == "BLEU" else ["errors", "tokens"]
    value = bleu_of_counts if metric == "BLEU" else _rate
    items = next((own[0] for own in rows if "speaker" in own[0]), rows[0][0])
    codes, units = pd.factorize(items[unit_of(items.filter(["utterance", "speaker"]))])
    counts = np.zeros((len(rows), len(units), len(columns)))
    for row, own in enumerate(rows):
        for scores in own:
            np.add.at(counts[row], codes, scores[columns].to_numpy(float) / len(own))
    if metric != "BLEU":
        counts /= np.maximum(counts[:, :, 1].sum(axis=1), 1e-12)[:, None, None]
    noise, freedom = _seed_noise(metric, rows)
    first, second = np.array(pairs).T
    totals = counts.sum(axis=1)

    def differences(signs: Float[np.ndarray, "flips units"], random: np.random.Generator | None) -> np.ndarray:
        found = np.empty((len(signs), len(pairs)))
        moved = np.einsum("fu,ruc->rfc", signs, counts, optimize=True) / 2  # what a row keeps, less what it gives away
        for start in range(0, len(pairs), TOGETHER):
            part = slice(start, start + TOGETHER)
            one, other = first[part], second[part]
            halves = moved[one] - moved[other]  # (pairs, flips, counts)
            middle = (totals[one] + totals[other])[:, None] / 2
            found[:, part] = (value(middle + halves) - value(middle - halves)).T
        if random is not None and freedom:
            wide = np.sqrt(freedom / random.chisquare(freedom, (len(signs), 1)))  # as the noise itself is estimated
            shifts = random.normal(0.0, 1.0, (len(signs), len(rows))) * noise * wide
            found += shifts[:, first] - shifts[:, second]
        return np.abs(found)

    given = differences(np.ones((1, len(units))), None)[0]
    pilot = next(_signs(len(units), PILOT, np.random.default_rng(seed)))
    spread = np.sqrt((differences(pilot, np.random.default_rng(seed + 1)) ** 2).mean(axis=0))
    spread = np.where(spread > 0, spread, 1.0)
    least = (given - 1e-9 * np.maximum(given, 1e-3)) / spread  # what is as large but for rounding
    order = np.argsort(-least, kind="stable")
    exact = len(units) <= EXACT and not freedom
    hits, held = (np.zeros(len(pairs)) if exact else np.ones(len(pairs)) for _ in range(2))
    random, total = np.random.default_rng(seed), 0 if exact else 1  # what was seen is one of the random ones
    for signs in _all_signs(len(units)) if exact else _signs(len(units), flips, random):
        found = differences(signs, random) / spread
        hits += (found >= least).sum(axis=0)
        largest = np.maximum.accumulate(found[:, order[::-1]], axis=1)[:, ::-1]  # of a pair and all behind it
        held[order] += (largest >= least[order]).sum(axis=0)
        total += len(signs)
    held[order] = np.maximum.accumulate(held[order])
    return hits / total, held / total


def _rate(sums: Float[np.ndarray, "*batch counts"]) -> Float[np.ndarray, "*batch"]:
    """Percent of errors from sums of errors and tokens."""
    return 100 * sums[..., 0] / np.maximum(sums[..., 1], 1e-12)


def _seed_noise(metric: str, rows: list[list[pd.DataFrame]]) -> tuple[Float[np.ndarray, " rows"], int]:
    """Standard deviation of each row's mean over seeds, and what it was estimated from; 0 where nothing says it."""
    values = [[float(METRICS[metric](scores)[0]) for scores in own] for own in rows]
    freedom = sum(len(own) - 1 for own in values)
    deviation = np.sqrt(_variance(values) or 0.0)
    noise = np.array([deviation / np.sqrt(len(own)) for own in values])
    return noise, freedom if deviation > 0 else 0


def _signs(units: int, count: int, random: np.random.Generator) -> Iterator[Float[np.ndarray, "flips units"]]:
    for start in range(0, count, CHUNK):
        yield 1.0 - 2.0 * random.integers(0, 2, (min(CHUNK, count - start), units), np.int8)


def _all_signs(units: int) -> Iterator[Float[np.ndarray, "flips units"]]:
    for start in range(0, 2**units, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, 2**units))
        yield 1.0 - 2.0 * (numbers[:, None] >> np.arange(units) & 1)


def _resampled(
    rows: list[Scores], pairs: list[tuple[int, int]], resamples: int, seed: int
) -> Float[np.ndarray, " pairs"]:
    """p-values of verification; NaN where two rows have no trials in common, or too few to say how far they vary."""
    from scipy.special import ndtr

    tables = [scores for own in rows for scores in own.values()]
    unit = "speaker" if all(unit_of(scores) == "speaker" for scores in tables) else "utterance"
    units = units_of(tables, unit)
    trials: list[tuple[pd.DataFrame, list[tuple[int, int]]]] = []  # and the rows and seeds that were scored on them
    for row, own in enumerate(rows):
        for key, scores in own.items():
            members = next((members for other, members in trials if _alike(other, scores)), None)
            if members is None:
                trials.append((scores, members := []))
            members.append((row, key))
    given = {(row, key): float(METRICS["EER"](rows[row][key])[0]) for _, own in trials for row, key in own}
    drawn: dict[tuple[int, int], list[np.ndarray]] = {place: [] for place in given}
    sets = [(groups_of(items, unit, units), members) for items, members in trials]
    for counts in draws(len(units), resamples, seed, max(len(groups.members[0]) for groups, _ in sets)):
        for groups, members in sets:
            weights = weights_of(groups, counts)
            for row, key in members:
                drawn[row, key].append(_equal_error_rates(rows[row][key], groups, weights))
    resampled = {place: np.concatenate(values) for place, values in drawn.items()}
    shared = [
        [key for _, members in trials for row, key in members if row == a and (b, key) in members] for a, b in pairs
    ]
    apart = [[given[a, key] - given[b, key] for key in keys] for (a, b), keys in zip(pairs, shared, strict=True)]
    means = [np.mean([value for (own, _), value in given.items() if own == row]) for row in range(len(rows))]
    between = _variance([own for own in apart if own])
    if between is None:  # no two rows share two seeds: of the rows alone, and the difference of two varies twice
        between = 2 * (_variance([[given[row, key] for key in own] for row, own in enumerate(rows)]) or 0.0)
    found = np.full(len(pairs), np.nan)
    for place, ((a, b), keys) in enumerate(zip(pairs, shared, strict=True)):
        if keys:
            differences = np.mean([resampled[a, key] - resampled[b, key] for key in keys], axis=0)
            differences = differences[np.isfinite(differences)]
            spread = np.sqrt(np.var(differences) + between / len(keys)) if len(differences) >= resamples / 2 else 0.0
            mean = float(np.mean(apart[place]))
            if mean * (means[a] - means[b]) < 0:
                found[place] = 1.0
            else:
                found[place] = 2 * ndtr(-abs(mean) / spread) if spread > 0 else (1.0 if mean == 0 else np.nan)
    return found


def _variance(groups: list[list[float]]) -> float | None:
    """Pooled over groups; None where none has two values."""
    freedom = sum(len(own) - 1 for own in groups)
    return sum(float(np.var(own)) * len(own) for own in groups) / freedom if freedom else None


def _equal_error_rates(
    scores: pd.DataFrame, groups: Groups, weights: Float[np.ndarray, "chunk groups"]
) -> Float[np.ndarray, " chunk"]:
    """NaN for resamples that lost one kind of trial."""
    found = np.full(len(weights), np.nan)
    whole = (weights @ kinds_of(scores, groups.group) > 0).all(axis=1)
    if whole.any():
        found[whole] = METRICS["EER"](scores, weights[whole], group=groups.group)
    return found


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


def told_apart(adjusted: Float[np.ndarray, "rows rows"], level: float = LEVEL) -> Bool[np.ndarray, "rows rows"]:
    """Which pairs of rows are separated; those that were not tested are not."""
    return (adjusted <= level) & ~np.eye(len(adjusted), dtype=bool)


def rank_ranges(apart: Bool[np.ndarray, "rows rows"]) -> list[tuple[int, int]]:
    """The ranks that each row can have, rows given best first: behind those that are surely better, before the worse.

    Ties are not transitive, so that a row can share ranks with two rows that are told apart.
    """
    return [(1 + int(own[:row].sum()), len(own) - int(own[row + 1 :].sum())) for row, own in enumerate(apart)]
