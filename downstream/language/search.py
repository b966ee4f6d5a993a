"""What a search for words is made of: symbols, language model, lexicon, weights; and what it finds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from wavbench.downstream.language.ngrams import UNKNOWN, LanguageModel
from wavbench.upstream.errors import UserError

BLANK = ""  # of CTC, among the symbols of the classes
SPACE = " "  # between words
WORD, BEST = -1, -2  # keys of nodes of a lexicon's tree, beside classes
BOUNDARIES = ("▁", "|")  # what a model of characters writes for SPACE, since tokens hold none


@dataclass(frozen=True)
class Weights:
    """What counts besides the sound; of natural logarithms of probabilities.

    Args:
        lm: of the language model's probability.
        length: added for each word, or each symbol where the model is of symbols.
        unknown: added for each word that the model does not know, besides `lm` times the probability of `<unk>`.
        neural: of the neural language model's probability, in rescoring.
    """

    lm: float = 0.5
    length: float = 1.0
    unknown: float = -5.0
    neural: float = 0.0


@dataclass(frozen=True)
class Hypothesis:
    """What an utterance may be, with all that its score is made of.

    Args:
        classes: of its symbols, without CTC's blanks.
        words: the symbols joined and parted at spaces; the symbols themselves where they are not written together.
        acoustic: natural logarithm of the probability of `classes`, over all their alignments.
        lm: natural logarithm of the language model's probability, the end of the sentence included.
        length: words, or symbols where the model is of symbols.
        unknown: words among them that the model does not know.
        neural: natural logarithm of the neural model's probability; 0 before rescoring.
    """

    classes: tuple[int, ...]
    words: tuple[str, ...]
    acoustic: float
    lm: float
    length: int
    unknown: int
    neural: float = 0.0

    def score(self, weights: Weights) -> float:
        known = weights.lm * self.lm + weights.length * self.length + weights.unknown * self.unknown
        return self.acoustic + known + weights.neural * self.neural


@dataclass(frozen=True, kw_only=True)
class Search:
    """How outputs become hypotheses.

    Args:
        symbols: one for each class in the order of the outputs; BLANK is CTC's blank, SPACE parts words.
        model: None searches by sound alone.
        unit: "word" or "symbol": what the tokens of `model` are.
        lexicon: the only words that may be written; None allows any.
        together: symbols are written without blanks between them (characters; phones are not).
        beam: hypotheses kept from frame to frame.
        threshold: natural logarithm; hypotheses so far below the best are dropped.
        class_floor: natural logarithm of a probability; classes below it start no symbol in a frame.
        skip: frames whose blank is likelier than this say nothing but blank; 1 looks at every frame.

    Raises:
        UserError: symbols, model and lexicon do not fit each other.
    """

    symbols: tuple[str, ...]
    model: LanguageModel | None = None
    unit: str = "word"
    lexicon: Collection[str] | None = None
    together: bool = True
    beam: int = 48
    threshold: float = 16.0
    class_floor: float = -6.0
    skip: float = 0.9999
    blank: int = field(init=False)
    space: int = field(init=False)  # -1 where there is none

    def __post_init__(self) -> None:
        counted = ", ".join(repr(symbol) for symbol in self.symbols[:40])
        if self.symbols.count(BLANK) != 1 or len(set(self.symbols)) != len(self.symbols):
            raise UserError(
                "the symbols of a CTC head are one for each class, one of them its blank",
                why=f"expected '' once and every other symbol once, in the order of the outputs; given: {counted}",
                remedy="the vocabulary that is saved with the head",
            )
        if self.unit not in ("word", "symbol"):
            raise UserError(f"unit={self.unit} is not known", remedy="unit=word or unit=symbol")
        if self.beam < 1:
            raise UserError(f"beam={self.beam} is not possible", remedy="at least 1")
        by_word = self.lexicon is not None or (self.model is not None and self.unit == "word")
        if by_word and not self.together:
            raise UserError(
                "these symbols are not written together, so they spell no words",
                remedy="a language model of the symbols: unit=symbol, and no lexicon",
            )
        if self.model is not None and self.unit == "symbol":
            self._refuse_other_symbols(counted)
        object.__setattr__(self, "blank", self.symbols.index(BLANK))
        object.__setattr__(self, "space", self.symbols.index(SPACE) if SPACE in self.symbols else -1)
        if by_word:
            self._refuse_other_words(counted)

    def _refuse_other_symbols(self, counted: str) -> None:
        lacking = [s for s in self.symbols if s != BLANK and self.token_of(s) not in self.model.tokens]
        if len(lacking) * 2 > len(self.symbols) - 1 or SPACE in lacking:
            shown = ", ".join(repr(token) for token in sorted(self.model.tokens)[:20])
            raise UserError(
                f"the language model knows {len(self.symbols) - 1 - len(lacking)} of {len(self.symbols) - 1} symbols",
                why=f"symbols: {counted}; its tokens begin with {shown}"
                + (f"; a blank between words is {' or '.join(BOUNDARIES)} there" if SPACE in lacking else ""),
                remedy="a model of the symbols of the same transcripts, or unit=word if it is one of words",
            )

    def _refuse_other_words(self, counted: str) -> None:
        words = self.lexicon if self.lexicon is not None else self.model.tokens
        known = set(self.symbols) - {SPACE}
        if not any(set(word) <= known for word in words):
            raise UserError(
                "no word of the lexicon can be spelt with the head's symbols",
                why=f"symbols: {counted}; words such as {', '.join(map(repr, sorted(words)[:10]))}",
                remedy="the same case and script in both: words of transcripts that are normalised alike",
            )
        if self.space < 0 and self.model is not None and any(len(word) > 1 for word in words):
            raise UserError(
                "a language model of words needs a blank between words among the symbols",
                why=f"expected ' ' among {counted}",
                remedy="a head trained on transcripts with blanks, or a language model of characters",
            )

    def token_of(self, symbol: str) -> str:
        """What a model of symbols calls a symbol."""
        if symbol != SPACE or self.model is None:
            return symbol
        return next((sign for sign in BOUNDARIES if sign in self.model.tokens), BOUNDARIES[0])

    def words_of(self, classes: Sequence[int]) -> tuple[str, ...]:
        return self.written([self.symbols[k] for k in classes])

    def written(self, symbols: Sequence[str]) -> tuple[str, ...]:
        """Symbols as words; themselves where they are not written together."""
        return tuple("".join(symbols).split() if self.together else symbols)

    @cached_property
    def tree(self) -> dict:
        """The known words as a tree of classes. WORD holds the word that ends at a node, BEST the natural logarithm of
        the likeliest word's probability behind it."""
        root: dict = {BEST: 0.0}
        classes = {symbol: k for k, symbol in enumerate(self.symbols) if k not in (self.blank, self.space)}
        for word in self.lexicon if self.lexicon is not None else self.model.tokens:
            if not word or not set(word) <= classes.keys():
                continue
            single = self.model.score(nothing(self.model), word)[0] if self.model else 0.0
            node = root
            for letter in word:
                node = node.setdefault(classes[letter], {BEST: single})
                node[BEST] = max(node[BEST], single)
            node[WORD] = word
        return root


def nothing(model: LanguageModel) -> object:
    """A state without a past."""
    return model.score(model.start(), UNKNOWN)[1]
