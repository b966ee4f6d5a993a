"""Scores from per-utterance counts and trial scores: pure functions, each able to weight its rows.

Every metric reads only the columns of a scores table, so that a value, its interval and its tests can be recomputed
from the files beside a record. `weights` is (resamples, rows): how often each row counts in each bootstrap resample.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Num

from wavbench.upstream.errors import UserError


def edit_distances(references: Sequence[Sequence], hypotheses: Sequence[Sequence]) -> Int[np.ndarray, " utterances"]:
    """Insertions, deletions and substitutions of each hypothesis (Levenshtein distance over symbols)."""
    from rapidfuzz.distance import Levenshtein

    return np.array([Levenshtein.distance(r, h) for r, h in zip(references, hypotheses, strict=True)], np.int64)


def sequence_scores(
    rows: Int[np.ndarray, " utterances"], references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """The scores table of sequences of symbols: errors, tokens, and both sequences as text."""
    return pd.DataFrame(
        {
            "row": rows,
            "errors": edit_distances(references, hypotheses),
            "tokens": [len(reference) for reference in references],
            "reference": [" ".join(reference) for reference in references],
            "hypothesis": [" ".join(hypothesis) for hypothesis in hypotheses],
        }
    )


def error_rate(
    scores: pd.DataFrame, weights: Num[np.ndarray, "resamples rows"] | None = None, suffix: str = ""
) -> Float[np.ndarray, " resamples"]:
    """Errors per hundred reference tokens, from the columns `errors` and `tokens` (PER, WER, and 100 - accuracy)."""
    errors, tokens = scores[f"errors{suffix}"].to_numpy(float), scores[f"tokens{suffix}"].to_numpy(float)
    weights = np.ones((1, len(scores))) if weights is None else weights
    return 100 * (weights @ errors) / np.maximum(weights @ tokens, 1e-12)


def accuracy(
    scores: pd.DataFrame, weights: Num[np.ndarray, "resamples rows"] | None = None, suffix: str = ""
) -> Float[np.ndarray, " resamples"]:
    """Percent right."""
    return 100 - error_rate(scores, weights, suffix)


def macro_f1(scores: pd.DataFrame) -> float:
    """Harmonic mean of precision and recall in percent, averaged over the classes of `label`."""
    from sklearn.metrics import f1_score

    label, prediction = scores["label"].astype(str), scores["prediction"].astype(str)
    classes = sorted(set(label))
    return float(100 * f1_score(label, prediction, labels=classes, average="macro", zero_division=0))


def confusion(scores: pd.DataFrame) -> pd.DataFrame:
    """How often each class (rows) was taken for each (columns), over all classes of either."""
    names = sorted({*scores["label"].astype(str), *scores["prediction"].astype(str)})
    counts = pd.crosstab(scores["label"].astype(str), scores["prediction"].astype(str))
    return counts.reindex(index=names, columns=names, fill_value=0).rename_axis(index="label", columns=None)


def macro_recall(scores: pd.DataFrame) -> float:
    """Percent right, averaged over the classes of `label`."""
    right = 1 - scores["errors"].to_numpy(float) / scores["tokens"].to_numpy(float)
    return float(100 * pd.Series(right).groupby(scores["label"].to_numpy()).mean().mean())


def error_curve(
    scores: pd.DataFrame, weights: Num[np.ndarray, "resamples rows"] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Miss and false-alarm rates at every threshold, each (resamples, distinct scores + 1), thresholds descending.

    Trials of one score move together: a threshold cannot separate them.
    """
    score, target = scores["score"].to_numpy(float), scores["target"].to_numpy(bool)
    order = np.argsort(-score, kind="stable")
    weights = np.ones((1, len(scores))) if weights is None else weights
    hits = np.cumsum(weights[:, order] * target[order], axis=1)
    alarms = np.cumsum(weights[:, order] * ~target[order], axis=1)
    last = np.append(np.diff(score[order]) != 0, True)  # the last trial of each distinct score
    zero = np.zeros((len(weights), 1))
    hits, alarms = np.hstack([zero, hits[:, last]]), np.hstack([zero, alarms[:, last]])
    return 1 - hits / np.maximum(hits[:, -1:], 1e-12), alarms / np.maximum(alarms[:, -1:], 1e-12)


