"""What every rule makes of texts, worked out by hand, and that it leaves alone what it made."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavbench.upstream.transcripts import RULES, VERSION, as_is, librispeech, normalise, rule_name, words

COMBINING_ACUTE, ZWNJ, SOFT_HYPHEN = "\u0301", "\u200c", "\u00ad"


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("", "", ""),
        (" \t\n\u00a0\u3000 ", "en", ""),
        ("... -- !?", "en", ""),
        ("Hello,  World!", "en", "hello world"),
        ("one\ttwo\r\nthree", "en", "one two three"),
        ("well-known — or well–known", "en", "well known or well known"),
        ("non\u2011breaking", "en", "non breaking"),
        ("a/b, c&d; e_f", "en", "a b c d e f"),
        ("3.5 % of 1,000 in ½ year №²", "en", "3 5 of 1 000 in ½ year ²"),
        ("٣ كتب", "ar", "٣ كتب"),
        ("CAFE" + COMBINING_ACUTE, "fr", "café"),
        ("STRASSE straße ẞ", "de", "strasse straße ß"),
        ("Ολυσσεύς ΟΔΥΣΣΕΥΣ", "el", "ολυσσεύς οδυσσευς"),
        ("ΟΔΟΣ: ΜΙΑ", "el", "οδος μια"),
    ],
)
def test_words_are_lower_case_without_punctuation(text: str, language: str, expected: str) -> None:
    assert words(text, language) == expected


@pytest.mark.parametrize("kind", ["'", "’", "‘", "‛", "ʼ", "＇", "`", "´", "′", "׳"])
def test_apostrophes_of_all_kinds_are_one_within_words_and_none_around_them(kind: str) -> None:
    assert words(f"don{kind}t", "en") == "don't"
    assert words(f"{kind}tis the dogs{kind} {kind}day{kind}", "en") == "tis the dogs day"
    assert words(f"rock {kind}n{kind} roll {kind} {kind}{kind}quoted{kind}{kind}", "en") == "rock n roll quoted"
    assert words(f"he said{kind}{kind}no{kind}{kind}twice", "en") == "he said no twice"
    assert words(f"L{kind}Hospitalet{kind}-d{kind}ara", "ca") == "l'hospitalet d'ara"


def test_an_apostrophe_beside_a_mark_or_an_invisible_character_is_within_its_word() -> None:
    assert words("m\u0303b’a", "gn") == "m\u0303b'a"
    assert words("g\u0303’a", "gn") == "g\u0303'a"  # a mark that composes with no g
    assert words(f"don{SOFT_HYPHEN}’t", "en") == "don't"


def test_the_okina_is_a_letter_and_stays_at_the_start_of_a_word() -> None:
    assert words("ʻĀina Hawaiʻi", "haw") == "ʻāina hawaiʻi"


def test_catalan_double_l_is_one_word_and_other_middle_dots_part() -> None:
    assert words("Paral·lel COL·LEGI il‧lusió", "ca") == "paral·lel col·legi il·lusió"
    assert words("a·b l·a · ·l", "ca") == "a b l a l"
    assert words("ジョン・スミス", "ja") == "ジ ョ ン ス ミ ス"


@pytest.mark.parametrize("language", ["tr", "tr-TR", "TR", "az", "az-Latn-AZ"])
def test_turkish_and_azerbaijani_have_two_letters_i(language: str) -> None:
    assert words("ISPARTA İzmir I\u0307stanbul", language) == "ısparta izmir istanbul"
    assert words("ISPARTA", "tru") == words("ISPARTA", "") == "isparta"


def test_the_dotted_capital_of_other_languages_keeps_its_dot_as_a_mark() -> None:
    assert words("İ", "en") == "i\u0307"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我愛北京。", "我 愛 北 京"),
        ("用Python3写的 T恤", "用 python3 写 的 t 恤"),
        ("東京タワーへ行く", "東 京 タ ワ ー へ 行 く"),
        ("人々、〇〇", "人 々 〇 〇"),
        ("か\u3099", "が"),
        ("あ\u3099っ ㇷ\u309a", "あ\u3099 っ ㇷ\u309a"),
        ("ｶﾞｲﾄﾞ ＡＢＣ１２", "ガ イ ド abc12"),
        ("葛\U000e0100飾", "葛 飾"),
        ("\U00020bb7野家", "\U00020bb7 野 家"),
        ("中’文 don’t", "中 文 don't"),
    ],
)
def test_han_and_kana_are_words_by_character_beside_words_of_letters(text: str, expected: str) -> None:
    assert words(text, "ja") == expected


def test_hangul_is_left_in_its_words() -> None:
    assert words("안녕하세요, 세계! ㅋㅋ", "ko") == "안녕하세요 세계 ㅋㅋ"
    assert words(unicodedata.normalize("NFD", "한국어"), "ko") == "한국어"


def test_marks_and_joiners_of_indic_scripts_stay() -> None:
    assert words("हिन्दी में, क्या?", "hi") == "हिन्दी में क्या"
    assert words("क्\u200dष।", "hi") == "क्\u200dष"
    assert words("അവന്\u200d.", "ml") == "അവന്\u200d"  # a chillu as it was written before Unicode 5.1
    assert words("தமிழ் மொழி", "ta") == "தமிழ் மொழி"


def test_the_joiner_of_persian_stays_within_words_and_goes_at_their_ends() -> None:
    assert words(f"می{ZWNJ}خواهم.", "fa") == f"می{ZWNJ}خواهم"
    assert words(f"{ZWNJ}کتاب{ZWNJ} {ZWNJ} ها", "fa") == "کتاب ها"


def test_what_is_not_said_vanishes_within_words() -> None:
    assert words(f"Donau{SOFT_HYPHEN}dampf\u200bschiff\u2060fahrt", "de") == "donaudampfschifffahrt"
    assert words("\u200fשלום\u200e", "he") == "שלום"
    assert words("كتـــاب", "ar") == "كتاب"
    assert words("\ufeffhello", "en") == "hello"


def test_emoji_leave_nothing_behind() -> None:
    assert words("I ❤\ufe0f you 👩\u200d👩\u200d👧 👍🏽 🇩🇪", "en") == "i you"
    assert words("1\ufe0f\u20e3 go", "en") == "1 go"


def test_a_mark_that_follows_nothing_is_no_word() -> None:
    assert words(f"a {COMBINING_ACUTE} b, {COMBINING_ACUTE}c", "en") == "a b c"


def test_thai_is_left_as_it_is_written() -> None:
    assert words("สวัสดี ครับ", "th") == "สวัสดี ครับ"


def test_as_is_keeps_case_and_punctuation_and_tidies_blanks() -> None:
    assert as_is("  “Don’t”,\the said —\u00a0 cafe\u0301\n", "en") == "“Don’t”, he said — café"
    assert as_is("", "en") == ""


def test_librispeech_is_lower_case_with_its_apostrophes() -> None:
    assert librispeech("HOWEVER  IT'S ’TIS", "en") == "however it's 'tis"


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=400)
@given(
    text=st.text(
        st.one_of(
            st.characters(exclude_categories=["Cs"]),
            st.sampled_from("'’ʼ´\u1ffd·lL-İIıΣσς \u0301\u0307\u0323\u200c\u200d\u00ad\ufe0fカか゛\u3099ﾞｶ中ｌＬ'"),
        )
    ),
    language=st.sampled_from(["", "en", "tr", "ja", "ca"]),
)
def test_a_rule_leaves_alone_what_it_made(rule: str, text: str, language: str) -> None:
    once = normalise(rule, text, language)
    assert normalise(rule, once, language) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split())


@given(st.text())
def test_composed_and_decomposed_texts_become_one(text: str) -> None:
    for rule in RULES:
        composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
        assert normalise(rule, composed, "en") == normalise(rule, decomposed, "en")


def test_a_rule_is_named_with_its_version() -> None:
    assert rule_name("words") == f"words {VERSION}"
    assert set(RULES) == {"as is", "librispeech", "words"}
