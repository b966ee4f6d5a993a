"""Decoding with language models: open one, decode, rescore, and choose the weights on dev."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from wavbench.downstream.language.arpa import MAX_OWN, Kenlm, counts_of, read_arpa
from wavbench.downstream.language.beam import search_beam
from wavbench.downstream.language.causal_lm import SETTINGS, CausalLm, read_causal_lm
from wavbench.downstream.language.ngrams import LanguageModel
from wavbench.downstream.language.search import BLANK, BOUNDARIES, SPACE, Hypothesis, Search, Weights
from wavbench.downstream.metrics import edit_distances
from wavbench.upstream.errors import UserError

LEAST_KNOWN = 0.1  # share of the training transcripts' tokens that a model must know
LM_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LENGTH_WEIGHTS = (-1.0, 0.0, 1.0, 2.0, 3.0, 5.0)
UNKNOWN_WEIGHTS = (-15.0, -10.0, -5.0, -2.0)
NEURAL_WEIGHTS = (0.0, 0.25, 0.5, 1.0)
NONE = Weights(0.0, 0.0, 0.0)
ROUNDS = 5  # more searches of dev than those to begin with, at most
KEPT = 24  # hypotheses of an utterance and pass from which weights are chosen


def load_lm(path: Path | str) -> LanguageModel | CausalLm:
    """A language model from an ARPA file (.arpa, .arpa.gz) or from a folder of `wavbench lm kind=transformer`.

    ARPA files are read by wavbench itself, so that a number does not depend on what else is installed; only those too
    large for dictionaries go to KenLM.

    Raises:
        UserError: it is neither, or not sound.
    """
    path = Path(path)
    if path.is_dir():
        if (path / SETTINGS).is_file():
            return read_causal_lm(path)
        raise UserError(
            "this folder holds no language model",
            where=path,
            why=f"it has no {SETTINGS}",
            remedy="a folder that `wavbench lm kind=transformer` has written, or an ARPA file",
        )
    if not path.is_file():
        raise UserError("there is no such language model", where=path, remedy="check the path")
    return Kenlm(path) if sum(counts_of(path)) > MAX_OWN else read_arpa(path)


def tokens_of(text: str, unit: str) -> list[str]:
    """A text as the tokens of a model: words, or its characters with a sign in the place of blanks."""
    if unit == "word":
        return text.split()
    if sign := next((sign for sign in BOUNDARIES[:1] if sign in text), ""):
        raise UserError(f"{sign!r} cannot be a character of the text", why="it stands for blanks", remedy="replace it")
    return [BOUNDARIES[0] if character == SPACE else character for character in " ".join(text.split())]


def refuse_other_tokens(model: LanguageModel, transcripts: Iterable[Sequence[str]], where: object) -> float:
    """Raise if a model hardly knows the tokens of the transcripts that a head was trained on.

    A model of words asked for characters, or of capitals asked for small letters, answers every time and helps never.

    Args:
        model: to be used.
        transcripts: of train, as tokens; see `tokens_of`.
        where: the model's path.

    Returns:
        The share of tokens that it does not know.

    Raises:
        UserError: it knows less than a tenth.
    """
    tokens = [token for transcript in transcripts for token in transcript]
    known = sum(token in model.tokens for token in tokens)
    if tokens and known < LEAST_KNOWN * len(tokens):
        wanted, given = ", ".join(map(repr, tokens[:8])), ", ".join(map(repr, sorted(model.tokens)[:8]))
        raise UserError(
            f"the language model knows {known} of {len(tokens)} tokens of the train transcripts",
            where=where,
            why=f"expected tokens such as {wanted}; it has {given}",
            remedy="a model of the same unit (words or characters), language, case and punctuation",
        )
    return 1 - known / max(len(tokens), 1)


def refuse_other_outputs(outputs: Sequence[np.ndarray], symbols: tuple[str, ...]) -> None:
    """Raise unless outputs are natural logarithms of probabilities with one class for each symbol.

    Raises:
        UserError: another count of classes, or numbers that are no logarithms of probabilities.
    """
    for number, own in enumerate(outputs):
        if own.ndim != 2 or own.shape[1] != len(symbols):
            raise UserError(
                f"the head's outputs have {own.shape[-1]} classes, the vocabulary has {len(symbols)} symbols",
                where=f"utterance {number}",
                why="one class is expected for each symbol, CTC's blank among them",
                remedy="the vocabulary that is saved with the head",
            )
        totals = np.exp(own.astype(np.float64)).sum(axis=1)
        if not np.all(np.abs(totals - 1) < 0.02):  # NaN is not below either
            raise UserError(
                "the head's outputs are no logarithms of probabilities",
                where=f"utterance {number}",
                why="the probabilities of a frame do not sum to one",
                remedy="outputs.log_softmax over the classes",
            )


def refuse_other_order(
    outputs: Sequence[np.ndarray], symbols: tuple[str, ...], references: Sequence[Sequence[str]]
) -> None:
    """Raise if the references are far likelier with CTC's blank at the other end of the classes.

    A wrong order decodes to plausible rubbish, so it is looked for where the truth is known: on dev. Toolkits put the
    blank first or last, and the other symbols keep their order.

    Args:
        outputs: of dev utterances; a few dozen suffice.
        symbols: of the classes.
        references: symbols of each.

    Raises:
        UserError: the outputs are of the other order.
    """
    rest = [symbol for symbol in symbols if symbol != BLANK]
    other = (*rest, BLANK) if symbols[0] == BLANK else (BLANK, *rest)
    given, turned = (_loss(outputs, order, references) for order in (symbols, other))
    if math.isfinite(given) and turned < 0.5 * given:
        raise UserError(
            "the order of the symbols does not fit the head's outputs",
            why=f"given with the blank as class {symbols.index(BLANK)}, the dev references have a CTC loss of "
            f"{given:.2f} per symbol; with the blank as class {other.index(BLANK)} it is {turned:.2f}",
            remedy="the vocabulary that is saved with the head, in the order of its outputs",
        )


def _loss(outputs: Sequence[np.ndarray], symbols: tuple[str, ...], references: Sequence[Sequence[str]]) -> float:
    """CTC's loss per symbol, over the references that can be written at all."""
    index = {symbol: number for number, symbol in enumerate(symbols)}
    losses, count = 0.0, 0
    for own, reference in zip(outputs, references, strict=True):
        classes = [index[symbol] for symbol in reference if symbol in index]
        repeats = sum(first == second for first, second in itertools.pairwise(classes))
        if not classes or len(classes) + repeats > len(own):
            continue
        loss = F.ctc_loss(
            torch.from_numpy(np.ascontiguousarray(own, np.float64))[:, None],
            torch.tensor([classes]),
            torch.tensor([len(own)]),
            torch.tensor([len(classes)]),
            blank=index[BLANK],
            reduction="sum",
        )
        losses, count = losses + float(loss), count + len(classes)
    return losses / count if count else math.inf


