"""How transcripts are normalised, in one place: one rule per way of the field, named in the manifest's description.

A rule is a function from (text, language) to text. Results depend on it, so its name and version go with every
imported corpus into the hash of the corpus.
"""

import re
import unicodedata
from collections.abc import Callable

VERSION = 1  # of all rules; another number is another corpus

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "`": "'", "´": "'"})
_JOINERS = "\u200c\u200d"  # zero-width, but part of the spelling in Persian and in Indic scripts
# scripts that write no blanks between words and are scored by character in the field
_CHARACTERS = re.compile(
    "["
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana and iteration marks
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "]"
)


def as_is(text: str, language: str) -> str:
    """The text itself, with single blanks and composed characters (NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def librispeech(text: str, language: str) -> str:
    """LibriSpeech's upper case to lower; letters, apostrophes and blanks are all it has."""
    return as_is(text.translate(_APOSTROPHES), language).lower()


def words(text: str, language: str) -> str:
    """Lower case without punctuation, as for Common Voice, MLS and FLEURS: what is said, not how it is written.

    Apostrophes within a word stay (one kind of them), hyphens and dashes part words, marks of scripts stay, Han and
    kana characters are words of their own, so that a word error rate over them is the character error rate the field
    reports.
    """
    text = _lower(unicodedata.normalize("NFC", text.translate(_APOSTROPHES)), language)
    kept = []
    for place, character in enumerate(text):
        if character == "'":
            inside = 0 < place < len(text) - 1 and text[place - 1].isalnum() and text[place + 1].isalnum()
            kept.append("'" if inside else " ")
        elif unicodedata.category(character)[0] in "LMN" or character in _JOINERS:
            kept.append(character)
        elif unicodedata.category(character) != "Cf":  # soft hyphens and direction marks vanish, the rest parts words
            kept.append(" ")
    return " ".join(_CHARACTERS.sub(r" \g<0> ", "".join(kept)).split())


def _lower(text: str, language: str) -> str:
    if language.partition("-")[0] in ("tr", "az"):  # two letters i, with a dot and without
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


RULES: dict[str, Callable[[str, str], str]] = {"as is": as_is, "librispeech": librispeech, "words": words}


def rule_name(rule: str) -> str:
    """A rule as it stands in a manifest's description and in the corpus hash."""
    return f"{rule} {VERSION}"


def normalise(rule: str, text: str, language: str) -> str:
    """A transcript by a rule of RULES.

    Args:
        rule: its name.
        text: as the corpus has it.
        language: BCP 47 tag, "" where unknown.
    """
    return RULES[rule](text, language)
