"""Common Voice's tables, languages and durations, and CoVoST 2 on top of them."""

from pathlib import Path

import pytest
from corpus_trees import write_text
from corpus_trees.common_voice import build
from corpus_trees.covost2 import build as build_covost2

from wavbench.upstream.corpora import common_voice, covost2
from wavbench.upstream.errors import UserError


def test_quotation_marks_are_text_and_surplus_tabs_belong_to_the_sentence(tmp_path: Path) -> None:
    path = write_text(tmp_path / "train.tsv", '\ufeffclient_id\tpath\tsentence\tage\r\nx\ta.mp3\t"one\ttwo\t\r\n')
    assert common_voice.clips_of(path, "a list", ("path",)) == [
        {"client_id": "x", "path": "a.mp3", "sentence": '"one two', "age": ""}
    ]


def test_a_row_that_was_cut_is_named(tmp_path: Path) -> None:
    path = write_text(tmp_path / "train.tsv", "client_id\tpath\tsentence\nx\ta.mp3\n")
    with pytest.raises(UserError) as caught:
        common_voice.clips_of(path, "a list", ("path",))
    assert "line 2" in caught.value.where


def test_durations_are_seconds_of_the_list_where_there_is_one(tmp_path: Path) -> None:
    root = build(tmp_path).root
    assert {row["duration"] for row in common_voice.read(root).rows} == {0.4}
    next(root.rglob("clip_durations.tsv")).unlink()
    assert {row["duration"] for row in common_voice.read(root).rows} == {""}


def test_one_of_several_languages_is_asked_for_and_releases_are_told_apart(tmp_path: Path) -> None:
    build(tmp_path)
    build(tmp_path, "nan-tw")
    with pytest.raises(UserError) as caught:
        common_voice.read(tmp_path)
    assert "de, nan-tw" in caught.value.remedy
    assert {row["language"] for row in common_voice.read(tmp_path, language="nan-tw").rows} == {"nan-TW"}
    with pytest.raises(UserError, match="fr"):
        common_voice.read(tmp_path, language="fr")
    build(tmp_path, release="cv-corpus-16.1-2023-12-06")
    with pytest.raises(UserError, match="2 releases of de"):
        common_voice.read(tmp_path, language="de")
    inside = tmp_path / "cv-corpus-16.1-2023-12-06"
    assert common_voice.read(inside).root == common_voice.read(inside / "de").root == inside / "de"


def test_clips_of_the_first_releases_have_no_suffix() -> None:
    assert common_voice.clip_name("abc") == common_voice.clip_name("abc.mp3") == "abc.mp3"


@pytest.mark.parametrize(
    ("text", "translation", "noise"),
    [
        ("one", "eins zwei drei vier fünf", False),
        ("one", "eins zwei drei vier fünf sechs", True),
        ("a b c d e f", "eins", True),
        ("", "eins", True),
        ("one", " ", True),
        ("one", "REMOVE", True),
        ("remove it", "weg damit", False),
    ],
)
def test_noise_is_what_superb_leaves_out(text: str, translation: str, noise: bool) -> None:
    assert covost2.is_noise(text, translation) is noise


def test_both_kinds_of_lists_give_the_same_rows(tmp_path: Path) -> None:
    root = build_covost2(tmp_path).root
    joined = covost2.read(root, filter="none")
    assert [row["id"][-3:] for row in joined.rows if row["split"] == "train"] == ["100", "101", "102", "103"]
    assert joined.expected == {"train": 289_430, "dev": 15_531, "test": 15_531}
    for split in ("train", "dev", "test"):
        rows = [row for row in joined.rows if row["split"] == split]
        lines = [f"{r['audio'][6:]}\t{r['text']}\t{r['translation']}\t{r['speaker']}\n" for r in rows]
        path = tmp_path / "lists" / f"covost_v2.en_de.{split}.tsv"
        write_text(path, "path\tsentence\ttranslation\tclient_id\n" + "".join(lines))
    (tmp_path / "covost_v2.en_de.tsv").unlink()
    assert covost2.read(root, filter="none").rows == joined.rows


def test_other_pairs_and_filters_are_named_and_absent_clips_said(tmp_path: Path) -> None:
    root = build_covost2(tmp_path).root
    with pytest.raises(UserError, match="en_fr"):
        covost2.read(root, pair="en_fr")
    with pytest.raises(UserError, match="strict"):
        covost2.read(root, filter="strict")
    (tmp_path / "cv-corpus-4-2019-12-10/en").rename(tmp_path / "cv-corpus-4-2019-12-10/fr")
    with pytest.raises(UserError, match="clips of Common Voice 4 in en"):
        covost2.read(root)


def test_backslashes_before_tabs_and_backslashes_go() -> None:
    assert covost2.unescaped(r"a\\b") == r"a\b"


def test_numbers_of_words_are_not_compared_where_a_language_does_not_part_them() -> None:
    text, translation = "He said that nobody had seen them since.", "他说从那以后没有人见过他们。"
    assert covost2.is_noise(text, translation)
    assert not covost2.is_noise(text, translation, "en_zh-CN")
    assert covost2.is_noise(text, "REMOVE", "en_ja")
