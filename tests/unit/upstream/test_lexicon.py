"""Lexicons in the forms that they are distributed in, and texts through them."""

from pathlib import Path

import pytest

from wavbench.upstream.errors import UserError
from wavbench.upstream.lexicon import Lexicon, read_lexicon

CMUDICT = """;;; # CMUdict  --  Major Version: 0.07
;;; comment
!EXCLAMATION-POINT  EH2 K S K L AH0 M EY1 SH AH0 N P OY2 N T
A  AH0
A(1)  EY1
D'ARTAGNAN  D AH0 R T AE1 NY AH0 N
TOMATO  T AH0 M EY1 T OW2
TOMATO(1)  T AH0 M AA1 T OW2
"""


def lexicon(tmp_path: Path, content: str | bytes, **options: bool) -> Lexicon:
    path = tmp_path / "lexicon.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_lexicon(path, **options)


def test_cmudict_has_comments_and_further_pronunciations_of_which_the_first_counts(tmp_path: Path) -> None:
    read = lexicon(tmp_path, CMUDICT)
    assert len(read) == 4
    assert read.of("a tomato") == (["AH0", "T", "AH0", "M", "EY1", "T", "OW2"], [])


def test_cmudict_of_2014_is_latin_1_and_read_as_such(tmp_path: Path) -> None:
    read = lexicon(tmp_path, (CMUDICT + "DÉJÀ  D EY2 ZH AA1\n").encode("latin-1"))
    assert read.of("Déjà") == (["D", "EY2", "ZH", "AA1"], [])
    with pytest.raises(UserError, match="not utf-8 text"):  # of any other file nobody knows what it is in
        lexicon(tmp_path, "DÉJÀ  D EY2 ZH AA1\n".encode("latin-1"))


def test_cmudict_in_utf_8_is_read_as_that(tmp_path: Path) -> None:
    assert lexicon(tmp_path, CMUDICT + "DÉJÀ  D EY2 ZH AA1\n").of("déjà")[1] == []


def test_remarks_behind_phones_are_no_phones(tmp_path: Path) -> None:
    read = lexicon(tmp_path, "aalborg AO1 L B AO0 R G # place, danish\naalborg(2) AA1 L B AO0 R G\n")
    assert read.of("aalborg") == (["AO1", "L", "B", "AO0", "R", "G"], [])
    with pytest.raises(UserError, match="no phones for 'place'"):
        lexicon(tmp_path, "place # danish\n")


def test_the_lexicon_of_librispeech_parts_by_tabs_or_blanks(tmp_path: Path) -> None:
    read = lexicon(tmp_path, "A\tAH0\nA''S EY1 Z\nAARDVARK   AA1 R D V AA2 R K\n")
    assert read.of("a aardvark") == (["AH0", "AA1", "R", "D", "V", "AA2", "R", "K"], [])
    assert read.of("a''s")[0] == ["EY1", "Z"]


@pytest.mark.parametrize("numbers", ["1.0", "0.5", ".25", "1.2e-05", "1e-05", "0.5 0.7 1.1 0.98"])
def test_probabilities_of_kaldi_are_no_phones(tmp_path: Path, numbers: str) -> None:
    assert lexicon(tmp_path, f"hello {numbers} HH AH0\n").of("hello") == (["HH", "AH0"], [])
    with pytest.raises(UserError, match="no phones for 'hello'"):
        lexicon(tmp_path, f"hello {numbers}\n")


def test_whole_numbers_are_phones_as_some_sets_of_units_are(tmp_path: Path) -> None:
    assert lexicon(tmp_path, "hello 71 12\n").of("hello") == (["71", "12"], [])


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    read = lexicon(tmp_path, b"\xef\xbb\xbfhello HH AH0\r\n\r\n  \r\nworld W ER1\r\n")
    assert read.phones == {"hello": ("HH", "AH0"), "world": ("W", "ER1")}


@pytest.mark.parametrize("content", ["", "\n\n", ";;; only a comment\n", "\ufeff"])
def test_an_empty_lexicon_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="the lexicon is empty"):
        lexicon(tmp_path, content)


def test_a_word_without_phones_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no phones for 'world'") as caught:
        lexicon(tmp_path, "hello HH AH0\nworld\n")
    assert caught.value.where == f"{tmp_path / 'lexicon.txt'}, line 2"


def test_a_lexicon_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the lexicon is missing"):
        read_lexicon(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="the lexicon is missing"):
        read_lexicon(tmp_path)
    with pytest.raises(UserError, match="not utf-8 text"):
        lexicon(tmp_path, "hello HH\n".encode("utf-16"))


def test_stress_is_kept_or_dropped_of_arpabet_vowels_only(tmp_path: Path) -> None:
    text = "hello HH AH0 L OW1\nmandarin m a1 n 2\n"
    assert lexicon(tmp_path, text).of("hello")[0] == ["HH", "AH0", "L", "OW1"]
    read = lexicon(tmp_path, text, stress=False)
    assert read.of("hello")[0] == ["HH", "AH", "L", "OW"]
    assert read.of("mandarin")[0] == ["m", "a1", "n", "2"]


def test_case_and_kinds_of_apostrophes_do_not_matter(tmp_path: Path) -> None:
    read = lexicon(tmp_path, "Don’t D OW1 N T\nCAFE\u0301 K AE0\n")
    assert read.of("DON'T café") == (["D", "OW1", "N", "T", "K", "AE0"], [])


def test_punctuation_of_texts_that_keep_it_is_no_part_of_words(tmp_path: Path) -> None:
    read = lexicon(tmp_path, "hello HH AH0\n'tis T IH1 Z\n<unk> SPN\n")
    assert read.of("“Hello,” — 'tis: HELLO!") == (["HH", "AH0", "T", "IH1", "Z", "HH", "AH0"], [])
    assert read.of("hello <UNK>") == (["HH", "AH0", "SPN"], [])


def test_words_that_are_not_there_are_listed_as_often_as_they_occur(tmp_path: Path) -> None:
    read = lexicon(tmp_path, "hello HH AH0\n")
    assert read.of("hello Zebra, zebra 42") == (["HH", "AH0"], ["zebra", "zebra", "42"])
    assert read.of("") == ([], [])
