"""Times of symbols: the likeliest path that writes them, found by trying all paths."""

import itertools

import numpy as np
import pytest

from wavbench.downstream.use import Token, aligned, tokens_of, words_of


def written(path: tuple[int, ...]) -> list[int]:
    """What CTC reads in a path."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def best_path(outputs: np.ndarray, classes: list[int]) -> tuple[int, ...]:
    paths = itertools.product(range(outputs.shape[1]), repeat=len(outputs))
    fitting = (path for path in paths if written(path) == classes)
    return max(fitting, key=lambda path: sum(outputs[step, symbol] for step, symbol in enumerate(path)))


def times_of(path: tuple[int, ...]) -> list[tuple[int, int]]:
    """First step and the one behind the last of each symbol of a path."""
    edges, place = [], 0
    for symbol, own in itertools.groupby(path):
        count = len(list(own))
        edges += [(place, place + count)] if symbol else []
        place += count
    return edges


@pytest.mark.parametrize("classes", [[1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 1], [2, 2, 1]])
def test_symbols_lie_where_the_likeliest_of_all_paths_has_them(classes: list[int]) -> None:
    random = np.random.default_rng(len(classes))
    for _ in range(15):
        steps = int(random.integers(5, 8))
        outputs = random.normal(0, 2, (steps, 3))
        outputs -= np.log(np.exp(outputs).sum(axis=1, keepdims=True))
        found = aligned(outputs, classes, "xy", 0.5)
        assert [token.symbol for token in found] == ["xy"[symbol - 1] for symbol in classes]
        edges = [(round(token.start / 0.5), round(token.end / 0.5)) for token in found]
        assert edges == times_of(best_path(outputs, classes))


def test_nothing_written_has_no_times() -> None:
    assert aligned(np.zeros((4, 3)), [], "xy", 0.5) == []


def test_the_likeliest_class_of_every_step_gives_the_same_times_as_its_alignment() -> None:
    random = np.random.default_rng(7)
    for _ in range(30):
        outputs = random.normal(0, 3, (12, 4))
        outputs -= np.log(np.exp(outputs).sum(axis=1, keepdims=True))
        tokens = tokens_of(outputs, "xyz", 0.02)
        classes = written(tuple(outputs.argmax(axis=1).tolist()))
        assert ["xyz"[symbol - 1] for symbol in classes] == [token.symbol for token in tokens]
        assert aligned(outputs, classes, "xyz", 0.02) == tokens


def test_words_last_from_their_first_letter_to_their_last() -> None:
    tokens = [Token(" ", 0.0, 0.1), Token("a", 0.1, 0.2), Token("b", 0.3, 0.4), Token(" ", 0.4, 0.5)]
    tokens += [Token(" ", 0.6, 0.7), Token("c", 0.8, 0.9)]
    assert words_of(tokens) == [Token("ab", 0.1, 0.4), Token("c", 0.8, 0.9)]
    assert words_of([]) == []
