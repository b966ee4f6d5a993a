"""Modified Kneser-Ney models of words or characters, estimated and asked with dictionaries alone."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from wavbench.upstream.errors import UserError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
LARGEST_ORDER = 6
MAX_NGRAMS = 20_000_000  # about 5 GB of dictionaries
MISSING = -100 * math.log(10)  # of <unk> in a model that has none, as in KenLM
FALLBACK = (0.5, 1.0, 1.5)  # discounts where counts of counts allow no estimate: those of KenLM's lmplz

Ngram = tuple[str, ...]


@runtime_checkable
class LanguageModel(Protocol):
    """What a search asks: a state is whatever of the past still matters, and may be a key of a dictionary."""

    tokens: Collection[str]  # that it knows, without those of BEGIN, END and UNKNOWN

    def start(self) -> object: ...

    def score(self, state: object, token: str) -> tuple[float, object]: ...


@dataclass(frozen=True)
class Ngrams:
    """Probabilities with back-off weights, as an ARPA file has them.

    Args:
        order: tokens of the longest n-gram.
        probabilities: natural logarithm of the last token's probability after those before it, of each n-gram.
        backoffs: natural logarithm of what is left for tokens never seen after an n-gram; 0 where it has none.
    """

    order: int
    probabilities: dict[Ngram, float]
    backoffs: dict[Ngram, float]

    @cached_property
    def tokens(self) -> frozenset[str]:
        return frozenset(ngram[0] for ngram in self.probabilities if len(ngram) == 1) - {BEGIN, END, UNKNOWN}

    def start(self) -> Ngram:
        """The state before the first token of a sentence."""
        return (BEGIN,) if self.order > 1 else ()

    def score(self, state: Ngram, token: str) -> tuple[float, Ngram]:
        """A token after a state.

        States are cut to what the model has n-grams for, so that pasts it cannot tell apart are equal.

        Args:
            state: of `start` or of the call before.
            token: UNKNOWN's probability is that of any token the model does not know; END ends a sentence.

        Returns:
            The natural logarithm of its probability, and the state after it.
        """
        probabilities = self.probabilities
        if (token,) not in probabilities:
            token = UNKNOWN
        weight = 0.0
        while (value := probabilities.get((*state, token))) is None:
            if not state:
                return weight + MISSING, ()
            weight += self.backoffs.get(state, 0.0)
            state = state[1:]
        state = (*state, token)
        if len(state) == self.order:
            state = state[1:]
            while state and state not in probabilities:  # files pruned by others may lack the end of an n-gram
                state = state[1:]
        return weight + value, state


@dataclass(frozen=True)
class Fit:
    """How well a model foretells sentences.

    Args:
        tokens: scored, the ends of sentences among them.
        unknown: tokens that the model does not know.
        perplexity: of all tokens, unknown ones with the probability of `<unk>`.
        perplexity_known: without the unknown ones, which other models may not have had to foretell.
    """

    tokens: int
    unknown: int
    perplexity: float
    perplexity_known: float


def fit_of(model: LanguageModel, sentences: Iterable[Sequence[str]]) -> Fit:
    """Perplexity of a model on sentences, each a sequence of tokens."""
    tokens, unknown, total, known = 0, 0, 0.0, 0.0
    for sentence in sentences:
        state = model.start()
        for token in (*sentence, END):
            value, state = model.score(state, token)
            new = token != END and token not in model.tokens
            tokens, unknown, total = tokens + 1, unknown + new, total + value
            known += 0.0 if new else value
    return Fit(
        tokens, unknown, math.exp(min(-total / max(tokens, 1), 700)), math.exp(-known / max(tokens - unknown, 1))
    )


def estimate(sentences: Iterable[Sequence[str]], order: int = 4, prune: bool = False) -> Ngrams:
    """An interpolated modified Kneser-Ney model.

    The highest order counts occurrences; every lower one counts the different tokens that precede an n-gram, but
    occurrences of those that begin a sentence, which nothing precedes. Single tokens are interpolated with an equal
    share for each known token, the end and `<unk>`, so that nothing has the probability zero.

    Args:
        sentences: of tokens, without the marks of their ends.
        order: 1 to 6.
        prune: leave out n-grams, of two tokens and more, that occur once; their mass goes to the back-off.

    Raises:
        UserError: another order, no sentences, or a token that is a mark of the model or holds a blank.

    Source: Chen & Goodman 1998, sections 4.1 and 4.2; Heafield et al. 2013, section 3, for the edges of sentences.
    """
    if not 1 <= order <= LARGEST_ORDER:
        raise UserError(f"order={order} is not possible", remedy=f"1 to {LARGEST_ORDER}")
    occurrences = _count(sentences, order)
    probabilities: dict[Ngram, float] = {}
    backoffs: dict[Ngram, float] = {}
    lower: dict[Ngram, float] = {}  # probabilities, no logarithms, of the order below
    for length in range(1, order + 1):
        counts = _adjusted(occurrences, length, order)
        discounts = _discounts(counts)
        sums: Counter[Ngram] = Counter()
        kept: dict[Ngram, int] = {}
        left: dict[Ngram, float] = {}  # mass of each context that is taken from the n-grams seen after it
        for ngram, count in counts.items():
            context = ngram[:-1]
            stays = length == 1 or not prune or occurrences[length][ngram] > 1
            sums[context] += count
            left[context] = left.get(context, 0.0) + (discounts[min(count, 3) - 1] if stays else count)
            if stays:
                kept[ngram] = count
        share = {context: mass / sums[context] for context, mass in left.items()}
        if length == 1:
            equal = share[()] / (len(counts) + 1)  # one more: <unk>
            current = {(UNKNOWN,): equal}
        else:
            current = {}
            backoffs |= {context: math.log(value) for context, value in share.items() if context in probabilities}
        for ngram, count in kept.items():
            context = ngram[:-1]
            rest = equal if length == 1 else share[context] * lower[ngram[1:]]
            current[ngram] = (count - discounts[min(count, 3) - 1]) / sums[context] + rest
        probabilities |= {ngram: math.log(value) for ngram, value in current.items()}
        if length == 1:
            probabilities[(BEGIN,)] = MISSING  # it has a back-off and is never foretold
        lower = current
    return Ngrams(order, probabilities, backoffs)


def _count(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Ngram]]:
    """How often each n-gram occurs, by its length; index 0 is empty."""
    counts: list[Counter[Ngram]] = [Counter() for _ in range(order + 1)]
    for number, sentence in enumerate(sentences, start=1):
        for token in sentence:
            if token in (BEGIN, END, UNKNOWN) or token.split() != [token]:
                raise UserError(
                    f"{token!r} cannot be a token of a language model",
                    where=f"sentence {number}",
                    why=f"{BEGIN}, {END} and {UNKNOWN} are marks of the model, and blanks stand between tokens",
                    remedy="take it out of the text",
                )
        marked = (BEGIN, *sentence, END)
        for length in range(1, order + 1):
            counts[length].update(zip(*(marked[k:] for k in range(length)), strict=False))
        if number % 1_000 == 0 and sum(map(len, counts)) > MAX_NGRAMS:
            raise UserError(
                f"the text has more than {MAX_NGRAMS:,} different n-grams",
                where=f"sentence {number}",
                remedy="a lower order, less text, or KenLM's lmplz, whose ARPA files wavbench reads",
            )
    if len(counts[1]) < 3:
        raise UserError("there is no text to estimate a language model from", remedy="at least one sentence of a word")
    return counts


def _adjusted(occurrences: list[Counter[Ngram]], length: int, order: int) -> dict[Ngram, int]:
    """Counts that probabilities are made of; BEGIN alone is never foretold and has none."""
    own = occurrences[length]
    if length < order:
        counts = Counter(longer[1:] for longer in occurrences[length + 1])
        counts.update({ngram: count for ngram, count in own.items() if ngram[0] == BEGIN})
        own = counts
    return {ngram: count for ngram, count in own.items() if ngram != (BEGIN,)}


def _discounts(counts: dict[Ngram, int]) -> tuple[float, ...]:
    """What is taken from n-grams that count 1, 2, and 3 or more.

    Source: Chen & Goodman 1998, eq. 26.
    """
    of_counts = Counter(counts.values())
    ones, twos, threes, fours = (of_counts[k] for k in (1, 2, 3, 4))
    if not (ones and twos and threes):
        return FALLBACK
    share = ones / (ones + 2 * twos)
    found = (1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes)
    return found if all(0 < value <= most for most, value in enumerate(found, start=1)) else FALLBACK