def decode_with_lm(
    log_probabilities: Sequence[Float[np.ndarray, "_ classes"]],
    search: Search,
    weights: Weights,
    *,
    neural: CausalLm | None = None,
    rescoring: Weights | None = None,
    count: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Hypothesis]]:
    """The likeliest hypotheses of utterances, the best first.

    Args:
        log_probabilities: of each utterance, natural logarithms in the order of `search.symbols`.
        search: symbols, language model, lexicon and width.
        weights: of the search; those that `tune` found on dev.
        neural: reorders the best 24 hypotheses of each utterance.
        rescoring: weights of that new order, `neural` among them; those that `tune` found on dev.
        count: hypotheses wanted of each.
        progress: is told utterances done and in all.

    Raises:
        UserError: outputs that do not fit the symbols, or a neural model without its weights.
    """
    if (neural is None) != (rescoring is None):
        raise UserError("a neural model and the weights of rescoring go together", remedy="give both, or none")
    refuse_other_outputs(log_probabilities, search.symbols)
    lists = []
    for number, own in enumerate(log_probabilities, start=1):
        lists.append(search_beam(own, search, weights, max(count, KEPT) if neural else count))
        if progress:
            progress(number, len(log_probabilities))
    if neural:
        lists = rescore(lists, neural, rescoring)
    return [hypotheses[:count] for hypotheses in lists]


