"""Europarl-ST's parallel files and its audio, CommonLanguage's lists."""

from pathlib import Path

import pytest
from corpus_trees.common_language import build as build_languages
from corpus_trees.europarl_st import build

from wavbench.upstream.corpora import common_language, europarl_st
from wavbench.upstream.errors import UserError


def test_segments_have_times_text_translation_and_speaker(tmp_path: Path) -> None:
    row = europarl_st.read(build(tmp_path).root).rows[1]
    assert (row["id"], row["audio"]) == ("en.20080924.31.3-243_0001", "en/audios/en.20080924.31.3-243.flac")
    assert (row["start"], row["end"], row["speaker"]) == ("0.40", "0.80", "MEP_28165")
    assert (row["text"], row["translation"]) == ("I agree.", "Ich stimme zu.")


def test_audio_that_was_not_converted_is_refused_with_the_command(tmp_path: Path) -> None:
    root = build(tmp_path).root
    for path in root.rglob("*.flac"):
        path.rename(path.with_suffix(".m4a"))
    with pytest.raises(UserError, match="m4a") as caught:
        europarl_st.read(root)
    assert "ffmpeg" in caught.value.remedy


def test_a_blank_line_keeps_the_others_in_step(tmp_path: Path) -> None:
    root = build(tmp_path).root
    (root / "v1.1/en/de/dev/segments.de").write_text("\nIch stimme zu.\n")
    reading = europarl_st.read(root)
    assert [row["translation"] for row in reading.rows if row["split"] == "dev"] == ["Ich stimme zu."]
    assert "1 segments" in reading.notes[0]


def test_files_of_other_lengths_are_refused(tmp_path: Path) -> None:
    root = build(tmp_path).root
    (root / "v1.1/en/de/dev/segments.de").write_text("Ich stimme zu.\n")
    with pytest.raises(UserError, match=r"segments\.de has 1 lines where segments\.lst has 2"):
        europarl_st.read(root)


@pytest.mark.parametrize("pair", ["en_en", "en-de", "en_hu"])
def test_unknown_pairs_are_refused(tmp_path: Path, pair: str) -> None:
    with pytest.raises(UserError, match=pair):
        europarl_st.read(build(tmp_path).root, pair=pair)


def test_common_language_reads_its_lists_and_languages(tmp_path: Path) -> None:
    root = build_languages(tmp_path).root
    assert len(common_language.LANGUAGES) == len(set(common_language.LANGUAGES.values())) == 45
    rows = common_language.read(root, languages="Mangolian").rows
    assert {row["language"] for row in rows} == {"mn"}
    assert rows[0]["text"] == "Één zin."
    assert common_language.read(root).expected["train"] == 22_194
    for name in ("German", "Mongolian"):
        with pytest.raises(UserError, match=name):
            common_language.read(root, languages=name)
