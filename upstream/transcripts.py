"""How transcripts are normalised, in one place: one rule per way of the field, named in the manifest's description.

A rule is a function from (text, language) to text. Results depend on it, so its name and version go with every
imported corpus into the hash of the corpus. Every rule leaves what it made as it is.
"""

import re
import unicodedata
from collections.abc import Callable

VERSION = 1  # of all rules; another number is another corpus

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼ`´′׳", "'"))
_WIDE = re.compile(r"[\uff01-\uffee]+")  # full-width Latin and half-width kana: the same letters in another width
# nothing that is said: the elongation of Arabic letters, variants of characters (emoji among them), keycaps and circles
_UNSAID = re.compile("[\u0640\u0488\u0489\u20dd-\u20e4\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_JOINERS = "\u200c\u200d"  # zero-width, but part of the spelling in Persian and in Indic scripts
_INTERPUNCT = re.compile("(?<=[lL])[·‧](?=[lL])")  # Catalan: paral·lel is one word
# scripts that write no blanks between words and are scored by character in the field
_CHARACTERS = re.compile(
    "["
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana and iteration marks
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "][\u3099\u309a]*"  # voicing marks of kana that have no composed character
)


def as_is(text: str, language: str) -> str:
    """The text itself, with single blanks and composed characters (NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def librispeech(text: str, language: str) -> str:
    """LibriSpeech's upper case to lower; letters, apostrophes and blanks are all it has."""
    return as_is(as_is(text, language).translate(_APOSTROPHES).lower(), language)


def words(text: str, language: str) -> str:
    """Lower case without punctuation, as for Common Voice, MLS and FLEURS: what is said, not how it is written.

    Apostrophes within a word stay (one kind of them), hyphens and dashes part words, marks of scripts stay, Han and
    kana characters are words of their own, so that a word error rate over them is the character error rate the field
    reports. Digits and other numbers stay as they are written.
    """
    text = _WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), unicodedata.normalize("NFC", text))
    text = unicodedata.normalize("NFC", _UNSAID.sub("", text.translate(_APOSTROPHES)))
    kept, middle = [], {match.start() for match in _INTERPUNCT.finditer(text)}
    for place, character in enumerate(text):
        if character in _JOINERS or character == "'" or _is_spelling(character):
            kept.append(character)
        elif place in middle:
            kept.append("·")
        elif unicodedata.category(character) != "Cf":  # soft hyphens and direction marks vanish, the rest parts words
            kept.append(" ")
    apart = _CHARACTERS.sub(r" \g<0> ", "".join(kept).replace("''", " "))  # two apostrophes are a quotation mark
    found = (_trimmed(word) for word in apart.split())
    return " ".join(unicodedata.normalize("NFC", _lower(word, language)) for word in found if word)


def _is_spelling(character: str) -> bool:
    """Whether it is a letter, a mark or a number."""
    return unicodedata.category(character)[0] in "LMN"


def _trimmed(word: str) -> str:
    """A word without apostrophes around it, and without marks and joiners that follow nothing."""
    word = word.rstrip("'\u200c")
    first = next((place for place, character in enumerate(word) if unicodedata.category(character)[0] in "LN"), -1)
    return word[first:] if first >= 0 else ""


def _lower(text: str, language: str) -> str:
    if language.lower().partition("-")[0] in ("tr", "az"):  # two letters i, with a dot and without
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