def rescore(lists: Sequence[Sequence[Hypothesis]], neural: CausalLm, weights: Weights) -> list[list[Hypothesis]]:
    """N-best lists with a neural model's probabilities, in the order of their new scores.

    Args:
        lists: of each utterance.
        neural: of the texts of the same corpus.
        weights: `neural` among them; 0 leaves every list in the order of its other scores.
    """
    text = " ".join
    texts = list(dict.fromkeys(text(hypothesis.words) for own in lists for hypothesis in own))
    values = dict(zip(texts, neural.log_probability(texts).tolist(), strict=True)) if texts else {}
    scored = [[replace(hypothesis, neural=values[text(hypothesis.words)]) for hypothesis in own] for own in lists]
    return [sorted(own, key=lambda hypothesis: hypothesis.score(weights), reverse=True) for own in scored]


@dataclass(frozen=True)
class Trial:
    """Weights that were tried on dev.

    Args:
        weights: of the search, of a choice from its lists, or of rescoring.
        error_rate: percent of words (symbols, where they are not written together) on dev.
        stage: "search" was run as a whole with these weights; "choice" has reordered the lists of several searches, and
            only proposes weights; "rescoring" has reordered the lists of the best search with the neural model.
    """

    weights: Weights
    error_rate: float
    stage: str


@dataclass(frozen=True)
class Tuned:
    """Weights with the least error rate on dev.

    Args:
        search: for `decode_with_lm`.
        rescoring: for a neural model; None without one.
        error_rate: that of dev with them.
        trials: all that was tried.
    """

    search: Weights
    rescoring: Weights | None
    error_rate: float
    trials: tuple[Trial, ...]


