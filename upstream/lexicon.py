"""Words to phones through a lexicon file: there is no guessing, words that it lacks are listed."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wavbench.upstream import transcripts
from wavbench.upstream.corpus import need_file, read_lines
from wavbench.upstream.errors import UserError

COMMENTS = (";;;", "##")  # what a line that is no word begins with
REMARK = "#"  # a field of its own in CMUdict's newer files: what follows is a remark

_ALTERNATIVE = re.compile(r"(?<=.)\(\d+\)$")  # WORD(2): a further pronunciation
_STRESS = re.compile(r"(?<=[A-Z])[012]$")
_NUMBER = re.compile(r"[-+]?(\d*\.\d+|\d+\.?)([eE][-+]?\d+)|[-+]?\d*\.\d+")  # a probability before the phones


@dataclass(frozen=True)
class Lexicon:
    """First pronunciation of each word, by the word in lower case with one kind of apostrophe."""

    path: Path
    phones: dict[str, tuple[str, ...]]
    stress: bool = True

    def __len__(self) -> int:
        return len(self.phones)

    def of(self, text: str) -> tuple[list[str], list[str]]:
        """Phones of a text, and the words that are not in the lexicon.

        Punctuation around a word counts only where the lexicon has the word with it; alone it is no word.
        """
        phones, absent = [], []
        for word in _key(text).split():
            bare = _bare(word)
            found = next((self.phones[form] for form in (word, _bare(word, "'"), bare) if form in self.phones), None)
            if found:
                phones += found
            elif bare:
                absent.append(bare)
        return phones, absent

    def of_all(self, texts: Iterable[str]) -> tuple[list[str], dict[str, int]]:
        """Phones of each text, "" where a word is absent, and how often each of those words occurs."""
        phones, missing = [], Counter()
        for text in texts:
            found, absent = self.of(text)
            phones.append("" if absent else " ".join(found))
            missing.update(absent)
        return phones, dict(missing)

    def facts(self) -> dict[str, object]:
        """What a description says of it."""
        digest = hashlib.blake2b(self.path.read_bytes(), digest_size=16).hexdigest()
        return {"name": self.path.name, "hash": digest, "words": len(self), "stress": self.stress}


def read_lexicon(path: Path | str, *, stress: bool = True) -> Lexicon:
    """Read a lexicon: a word, blanks or a tab, its phones, one pronunciation a line.

    CMUdict, LibriSpeech's lexicon and Kaldi's `lexicon.txt`, `lexiconp.txt` and `lexiconp_silprob.txt` (probabilities
    with a decimal point behind the word) are of this form. Of several pronunciations the first counts, as in SUPERB.

    Args:
        stress: keep the digits of ARPAbet vowels (AH0); without, AH0, AH1 and AH2 are one phone.

    Raises:
        UserError: the file is missing, is no text, or a line has a word and no phones.
    """
    path, phones = Path(path), {}
    for number, line in read_lines(path, "the lexicon", encoding=_encoding(path)):
        if line.startswith(COMMENTS):
            continue
        word, *sounds = line.split()
        if REMARK in sounds:
            sounds = sounds[: sounds.index(REMARK)]
        while sounds and _NUMBER.fullmatch(sounds[0]):
            sounds = sounds[1:]
        if not sounds:
            raise UserError(
                f"the lexicon has no phones for {word[:40]!r}",
                where=f"{path}, line {number}",
                remedy="write a word and its phones with blanks between: hello HH AH0 L OW1",
            )
        if not stress:
            sounds = [_STRESS.sub("", sound) for sound in sounds]
        phones.setdefault(_key(_ALTERNATIVE.sub("", word)), tuple(sounds))
    if not phones:
        raise UserError("the lexicon is empty", where=path, remedy="write a word and its phones per line")
    return Lexicon(path, phones, stress)


def _key(text: str) -> str:
    return transcripts.librispeech(text, "")


def _bare(word: str, keep: str = "") -> str:
    """A word without what is no letter, mark or number at its ends, nor one of `keep`."""
    inside = [k for k, character in enumerate(word) if unicodedata.category(character)[0] in "LMN" or character in keep]
    return word[inside[0] : inside[-1] + 1] if inside else ""


def _encoding(path: Path) -> str:
    """UTF-8, but Latin-1 for the releases of CMUdict that are in it: they are known by the first line, a comment."""
    with open(need_file(path, "the lexicon"), "rb") as file:
        if not file.readline().startswith(COMMENTS[0].encode()):
            return "utf-8"
        try:
            for line in file:
                line.decode()
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8"
