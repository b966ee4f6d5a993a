"""FLEURS: tags, languages, and translations by sentence."""

from pathlib import Path

import pytest
from corpus_trees.fleurs import build

from wavbench.upstream.corpora import fleurs
from wavbench.upstream.errors import UserError


@pytest.mark.parametrize(
    ("code", "tag"), [("pt_br", "pt-BR"), ("es_419", "es-419"), ("yue_hant_hk", "yue-Hant-HK"), ("ast_es", "ast-ES")]
)
def test_codes_become_tags(code: str, tag: str) -> None:
    assert fleurs.tag(code) == tag


def test_there_are_102_languages() -> None:
    assert len(set(fleurs.LANGUAGES)) == len(fleurs.archives) == 102


def test_languages_are_chosen_by_code(tmp_path: Path) -> None:
    rows = fleurs.read(build(tmp_path).root, languages="cmn_hans_cn").rows
    assert {row["language"] for row in rows} == {"cmn-Hans-CN"}
    assert {row["duration"] for row in rows} == {0.4}
    for code, said in (("fr_fr", "not here"), ("french", "no language")):
        with pytest.raises(UserError, match=said) as caught:
            fleurs.read(tmp_path, languages=code)
        assert "en_us" in caught.value.remedy


def test_a_translation_is_the_same_sentence_in_the_other_language(tmp_path: Path) -> None:
    reading = fleurs.read(build(tmp_path).root, translate_to="cmn_hans_cn")
    assert [(row["sentence"], row["translation"]) for row in reading.rows if row["split"] == "train"] == [
        ("1", "不过，已经很晚了。"),
        ("1", "不过，已经很晚了。"),
    ]
    assert {row["language"] for row in reading.rows} == {"en-US"}
    assert {row["translation_language"] for row in reading.rows} == {"cmn-Hans-CN"}
    assert "1 utterances" in reading.notes[0]


def test_a_file_that_is_listed_again_counts_once(tmp_path: Path) -> None:
    root = build(tmp_path).root
    path = root / "en_us/dev.tsv"
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    reading = fleurs.read(root)
    assert sum(row["split"] == "dev" for row in reading.rows) == 2
    assert "1 lines" in reading.notes[0]


def test_a_line_that_was_cut_is_named(tmp_path: Path) -> None:
    root = build(tmp_path).root
    (root / "en_us/dev.tsv").write_text("2\t2000.wav\tTwelve\n")
    with pytest.raises(UserError) as caught:
        fleurs.read(root)
    assert "dev.tsv, line 1" in caught.value.where
