"""Labels as text: vocabularies and timed phones."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import phones_of

SILENCE = ("SIL", "sil", "SP", "sp", "<sil>")
IGNORED = -1  # class of frames that are neither trained on nor scored


@dataclass(frozen=True)
class Segment:
    """One phone in time.

    Args:
        start: seconds.
        end: seconds.
        phone: its symbol, one of SILENCE where nobody speaks.
    """

    start: float
    end: float
    phone: str


@dataclass(frozen=True)
class Vocabulary:
    """Symbols with their indices, from training data alone."""

    symbols: tuple[str, ...]

    @classmethod
    def of(cls, symbols: Iterable[str]) -> "Vocabulary":
        return cls(tuple(sorted(set(symbols))))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, symbols: Iterable[str], where: str) -> list[int]:
        """Indices of symbols.

        Raises:
            UserError: a symbol that training data does not have.
        """
        index = {symbol: number for number, symbol in enumerate(self.symbols)}
        try:
            return [index[symbol] for symbol in symbols]
        except KeyError as error:
            raise UserError(
                f"{error.args[0]!r} occurs in {where} and never in train",
                why=f"train has {', '.join(self.symbols[:40])}",
                remedy="move utterances with it into train, or leave it out of the manifest",
            ) from None


def segments_of(row: dict, longest: float) -> list[Segment]:
    """The phones of a row that can be believed: not empty, and in speech not longer than `longest` seconds."""
    phones, ends = phones_of(row)
    segments, before = [], 0.0
    for phone, end in zip(phones, ends, strict=False):
        if before < end and (phone in SILENCE or end - before <= longest):
            segments.append(Segment(before, float(end), phone))
        before = float(end)
    return segments


def frame_labels(
    segments: list[Segment], frames: int, frame_rate: float, vocabulary: Vocabulary
) -> Int[np.ndarray, " f"]:
    """The class of each frame by its centre; IGNORED where no segment, or more than one, claims it."""
    index = {symbol: number for number, symbol in enumerate(vocabulary.symbols)}
    centres = (np.arange(frames) + 0.5) / frame_rate
    labels, claims = np.full(frames, IGNORED), np.zeros(frames, int)
    for segment in segments:
        first, last = np.searchsorted(centres, (segment.start, segment.end))
        labels[first:last] = index.get(segment.phone, IGNORED)
        claims[first:last] += 1
    labels[claims > 1] = IGNORED
    return labels
