"""Kneser-Ney models have the probabilities of the definition, and those of a history sum to one."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavbench.downstream.language.ngrams import BEGIN, END, FALLBACK, UNKNOWN, Ngrams, estimate, fit_of
from wavbench.upstream.errors import UserError

CORPORA = st.lists(st.lists(st.sampled_from("abcd"), max_size=6), min_size=1, max_size=12).filter(any)


def probability(model: Ngrams, history: tuple[str, ...], token: str) -> float:
    state = model.start()
    for past in history:
        _, state = model.score(state, past)
    return math.exp(model.score(state, token)[0])


def by_definition(corpus: list[list[str]], order: int, history: tuple[str, ...], token: str) -> float:
    """Chen & Goodman's recursion, every count found by going through the corpus again."""
    marked = [(BEGIN, *sentence, END) for sentence in corpus]

    def occurrences(ngram: tuple[str, ...]) -> int:
        return sum(s[k : k + len(ngram)] == ngram for s in marked for k in range(len(s)))

    def count(ngram: tuple[str, ...]) -> int:
        if len(ngram) == order or ngram[0] == BEGIN:
            return occurrences(ngram)
        return len({s[k - 1] for s in marked for k in range(1, len(s)) if s[k : k + len(ngram)] == ngram})

    def discount(length: int, value: int) -> float:
        ngrams = {s[k : k + length] for s in marked for k in range(len(s) - length + 1)} - {(BEGIN,)}
        n = Counter(count(ngram) for ngram in ngrams)
        if not (n[1] and n[2] and n[3]):
            return FALLBACK[min(value, 3) - 1]
        y = n[1] / (n[1] + 2 * n[2])
        all_three = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
        if not all(0 < d <= k for k, d in enumerate(all_three, start=1)):
            return FALLBACK[min(value, 3) - 1]
        return all_three[min(value, 3) - 1]

    vocabulary = [*sorted({token for sentence in corpus for token in sentence}), END]

    def p(context: tuple[str, ...]) -> float:
        counts = {w: count((*context, w)) for w in vocabulary}
        seen = {w: c for w, c in counts.items() if c}
        below = p(context[1:]) if context else 1 / (len(vocabulary) + 1)
        if not seen:
            return below
        total = sum(seen.values())
        left = sum(discount(len(context) + 1, c) for c in seen.values()) / total
        own = (seen[token] - discount(len(context) + 1, seen[token])) / total if token in seen else 0.0
        return own + left * below

    return p((BEGIN, *history)[max(0, len(history) + 2 - order) :] if order > 1 else ())


def test_a_bigram_model_has_the_probabilities_worked_out_by_hand() -> None:
    """Two sentences, "a b" and "a": single tokens count what they follow (a 1, b 1, the end 2 of 4), discounts are
    those of the fallback, and half of the mass goes to four tokens alike."""
    model = estimate([["a", "b"], ["a"]], order=2)
    wanted = {
        ((), "a"): 0.625,  # (2 - 1) / 2 + 1 / 2 * 1 / 4
        ((), "b"): 0.125,  # 1 / 2 * 1 / 4
        (("a",), "b"): 0.375,  # (1 - 0.5) / 2 + 1 / 2 * 1 / 4
        (("a",), END): 0.4375,  # (1 - 0.5) / 2 + 1 / 2 * 3 / 8
        (("b",), END): 0.6875,  # (1 - 0.5) / 1 + 1 / 2 * 3 / 8
        (("b",), "never heard"): 0.0625,  # 1 / 2 * 1 / 8
    }
    for (history, token), value in wanted.items():
        assert probability(model, history, token) == pytest.approx(value, abs=1e-12)


def test_discounts_are_those_of_the_counts_of_counts() -> None:
    """Three tokens once, two twice, one three times, four ends: Y = 3/7, discounts 3/7, 19/14 and 9/7."""
    model = estimate([["a", "d", "d"], ["b", "e", "e"], ["c", "f"], ["f", "f"]], order=1)
    assert probability(model, (), "a") == pytest.approx(39 / 392, abs=1e-12)
    assert probability(model, (), UNKNOWN) == pytest.approx(23 / 392, abs=1e-12)


@settings(max_examples=40)
@given(CORPORA, st.integers(1, 4), st.lists(st.sampled_from("abcd"), max_size=4))
def test_probabilities_are_those_of_the_definition(corpus: list[list[str]], order: int, history: list[str]) -> None:
    known = {token for sentence in corpus for token in sentence}
    history = [token for token in history if token in known]
    model = estimate(corpus, order)
    for token in (*sorted(known), END):
        wanted = by_definition(corpus, order, tuple(history), token)
        assert probability(model, tuple(history), token) == pytest.approx(wanted, rel=1e-9)


@settings(max_examples=60)
@given(CORPORA, st.integers(1, 5), st.booleans(), st.lists(st.sampled_from("abcde"), max_size=5))
def test_probabilities_after_any_history_sum_to_one(
    corpus: list[list[str]], order: int, prune: bool, history: list[str]
) -> None:
    model = estimate(corpus, order, prune)
    total = sum(probability(model, tuple(history), token) for token in (*model.tokens, END, UNKNOWN))
    assert total == pytest.approx(1, abs=1e-9)


def test_pruning_leaves_out_what_occurs_once_and_keeps_single_tokens() -> None:
    corpus = [["a", "b", "a", "b"], ["c"]]
    full, pruned = estimate(corpus, 3), estimate(corpus, 3, prune=True)
    assert ("a", "b") in pruned.probabilities
    assert ("b", "a") in full.probabilities
    assert ("b", "a") not in pruned.probabilities
    assert pruned.tokens == full.tokens


def test_perplexity_counts_ends_and_tells_unknown_tokens_apart() -> None:
    model = estimate([["a", "b"], ["a"]], order=2)
    fit = fit_of(model, [["a", "x"]])
    # a after the beginning, an unknown token after a, the end after an unknown token (no history: 3/8)
    values = (0.625, 0.5 * 0.125, 0.375)
    assert (fit.tokens, fit.unknown) == (3, 1)
    assert fit.perplexity == pytest.approx(math.prod(values) ** (-1 / 3))
    assert fit.perplexity_known == pytest.approx((values[0] * values[2]) ** (-1 / 2))


@pytest.mark.parametrize("corpus", [[["<s>"]], [["a", "</s>"]], [["a b"]], [[""]], [], [[]]])
def test_text_that_no_model_can_be_made_of_is_refused(corpus: list[list[str]]) -> None:
    with pytest.raises(UserError):
        estimate(corpus)


@pytest.mark.parametrize("order", [0, 7])
def test_orders_out_of_bounds_are_refused(order: int) -> None:
    with pytest.raises(UserError, match="1 to 6"):
        estimate([["a"]], order)
