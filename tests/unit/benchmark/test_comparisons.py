"""Which rows are told apart: against all exchanges by hand, and by simulation of equal and of unequal systems."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark.comparing import compare, holm, rank_ranges, told_apart
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
    found = compare(metric, [{0: one}, {0: other.sample(frac=1, random_state=0)}])  # items are matched by name
    assert found.p[0, 1] == found.p[1, 0] == pytest.approx(by_hand(metric, one, other, "speaker"))
    assert found.adjusted[0, 1] == found.p[0, 1]  # a single pair
    assert found.p.diagonal().tolist() == found.adjusted.diagonal().tolist() == [1, 1]


def test_few_speakers_are_exchanged_by_utterance() -> None:
    random = np.random.default_rng(2)
    one, other = (spoken(random.integers(0, 2, 9), 3) for _ in range(2))
    assert compare("accuracy", [{0: one}, {0: other}]).p[0, 1] == pytest.approx(
        by_hand("accuracy", one, other, "utterance")
    )


def test_bleu_is_computed_again_for_every_exchange() -> None:
    random = np.random.default_rng(3)

    def translated(right: float) -> pd.DataFrame:
        total = np.array([[9, 8, 7, 6]] * 10)
        correct = random.binomial(total, [right, right**2, right**3, right**4])
        counts = np.column_stack([np.full(10, 9), np.full(10, 10), correct, total])
        return spoken(np.zeros(10, int), 10).join(pd.DataFrame(counts, columns=BLEU_COUNTS))

    one, other = translated(0.5), translated(0.8)
    found = compare("BLEU", [{0: one}, {0: other}]).p[0, 1]
    assert found == pytest.approx(by_hand("BLEU", one, other, "speaker"))
    assert found < 0.05


def test_random_exchanges_come_near_all_of_them() -> None:
    random = np.random.default_rng(4)
    one, other = (spoken(random.integers(0, 3, 24), 12) for _ in range(2))
    exact = compare("accuracy", [{0: one}, {0: other}]).p[0, 1]
    wide = [
        pd.concat([scores, spoken(np.zeros(4, int), 2).replace({"s0": "t0", "s1": "t1"})]) for scores in (one, other)
    ]
    wide = [scores.assign(utterance=[f"u{k}" for k in range(28)]) for scores in wide]  # 14 speakers, two without errors
    assert compare("accuracy", [{0: wide[0]}, {0: wide[1]}]).p[0, 1] == pytest.approx(exact, abs=0.02)


def test_seeds_that_lie_apart_are_no_difference_of_rows() -> None:
    random = np.random.default_rng(5)

    def row(levels: tuple[float, ...]) -> dict[int, pd.DataFrame]:
        return {k: spoken((random.uniform(size=600) < level).astype(int), 30) for k, level in enumerate(levels)}

    # the same upstream twice: its seeds err in 20, 30 or 40 %, in all utterances alike
    rows = [row((0.2, 0.3, 0.3)), row((0.3, 0.4, 0.4))]
    together = compare("accuracy", rows).p[0, 1]
    alone = compare("accuracy", [{0: pd.concat(own.values()).groupby("utterance", as_index=False).agg(
        {"speaker": "first", "errors": "mean", "tokens": "first"})} for own in rows]).p[0, 1]  # fmt: skip
    assert alone < 1e-3 < 0.05 < together
    # and where seeds agree they cost nothing
    steady = [row((0.3, 0.3, 0.3)), row((0.4, 0.4, 0.4))]
    assert compare("accuracy", steady).p[0, 1] < 0.01


def test_rows_of_one_upstream_with_other_seeds_are_called_different_in_one_of_twenty() -> None:
    random, called = np.random.default_rng(11), []
    for _ in range(150):
        rows = [
            {k: spoken((random.uniform(size=240) < 0.3 + random.normal(0, 0.05)).astype(int), 24) for k in range(3)}
            for _ in range(4)
        ]
        called.append((compare("accuracy", rows, flips=400).adjusted[np.triu_indices(4, 1)] <= 0.05).any())
    assert np.mean(called) == pytest.approx(0.05, abs=0.04)


def test_a_second_speaker_without_a_first_is_no_unit() -> None:
    """A stranger's scores may have columns of verification; they are compared by utterance."""
    random = np.random.default_rng(0)
    rows = [spoken(random.integers(0, 2, 24), 12).rename(columns={"speaker": "speaker_b"}) for _ in range(2)]
    found = compare("accuracy", [{0: own} for own in rows], flips=200)
    assert 0 < found.p[0, 1] <= 1


def test_rows_of_other_test_items_are_not_compared() -> None:
    random = np.random.default_rng(6)
    one, other = (spoken(random.integers(0, 2, 20), 10) for _ in range(2))
    for foreign in (other.iloc[1:], other.assign(utterance=[f"v{k}" for k in range(20)])):
        found = compare("accuracy", [{0: one}, {0: foreign}, {0: other}])
        assert np.isnan(found.p[0, 1])
        assert np.isnan(found.adjusted[1, 2])
        assert 0 < found.p[0, 2] <= 1
        assert not told_apart(found.adjusted)[0, 1]


def test_a_row_that_counts_more_tokens_is_scaled_to_the_others() -> None:
    random = np.random.default_rng(12)
    one, other = (spoken(random.integers(0, 5, 30), 10).assign(tokens=random.integers(5, 9, 30)) for _ in range(2))
    other["tokens"] = one["tokens"]
    doubled = other.assign(errors=2 * other["errors"], tokens=2.0 * other["tokens"])  # frames twice as often
    plain = compare("PER", [{0: one}, {0: other}])
    np.testing.assert_allclose(compare("PER", [{0: one}, {0: doubled}]).p, plain.p)
    without = other.drop(columns="speaker")  # nor does it matter which of them names the speakers
    np.testing.assert_allclose(compare("PER", [{0: one}, {0: without}]).p, plain.p)
    np.testing.assert_allclose(compare("PER", [{0: without}, {0: one}]).p, plain.p)


