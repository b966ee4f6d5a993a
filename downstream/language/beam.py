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

from wavbench.downstream.language.ngrams import END, UNKNOWN
from wavbench.downstream.language.search import BEST, WORD, Hypothesis, Search, Weights, nothing


class _Prefix:
    """What has been written so far; equal prefixes are one object, so that each is scored once."""

    __slots__ = (
        "ahead",
        "base",
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
        self.base = 0.0  # the same without that outlook: of whole words or symbols
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

    def weigh(self, prefix: _Prefix) -> None:
        """Fill in what a prefix counts for besides the sound, once its words or symbols are scored."""
        w = self.weights
        prefix.base = w.lm * prefix.lm + w.length * prefix.length + w.unknown * prefix.unknown
        prefix.ahead = prefix.base

    def outlook(self, node: dict | None) -> float:
        """What a word counts for that has only begun: as much as the likeliest word it may become."""
        likeliest = self.stranger if node is None else self.weights.lm * node[BEST]
        return likeliest + self.weights.length

    def letter(self, prefix: _Prefix, symbol: int, node: dict | None) -> _Prefix:
        """The prefix with one more letter of a word, which leads to a node of the tree or out of it."""
        made = prefix.children[symbol] = _Prefix(prefix, symbol, prefix.state, node)
        made.base = prefix.base
        made.ahead = prefix.base + self.outlook(node)
        return made

    def child(self, prefix: _Prefix, symbol: int) -> _Prefix | None:
        """The prefix with one more symbol that the model scores; None for a space where no word ends."""
        made: _Prefix | None = _Prefix(prefix, symbol, prefix.state, prefix.node)
        if self.by_word:
            made = made if self.end_word(made) else None
        else:
            made.length += 1
            if self.model is not None:
                value, made.state = self.model.score(prefix.state, self.tokens[symbol])
                made.lm += value
        prefix.children[symbol] = made
        if made is not None:
            self.weigh(made)
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
    rows = np.exp(outputs.astype(np.float64)).tolist()
    starts = (outputs >= search.class_floor) | (outputs == outputs.max(axis=1, keepdims=True))
    starts[:, search.blank] = False
    blank = search.blank
    writer.root.blank = 1.0
    prefixes = [writer.root]
    for frame, row in enumerate(rows):
        if row[blank] > search.skip:
            for prefix in prefixes:
                prefix.blank, prefix.symbol = prefix.blank + prefix.symbol, 0.0
            continue
        for prefix in prefixes:  # those that write nothing new
            prefix.seen = frame
            prefix.next_blank = (prefix.blank + prefix.symbol) * row[blank]
            prefix.next_symbol = prefix.symbol * row[prefix.last] if prefix.last >= 0 else 0.0
        stays = [_log(prefix.next_blank + prefix.next_symbol) + prefix.ahead for prefix in prefixes]
        # what is below these has no place among the next prefixes, whatever else there is
        least = max(stays) - search.threshold
        if len(stays) >= search.beam:
            least = max(least, min(stays))
        touched, begun = list(prefixes), []
        for symbol in np.flatnonzero(starts[frame]).tolist():
            _write(prefixes, symbol, row[symbol], frame, least, writer, touched, begun)
        ranked = [(_log(prefix.next_blank + prefix.next_symbol) + prefix.ahead, prefix, None) for prefix in touched]
        ranked += begun
        if len(ranked) > search.beam:
            ranked = nlargest(search.beam, ranked, key=_first)
        least = max(ranked, key=_first)[0] - search.threshold
        prefixes = []
        for score, prefix, new in ranked:
            if score >= least:
                if new is not None:
                    symbol, node, share = new
                    prefix = writer.letter(prefix, symbol, node)
                    prefix.next_symbol = share
                prefixes.append(prefix)
        scale = 1.0 / max(max(prefix.next_blank + prefix.next_symbol for prefix in prefixes), 1e-300)
        for prefix in prefixes:
            prefix.blank, prefix.symbol = prefix.next_blank * scale, prefix.next_symbol * scale
    return [(_log(prefix.blank + prefix.symbol), prefix) for prefix in prefixes]


def _write(
    prefixes: list[_Prefix],
    symbol: int,
    probability: float,
    frame: int,
    least: float,
    writer: _Writer,
    touched: list[_Prefix],
    begun: list[tuple[float, _Prefix, tuple]],
) -> None:
    """Let every prefix write a symbol in a frame.

    Letters of words become prefixes of their own only once they are found to be among the best: most never are.

    Args:
        least: score that a new prefix must reach.
        touched: gets the prefixes that were not among `prefixes`.
        begun: gets a score, a prefix and how it goes on, for letters that no prefix has been made for yet.
    """
    is_letter, constrained = writer.by_word and symbol != writer.search.space, writer.search.lexicon is not None
    most = max(writer.weights.length, 0.0) + max(writer.weights.unknown, 0.0)  # that a whole word or symbol can gain
    for prefix in prefixes:
        share = (prefix.blank if symbol == prefix.last else prefix.blank + prefix.symbol) * probability
        if share == 0.0:
            continue
        child = prefix.children.get(symbol, prefix)  # itself: not made yet
        if child is prefix:
            sound = math.log(share)
            if is_letter:
                node = prefix.node.get(symbol) if prefix.node is not None else None
                if node is None and constrained:
                    prefix.children[symbol] = None
                    continue
                score = sound + prefix.base + writer.outlook(node)
                if score >= least:
                    begun.append((score, prefix, (symbol, node, share)))
                continue
            if sound + prefix.base + most < least:
                continue
            child = writer.child(prefix, symbol)
        if child is None:
            continue
        if child.seen != frame:
            child.seen, child.next_blank, child.next_symbol = frame, 0.0, 0.0
            touched.append(child)
        child.next_symbol += share


def _log(share: float) -> float:
    return math.log(share) if share > 0.0 else -math.inf


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