def tune(
    log_probabilities: Sequence[Float[np.ndarray, "_ classes"]],
    references: Sequence[Sequence[str]],
    search: Search,
    *,
    neural: CausalLm | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tuned:
    """Choose weights on dev.

    Dev is decoded with weights of the model that lie far apart; from the joined lists the best weights are chosen on a
    grid, then on a finer one around them. Hypotheses are scored over all their alignments, so that lists of several
    searches can be joined; but a list lacks what its own weights have pruned, so that weights which look well on it
    may search badly. So dev is decoded again with the weights chosen, its lists join the others, and the choice is
    made again, until it stays or ROUNDS times. What is returned has the least error rate of those that dev was really
    decoded with; of equals the one that leans on the model least.

    Weights of rescoring are chosen from the lists of that very search, which is what decoding does with them, so that
    no further search is needed.

    Args:
        log_probabilities: of dev utterances.
        references: symbols of each, SPACE among them where words are written together.
        search: symbols, model and lexicon.
        neural: for rescoring.
        progress: is told utterances decoded and in all.

    Raises:
        UserError: no dev utterances, or outputs that do not fit the symbols, or are in another order than they.
    """
    if not len(references) or not any(references):
        raise UserError(
            "weights of a language model need dev utterances with transcripts",
            remedy="give the manifest a dev split, or choose the weights by hand",
        )
    refuse_other_outputs(log_probabilities, search.symbols)
    refuse_other_order(log_probabilities[:40], search.symbols, references[:40])
    words = [search.written(reference) for reference in references]
    has_lm = search.model is not None
    begin = [Weights(lm, 0.0 if lm == 0 else 1.0) for lm in ((0.0, 0.5, 1.5) if has_lm else (0.0,))]
    pools: list[dict[tuple[int, ...], Hypothesis]] = [{} for _ in words]
    found: dict[Weights, tuple[float, list[list[Hypothesis]]]] = {}
    trials: list[Trial] = []
    most = (len(begin) + ROUNDS) * len(words)

    def decode(weights: Weights) -> None:
        lists = []
        for own in log_probabilities:
            lists.append(search_beam(own, search, weights, KEPT))
            if progress:
                progress(len(found) * len(words) + len(lists), most)
        wrong = edit_distances(words, [own[0].words for own in lists]).sum()
        found[weights] = 100 * float(wrong) / max(sum(map(len, words)), 1), lists
        trials.append(Trial(weights, found[weights][0], "search"))
        for pool, own in zip(pools, lists, strict=True):
            pool.update((hypothesis.classes, hypothesis) for hypothesis in own)

    for weights in begin:
        decode(weights)
    for _ in range(ROUNDS):
        choice = _chosen([list(pool.values()) for pool in pools], words, search, trials)
        if choice in found:
            break
        decode(choice)
    if progress:
        progress(most, most)
    best = min((trial for trial in trials if trial.stage == "search"), key=lambda trial: _worth(trial, NONE)).weights
    if neural is None:
        return Tuned(best, None, found[best][0], tuple(trials))
    rescoring = _chosen(rescore(found[best][1], neural, best), words, search, trials, best)
    own = next(trial for trial in reversed(trials) if trial.stage == "rescoring" and trial.weights == rescoring)
    return Tuned(best, rescoring, own.error_rate, tuple(trials))


def _worth(trial: Trial, near: Weights) -> tuple[float, ...]:
    """Smaller is better: the error rate, then how far the weights are from others."""
    w = trial.weights
    return (
        trial.error_rate,
        abs(w.lm - near.lm) + abs(w.neural - near.neural),
        abs(w.length - near.length),
        abs(w.unknown - near.unknown),
    )


def _chosen(
    lists: list[list[Hypothesis]],
    words: list[tuple[str, ...]],
    search: Search,
    trials: list[Trial],
    searched: Weights | None = None,
) -> Weights:
    """The best weights for lists of hypotheses: on a grid, then around its best point.

    Args:
        searched: weights of the one search that the lists come from, where they are to be rescored; of equals those
            nearest to them are chosen. Elsewhere those that lean on the model least.
    """
    near = searched or NONE
    total = max(sum(map(len, words)), 1)
    parts = [
        np.array([(h.acoustic, h.lm, h.length, h.unknown, h.neural) for h in own], np.float64).reshape(-1, 5)
        for own in lists
    ]
    errors = [
        edit_distances([reference] * len(own), [h.words for h in own])
        for reference, own in zip(words, lists, strict=True)
    ]

    def best_of(*axes: Iterable[float]) -> Weights:
        tried = []
        for w in itertools.starmap(Weights, itertools.product(*axes)):
            factors = np.array([1.0, w.lm, w.length, w.unknown, w.neural])
            wrong = sum(int(own[(part @ factors).argmax()]) for part, own in zip(parts, errors, strict=True))
            tried.append(Trial(w, 100 * wrong / total, "rescoring" if searched else "choice"))
        trials.extend(tried)
        return min(tried, key=lambda trial: _worth(trial, near)).weights

    has_lm = search.model is not None
    strangers = has_lm and any(part[:, 3].any() for part in parts)
    coarse = best_of(
        sorted({*LM_WEIGHTS, near.lm}) if has_lm else (0.0,),
        sorted({*LENGTH_WEIGHTS, near.length}),
        (near.unknown,) if searched else UNKNOWN_WEIGHTS if strangers else (Weights().unknown,),
        NEURAL_WEIGHTS if searched else (0.0,),
    )
    return best_of(
        _around(coarse.lm, 0.125, 0.0) if has_lm else (0.0,),
        _around(coarse.length, 0.5, -math.inf),
        (coarse.unknown,),
        _around(coarse.neural, 0.125, 0.0) if searched else (0.0,),
    )


def _around(value: float, step: float, least: float) -> tuple[float, ...]:
    return tuple(v for v in (value - step, value, value + step) if v >= least)