@pytest.mark.parametrize(("rows", "speakers"), [(12, 10), (24, 13), (40, 40)])
def test_many_rows_are_told_apart_on_few_speakers(rows: int, speakers: int) -> None:
    random = np.random.default_rng(13)
    hard = np.repeat(random.uniform(-0.05, 0.05, speakers), 40)
    found = compare(
        "accuracy",
        [
            {0: spoken((random.uniform(size=40 * speakers) < level + hard).astype(int), speakers)}
            for level in np.linspace(0.06, 0.94, rows)
        ],
        flips=2_000,
    )
    apart = told_apart(found.adjusted)
    assert apart[0, rows // 2]
    assert apart[0, -1]
    assert not apart.diagonal().any()
    assert (found.adjusted >= found.p - 1e-12).all()


def test_equal_rows_of_a_large_board_are_seldom_told_apart() -> None:
    random, called = np.random.default_rng(14), []
    for _ in range(100):
        hard = np.repeat(random.uniform(0.3, 0.6, 12), 20)
        rows = [{0: spoken((random.uniform(size=240) < hard).astype(int), 12)} for _ in range(6)]
        called.append(told_apart(compare("accuracy", rows).adjusted).any())
    assert np.mean(called) == pytest.approx(0.05, abs=0.05)


def systems(random: np.random.Generator, advantage: float, speakers: int = 30, each: int = 20) -> list:
    """Two systems that find the same speakers hard, and each some of its own; the second one errs more."""
    hard = random.uniform(0.3, 0.6, speakers)
    own = [hard + random.normal(0, 0.1, speakers) for _ in range(2)]
    rates = [np.repeat(rate + shift, each) for rate, shift in zip(own, (0.0, advantage), strict=True)]
    return [{0: spoken((random.uniform(size=speakers * each) < rate).astype(int), speakers)} for rate in rates]


def called_different(pairs: int, advantage: float, flips: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    found = [compare("accuracy", systems(random, advantage), flips=flips).p[0, 1] for _ in range(pairs)]
    return float(np.mean(np.array(found) <= 0.05))


def test_equal_systems_are_called_different_in_one_of_twenty() -> None:
    assert called_different(300, 0.0, flips=399, seed=7) == pytest.approx(0.05, abs=0.035)


@pytest.mark.slow
def test_calibration_and_power_are_those_of_theory() -> None:
    random = np.random.default_rng(9)
    means = [a[0]["errors"].mean() - b[0]["errors"].mean() for a, b in (systems(random, 0.0) for _ in range(2_000))]
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
        rows = [{0: system(1.0, 0.0, place)}, {0: system(7.0, 3.0, place)}]  # on other scales
        called.append(compare("EER", rows, resamples=200).p[0, 1] <= 0.05)
    assert np.mean(called) == pytest.approx(0.05, abs=0.07)
    better = {0: system(1.0, 0.0, 9 * place)}
    assert compare("EER", [better, rows[0]], resamples=200).p[0, 1] < 0.01
    # seeds with trials of their own are held against the same seeds of the other row
    halves = [scores.iloc[part::2] for part in (0, 1) for scores in (better[0], rows[0][0])]
    pair = [{0: halves[0], 1: halves[2]}, {0: halves[1], 1: halves[3]}]
    assert compare("EER", pair, resamples=200).p[0, 1] < 0.05
    assert np.isnan(compare("EER", [{0: halves[0]}, {0: halves[3]}], resamples=200).p[0, 1])


def test_shared_seeds_that_contradict_all_seeds_tell_nothing_apart() -> None:
    random, speakers = np.random.default_rng(0), 30
    first, second = np.triu_indices(2 * speakers, 1)
    who = np.repeat(np.arange(speakers), 2)
    same = who[first] == who[second]
    names = {"utterance": first, "utterance_b": second, "speaker": who[first], "speaker_b": who[second]}
    trials = pd.DataFrame({key: value.astype(str) for key, value in names.items()} | {"target": same})
    good, fair, poor = (trials.assign(score=random.normal(0, 1, len(same)) + gain * same) for gain in (3.0, 2.0, 1.0))
    assert compare("EER", [{0: fair}, {0: poor}], resamples=200).p[0, 1] < 1.0
    # worse with the only seed that both have, better over all of its seeds
    perfect = trials.assign(score=9.0 * same)
    assert compare("EER", [{0: poor, 1: perfect, 2: perfect}, {0: fair}], resamples=200).p[0, 1] == 1.0
    # of rows that share one seed, what seeds do is known from the others
    steady = compare("EER", [{0: good, 1: good, 2: good}, {0: poor}], resamples=200).p[0, 1]
    varied = compare("EER", [{0: good, 1: poor, 2: good}, {0: poor}], resamples=200).p[0, 1]
    assert steady < 0.01 < varied


def test_too_few_trials_say_nothing() -> None:
    names = {"utterance": list("abcd"), "utterance_b": list("efgh"), "speaker": list("abcd"), "speaker_b": list("abfg")}
    table = pd.DataFrame(names | {"target": [True, True, False, False]})
    rows = [{0: table.assign(score=[4.0, 3.0, 2.0, 1.0])}, {0: table.assign(score=1.0)}]
    assert np.isnan(compare("EER", rows, resamples=50).p[0, 1])


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
    p[1, 2] = p[2, 1] = np.nan
    assert not told_apart(p)[1, 2]
