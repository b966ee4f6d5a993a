"""Prefix beam search for CTC, with a language model of words or of the symbols themselves.

Source: Hannun et al. 2014, First-pass large vocabulary continuous speech recognition, algorithm 1.
"""

import math
from dataclasses import replace
from heapq import nlargest

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from wavbench.downstream.ngrams import END, UNKNOWN
from wavbench.downstream.search import BEST, WORD, Hypothesis, Search, Weights, nothing


class _Prefix:
    """What has been written so far; equal prefixes are one object, so that each is scored once."""

    __slots__ = (
        "ahead",
        "blank",
        "children",
        "last",
        "length",
        "lm",
        "next_blank",
        "next_symbol",
        "node",
        "parent",
        "seen",
        "state",
        "symbol",
        "unknown",
    )

    def __init__(self, parent: "_Prefix | None", last: int, state: object, node: dict | None) -> None:
        self.parent, self.last = parent, last
        self.state = state  # of the model, after the last whole word or symbol
        self.node = node  # of the tree, within a word; None where no known word goes on like this
        self.children: dict[int, _Prefix | None] = {}
        self.lm, self.length, self.unknown = (parent.lm, parent.length, parent.unknown) if parent else (0.0, 0, 0)
        self.ahead = 0.0  # weighted score besides the sound, with an outlook on the word begun
        self.blank = self.symbol = 0.0  # shares of paths that end in CTC's blank, or in the last symbol
        self.next_blank = self.next_symbol = 0.0
        self.seen = -1  # frame that `next_` belong to

    def classes(self) -> tuple[int, ...]:
        written, prefix = [], self
        while prefix.parent is not None:
            written.append(prefix.last)
            prefix = prefix.parent
        return tuple(reversed(written))


class _Writer:
    """Makes prefixes of one utterance and keeps their scores."""

    def __init__(self, search: Search, weights: Weights) -> None:
        self.search, self.weights, self.model = search, weights, search.model
        self.by_word = search.lexicon is not None or (search.model is not None and search.unit == "word")
        self.tree = search.tree if self.by_word else None
        self.tokens = [search.token_of(symbol) for symbol in search.symbols]
        start = self.model.start() if self.model else ()
        self.root = _Prefix(None, -1, start, self.tree)
        # what a word costs that the model does not know, as far as it can be seen before the word has ended
        self.stranger = weights.lm * (self.model.score(nothing(self.model), UNKNOWN)[0] if self.model else 0.0)
        self.stranger += weights.unknown

    def _weighted(self, prefix: _Prefix) -> float:
        w = self.weights
        return w.lm * prefix.lm + w.length * prefix.length + w.unknown * prefix.unknown

    def child(self, prefix: _Prefix, symbol: int) -> _Prefix | None:
        """The prefix with one more symbol; None where no word goes on like this."""
        made = self._child(prefix, symbol)
        prefix.children[symbol] = made
        return made

    def _child(self, prefix: _Prefix, symbol: int) -> _Prefix | None:
        made = _Prefix(prefix, symbol, prefix.state, prefix.node)
        if not self.by_word:
            made.length += 1
            if self.model is not None:
                value, made.state = self.model.score(prefix.state, self.tokens[symbol])
                made.lm += value
            made.ahead = self._weighted(made)
            return made
        if symbol == self.search.space:
            if not self.end_word(made):
                return None
            made.ahead = self._weighted(made)
            return made
        made.node = prefix.node.get(symbol) if prefix.node is not None else None
        if made.node is None and self.search.lexicon is not None:
            return None
        outlook = self.weights.lm * made.node[BEST] if made.node is not None else self.stranger
        made.ahead = self._weighted(made) + outlook + self.weights.length
        return made

    def end_word(self, prefix: _Prefix) -> bool:
        """Score the word that ends here, if one has begun; False where it is none that may be written."""
        if prefix.node is self.tree:
            return True
        word = prefix.node.get(WORD) if prefix.node is not None else None
        if word is None:
            if self.search.lexicon is not None:
                return False
            word = UNKNOWN
        if self.model is not None:
            value, prefix.state = self.model.score(prefix.state, word)
            prefix.lm += value
            prefix.unknown += word not in self.model.tokens
        prefix.length += 1
        prefix.node = self.tree
        return True

    def ended(self, prefix: _Prefix) -> tuple[tuple[int, ...], float, int, int]:
        """Classes, language model's score, length and unknown words of a prefix as a whole sentence.

        A word that has only begun when the sound ends is cut off where the lexicon has no such word.
        """
        end = _Prefix(prefix, prefix.last, prefix.state, prefix.node)
        if self.by_word and not self.end_word(end):
            while prefix.node is not self.tree:
                prefix = prefix.parent
            end = _Prefix(prefix, prefix.last, prefix.state, prefix.node)
        if self.model is not None:
            end.lm += self.model.score(end.state, END)[0]
        return prefix.classes(), end.lm, end.length, end.unknown


