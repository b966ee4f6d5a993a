"""Intervals: against plain loops, and against what they promise on simulated speakers."""

import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark import stats
from wavbench.benchmark.stats import interval, unit_of
from wavbench.downstream.metrics import METRICS


def classified(speakers: int, each: int, seed: int = 0, spread: float = 0.2) -> pd.DataFrame:
    """Utterances of speakers who differ in how hard they are: 60 % right on average."""
    random = np.random.default_rng(seed)
    right = np.clip(0.6 + random.uniform(-spread, spread, speakers), 0, 1)
    return pd.DataFrame(
        {
            "utterance": [f"u{k}" for k in range(speakers * each)],
            "speaker": np.repeat([f"s{k}" for k in range(speakers)], each),
            "errors": (random.uniform(size=speakers * each) > np.repeat(right, each)).astype(int),
            "tokens": 1,
        }
    )


def trials(speakers: int, each: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    names = np.repeat([f"s{k}" for k in range(speakers)], each)
    first, second = np.triu_indices(len(names), 1)
    same = names[first] == names[second]
    return pd.DataFrame(
        {
            "utterance": [f"u{k}" for k in first],
            "utterance_b": [f"u{k}" for k in second],
            "speaker": names[first],
            "speaker_b": names[second],
            "score": random.normal(size=len(first)) + same,
            "target": same.astype(int),
        }
    )


def counts(units: int, resamples: int, seed: int) -> np.ndarray:
    """The draws that `interval` makes."""
    random, parts = np.random.default_rng(seed), []
    for start in range(0, resamples, stats.CHUNK):
        parts.append(random.multinomial(units, np.full(units, 1 / units), min(stats.CHUNK, resamples - start)))
    return np.concatenate(parts)


def test_the_bootstrap_over_speakers_is_a_plain_loop() -> None:
    scores = classified(speakers=12, each=5)
    scores["tokens"] = np.arange(len(scores)) % 4 + 1
    values = []
    for times in counts(12, 120, seed=3):
        errors = tokens = 0
        for speaker in range(12):
            for _ in range(times[speaker]):
                own = scores[scores["speaker"] == f"s{speaker}"]
                errors, tokens = errors + own["errors"].sum(), tokens + own["tokens"].sum()
        values.append(100 * errors / tokens)
    low, high, unit = interval("PER", scores, resamples=120, seed=3)
    assert unit == "speaker"
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_the_bootstrap_over_utterances_is_a_plain_loop() -> None:
    scores = classified(speakers=3, each=7)
    values = [
        100 - 100 * np.repeat(scores["errors"].to_numpy(), times).mean() for times in counts(len(scores), 120, seed=1)
    ]
    low, high, unit = interval("accuracy", scores, resamples=120, seed=1)
    assert unit == "utterance"
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_a_trial_counts_as_often_as_the_product_of_its_sides() -> None:
    scores = trials(speakers=12, each=2)
    values = []
    for times in counts(12, 60, seed=2):
        weight = dict(zip([f"s{k}" for k in range(12)], times, strict=True))
        repeated = [w * v for w, v in zip(scores["speaker"].map(weight), scores["speaker_b"].map(weight), strict=True)]
        sample = scores.loc[scores.index.repeat(repeated)]
        if sample["target"].nunique() == 2:
            values.append(METRICS["EER"](sample)[0])
    low, high, unit = interval("EER", scores, resamples=60, seed=2)
    assert unit == "speaker"
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_a_speaker_is_the_same_one_on_either_side_of_a_trial() -> None:
    scores = trials(speakers=12, each=2)
    turned = scores.rename(
        columns={"speaker": "speaker_b", "speaker_b": "speaker", "utterance": "utterance_b", "utterance_b": "utterance"}
    )
    assert unit_of(turned) == "speaker"
    # the same draws over other positions: not the same numbers, but the same spread
    ours, theirs = (np.diff(interval("EER", table, 1_000)[:2])[0] for table in (scores, turned))
    assert ours == pytest.approx(theirs, rel=0.2)


@pytest.mark.parametrize(("speakers", "unit"), [(9, "utterance"), (10, "speaker")])
def test_speakers_are_resampled_from_ten_on(speakers: int, unit: str) -> None:
    assert unit_of(classified(speakers, 3)) == unit
    assert interval("accuracy", classified(speakers, 3), 10)[2] == unit


def test_utterances_are_resampled_where_a_speaker_is_not_named() -> None:
    scores = classified(20, 3)
    assert unit_of(scores.drop(columns="speaker")) == "utterance"
    scores.loc[0, "speaker"] = ""
    assert unit_of(scores) == "utterance"
    scores.loc[0, "speaker"] = np.nan  # as an empty cell reads back from a file
    assert unit_of(scores) == "utterance"


def test_the_speakers_of_both_sides_of_trials_count() -> None:
    scores = trials(speakers=11, each=2)
    one_side = scores[scores["speaker"].isin(["s0", "s1"])]
    assert one_side["speaker"].nunique() == 2
    assert unit_of(one_side) == "speaker"


@pytest.mark.parametrize("speakers", [12, 30])
def test_intervals_hold_the_truth_about_95_times_in_100(speakers: int) -> None:
    held = []
    for seed in range(200):
        low, high, _ = interval("accuracy", classified(speakers, 15, seed), resamples=200, seed=seed)
        held.append(low <= 60 <= high)
    assert 0.88 <= np.mean(held) <= 0.985  # percentile intervals over few speakers are a little narrow


def test_resampling_utterances_of_unlike_speakers_would_hold_it_too_seldom() -> None:
    held = []
    for seed in range(150):
        scores = classified(15, 40, seed, spread=0.35).drop(columns="speaker")
        low, high, _ = interval("accuracy", scores, resamples=150, seed=seed)
        held.append(low <= 60 <= high)
    assert np.mean(held) < 0.8


@pytest.mark.parametrize("seed", range(5))
def test_the_value_lies_in_its_interval(seed: int) -> None:
    for metric, scores in (("accuracy", classified(14, 10, seed)), ("EER", trials(14, 3, seed))):
        low, high, _ = interval(metric, scores)
        assert low < METRICS[metric](scores)[0] < high


def test_the_same_seed_gives_the_same_interval_and_another_nearly_the_same() -> None:
    scores = classified(25, 9).assign(tokens=np.arange(225) % 7 + 1)
    first, second = interval("PER", scores, seed=0), interval("PER", scores, seed=1)
    assert first == interval("PER", scores, seed=0)
    assert first != second
    assert first[:2] == pytest.approx(second[:2], abs=2)


def test_more_speakers_give_a_narrower_interval() -> None:
    few, many = (np.diff(interval("accuracy", classified(n, 10))[:2])[0] for n in (10, 160))
    assert many < few / 2


def test_one_utterance_has_no_width() -> None:
    scores = classified(1, 1)
    low, high, unit = interval("accuracy", scores)
    assert low == high == METRICS["accuracy"](scores)[0]
    assert unit == "utterance"


def test_two_pairs_of_trials_give_bounds_and_no_crash() -> None:
    low, high, unit = interval("EER", trials(2, 2))
    assert unit == "utterance"
    assert 0 <= low <= high <= 100


def test_references_without_tokens_give_a_value_and_no_crash() -> None:
    scores = classified(1, 4).assign(tokens=0, errors=0)
    low, high, _ = interval("PER", scores)
    assert low == high == METRICS["PER"](scores)[0]
