"""Metrics against hand-computed values and the libraries of the field."""

import itertools

import jiwer
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import recall_score, roc_curve

from wavbench.downstream import metrics
from wavbench.downstream.heads.ecapa import forget_dead_redirects
from wavbench.downstream.metrics import (
    METRICS,
    accuracy,
    confusion,
    constant_error_rate,
    edit_distances,
    equal_error_rate,
    error_rate,
    macro_recall,
    min_dcf,
    secondary,
)
from wavbench.upstream.errors import UserError


def trials(count: int, seed: int, ties: bool = False) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    target = random.random(count) < 0.3
    score = random.normal(target * 1.2, 1.0)
    return pd.DataFrame({"score": score.round(1) if ties else score, "target": target})


def test_error_rate_is_errors_per_hundred_tokens() -> None:
    scores = pd.DataFrame({"errors": [1, 3, 0], "tokens": [10, 6, 4]})
    assert error_rate(scores)[0] == pytest.approx(100 * 4 / 20)
    assert accuracy(scores)[0] == pytest.approx(80)
    weights = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(error_rate(scores, weights), [100 * 2 / 24, 50.0])


def test_edit_distances_are_those_of_jiwer() -> None:
    random = np.random.default_rng(0)
    references = [[str(s) for s in random.integers(0, 5, random.integers(1, 12))] for _ in range(50)]
    hypotheses = [[str(s) for s in random.integers(0, 5, random.integers(1, 12))] for _ in range(50)]
    ours = edit_distances(references, hypotheses)
    for reference, hypothesis, distance in zip(references, hypotheses, ours, strict=True):
        done = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        assert distance == done.substitutions + done.insertions + done.deletions


def test_a_perfect_separation_has_no_error_and_a_reversed_one_has_all() -> None:
    scores = pd.DataFrame({"score": [0.9, 0.8, 0.2, 0.1], "target": [True, True, False, False]})
    assert equal_error_rate(scores)[0] == pytest.approx(0)
    assert min_dcf(scores) == pytest.approx(0)
    assert equal_error_rate(scores.assign(score=-scores["score"]))[0] == pytest.approx(100)


def test_the_equal_error_rate_of_a_small_case_is_right_by_hand() -> None:
    # one of four targets lies below one of four non-targets: at any threshold between, both rates are 1/4
    scores = pd.DataFrame({"score": [5, 4, 3, 1, 2, 0, -1, -2], "target": [1, 1, 1, 1, 0, 0, 0, 0]}).astype(
        {"target": bool}
    )
    assert equal_error_rate(scores)[0] == pytest.approx(25)


def test_equal_scores_for_all_trials_are_a_coin_toss() -> None:
    scores = pd.DataFrame({"score": np.zeros(10), "target": [True] * 5 + [False] * 5})
    assert equal_error_rate(scores)[0] == pytest.approx(50)


@pytest.mark.parametrize("ties", [False, True])
def test_the_equal_error_rate_is_where_sklearns_curve_meets_the_diagonal(ties: bool) -> None:
    scores = trials(3_000, 1, ties)
    alarm, hit, _ = roc_curve(scores["target"], scores["score"], drop_intermediate=False)
    grid = np.linspace(0, 1, 400_001)
    at = np.interp(grid, alarm, 1 - hit)
    expected = 100 * grid[np.argmin(np.abs(at - grid))]
    assert equal_error_rate(scores)[0] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_equal_error_rates_of_many_resamples_are_those_of_whole_curves(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 2_000))
    target = np.append([1, 0], random.integers(0, 2, count - 2))
    score = (random.normal(0, 1, count) + random.uniform(0, 4) * target).round(int(random.integers(0, 6)))  # with ties
    scores = pd.DataFrame({"score": score, "target": target})
    weights = random.multinomial(count, np.full(count, 1 / count), size=40)
    weights = weights[(weights[:, target > 0].sum(1) > 0) & (weights[:, target < 1].sum(1) > 0)]
    found = []
    for few in (0, 10**12):
        monkeypatch.setattr(metrics, "FEW", few)
        found.append(equal_error_rate(scores, weights))
    np.testing.assert_allclose(*found, atol=1e-9)


def test_the_equal_error_rate_agrees_with_speechbrain() -> None:
    from speechbrain.utils.metric_stats import EER

    forget_dead_redirects()  # looked at by hypothesis in later tests, they fail
    scores = trials(1_500, 2)
    positive = torch.tensor(scores["score"][scores["target"]].to_numpy())
    negative = torch.tensor(scores["score"][~scores["target"]].to_numpy())
    assert equal_error_rate(scores)[0] == pytest.approx(100 * EER(positive, negative)[0], abs=0.3)


def test_weights_count_a_trial_as_often_as_repeating_it() -> None:
    scores = trials(200, 3)
    weights = np.random.default_rng(0).integers(0, 4, (5, 200)).astype(float)
    repeated = [equal_error_rate(scores.loc[scores.index.repeat(w.astype(int))])[0] for w in weights]
    np.testing.assert_allclose(equal_error_rate(scores, weights), repeated)