def equal_error_rate(
    scores: pd.DataFrame,
    weights: Num[np.ndarray, "resamples groups"] | None = None,
    group: Int[np.ndarray, " rows"] | None = None,
) -> Float[np.ndarray, " resamples"]:
    """Percent at which misses equal false alarms, interpolated on the line between the two nearest thresholds.

    Args:
        scores: columns `score` (higher: more alike) and `target` (same speaker).
        weights: of the rows, or of groups of them.
        group: of each row, such as its pair of speakers, where weights are of groups.

    Raises:
        UserError: there are no target trials, or nothing but.
    """
    target = scores["target"].to_numpy(bool)
    if target.all() or not target.any():
        raise UserError("an equal error rate needs trials of both kinds", remedy="give trials with and without target")
    if weights is not None and (group is not None or weights.size > FEW):
        return _crossings(scores["score"].to_numpy(float), target, weights, group)
    miss, alarm = error_curve(scores, weights)
    gap = alarm - miss  # rises from -1 to 1
    after = np.argmax(gap >= 0, axis=1)
    rows, before = np.arange(len(gap)), np.maximum(after - 1, 0)
    return _between(gap[rows, before], gap[rows, after], alarm[rows, before], alarm[rows, after])


def _crossings(
    score: Float[np.ndarray, " rows"],
    target: Bool[np.ndarray, " rows"],
    weights: Num[np.ndarray, "resamples groups"],
    group: Int[np.ndarray, " rows"] | None,
) -> Float[np.ndarray, " resamples"]:
    """Equal error rates without whole curves, which are a hundred times longer than the place where they cross.

    Sums over blocks of trials, in the order of their scores, tell in which block misses equal false alarms; only there
    every threshold is looked at. Where trials share weights, such a sum is a product with their numbers in each block.
    """
    order = np.argsort(-score, kind="stable")
    is_last = np.append(np.diff(score[order]) != 0, True)  # of each distinct score
    last = np.flatnonzero(is_last)
    step = math.isqrt(len(last))
    ends = np.unique(np.append(last[step - 1 :: step], last[-1])) + 1  # of blocks
    starts = np.append(0, ends[:-1])
    kind = target[order]
    if group is not None and weights.shape[1] * 2 * len(ends) > MOST_NUMBERS:
        weights, group = weights[:, group], None
    column = order if group is None else group[order]  # of weights, for each trial
    if group is None:
        ordered = weights[:, order]
        hits = np.add.reduceat(ordered * kind, starts, axis=1)
        sums = np.stack([hits, np.add.reduceat(ordered, starts, axis=1) - hits], axis=1).cumsum(axis=2)
    else:
        block_of = np.repeat(np.arange(len(ends)), ends - starts)
        place = (2 * column + ~kind) * len(ends) + block_of
        numbers = np.bincount(place, minlength=weights.shape[1] * 2 * len(ends)).astype(float)
        sums = (weights @ numbers.reshape(weights.shape[1], -1)).reshape(len(weights), 2, -1).cumsum(axis=2)
    totals = np.maximum(sums[:, :, -1:], 1e-12)
    shares = np.concatenate([np.zeros((len(weights), 2, 1)), sums / totals], axis=2)  # hits, false alarms
    each = np.arange(len(weights))
    block = np.argmax(shares.sum(axis=1)[:, 1:] >= 1, axis=1)
    places = starts[block, None] + np.arange((ends - starts).max())  # of trials, some behind the block
    inside = places < ends[block, None]
    places = np.minimum(places, len(order) - 1)
    own, own_kind = weights[each[:, None], column[places]] * inside, kind[places]
    rates = [np.cumsum(own * chosen, axis=1) / totals[:, k] for k, chosen in enumerate((own_kind, ~own_kind))]
    hits, alarms = (np.hstack([shares[each, k, block, None], shares[each, k, block, None] + rates[k]]) for k in (0, 1))
    gap, is_end = alarms - (1 - hits), np.hstack([np.ones((len(weights), 1), bool), is_last[places] & inside])
    found = is_end & (gap >= 0)
    found[:, 0] = False
    found[each, (ends - starts)[block]] = True  # the sums over the block say so, but for rounding
    after = np.argmax(found, axis=1)
    ends_before = np.maximum.accumulate(np.where(is_end, np.arange(is_end.shape[1]), 0), axis=1)
    before = ends_before[each, after - 1]
    return _between(gap[each, before], gap[each, after], alarms[each, before], alarms[each, after])