def search_beam(
    log_probabilities: Float[np.ndarray, "frames classes"], search: Search, weights: Weights, count: int = 1
) -> list[Hypothesis]:
    """The likeliest hypotheses of one utterance, the best first.

    Prefixes are ranked by the sum over those of their alignments that stayed in the beam; what is returned is scored
    over all of its alignments, so that one hypothesis has one score whatever beam has found it.

    Args:
        log_probabilities: natural logarithms; see `refuse_other_outputs`.
        count: hypotheses wanted; of those with the same words only the best counts.
    """
    writer = _Writer(search, weights)
    several: dict[tuple[int, ...], tuple[float, Hypothesis]] = {}
    for share, prefix in _prefixes(log_probabilities, search, writer):
        classes, lm, length, unknown = writer.ended(prefix)
        hypothesis = Hypothesis(classes, search.words_of(classes), share, lm, length, unknown)
        several.setdefault(classes, (hypothesis.score(weights), hypothesis))
    likely = [hypothesis for _, hypothesis in nlargest(max(2 * count, 8), several.values(), key=_first)]
    acoustic = exact_scores(log_probabilities, [hypothesis.classes for hypothesis in likely], search.blank)
    found: dict[tuple[str, ...], tuple[float, Hypothesis]] = {}
    for hypothesis, sound in zip(likely, acoustic, strict=True):
        hypothesis = replace(hypothesis, acoustic=sound)
        score = hypothesis.score(weights)
        if hypothesis.words not in found or score > found[hypothesis.words][0]:
            found[hypothesis.words] = (score, hypothesis)
    return [hypothesis for _, hypothesis in nlargest(count, found.values(), key=_first)]


