"""Every metric on a thousand random cases, beside the library that the field computes it with or a plain loop."""

import itertools
from collections import Counter
from collections.abc import Callable

import jiwer
import numpy as np
import pandas as pd
import pytest
import sacrebleu
import torch
from torch import nn

from wavbench.downstream.decode import greedy_ctc
from wavbench.downstream.heads.ecapa import forget_dead_redirects
from wavbench.downstream.metrics import bleu, bleu_counts, equal_error_rate, error_curve, error_rate, min_dcf, secondary
from wavbench.downstream.objectives import Ctc, Transcribe

CASES = 1_000


def said(random: np.random.Generator, symbols: str, least: int, most: int) -> str:
    """Random letters and blanks with something in them."""
    text = "".join(random.choice(list(symbols), random.integers(least, most)))
    return " ".join(text.split()) or "a"


@pytest.fixture(scope="module")
def speechbrain_metrics() -> tuple[Callable, Callable]:
    """Its equal error rate and its least detection cost."""
    from speechbrain.utils.metric_stats import EER, minDCF

    forget_dead_redirects()  # looked at by hypothesis in later tests, they fail
    return EER, minDCF


def verification(random: np.random.Generator) -> pd.DataFrame:
    """A few trials of both kinds; in every second case with equal scores among them."""
    count = int(random.integers(4, 30))
    target = random.permutation(np.arange(count) < random.integers(1, count - 1))
    score = random.normal(target * random.uniform(0, 3), 1.0)
    return pd.DataFrame({"score": score.round(1) if random.random() < 0.5 else score, "target": target})


