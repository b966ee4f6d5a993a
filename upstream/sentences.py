"""Parallel sentences from CLDR: one meaning, rendered as real text in any of fourteen languages.

Machine-made sentences are usually word salad in all languages but the author's. Here every word comes from the
Unicode CLDR tables (through babel) and from num2words: names of countries, languages and weekdays, amounts with
their plural rules, lists with their conjunctions. The sentences read like a bulletin ("Sunday, Japan: twenty-five
degrees Celsius"), so no grammar has to be invented, and two languages say the same thing by construction.

Source: Unicode Common Locale Data Repository, https://cldr.unicode.org
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from random import Random

from wavbench.upstream.errors import UserError, closest


@dataclass(frozen=True)
class Language:
    """How three libraries call one language: a CLDR locale, a num2words code and an espeak-ng voice."""

    locale: str
    numbers: str
    voice: str


LANGUAGES = {
    "da": Language("da", "da", "da"),
    "de": Language("de", "de", "de"),
    "en": Language("en", "en", "en-us"),
    "es": Language("es", "es", "es"),
    "fr": Language("fr", "fr", "fr"),
    "hu": Language("hu", "hu", "hu"),
    "it": Language("it", "it", "it"),
    "nb": Language("nb", "no", "nb"),
    "nl": Language("nl", "nl", "nl"),
    "pl": Language("pl", "pl", "pl"),
    "pt": Language("pt_PT", "pt", "pt"),
    "ro": Language("ro", "ro", "ro"),
    "sv": Language("sv", "sv", "sv"),
    "tr": Language("tr", "tr", "tr"),
}

# Numbers on 1 and 2, and 12, agree in gender with what they count in some language; the others never do.
NUMBERS = tuple(str(n) for n in range(3, 100) if n % 10 not in (1, 2) and n != 12)

_TERRITORIES = "AR AT AU BE BR CA CH CL CN CO CU DE EG FI FR GR HU IN IT JP KE MX NO PL PT SE TH TR"
_LANGUAGES = "ar da de el en es fi fr hu it ja ko nl pl pt ru sv tr"
_CURRENCIES = "BRL CHF DKK EUR INR JPY MXN NOK PLN SEK TRY"

SLOTS = {
    "weekday": tuple("0123456"),
    "territory": tuple(_TERRITORIES.split()),
    "language": tuple(_LANGUAGES.split()),
    "currency": tuple(_CURRENCIES.split()),
    "length": ("length-kilometer", "length-meter", "length-centimeter"),
    "quantity": ("mass-kilogram", "mass-gram", "volume-liter"),
    "span": ("day", "week", "year", "-day", "-week", "-year"),
    "number": NUMBERS,
}

KINDS = {
    "weather": ("weekday", "territory", "number"),
    "journey": ("territory", "number", "length", "number"),
    "price": ("number", "quantity", "number", "currency"),
    "event": ("territory", "territory", "number", "span"),
    "lesson": ("language", "language", "weekday", "number"),
}

Meaning = tuple[str, ...]  # a kind, then one value per slot of that kind


class _Deck:
    """Deal the values of a slot in shuffled rounds, so that each comes up equally often."""

    def __init__(self, values: tuple[str, ...], random: Random) -> None:
        self._values, self._random, self._left = values, random, []

    def deal(self, avoid: tuple[str, ...]) -> str:
        if not self._left:
            self._left = self._random.sample(self._values, len(self._values))
        for place, value in enumerate(self._left):
            if value not in avoid:
                return self._left.pop(place)
        return self._random.choice([value for value in self._values if value not in avoid])


def meanings(seed: int) -> Iterator[Meaning]:
    """Different meanings without end (of several hundred thousand), kinds in turn.

    Decks rather than independent draws: a split of fifty meanings then already holds nearly every word, so a
    recogniser meets few unseen words and many unseen sentences.

    Args:
        seed: same seed, same meanings in the same order, on every platform.
    """
    random = Random(f"meanings {seed}")
    decks = {slot: _Deck(values, random) for slot, values in SLOTS.items()}
    seen: set[Meaning] = set()
    while True:
        for kind, slots in KINDS.items():
            values: tuple[str, ...] = ()
            for slot in slots:
                values += (decks[slot].deal(avoid=values),)
            if (kind, *values) not in seen:
                seen.add((kind, *values))
                yield (kind, *values)


def render(meaning: Meaning, language: str) -> str:
    """The sentence of a meaning as a person would print it, numbers spelt out.

    Args:
        meaning: one of `meanings()`.
        language: a key of `LANGUAGES`.

    Raises:
        UserError: unknown language, or babel and num2words are missing (install the `synthetic` extra).
    """
    if language not in LANGUAGES:
        raise UserError(f"no sentences in the language {language!r}", remedy=closest(language, list(LANGUAGES)))
    kind, *values = meaning
    phrase = _Phrases(language)
    if kind == "weather":
        day, place, degrees = values
        return f"{phrase.weekday(day)}, {phrase.territory(place)}: {phrase.amount(degrees, 'temperature-celsius')}"
    if kind == "journey":
        place, far, unit, long = values
        return f"{phrase.territory(place)}: {phrase.both(phrase.amount(far, unit), phrase.amount(long, 'minute'))}"
    if kind == "price":
        much, unit, paid, currency = values
        return f"{phrase.amount(much, unit)}: {phrase.money(paid, currency)}"
    if kind == "event":
        one, other, number, span = values
        return f"{phrase.both(phrase.territory(one), phrase.territory(other))}, {phrase.when(number, span)}"
    one, other, day, long = values
    subjects = phrase.both(phrase.language(one), phrase.language(other))
    return f"{subjects}: {phrase.weekday(day)}, {phrase.amount(long, 'minute')}"


def normalise(text: str, language: str) -> str:
    """Lower-case words between single blanks, no punctuation but the apostrophe: what a recogniser should write.

    Hyphens become blanks ("twenty five"), because nobody hears them.
    """
    if language == "tr":
        text = text.replace("I", "ı").replace("İ", "i")  # str.lower() knows no Turkish
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    return " ".join(re.sub(r"[^\w']+", " ", text).split())


def number_words(number: int, language: str) -> str:
    """A number below 100 in words.

    num2words writes Turkish numbers in one word, as on cheques only; elsewhere they are written apart.
    """
    num2words = _libraries().num2words
    code = LANGUAGES[language].numbers
    if language == "tr" and number > 10 and number % 10:
        return f"{num2words(number - number % 10, lang=code)} {num2words(number % 10, lang=code)}"
    return num2words(number, lang=code)


@dataclass(frozen=True)
class _Phrases:
    """The parts of speech of one language, each straight from one CLDR table."""

    language_tag: str

    @property
    def _name(self) -> str:
        return LANGUAGES[self.language_tag].locale

    def _spell(self, number: str, printed: str) -> str:
        """Put words in the place of the digits of a phrase that CLDR has already put into the right plural."""
        spelt = re.sub(r"\d+(?:[.,]\d+)?", number_words(int(number), self.language_tag), printed)
        return " ".join(spelt.split())

    def weekday(self, day: str) -> str:
        return _locale(self._name).days["stand-alone"]["wide"][int(day)]

    def territory(self, code: str) -> str:
        return _locale(self._name).territories[code]

    def language(self, code: str) -> str:
        return _locale(self._name).languages[code]

    def amount(self, number: str, unit: str) -> str:
        unit = "duration-minute" if unit == "minute" else unit
        return self._spell(number, _libraries().format_unit(int(number), unit, length="long", locale=self._name))

    def money(self, number: str, currency: str) -> str:
        printed = _libraries().format_currency(int(number), currency, locale=self._name, format_type="name")
        return self._spell(number, printed)

    def when(self, number: str, span: str) -> str:
        unit = span.removeprefix("-")
        days = int(number) * {"day": 1, "week": 7, "year": 365}[unit] * (-1 if span.startswith("-") else 1)
        delta = timedelta(days=days)
        printed = _libraries().format_timedelta(
            delta, granularity=unit, threshold=float("inf"), add_direction=True, locale=self._name
        )
        return self._spell(number, printed)

    def both(self, one: str, other: str) -> str:
        joined = _libraries().format_list([one, other], locale=self._name)
        if self.language_tag == "es" and other.lower().startswith("i"):
            return f"{one} e {other}"  # "y" before the sound i, which babel's lists do not know
        return joined


@dataclass(frozen=True)
class _Libraries:
    num2words: object
    locale: object
    format_unit: object
    format_currency: object
    format_timedelta: object
    format_list: object


@cache
def _libraries() -> _Libraries:
    """babel and num2words, imported when the first sentence is made: they are an extra."""
    try:
        from babel import Locale
        from babel.dates import format_timedelta
        from babel.lists import format_list
        from babel.numbers import format_currency
        from babel.units import format_unit
        from num2words import num2words
    except ImportError as error:
        raise missing_extra(error) from error
    return _Libraries(num2words, Locale, format_unit, format_currency, format_timedelta, format_list)


@cache
def _locale(name: str):
    return _libraries().locale.parse(name)


def missing_extra(error: ImportError) -> UserError:
    """What to tell a user who lacks the libraries of the built-in corpus."""
    return UserError(
        "the built-in corpus needs libraries that are not installed",
        why=str(error),
        remedy='pip install "wavbench[synthetic]"',
    )