def _between(before, after, alarm_before, alarm_after) -> Float[np.ndarray, " resamples"]:
    """False alarms in percent where a line from one gap to the other is zero."""
    rise = after - before
    share = np.where(rise > 0, -before / np.where(rise > 0, rise, 1), 0)
    return 100 * (alarm_before + share * (alarm_after - alarm_before))


def equal_error_threshold(scores: pd.DataFrame) -> float:
    """The score above which trials are accepted where misses and false alarms are as many as they can be alike."""
    miss, alarm = error_curve(scores)
    ordered = np.sort(scores["score"].unique())[::-1]
    return float(ordered[max(int(np.argmax(alarm[0] >= miss[0])) - 1, 0)])


def min_dcf(scores: pd.DataFrame, target_prior: float = 0.01) -> float:
    """Least normalised detection cost over thresholds, both costs 1.

    Source: NIST SRE 2016 evaluation plan, section 3.1.
    """
    miss, alarm = error_curve(scores)
    cost = target_prior * miss + (1 - target_prior) * alarm
    return float(cost.min() / min(target_prior, 1 - target_prior))


FEW = 4_096  # weights up to which whole error curves are computed
MOST_NUMBERS = 20_000_000  # of trials by group and block, held at once
NGRAMS = 4
CONSTANTS, SAMPLED = 30, 500  # candidates for a constant answer, and references that each is held against
MOST_SAMPLED = 60_000  # tokens of them: long recordings are held against fewer
BLEU_COUNTS = ["sys_len", "ref_len", *(f"{kind}_{n}" for kind in ("correct", "total") for n in range(1, NGRAMS + 1))]


@lru_cache(maxsize=1)
def _sacrebleu():
    from sacrebleu.metrics import BLEU

    return BLEU(max_ngram_order=NGRAMS, force=True)  # without its remarks on tokens, once per call


def bleu_counts(references: Sequence[str], hypotheses: Sequence[str]) -> pd.DataFrame:
    """What BLEU is made of, per utterance: words said and wanted, n-grams that are right and all there are.

    Words are sacrebleu's default tokens (13a), which do not part scripts that write no blanks.
    """
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        found = _sacrebleu().corpus_score([hypothesis], [[reference]])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return pd.DataFrame(rows, columns=BLEU_COUNTS, dtype=np.int64)