def parts(scores: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of targets, and of the others."""
    return tuple(torch.tensor(scores["score"][scores["target"] == kind].to_numpy()) for kind in (True, False))


def test_word_and_character_error_rates_are_jiwers() -> None:
    random = np.random.default_rng(0)
    objective = Transcribe([list("abc é")], np.arange(1), [30], 50.0)
    index = {symbol: number for number, symbol in enumerate(objective.vocabulary.symbols, start=1)}
    for _ in range(CASES):
        count = int(random.integers(1, 4))
        objective.targets = [list(said(random, "abc é", 1, 14)) for _ in range(count)]
        heard = [said(random, "abc é", 0, 14) for _ in range(count)]
        decoded = [[[[index[symbol] for symbol in text] for text in heard]]]
        scores = objective.scores(decoded, [np.arange(count)], 0)
        references = ["".join(target) for target in objective.targets]
        assert error_rate(scores)[0] == pytest.approx(100 * jiwer.wer(references, heard))
        characters = error_rate(scores, suffix="_characters")[0]
        assert characters == pytest.approx(100 * jiwer.cer(references, heard))


def translations(random: np.random.Generator) -> tuple[list[str], list[str]]:
    words = ["the", "cat", "Sat", "on", "it's", "a", "mat.", "3.5", "%", "¿qué?", "—"]
    texts = [" ".join(random.choice(words, random.integers(1, 12))) for _ in range(random.integers(1, 4))]
    heard = []
    for text in texts:
        kept = [word if random.random() < 0.7 else str(random.choice(words)) for word in text.split()]
        heard.append(" ".join(kept[: random.integers(0, len(kept) + 1)] if random.random() < 0.3 else kept))
    return texts, heard


def test_bleu_is_sacrebleus() -> None:
    random = np.random.default_rng(1)
    values = []
    for _ in range(CASES):
        texts, heard = translations(random)
        values.append(sacrebleu.corpus_bleu(heard, [texts]).score)
        assert bleu(bleu_counts(texts, heard))[0] == pytest.approx(values[-1], abs=1e-9)
    assert len(set(values)) > CASES / 2  # not all nothing, or all perfect


def chrf(references: list[str], hypotheses: list[str], longest: int = 6, beta: int = 2) -> float:
    """Precision and recall of character n-grams over a corpus, averaged over n, then combined.

    Sacrebleu counts no n-grams of a hypothesis whose reference is too short to have any.

    Source: Popović 2015, chrF, equation 1, blanks left out.
    """
    ratios = []
    for n in range(1, longest + 1):
        wanted, given, right = 0, 0, 0
        for texts in zip(references, hypotheses, strict=True):
            one, two = (
                Counter(text[k : k + n] for k in range(len(text) - n + 1))
                for text in ("".join(text.split()) for text in texts)
            )
            wanted, right = wanted + one.total(), right + (one & two).total()
            given += two.total() if one else 0
        if wanted and given:
            ratios.append((right / given, right / wanted))
    precision, recall = np.mean(ratios, axis=0) if ratios else (0.0, 0.0)
    return 100 * (1 + beta**2) * precision * recall / max(beta**2 * precision + recall, 1e-300)


def test_chrf_is_that_of_a_plain_loop_and_sacrebleus() -> None:
    random = np.random.default_rng(2)
    for _ in range(CASES):
        texts, heard = translations(random)
        table = bleu_counts(texts, heard).assign(reference=texts, hypothesis=heard, unseen=0)
        assert secondary("BLEU", table)["chrF"] == pytest.approx(chrf(texts, heard), abs=1e-9)
        assert sacrebleu.corpus_chrf(heard, [texts]).score == pytest.approx(chrf(texts, heard), abs=1e-9)


def test_the_equal_error_rate_is_speechbrains_but_for_what_lies_between_two_thresholds(
    speechbrain_metrics: tuple,
) -> None:
    """It takes the threshold at which misses and false alarms are nearest, and their mean there; ours is where the line
    through the two thresholds around the crossing meets the diagonal. A mean on that line is at most half of what the
    mean changes between the two away from the nearer one: a quarter of a trial's share, where no two scores are equal.
    """
    random, equal_errors = np.random.default_rng(3), speechbrain_metrics[0]
    for _ in range(CASES):
        scores = verification(random)
        miss, alarm = (rates[0] for rates in error_curve(scores))
        after = int(np.argmax(alarm >= miss))
        between = abs((miss[after] + alarm[after]) - (miss[after - 1] + alarm[after - 1])) / 2
        theirs = 100 * equal_errors(*parts(scores))[0]
        ours = equal_error_rate(scores)[0]
        assert abs(ours - theirs) <= 50 * between + 1e-3  # theirs counts in single precision
        if scores["score"].is_unique:
            assert 50 * between <= 25 / min(map(len, parts(scores))) + 1e-9


def test_the_least_detection_cost_is_speechbrains(speechbrain_metrics: tuple) -> None:
    random, least_cost = np.random.default_rng(4), speechbrain_metrics[1]
    for _ in range(CASES):
        scores = verification(random)
        for prior in (0.01, 0.05):
            theirs = least_cost(*parts(scores), p_target=prior)[0] / prior  # theirs is not divided by the trivial cost
            assert min_dcf(scores, prior) == pytest.approx(theirs, abs=1e-4)


class Plain(nn.Module):
    """A model whose outputs are its states."""

    def steps(self, lengths: np.ndarray) -> np.ndarray:
        return lengths


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def test_the_ctc_loss_is_that_of_all_paths() -> None:
    """Graves et al. 2006, equation 3: the probability of a text is the sum over all paths that read as it."""
    random = np.random.default_rng(5)
    read: dict[int, list[tuple[tuple[int, ...], list[int]]]] = {
        steps: [(path, collapsed(path)) for path in itertools.product(range(3), repeat=steps)] for steps in range(1, 6)
    }
    objective = Ctc([["a", "b"]], np.arange(1), [9], 50.0)
    for _ in range(CASES):
        lengths = random.integers(3, 6, 2)
        texts = [[int(k) for k in random.integers(1, 3, random.integers(1, 3))] for _ in range(2)]
        objective.classes = [torch.tensor(text) for text in texts]
        outputs = torch.from_numpy(random.normal(0, 2, (1, int(lengths.sum()), 3)))
        losses = []
        for own, text in zip(outputs[0].split(lengths.tolist()), texts, strict=True):
            chances = own.softmax(dim=1).numpy()
            total = sum(
                np.prod([chances[step, symbol] for step, symbol in enumerate(path)])
                for path, symbols in read[len(own)]
                if symbols == text
            )
            losses.append(-np.log(total) / len(text))
        found = objective.loss(Plain(), outputs, np.arange(2), lengths)
        assert float(found[0]) == pytest.approx(float(np.mean(losses)), rel=1e-6)


def test_greedy_decoding_is_that_of_a_plain_loop() -> None:
    random = np.random.default_rng(6)
    for _ in range(CASES):
        lengths = random.integers(0, 7, random.integers(1, 4))
        outputs = torch.from_numpy(random.normal(size=(2, int(lengths.sum()), 3)))
        expected = []
        for own in outputs.argmax(dim=2).numpy():
            heads, place = [], 0
            for length in lengths:
                symbols, before = [], 0
                for symbol in own[place : place + length].tolist():
                    if symbol not in (before, 0):
                        symbols.append(symbol)
                    before = symbol
                heads.append(symbols)
                place += int(length)
            expected.append(heads)
        assert greedy_ctc(outputs, lengths) == expected
