"""Which weights a search and the transformer behind it get: what the user says, what dev chose, the usual ones."""

from pathlib import Path

from wavbench.benchmark import schemas
from wavbench.benchmark.inference import _weights
from wavbench.downstream.language.search import Weights

PLAIN = {"weights": {"lm": 0.9, "length": 2.0, "unknown": -3.0, "neural": 0.0}}
BOTH = {"weights": {"lm": 0.1, "length": 0.5, "unknown": -1.0, "neural": 0.7}, "search_weights": PLAIN["weights"]}
SEARCH = Weights(lm=0.9, length=2.0, unknown=-3.0)


def given(**words) -> schemas.Infer:
    return schemas.Infer(head="h", lm="a.arpa", lm_neural="n", **words)


def test_a_head_that_was_tuned_with_a_transformer_has_weights_of_both_orders() -> None:
    assert _weights(given(), BOTH, Path()) == SEARCH
    assert _weights(given(), BOTH, Path(), rescoring=True) == Weights(lm=0.1, length=0.5, unknown=-1.0, neural=0.7)


def test_without_one_the_search_keeps_its_weights_and_the_transformer_has_the_usual() -> None:
    assert _weights(given(), PLAIN, Path()) == SEARCH
    assert _weights(given(), PLAIN, Path(), rescoring=True) == Weights(lm=0.9, length=2.0, unknown=-3.0, neural=0.5)
    assert _weights(given(), {}, Path(), rescoring=True) == Weights(neural=0.5)


def test_what_is_given_wins() -> None:
    config = given(lm_weight=0.2, lm_length=0.0, lm_neural_weight=0.3)
    assert _weights(config, BOTH, Path(), rescoring=True) == Weights(lm=0.2, length=0.0, unknown=-1.0, neural=0.3)
    assert _weights(config, BOTH, Path()) == Weights(lm=0.2, length=0.0, unknown=-3.0)
