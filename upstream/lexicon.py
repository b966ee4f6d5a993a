"""Words to phones through a lexicon file: there is no guessing, words that it lacks are listed."""

import re
from dataclasses import dataclass
from pathlib import Path

from wavbench.upstream.corpus import read_lines
from wavbench.upstream.errors import UserError

_ALTERNATIVE = re.compile(r"\(\d+\)$")  # WORD(2): a further pronunciation
_STRESS = re.compile(r"(?<=[A-Z])[012]$")
_NUMBER = re.compile(r"[-+]?\d*\.\d+([eE][-+]?\d+)?")  # a probability before the phones


@dataclass(frozen=True)
class Lexicon:
    """First pronunciation of each word, by the word in lower case."""

    path: Path
    phones: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.phones)

    def of(self, text: str) -> tuple[list[str], list[str]]:
        """Phones of a text, and the words that are not in the lexicon."""
        phones, absent = [], []
        for word in text.split():
            found = self.phones.get(word.lower())
            if found is None:
                absent.append(word)
            else:
                phones += found
        return phones, absent


def read_lexicon(path: Path | str, *, stress: bool = True) -> Lexicon:
    """Read a lexicon: a word, blanks or a tab, its phones, one pronunciation a line.

    CMUdict, LibriSpeech's lexicon and Kaldi's `lexicon.txt` and `lexiconp.txt` (a probability behind the word) are of
    this form. Of several pronunciations the first counts, as in SUPERB.

    Args:
        stress: keep the digits of ARPAbet vowels (AH0); without, AH0, AH1 and AH2 are one phone.

    Raises:
        UserError: the file is missing, is no text, or a line has a word and no phones.
    """
    path, phones = Path(path), {}
    for number, line in read_lines(path, "the lexicon"):
        if line.startswith((";;;", "##")):
            continue
        word, *sounds = line.split()
        if sounds and _NUMBER.fullmatch(sounds[0]):
            sounds = sounds[1:]
        if not sounds:
            raise UserError(
                f"the lexicon has no phones for {word[:40]!r}",
                where=f"{path}, line {number}",
                remedy="write a word and its phones with blanks between: hello HH AH0 L OW1",
            )
        if not stress:
            sounds = [_STRESS.sub("", sound) for sound in sounds]
        phones.setdefault(_ALTERNATIVE.sub("", word).lower(), tuple(sounds))
    if not phones:
        raise UserError("the lexicon is empty", where=path, remedy="write a word and its phones per line")
    return Lexicon(path, phones)
