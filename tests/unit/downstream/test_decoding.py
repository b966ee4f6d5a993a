"""Language models lower the error rate with weights from dev, and models and outputs that do not fit are refused."""

import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from wavbench.downstream.language.causal_lm import CausalLm, Shape, train
from wavbench.downstream.language.decoding import (
    decode_with_lm,
    refuse_other_order,
    refuse_other_outputs,
    refuse_other_tokens,
    rescore,
    tokens_of,
    tune,
)
from wavbench.downstream.language.ngrams import estimate
from wavbench.downstream.language.search import Search, Weights
from wavbench.downstream.language.with_lm import Model, decode_again, open_models
from wavbench.downstream.metrics import edit_distances
from wavbench.upstream.errors import UserError

WORDS = ("tea", "tin", "ate", "eat", "net", "ten", "ant", "tan")
SYMBOLS = ("", " ", "a", "e", "i", "n", "t")


def texts(count: int, seed: int) -> list[str]:
    """Word after word by a chain in which few words follow each."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        place, words = draw.randrange(8), []
        for _ in range(draw.randint(2, 4)):
            words.append(WORDS[place])
            place = (place + draw.choice((1, 3))) % 8
        made.append(" ".join(words))
    return made


def sound_of(text: str, seed: int, noise: float = 2.4) -> np.ndarray:
    """Outputs as of a head that often takes one symbol for another."""
    draw = np.random.default_rng(seed)
    frames = [0]
    for character in text:
        frames += [SYMBOLS.index(character)] * int(draw.integers(1, 3)) + [0]
    logits = draw.normal(0, noise, (len(frames), len(SYMBOLS)))
    logits[np.arange(len(frames)), frames] += 5
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


TRAIN, DEV, TEST = texts(300, 0), texts(8, 1), texts(16, 2)
DEV_SOUND = [sound_of(text, k) for k, text in enumerate(DEV)]
TEST_SOUND = [sound_of(text, 1_000 + k) for k, text in enumerate(TEST)]
NARROW = {"symbols": SYMBOLS, "beam": 6}  # annotations are checked at run time here, which costs tenfold
WORD_MODEL = estimate([text.split() for text in TRAIN], 3)
LETTER_MODEL = estimate([tokens_of(text, "character") for text in TRAIN], 5)


def word_errors(
    search: Search, weights: Weights, neural: CausalLm | None = None, rescoring: Weights | None = None
) -> int:
    found = decode_with_lm(TEST_SOUND, search, weights, neural=neural, rescoring=rescoring)
    return int(edit_distances([text.split() for text in TEST], [own[0].words for own in found]).sum())


@pytest.mark.parametrize(
    "search",
    [
        Search(**NARROW, model=WORD_MODEL),
        Search(**NARROW, model=WORD_MODEL, lexicon=WORD_MODEL.tokens),
        Search(**NARROW, model=LETTER_MODEL, unit="symbol"),
    ],
    ids=["words", "lexicon", "characters"],
)
def test_a_model_with_weights_from_dev_lowers_the_word_error_rate_on_test(search: Search) -> None:
    tuned = tune(DEV_SOUND, [list(text) for text in DEV], search)
    decoded = {trial.weights: trial.error_rate for trial in tuned.trials if trial.stage == "search"}
    assert decoded[tuned.search] == min(decoded.values())
    assert word_errors(search, tuned.search) < 0.6 * word_errors(Search(**NARROW), Weights(0.0, 0.0))


def test_the_error_rate_of_a_decoded_trial_is_that_of_decoding_again() -> None:
    search = Search(**NARROW, model=WORD_MODEL)
    tuned = tune(DEV_SOUND, [list(text) for text in DEV], search)
    for trial in (trial for trial in tuned.trials if trial.stage == "search"):
        found = decode_with_lm(DEV_SOUND, search, trial.weights)
        errors = edit_distances([text.split() for text in DEV], [own[0].words for own in found]).sum()
        assert trial.error_rate == pytest.approx(100 * errors / sum(len(text.split()) for text in DEV))
        assert trial.weights != tuned.search or trial.error_rate == tuned.error_rate


def test_a_second_decoding_says_how_far_it_is_and_what_dev_had_with_its_weights() -> None:
    model, seen = Model(order=3, beam=6), []
    table = pd.DataFrame({"reference": TEST})
    dev = (DEV_SOUND, DEV)
    told, about = decode_again(
        table, model, open_models(model, TRAIN), SYMBOLS[1:], dev, TEST_SOUND, lambda *at: seen.append(at)
    )
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {seen[-1][0]}
    weights = Weights(**about["weights"])
    search = Search(**NARROW, model=WORD_MODEL)
    found = decode_with_lm(DEV_SOUND, search, weights)
    errors = edit_distances([text.split() for text in DEV], [own[0].words for own in found]).sum()
    assert about["dev_error_rate"] == pytest.approx(100 * errors / sum(len(text.split()) for text in DEV))
    assert told["errors_lm"].sum() == word_errors(search, weights)


def test_rescoring_adds_the_weighted_probability_of_the_neural_model() -> None:
    neural = train(
        TRAIN, DEV, shape=Shape(width=16, layers=1, heads=2, context=64), epochs=6, batch=512, learning_rate=1e-2
    ).model
    search, weights = Search(**NARROW, model=WORD_MODEL), Weights(0.5, 0.5, neural=0.7)
    before = decode_with_lm(TEST_SOUND[:4], search, replace(weights, neural=0.0), count=5)
    for old, new in zip(before, rescore(before, neural, weights), strict=True):
        wanted = {h.words: h.score(weights) + 0.7 * float(neural.log_probability([" ".join(h.words)])[0]) for h in old}
        assert [h.words for h in new] == sorted(wanted, key=lambda words: -wanted[words])
        for hypothesis in new:
            assert hypothesis.score(weights) == pytest.approx(wanted[hypothesis.words], abs=1e-3)
    with pytest.raises(UserError, match="go together"):
        decode_with_lm(TEST_SOUND, search, weights, neural=neural)
    alone = Search(**NARROW)
    tuned = tune(DEV_SOUND, [list(text) for text in DEV], alone, neural=neural)
    rates = {trial.weights: trial.error_rate for trial in tuned.trials if trial.stage == "rescoring"}
    assert tuned.rescoring is not None
    assert tuned.rescoring.neural > 0
    assert rates[tuned.rescoring] == min(rates.values()) == tuned.error_rate
    found = decode_with_lm(DEV_SOUND, alone, tuned.search, neural=neural, rescoring=tuned.rescoring)
    errors = edit_distances([text.split() for text in DEV], [own[0].words for own in found]).sum()
    assert rates[tuned.rescoring] == pytest.approx(100 * errors / sum(len(text.split()) for text in DEV))
    assert word_errors(alone, tuned.search, neural, tuned.rescoring) < word_errors(alone, Weights(0.0, 0.0))


def test_a_model_of_the_other_unit_or_case_is_refused_and_the_right_one_is_measured() -> None:
    transcripts = [text.split() for text in TRAIN]
    assert refuse_other_tokens(WORD_MODEL, [*transcripts, ["unheard"]], "m.arpa") == pytest.approx(
        1 / (sum(map(len, transcripts)) + 1)
    )
    capitals = estimate([text.upper().split() for text in TRAIN], 2)
    for model in (LETTER_MODEL, capitals):
        with pytest.raises(UserError, match="expected tokens such as"):
            refuse_other_tokens(model, transcripts, "m.arpa")
    with pytest.raises(UserError, match="knows 0 of"):
        refuse_other_tokens(WORD_MODEL, [tokens_of(text, "character") for text in TRAIN], "m.arpa")


def test_outputs_with_the_blank_at_the_other_end_are_refused() -> None:
    last = [np.roll(own, -1, axis=1) for own in DEV_SOUND]  # of a head whose blank is its last class
    references = [list(text) for text in DEV]
    refuse_other_order(DEV_SOUND, SYMBOLS, references)
    refuse_other_order(last, (*SYMBOLS[1:], ""), references)
    with pytest.raises(UserError, match="order of the symbols"):
        refuse_other_order(last, SYMBOLS, references)
    with pytest.raises(UserError, match="order of the symbols"):
        tune(DEV_SOUND, references, Search(symbols=(*SYMBOLS[1:], ""), model=WORD_MODEL))


def test_outputs_of_another_vocabulary_or_without_softmax_are_refused() -> None:
    with pytest.raises(UserError, match="7 classes"):
        refuse_other_outputs(DEV_SOUND, SYMBOLS[:-1])
    for wrong in (np.exp(DEV_SOUND[0]), DEV_SOUND[0] + 1, np.full((3, 7), np.nan)):
        with pytest.raises(UserError, match="no logarithms"):
            decode_with_lm([wrong], Search(**NARROW), Weights())


def test_weights_without_dev_transcripts_are_refused() -> None:
    for outputs, references in (([], []), (DEV_SOUND[:1], [[]])):
        with pytest.raises(UserError, match="dev"):
            tune(outputs, references, Search(symbols=SYMBOLS))


def test_phones_have_a_model_of_their_own_symbols() -> None:
    symbols = ("", "AH", "K", "T")
    model = estimate([["K", "AH", "T"]] * 5, 3)
    own = np.log(np.full((3, 4), 0.01))
    for frame, probabilities in enumerate(([0.01, 0.01, 0.97, 0.01], [0.3, 0.3, 0.01, 0.39], [0.01, 0.01, 0.01, 0.97])):
        own[frame] = np.log(probabilities)
    search = Search(symbols=symbols, model=model, unit="symbol", together=False)
    assert decode_with_lm([own], search, Weights(0.0, 0.0))[0][0].words == ("K", "T")
    assert decode_with_lm([own], search, Weights(1.0, 0.0))[0][0].words == ("K", "AH", "T")
