"""ARPA files of n-gram models: written for any program, read with every count and number checked."""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from wavbench.downstream.language.ngrams import BEGIN, END, UNKNOWN, Ngram, Ngrams
from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError

MAX_LINE = 10_000  # bytes
MAX_ORDER = 10
MAX_OWN = 5_000_000  # n-grams: 1.5 GB of dictionaries, a minute of reading; larger files go to KenLM
LN_10 = math.log(10)
NEVER = -99.0  # log10 of the probability of <s>, as other programs write it


def write_arpa(model: Ngrams, path: Path) -> None:
    """Write a model as text that KenLM, SRILM and `read_arpa` read; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_in(path.parent, ".arpa")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(_lines(model))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lines(model: Ngrams) -> Iterator[str]:
    orders: list[list[Ngram]] = [[] for _ in range(model.order)]
    for ngram in model.probabilities:
        orders[len(ngram) - 1].append(ngram)
    yield "\\data\\\n"
    yield from (f"ngram {length}={len(ngrams)}\n" for length, ngrams in enumerate(orders, start=1))
    for length, ngrams in enumerate(orders, start=1):
        yield f"\n\\{length}-grams:\n"
        for ngram in sorted(ngrams):
            value = NEVER if ngram == (BEGIN,) else min(model.probabilities[ngram] / LN_10, 0.0)
            backoff = model.backoffs.get(ngram)
            last = f"\t{backoff / LN_10:.9g}" if backoff is not None else ""
            yield f"{value:.9g}\t{' '.join(ngram)}{last}\n"
    yield "\n\\end\\\n"


def read_arpa(path: Path) -> Ngrams:
    """A model from an ARPA file, or a gzipped one.

    Args:
        path: of anybody's making: lines and counts are bounded, every number, count and context is checked.

    Raises:
        UserError: names the line that is wrong.
    """
    reader = _Reader(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            return reader.read(file)
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, OverflowError) as error:
        raise reader.wrong("it cannot be read as text", str(error)[:200]) from None


def counts_of(path: Path) -> list[int]:
    """How many n-grams of each length a file says it has; see `read_arpa`."""
    reader = _Reader(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            return reader.header(file)
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise reader.wrong("it cannot be read as text", str(error)[:200]) from None


class _Reader:
    """Reads one file and knows the line it is at."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 0

    def wrong(self, what: str, why: str = "") -> UserError:
        return UserError(
            f"this is no sound ARPA file: {what}",
            where=f"{self.path}, line {self.line}",
            why=why,
            remedy="estimate it again: `wavbench lm text=FILE out=MODEL.arpa`, or KenLM's lmplz",
        )

    def next(self, file) -> str:
        """The next line that is not empty."""
        while True:
            line = file.readline(MAX_LINE + 1)
            self.line += 1
            if not line:
                raise self.wrong("it ends too early", "an ARPA file ends with \\end\\")
            if len(line) > MAX_LINE:
                raise self.wrong(f"a line of more than {MAX_LINE} bytes")
            if text := line.decode("utf-8").strip(" \t\r\n"):
                return text

    def header(self, file) -> list[int]:
        if (first := self.next(file)) != "\\data\\":
            raise self.wrong("it does not begin with \\data\\", f"it begins with {first[:40]!r}")
        counts: list[int] = []
        while (line := self.next(file)) != "\\1-grams:":
            name, _, number = line.partition("=")
            if name.split() != ["ngram", str(len(counts) + 1)] or not (number := number.strip()).isdecimal():
                raise self.wrong("its counts are not `ngram 1=...`, `ngram 2=...`, and so on", f"it says {line[:80]!r}")
            counts.append(int(number[:12]))
            if len(counts) > MAX_ORDER:
                raise self.wrong(f"n-grams of more than {MAX_ORDER} tokens")
        if not counts:
            raise self.wrong("it has no counts")
        return counts

    def read(self, file) -> Ngrams:
        counts = self.header(file)
        if sum(counts) > MAX_OWN:
            raise UserError(
                f"{sum(counts):,} n-grams are more than fit in memory without KenLM",
                where=self.path,
                why=f"up to {MAX_OWN:,} are read by wavbench itself",
                remedy='pip install "wavbench[lm]", or prune the model',
            )
        probabilities: dict[Ngram, float] = {}
        backoffs: dict[Ngram, float] = {}
        for length, count in enumerate(counts, start=1):
            if length > 1 and (line := self.next(file)) != f"\\{length}-grams:":
                raise self.wrong(
                    f"\\{length}-grams: is missing",
                    f"line {line[:80]!r} stands after the {counts[length - 2]} n-grams that its head promises",
                )
            for _ in range(count):
                self.ngram(self.next(file), length, length == len(counts), probabilities, backoffs)
        if (line := self.next(file)) != "\\end\\":
            raise self.wrong("\\end\\ is missing", f"line {line[:80]!r} stands in its place: is the count right?")
        if len(file.read(MAX_LINE)) == MAX_LINE:  # an archive's checksum is looked at where it ends
            raise self.wrong("text follows \\end\\", "is it two files in one?")
        if missing := [mark for mark in (BEGIN, END) if (mark,) not in probabilities]:
            raise self.wrong(f"it has no {' and no '.join(missing)}", "sentences have no ends")
        return Ngrams(len(counts), probabilities, backoffs)

    def ngram(
        self, line: str, length: int, longest: bool, probabilities: dict[Ngram, float], backoffs: dict[Ngram, float]
    ) -> None:
        """Take one line of n-grams over."""
        parts = [part for part in line.replace("\t", " ").split(" ") if part]
        has_backoff = len(parts) == length + 2 and not longest
        if len(parts) != length + 1 and not has_backoff:
            raise self.wrong(f"{line[:80]!r} is no {length}-gram", "log10 of its probability, its tokens, its back-off")
        ngram = tuple(parts[1 : length + 1])
        if ngram in probabilities:
            raise self.wrong(f"{' '.join(ngram)!r} stands there twice")
        if length > 1 and (ngram[:-1] not in probabilities or ngram[-1:] not in probabilities):
            raise self.wrong(f"{' '.join(ngram)!r} has parts that are no n-grams of the file")
        value = self.number(parts[0])
        if value > 0:
            raise self.wrong(f"{parts[0]} is no log10 of a probability", "it is above zero")
        probabilities[ngram] = value * LN_10
        if has_backoff:
            backoffs[ngram] = self.number(parts[-1]) * LN_10

    def number(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise self.wrong(f"{text[:40]!r} is no number") from None
        if not math.isfinite(value) and value != -math.inf:
            raise self.wrong(f"{text[:40]!r} is no log10 of a weight")
        return max(value, NEVER - 1)


class Kenlm:
    """A large ARPA file through KenLM, with the answers of `Ngrams` up to its single precision.

    Args:
        path: of the file.

    Raises:
        UserError: KenLM is not installed or refuses the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            import kenlm
        except ImportError as error:
            raise UserError(
                "a language model of this size needs KenLM",
                where=path,
                why=str(error),
                remedy='pip install "wavbench[lm]", or prune the model',
            ) from error
        try:
            options = kenlm.Config()
            options.show_progress = False
            self._model = kenlm.Model(str(path), options)
        except (OSError, RuntimeError) as error:
            raise UserError("KenLM cannot read this file", where=path, why=str(error)[:300]) from None
        self._state = kenlm.State
        self.order = self._model.order
        self.tokens = _unigrams(path)

    def start(self):
        state = self._state()
        if self.order > 1:
            self._model.BeginSentenceWrite(state)
        else:
            self._model.NullContextWrite(state)
        return state

    def score(self, state, token: str) -> tuple[float, object]:
        """See `Ngrams.score`."""
        following = self._state()
        return self._model.BaseScore(state, token, following) * LN_10, following


def _unigrams(path: Path) -> frozenset[str]:
    """The tokens of a file that KenLM has found sound."""
    reader = _Reader(path)
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        count = reader.header(file)[0]
        lines = (reader.next(file).replace("\t", " ").split(" ") for _ in range(count))
        return frozenset([part for part in line if part][1] for line in lines) - {BEGIN, END, UNKNOWN}