def bleu(
    scores: pd.DataFrame, weights: Num[np.ndarray, "resamples rows"] | None = None
) -> Float[np.ndarray, " resamples"]:
    """Corpus BLEU from the columns BLEU_COUNTS, smoothed as sacrebleu does (`exp`).

    Source: Papineni et al. 2002; Chen and Cherry 2014, smoothing 3; Post 2018 for the tokens.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    return bleu_of_counts(weights @ scores[BLEU_COUNTS].to_numpy(float))


def bleu_of_counts(sums: Float[np.ndarray, "*batch counts"]) -> Float[np.ndarray, "*batch"]:
    """Corpus BLEU from sums of BLEU_COUNTS."""
    said, wanted, correct, total = sums[..., 0], sums[..., 1], sums[..., 2 : 2 + NGRAMS], sums[..., 2 + NGRAMS :]
    unmatched = (correct == 0) & (total > 0)
    if unmatched.any():
        correct = np.where(unmatched, 0.5 ** np.cumsum(unmatched, axis=-1), correct)  # each counts half the last
    precision = correct / np.maximum(total, 1e-12)
    brevity = np.exp(np.minimum(1 - wanted / np.maximum(said, 1e-12), 0))
    value = 100 * brevity * np.sqrt(np.sqrt(precision.prod(axis=-1)))  # the root of as many as NGRAMS
    return np.where((sums[..., 2] > 0) & (total[..., -1] > 0), value, 0.0)


def signature(metric: str) -> str:
    """How a metric was computed where the field writes that beside it; "" elsewhere."""
    if metric != "BLEU":
        return ""
    _sacrebleu().corpus_score(["a"], [["a"]])  # the number of references is known from then on
    return str(_sacrebleu().get_signature())


METRICS = {
    "accuracy": accuracy,
    "frame accuracy": accuracy,
    "PER": error_rate,
    "WER": error_rate,
    "EER": equal_error_rate,
    "BLEU": bleu,
}


def secondary(metric: str, scores: pd.DataFrame) -> dict[str, float]:
    """The other numbers that belong beside a metric, the score of knowing nothing (`chance`) among them."""
    if metric == "EER":
        found = {"min_dcf_0.01": min_dcf(scores), "min_dcf_0.05": min_dcf(scores, 0.05)}
        if "score_snorm" in scores:
            normalised = scores.assign(score=scores["score_snorm"])
            found |= {"EER_snorm": float(equal_error_rate(normalised)[0]), "min_dcf_snorm_0.01": min_dcf(normalised)}
        return found | {"trials": float(len(scores)), "chance": 50.0}
    if metric == "frame accuracy":
        speech, frames = scores["tokens_speech"].sum(), scores["tokens"].sum()
        silence = 100 * (1 - speech / max(frames, 1))  # what saying "silence" everywhere scores
        return {"speech_accuracy": float(accuracy(scores, suffix="_speech")[0]), "chance": float(silence)}
    if metric == "accuracy":
        share = scores["label"].value_counts(normalize=True)
        classes = {"macro_recall": macro_recall(scores), "macro_f1": macro_f1(scores)}
        return classes | {"classes": float(len(share)), "chance": float(100 * share.max())}
    if metric == "PER":
        return {"chance": _constant_rate(scores)}
    if metric == "WER":
        rate = error_rate(scores, suffix="_characters")[0]
        found = {}
        if "errors_lm" in scores:
            words = scores.assign(errors=scores["errors_lm"])
            characters = scores.assign(errors_characters=scores["errors_characters_lm"])
            found["WER_lm"] = float(error_rate(words)[0])
            found["CER_lm"] = float(error_rate(characters, suffix="_characters")[0])
        return (
            found
            | {"CER": float(rate), "utterances_with_unseen_characters": _unseen(scores)}
            | {"chance": _constant_rate(scores)}
        )
    if metric == "BLEU":
        from sacrebleu import corpus_chrf

        texts = scores["hypothesis"].tolist(), [scores["reference"].tolist()]
        return {
            "chrF": corpus_chrf(*texts).score,
            "utterances_with_unseen_characters": _unseen(scores),
            "chance": constant_answer(scores["reference"].tolist()),
        }
    return {}


def constant_answer(references: Sequence[str]) -> float:
    """BLEU of saying one and the same sentence to everything: of CONSTANTS references the one that does best.

    A head that has learned nothing but what sentences look like ends there and not at 0. The candidates are the
    commonest, and among those as common the ones of middle length; they are held against at most SAMPLED references.
    """
    sampled = list(references)[:: max(len(references) // SAMPLED, 1)][:SAMPLED]
    middle = float(np.median([len(text) for text in references]))
    counts = pd.Series(references).value_counts()
    ranked = sorted(counts.index, key=lambda text: (-counts[text], abs(len(text) - middle), text))
    scorer = _sacrebleu()
    return max(scorer.corpus_score([text] * len(sampled), [sampled]).score for text in ranked[:CONSTANTS])


@lru_cache(maxsize=2)  # layers of one cell are scored against the same references
def constant_error_rate(references: tuple[str, ...]) -> float:
    """Errors per hundred tokens of giving one and the same answer to everything; 100 is that of saying nothing.

    A head that has learned no more than which symbols are common ends near it: one and the same string of phones got
    81 of 100 on a test set of English. It is the best of the CONSTANTS commonest references, and of answers that grow
    from nothing by whichever of the CONSTANTS commonest tokens costs fewest errors then, up to one and a half times the
    mean length; they are held against at most SAMPLED references of MOST_SAMPLED tokens in all. Another answer may do
    better still.

    Args:
        references: of each utterance, blanks between tokens.
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    places: dict[str, int] = {}
    # tokens as characters, so that they are compared as text; the millionth and all after it are one
    numbered = [[min(places.setdefault(t, len(places)), 0xFFFFF) for t in text.split()] for text in references]
    texts = ["".join(chr(0x10000 + number) for number in own) for own in numbered]
    wanted = sum(map(len, texts))
    if not wanted:
        return 100.0
    some = max(min(SAMPLED, MOST_SAMPLED * len(texts) // wanted), 1)
    sampled = texts[:: max(len(texts) // some, 1)][:some]

    def errors(answers: list[str], against: list[str]) -> Int[np.ndarray, " answers"]:
        return cdist(answers, against, scorer=Levenshtein.distance, dtype=np.int32).sum(axis=1)

    answers = [text for text, _ in Counter(texts).most_common(CONSTANTS)]
    costs = errors(answers, sampled).tolist()
    common = [token for token, _ in Counter("".join(texts)).most_common(CONSTANTS)]
    for text, cost in _grown(sampled, common, int(1.5 * wanted / len(texts)) + 1):
        answers.append(text)
        costs.append(cost)
    best = answers[int(np.argmin(costs))]
    return min(100 * float(errors([best], texts)[0]) / wanted, 100.0)


def _grown(texts: list[str], tokens: list[str], longest: int) -> Iterator[tuple[str, int]]:
    """Answers that grow by the token that costs fewest errors, with their errors against all texts.

    One row of each text's table of distances is kept, and goes on by a token: Wagner and Fischer 1974.
    """
    width = max(map(len, texts))
    wanted = np.array([[*map(ord, text), *[0] * (width - len(text))] for text in texts], np.int32)
    place, ends = np.arange(width + 1, dtype=np.int32), np.array([len(text) for text in texts])
    row, every, answer = np.tile(place, (len(texts), 1)), np.arange(len(texts)), ""
    for _ in range(longest):
        ways = []
        for token in tokens:
            own = row + 1
            np.minimum(own[:, 1:], row[:, :-1] + (wanted != ord(token)), out=own[:, 1:])
            own = np.minimum.accumulate(own - place, axis=1) + place
            ways.append((int(own[every, ends].sum()), own))
        best = int(np.argmin([cost for cost, _ in ways]))
        answer, (cost, row) = answer + tokens[best], ways[best]
        yield answer, cost


def _constant_rate(scores: pd.DataFrame) -> float:
    """Of the references of a table; that of saying nothing where it has none."""
    return constant_error_rate(tuple(scores["reference"])) if "reference" in scores else 100.0


def _unseen(scores: pd.DataFrame) -> float:
    """Utterances with a character that train never has, and that no head can write."""
    return float((scores["unseen"] > 0).sum())