def _prefixes(outputs: np.ndarray, search: Search, writer: _Writer) -> list[tuple[float, _Prefix]]:
    """The prefixes that the last frame leaves, with natural logarithms of their shares.

    Shares of paths are plain numbers, scaled frame by frame: a product costs a tenth of a sum of logarithms.
    """
    probabilities = np.exp(outputs.astype(np.float64))
    rows = probabilities.tolist()
    starts = (outputs >= search.class_floor) | (outputs == outputs.max(axis=1, keepdims=True))
    starts[:, search.blank] = False
    blank, beam, floor = search.blank, search.beam, math.exp(-700)
    writer.root.blank = 1.0
    prefixes = [writer.root]
    for frame, row in enumerate(rows):
        if row[blank] > search.skip:
            for prefix in prefixes:
                prefix.blank, prefix.symbol = prefix.blank + prefix.symbol, 0.0
            continue
        fresh = [(k, row[k]) for k in np.flatnonzero(starts[frame]).tolist()]
        touched = []
        for prefix in prefixes:
            last, in_blank, in_symbol = prefix.last, prefix.blank, prefix.symbol
            both = in_blank + in_symbol
            if prefix.seen != frame:
                prefix.seen, prefix.next_blank, prefix.next_symbol = frame, 0.0, 0.0
                touched.append(prefix)
            prefix.next_blank += both * row[blank]
            if last >= 0:
                prefix.next_symbol += in_symbol * row[last]
            children = prefix.children
            for symbol, probability in fresh:
                share = (in_blank if symbol == last else both) * probability
                if share == 0.0:
                    continue
                child = children[symbol] if symbol in children else writer.child(prefix, symbol)
                if child is None:
                    continue
                if child.seen != frame:
                    child.seen, child.next_blank, child.next_symbol = frame, 0.0, 0.0
                    touched.append(child)
                child.next_symbol += share
        largest = max(prefix.next_blank + prefix.next_symbol for prefix in touched)
        scale = 1.0 / largest if largest > 0 else 1.0
        ranked = []
        for prefix in touched:
            prefix.blank, prefix.symbol = prefix.next_blank * scale, prefix.next_symbol * scale
            ranked.append((math.log(max(prefix.blank + prefix.symbol, floor)) + prefix.ahead, prefix))
        if len(ranked) > beam:
            ranked = nlargest(beam, ranked, key=_first)
        least = max(ranked, key=_first)[0] - search.threshold
        prefixes = [prefix for score, prefix in ranked if score >= least]
    return [(math.log(max(prefix.blank + prefix.symbol, floor)), prefix) for prefix in prefixes]


def _first(pair: tuple) -> float:
    return pair[0]


def exact_scores(
    log_probabilities: Float[np.ndarray, "frames classes"], hypotheses: list[tuple[int, ...]], blank: int
) -> list[float]:
    """Natural logarithm of the probability of label sequences, over all their alignments."""
    if not len(log_probabilities):
        return [0.0 if not classes else -math.inf for classes in hypotheses]
    outputs = torch.from_numpy(np.ascontiguousarray(log_probabilities, np.float64))
    losses = F.ctc_loss(
        outputs[:, None].expand(-1, len(hypotheses), -1),
        torch.tensor([k for classes in hypotheses for k in classes], dtype=torch.long),
        torch.full((len(hypotheses),), len(outputs)),
        torch.tensor([len(classes) for classes in hypotheses]),
        blank=blank,
        reduction="none",
    )
    return (-losses).tolist()


def symbol_frames(
    log_probabilities: Float[np.ndarray, "frames classes"], classes: tuple[int, ...], blank: int
) -> list[tuple[int, int]]:
    """The first and the last frame of each symbol on the likeliest alignment of a label sequence.

    Args:
        log_probabilities: natural logarithms.
        classes: as many as fit into the frames, those of a Hypothesis for one.
        blank: class of CTC's blank.

    Returns:
        Pairs of frames, both inclusive; a CTC head spikes, so that a symbol is often one frame long.
    """
    if not classes:
        return []
    states = np.full(2 * len(classes) + 1, blank)
    states[1::2] = classes
    jumps = np.zeros(len(states), bool)  # past a blank, which two equal symbols need between them
    jumps[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probabilities[0, states[:2]]
    steps = np.zeros((len(log_probabilities), len(states)), np.int8)
    for frame in range(1, len(log_probabilities)):
        ways = np.full((3, len(states)), -np.inf)
        ways[0], ways[1, 1:] = scores, scores[:-1]
        ways[2, 2:] = np.where(jumps[2:], scores[:-2], -np.inf)
        steps[frame] = ways.argmax(axis=0)
        scores = ways.max(axis=0) + log_probabilities[frame, states]
    place = len(states) - 1 if scores[-1] >= scores[-2] else len(states) - 2
    bounds = [[0, 0] for _ in classes]
    last = -1
    for frame in range(len(log_probabilities) - 1, -1, -1):
        if place % 2:
            if place != last:
                bounds[place // 2][1] = frame
            bounds[place // 2][0] = frame
        last = place
        place -= int(steps[frame, place])
    return [(first, end) for first, end in bounds]
