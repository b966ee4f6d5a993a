"""Words, characters and n-grams are counted as jiwer and sacrebleu count them, from a table and under any weights."""

import jiwer
import numpy as np
import pytest
import sacrebleu

from wavbench.benchmark.stats import interval
from wavbench.downstream.metrics import METRICS, bleu, bleu_counts, error_rate, secondary, signature
from wavbench.downstream.objectives import Transcribe

TEXTS = ["The cat sat on the mat, today.", "Il y a un an !", "Ça va ?", "a b c d e f", "No.", "it's 3.5 % of all"]
SAID = ["The cat sat on a mat today.", "Il y a un an !", "", "a b c d f e", "yes", "it's 3.5 % of it all"]


def spelled(objective: Transcribe, text: str) -> list[int]:
    return [objective.vocabulary.symbols.index(character) + 1 for character in text]


def test_words_and_characters_are_counted_as_jiwer_counts_them() -> None:
    references = ["the cat sat", "a mat", "on it"]
    said = ["the  cat at ", " a mat on", ""]
    objective = Transcribe([list(text) for text in references], np.arange(3), [30] * 3, 50.0)
    decoded, rows = [[[spelled(objective, text) for text in said]]], [np.arange(3)]
    scores = objective.scores(decoded, rows, 0)
    assert scores["hypothesis"].tolist() == ["the cat at", "a mat on", ""]
    assert scores["reference"].tolist() == references
    words = jiwer.process_words(references, said)
    assert scores["errors"].sum() == words.substitutions + words.insertions + words.deletions == 4
    assert error_rate(scores)[0] == pytest.approx(100 * words.wer) == pytest.approx(100 * 4 / 7)
    assert scores["tokens_characters"].sum() == sum(map(len, references))
    hypotheses = scores["hypothesis"].tolist()
    assert 100 * scores["errors_characters"].sum() / scores["tokens_characters"].sum() == pytest.approx(
        100 * jiwer.cer(references, hypotheses)
    )


def test_error_rates_of_random_texts_are_those_of_jiwer() -> None:
    random = np.random.default_rng(0)

    def texts() -> list[str]:
        return ["".join(random.choice(list("aab é "), random.integers(3, 30))).strip() or "a" for _ in range(60)]

    references, said = [" ".join(text.split()) for text in texts()], texts()
    objective = Transcribe([list(text) for text in references], np.arange(60), [90] * 60, 50.0)
    decoded, rows = [[[spelled(objective, text) for text in said]]], [np.arange(60)]
    scores = objective.scores(decoded, rows, 0)
    hypotheses = scores["hypothesis"].tolist()
    assert error_rate(scores)[0] == pytest.approx(100 * jiwer.wer(references, said))
    characters = 100 * jiwer.cer(references, hypotheses)
    assert secondary("WER", scores)["CER"] == pytest.approx(characters)
    assert objective.values(decoded, rows)[0] == pytest.approx(characters)  # what moments are chosen by


def test_bleu_of_the_counts_is_sacrebleus() -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        rows = random.integers(0, len(TEXTS), random.integers(1, 9))
        texts, said = [TEXTS[r] for r in rows], [SAID[r] if random.random() < 0.8 else TEXTS[r] for r in rows]
        expected = sacrebleu.corpus_bleu(said, [texts])
        assert bleu(bleu_counts(texts, said))[0] == pytest.approx(expected.score, abs=1e-9)


def test_weights_count_an_utterance_as_often_as_repeating_it() -> None:
    counts, random = bleu_counts(TEXTS, SAID), np.random.default_rng(1)
    weights = random.integers(0, 4, (30, len(TEXTS)))
    expected = []
    for row in weights:
        said, texts = ([text for text, n in zip(t, row, strict=True) for _ in range(n)] for t in (SAID, TEXTS))
        expected.append(sacrebleu.corpus_bleu(said, [texts]).score)
    np.testing.assert_allclose(bleu(counts, weights.astype(float)), expected, atol=1e-9)


def test_the_interval_of_bleu_is_drawn_from_the_table_alone() -> None:
    counts = bleu_counts(TEXTS * 20, SAID * 20).assign(utterance=[f"u{k}" for k in range(120)])
    low, high, unit = interval("BLEU", counts)
    assert low < METRICS["BLEU"](counts)[0] < high
    assert (unit, high - low < 20) == ("utterance", True)


def test_beside_bleu_stand_chrf_and_the_signature() -> None:
    table = bleu_counts(TEXTS, SAID).assign(reference=TEXTS, hypothesis=SAID, unseen=[0, 1, 0, 0, 2, 0])
    found = secondary("BLEU", table)
    assert found["chrF"] == pytest.approx(sacrebleu.corpus_chrf(SAID, [TEXTS]).score)
    assert found["utterances_with_unseen_characters"] == 2
    assert found["chance"] == pytest.approx(
        max(sacrebleu.corpus_bleu([text] * len(TEXTS), [TEXTS]).score for text in TEXTS)
    )
    assert signature("BLEU") == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert signature("WER") == ""
