"""The beam finds what a search over all label sequences finds, with and without a language model."""

import itertools
import math

import numpy as np
import pytest

from wavbench.downstream.language.beam import search_beam
from wavbench.downstream.language.ngrams import END, UNKNOWN, Ngrams, estimate
from wavbench.downstream.language.search import Search, Weights
from wavbench.upstream.errors import UserError

SYMBOLS = ("", "a", "b", " ")
WIDE = {"beam": 10_000, "threshold": math.inf, "class_floor": -math.inf, "skip": 1.0}
WORDS = estimate([["a", "ab"], ["ab", "ba"], ["a", "a", "ab"], ["ba"]], 3)
LETTERS = estimate([["a", "b", "▁", "a"], ["b", "a"], ["a", "▁", "a"]], 3)
NOTHING = Weights(0.0, 0.0, 0.0)


def outputs(seed: int, frames: int = 5, classes: int = 4, spread: float = 1.5) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, spread, (frames, classes))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def every_sequence(log_probabilities: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """The probability of each label sequence: all alignments, one by one."""
    found: dict[tuple[int, ...], float] = {}
    frames, classes = log_probabilities.shape
    for path in itertools.product(range(classes), repeat=frames):
        sequence = tuple(k for k, _ in itertools.groupby(path) if k != blank)
        value = math.exp(sum(log_probabilities[t, k] for t, k in enumerate(path)))
        found[sequence] = found.get(sequence, 0.0) + value
    return found


def likelihood(model: Ngrams, tokens: list[str]) -> float:
    state, total = model.start(), 0.0
    for token in (*tokens, END):
        value, state = model.score(state, token)
        total += value
    return total


def best_by_words(scores: dict[tuple[int, ...], float], search: Search) -> list[tuple[tuple[str, ...], float]]:
    best: dict[tuple[str, ...], float] = {}
    for sequence, score in scores.items():
        words = search.words_of(sequence)
        best[words] = max(best.get(words, -math.inf), score)
    return sorted(best.items(), key=lambda pair: -pair[1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("blank", [0, 2])
def test_without_a_model_all_sequences_have_their_exact_probabilities(seed: int, blank: int) -> None:
    symbols = [f"p{k}" for k in range(4)]
    symbols[blank] = ""
    own = outputs(seed)
    exact = every_sequence(own, blank)
    search = Search(symbols=tuple(symbols), together=False, **WIDE)
    found = search_beam(own, search, NOTHING, count=len(exact))
    assert {hypothesis.classes for hypothesis in found} == set(exact)
    for hypothesis in found:
        assert hypothesis.acoustic == pytest.approx(math.log(exact[hypothesis.classes]), abs=1e-9)
    values = [hypothesis.acoustic for hypothesis in found]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("lexicon", [None, frozenset({"a", "ab", "bb"}), WORDS.tokens])
def test_with_a_model_of_words_the_beam_equals_the_search_over_all_sequences(seed: int, lexicon) -> None:
    own, weights = outputs(seed), Weights(0.8, 0.6, -0.7)
    search = Search(symbols=SYMBOLS, model=WORDS, lexicon=lexicon, **WIDE)
    scores = {}
    for sequence, probability in every_sequence(own, 0).items():
        words = search.words_of(sequence)
        if lexicon is None or set(words) <= lexicon:
            unknown = [word not in WORDS.tokens for word in words]
            tokens = [UNKNOWN if new else word for word, new in zip(words, unknown, strict=True)]
            bonus = 0.8 * likelihood(WORDS, tokens) + 0.6 * len(words) - 0.7 * sum(unknown)
            scores[sequence] = math.log(probability) + bonus
    wanted = best_by_words(scores, search)
    found = search_beam(own, search, weights, count=3)
    for hypothesis, (words, score) in zip(found, wanted, strict=False):
        assert hypothesis.words == words
        assert hypothesis.score(weights) == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_with_a_model_of_characters_the_beam_equals_the_search_over_all_sequences(seed: int) -> None:
    own, weights = outputs(seed), Weights(0.8, 0.6)
    search = Search(symbols=SYMBOLS, model=LETTERS, unit="symbol", **WIDE)
    scores = {}
    for sequence, probability in every_sequence(own, 0).items():
        tokens = ["▁" if SYMBOLS[k] == " " else SYMBOLS[k] for k in sequence]
        scores[sequence] = math.log(probability) + 0.8 * likelihood(LETTERS, tokens) + 0.6 * len(tokens)
    found, wanted = search_beam(own, search, weights, count=3), best_by_words(scores, search)
    for hypothesis, (words, score) in zip(found, wanted, strict=False):
        assert hypothesis.words == words
        assert hypothesis.score(weights) == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_pruning_loses_nothing_where_outputs_are_sure(seed: int) -> None:
    own = outputs(seed, frames=30, spread=20.0)
    weights, model = Weights(0.5, 0.5, -3.0), {"symbols": SYMBOLS, "model": WORDS}
    narrow = search_beam(own, Search(**model, beam=16), weights)[0]
    wide = search_beam(own, Search(**model, **(WIDE | {"beam": 150})), weights)[0]
    assert narrow.words == wide.words


def test_a_word_that_has_only_begun_is_cut_off_where_the_lexicon_has_no_such_word() -> None:
    sure = np.log(np.full((3, 4), 1e-6))
    for frame, k in enumerate((1, 3, 2)):  # "a b", and b is no word
        sure[frame, k] = 0.0
    search = Search(symbols=SYMBOLS, lexicon={"a", "ba"}, beam=1)
    assert search_beam(sure, search, NOTHING)[0].words == ("a",)


def test_an_utterance_without_frames_says_nothing() -> None:
    found = search_beam(np.zeros((0, 4)), Search(symbols=SYMBOLS, model=WORDS), Weights())
    assert [hypothesis.words for hypothesis in found] == [()]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"symbols": ("a", "b", " ")}, "one of them its blank"),
        ({"symbols": ("", "a", "", "b")}, "one of them its blank"),
        ({"symbols": ("", "a", "a")}, "one of them its blank"),
        ({"symbols": ("", "a", "b"), "model": WORDS}, "blank between words"),
        ({"symbols": ("", "A", "B", " "), "model": WORDS}, "can be spelt"),
        ({"symbols": SYMBOLS, "lexicon": {"xyz"}}, "can be spelt"),
        ({"symbols": SYMBOLS, "model": WORDS, "unit": "symbol"}, "the language model knows 1 of 3 symbols"),
        ({"symbols": ("", "AH", "K"), "model": WORDS, "together": False}, "spell no words"),
        ({"symbols": ("", "AH", "K"), "model": WORDS, "together": False, "unit": "symbol"}, "knows 0 of 2"),
        ({"symbols": SYMBOLS, "unit": "phrase"}, "is not known"),
        ({"symbols": SYMBOLS, "beam": 0}, "is not possible"),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        Search(**settings)