def test_min_dcf_is_the_least_cost_of_a_plain_loop() -> None:
    scores = trials(400, 4)
    score, target = scores["score"].to_numpy(), scores["target"].to_numpy()
    costs = []
    for threshold in [np.inf, *score]:
        said = score >= threshold
        miss, alarm = (target & ~said).sum() / target.sum(), (~target & said).sum() / (~target).sum()
        costs.append((0.01 * miss + 0.99 * alarm) / 0.01)
    assert min_dcf(scores) == pytest.approx(min(costs))


def test_trials_of_one_kind_have_no_equal_error_rate() -> None:
    with pytest.raises(UserError, match="both kinds"):
        equal_error_rate(pd.DataFrame({"score": [1.0, 2.0], "target": [True, True]}))


def test_macro_recall_is_sklearns() -> None:
    random = np.random.default_rng(5)
    label, prediction = random.integers(0, 4, 300), random.integers(0, 4, 300)
    scores = pd.DataFrame({"errors": (label != prediction).astype(int), "tokens": 1, "label": label})
    assert macro_recall(scores) == pytest.approx(100 * recall_score(label, prediction, average="macro"))


def test_chance_is_the_share_of_the_commonest_class() -> None:
    labels = {"label": ["a", "a", "a", "b"], "prediction": ["a", "b", "b", "b"]}
    found = secondary("accuracy", pd.DataFrame({"errors": [0, 1, 1, 0], "tokens": 1} | labels))
    assert found["chance"] == pytest.approx(75)
    # recall 1/3 and 1, precision 1 and 1/3: both classes have an F1 of 1/2
    assert (found["macro_recall"], found["macro_f1"]) == (pytest.approx(200 / 3), pytest.approx(50))


def test_a_confusion_matrix_has_what_was_said_in_rows_and_what_was_heard_in_columns() -> None:
    scores = pd.DataFrame({"label": ["a", "a", "b", "c"], "prediction": ["a", "b", "b", "a"]})
    counts = confusion(scores)
    assert counts.to_numpy().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert list(counts.index) == list(counts.columns) == ["a", "b", "c"]


def test_beside_the_word_error_rate_stand_characters_and_those_that_no_head_could_write() -> None:
    counts = {"errors": [1, 0], "tokens": [2, 2], "errors_characters": [1, 0], "tokens_characters": [8, 2]}
    scores = pd.DataFrame(counts | {"unseen": [2, 0]})
    assert METRICS["WER"](scores)[0] == pytest.approx(25)
    assert secondary("WER", scores) == {"CER": 10.0, "utterances_with_unseen_characters": 1.0, "chance": 100.0}


def rate(answer: str, references: list[str]) -> float:
    """Errors per hundred tokens of one answer to everything."""
    tokens = [text.split() for text in references]
    return 100 * edit_distances(tokens, [answer.split()] * len(tokens)).sum() / sum(map(len, tokens))


def test_the_constant_answer_is_near_the_best_of_all_where_all_can_be_tried() -> None:
    random, over = np.random.default_rng(6), []
    every = [" ".join(answer) for n in range(7) for answer in itertools.product("ab", repeat=n)]
    for _ in range(30):
        references = [" ".join(random.choice(list("aab"), random.integers(1, 5))) for _ in range(6)]
        best, found = min(rate(answer, references) for answer in every), constant_error_rate(tuple(references))
        assert best - 1e-9 <= found <= min(rate(text, references) for text in references)
        over.append(found - best)
    assert np.mean(over) < 2


def test_the_constant_answer_of_a_language_of_one_pattern_is_that_pattern() -> None:
    references = ["k a " * n for n in (3, 4, 4, 4, 5)]
    assert constant_error_rate(tuple(references)) == pytest.approx(rate("k a " * 4, references)) == pytest.approx(10)


def test_of_as_many_answers_as_references_one_is_right_and_without_any_nothing_is() -> None:
    assert constant_error_rate(tuple(str(k) for k in range(40))) == pytest.approx(97.5)  # one of them is right
    for references in (("", ""), ()):
        assert constant_error_rate(references) == 100


def test_beside_a_rate_of_errors_stands_that_of_a_constant_answer() -> None:
    table = pd.DataFrame({"errors": [1, 1], "tokens": [2, 2], "reference": ["p a", "p t"], "hypothesis": ["p", "p"]})
    assert secondary("PER", table) == {"chance": pytest.approx(25)}
    assert secondary("PER", table.drop(columns="reference")) == {"chance": 100.0}  # without references, of nothing
    words = table.assign(errors_characters=1, tokens_characters=3, unseen=0)
    assert secondary("WER", words)["chance"] == pytest.approx(25)


def test_every_metric_of_a_task_is_computable() -> None:
    from wavbench.downstream.spec import load_task, task_names

    assert {load_task(name).metric.name for name in task_names()} <= set(METRICS)
