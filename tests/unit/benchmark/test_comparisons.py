"""Which rows are told apart: against all exchanges by hand, and by simulation of equal and of unequal systems."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark.stats import holm, pairwise, rank_ranges, told_apart
from wavbench.downstream.metrics import BLEU_COUNTS, METRICS


def spoken(errors: np.ndarray, speakers: int, tokens: int = 1) -> pd.DataFrame:
    """Scores of utterances, equally many of each speaker."""
    return pd.DataFrame(
        {
            "utterance": [f"u{k:04d}" for k in range(len(errors))],
            "speaker": np.repeat([f"s{k}" for k in range(speakers)], len(errors) // speakers),
            "errors": errors,
            "tokens": tokens,
        }
    )


def by_hand(metric: str, one: pd.DataFrame, other: pd.DataFrame, unit: str) -> float:
    """The share of all exchanges of whole units whose difference is as large."""

    def difference(a: pd.DataFrame, b: pd.DataFrame) -> float:
        return abs(METRICS[metric](a)[0] - METRICS[metric](b)[0])

    given, units, hits = difference(one, other), list(dict.fromkeys(one[unit])), []
    for flips in product((False, True), repeat=len(units)):
        swapped = one[unit].isin([u for u, flip in zip(units, flips, strict=True) if flip])
        a = pd.concat([one[~swapped], other[swapped]])
        b = pd.concat([other[~swapped], one[swapped]])
        hits.append(difference(a, b) >= given - 1e-9)
    return float(np.mean(hits))


@pytest.mark.parametrize("metric", ["accuracy", "PER"])
def test_the_permutation_over_ten_speakers_is_all_exchanges_by_hand(metric: str) -> None:
    random = np.random.default_rng(1)
    tokens = random.integers(1, 9, 40)
    one, other = (spoken(random.integers(0, 3, 40), 10).assign(tokens=tokens) for _ in range(2))
    found = pairwise(metric, [[one], [other.sample(frac=1, random_state=0)]])  # items are matched by name
    assert found[0, 1] == found[1, 0] == pytest.approx(by_hand(metric, one, other, "speaker"))
    assert found.diagonal().tolist() == [1, 1]


def test_few_speakers_are_exchanged_by_utterance() -> None:
    random = np.random.default_rng(2)
    one, other = (spoken(random.integers(0, 2, 9), 3) for _ in range(2))
    assert pairwise("accuracy", [[one], [other]])[0, 1] == pytest.approx(by_hand("accuracy", one, other, "utterance"))


def test_bleu_is_computed_again_for_every_exchange() -> None:
    random = np.random.default_rng(3)

    def translated(right: float) -> pd.DataFrame:
        total = np.array([[9, 8, 7, 6]] * 10)
        correct = random.binomial(total, [right, right**2, right**3, right**4])
        counts = np.column_stack([np.full(10, 9), np.full(10, 10), correct, total])
        return spoken(np.zeros(10, int), 10).join(pd.DataFrame(counts, columns=BLEU_COUNTS))

    one, other = translated(0.5), translated(0.8)
    found = pairwise("BLEU", [[one], [other]])[0, 1]
    assert found == pytest.approx(by_hand("BLEU", one, other, "speaker"))
    assert found < 0.05


def test_random_exchanges_come_near_all_of_them() -> None:
    random = np.random.default_rng(4)
    one, other = (spoken(random.integers(0, 3, 24), 12) for _ in range(2))
    exact = pairwise("accuracy", [[one], [other]])[0, 1]
    wide = [
        pd.concat([scores, spoken(np.zeros(4, int), 2).replace({"s0": "t0", "s1": "t1"})]) for scores in (one, other)
    ]
    wide = [scores.assign(utterance=[f"u{k}" for k in range(28)]) for scores in wide]  # 14 speakers, two without errors
    assert pairwise("accuracy", [[wide[0]], [wide[1]]])[0, 1] == pytest.approx(exact, abs=0.02)


def test_seeds_of_a_row_are_averaged() -> None:
    random = np.random.default_rng(5)
    seeds = [spoken(random.integers(0, 2, 20), 10) for _ in range(3)]
    mean = spoken(np.mean([scores["errors"] for scores in seeds], axis=0), 10)
    other = spoken(random.integers(0, 2, 20), 10)
    assert pairwise("accuracy", [seeds, [other]])[0, 1] == pairwise("accuracy", [[mean], [other]])[0, 1]


def test_rows_of_other_test_items_are_not_compared() -> None:
    random = np.random.default_rng(6)
    one, other = (spoken(random.integers(0, 2, 20), 10) for _ in range(2))
    for foreign in (other.iloc[1:], other.assign(utterance=[f"v{k}" for k in range(20)]), other.assign(tokens=2)):
        found = pairwise("accuracy", [[one], [foreign], [other]])
        assert np.isnan(found[0, 1])
        assert np.isnan(found[1, 2])
        assert 0 < found[0, 2] <= 1
        assert not told_apart(found)[0, 1]


def systems(random: np.random.Generator, advantage: float, speakers: int = 30, each: int = 20) -> list:
    """Two systems that find the same speakers hard, and each some of its own; the second one errs more."""
    hard = random.uniform(0.3, 0.6, speakers)
    own = [hard + random.normal(0, 0.1, speakers) for _ in range(2)]
    rates = [np.repeat(rate + shift, each) for rate, shift in zip(own, (0.0, advantage), strict=True)]
    return [[spoken((random.uniform(size=speakers * each) < rate).astype(int), speakers)] for rate in rates]


def called_different(pairs: int, advantage: float, flips: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    found = [pairwise("accuracy", systems(random, advantage), flips=flips)[0, 1] for _ in range(pairs)]
    return float(np.mean(np.array(found) <= 0.05))


def test_equal_systems_are_called_different_in_one_of_twenty() -> None:
    assert called_different(300, 0.0, flips=399, seed=7) == pytest.approx(0.05, abs=0.035)


@pytest.mark.slow
def test_calibration_and_power_are_those_of_theory() -> None:
    random = np.random.default_rng(9)
    means = [a["errors"].mean() - b["errors"].mean() for (a,), (b,) in (systems(random, 0.0) for _ in range(2_000))]
    equal, apart = (called_different(2_000, by * float(np.std(means)), flips=999, seed=8) for by in (0.0, 2.0))
    print(f"\nequal systems called different: {100 * equal:.1f} %; two standard errors apart: {100 * apart:.1f} %")
    assert equal == pytest.approx(0.05, abs=0.015)
    assert apart == pytest.approx(0.49, abs=0.04)  # of a t test with 29 degrees of freedom


def test_verification_tells_equal_systems_apart_in_five_percent() -> None:
    random, pairs, speakers = np.random.default_rng(8), 60, 24
    first, second = np.triu_indices(2 * speakers, 1)
    who = np.repeat(np.arange(speakers), 2)
    same = who[first] == who[second]

    def system(scale: float, gain: float, place: np.ndarray) -> pd.DataFrame:
        own = place + random.normal(0, 1, (2 * speakers, 6))
        score = gain - scale * ((own[first] - own[second]) ** 2).sum(axis=1)
        names = {"utterance": first, "utterance_b": second, "speaker": who[first], "speaker_b": who[second]}
        return pd.DataFrame({key: value.astype(str) for key, value in names.items()} | {"score": score, "target": same})

    called = []
    for _ in range(pairs):
        place = np.repeat(random.normal(0, 1, (speakers, 6)), 2, axis=0)  # of speakers, the same for both
        rows = [[system(1.0, 0.0, place)], [system(7.0, 3.0, place)]]  # on other scales
        called.append(pairwise("EER", rows, resamples=200)[0, 1] <= 0.05)
    assert np.mean(called) == pytest.approx(0.05, abs=0.07)
    better = [system(1.0, 0.0, 9 * place)]
    assert pairwise("EER", [better, rows[0]], resamples=200)[0, 1] < 0.01


def test_holm_by_hand() -> None:
    found = holm(np.array([0.04, 0.01, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.06, 0.03, np.nan, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_ranks_are_those_that_separated_pairs_leave() -> None:
    # best first: a = b = c, b = c = d, a and d apart; e apart from all
    p = np.ones((5, 5))
    for one, other in ((0, 3), (0, 4), (1, 4), (2, 4), (3, 4)):
        p[one, other] = p[other, one] = 1e-4
    assert rank_ranges(told_apart(p)) == [(1, 3), (1, 4), (1, 4), (2, 4), (5, 5)]
    assert rank_ranges(told_apart(np.ones((1, 1)))) == [(1, 1)]
