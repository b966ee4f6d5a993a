"""Which languages, videos and lists the multilingual readers take."""

import importlib
from pathlib import Path

import pytest
from corpus_trees import mls as mls_tree
from corpus_trees import voxlingua107 as voxlingua_tree

from wavbench.upstream.corpora import mls, voxlingua107
from wavbench.upstream.corpus import load_corpus
from wavbench.upstream.errors import UserError


def ids(rows: list[dict], split: str) -> list[str]:
    return [row["id"] for row in rows if row["split"] == split]


@pytest.mark.parametrize(
    ("limited", "wanted"),
    [
        ("9h", ["6892_10049_000000", "6892_10049_000001"]),
        ("1h", ["1252_10049_000000"]),
        ("10h", ["6892_10049_000000", "6892_10049_000001", "1252_10049_000000"]),
    ],
)
def test_limited_supervision_takes_the_utterances_of_its_lists(tmp_path: Path, limited: str, wanted: list[str]) -> None:
    reading = mls.read(mls_tree.build(tmp_path).root, limited=limited)
    assert ids(reading.rows, "train") == wanted
    assert reading.expected["train"] == {"9h": 2_173, "1h": 238, "10h": 2_411}[limited]
    assert len(ids(reading.rows, "dev")) == 2


def test_flac_is_read_where_both_releases_are_there_and_each_by_itself(tmp_path: Path) -> None:
    mls_tree.build(tmp_path)
    mls_tree.build(tmp_path, "mls_polish", ".flac")
    assert mls.read(tmp_path).rows[0]["audio"] == "train/audio/6892/10049/6892_10049_000000.flac"
    row = mls.read(tmp_path / "mls_polish_opus").rows[0]
    assert row["audio"].endswith(".opus")
    assert (row["gender"], row["language"]) == ("female", "pl")


def test_one_of_several_languages_of_mls_is_asked_for(tmp_path: Path) -> None:
    mls_tree.build(tmp_path)
    mls_tree.build(tmp_path, "mls_german", ".flac")
    with pytest.raises(UserError) as caught:
        mls.read(tmp_path)
    assert "german, polish" in caught.value.remedy
    assert mls.read(tmp_path, language="german").rows[0]["language"] == "de"
    assert mls.read(tmp_path / "mls_german", language="polish").rows[0]["language"] == "pl"
    for language in ("french", "klingon"):
        with pytest.raises(UserError, match=language):
            mls.read(tmp_path, language=language)
    with pytest.raises(UserError, match="5h"):
        mls.read(tmp_path, limited="5h")


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("abc__U__S12---0001.230-0010.000.wav", "abc"),
        ("-mV3---Fn7kU---0089.430-0089.830.wav", "-mV3---Fn7kU"),
        ("song.wav", ""),
    ],
)
def test_segments_name_their_video(name: str, video: str) -> None:
    assert voxlingua107.video_of(name) == video


def test_about_one_video_in_twenty_is_dev() -> None:
    assert 400 < sum(voxlingua107.held_out(f"video {k}") for k in range(10_000)) < 600


def test_videos_of_the_evaluation_set_are_not_trained_on(tmp_path: Path) -> None:
    reading = voxlingua107.read(voxlingua_tree.build(tmp_path).root)
    assert "1 training segments" in reading.notes[0]
    assert {row["language"] for row in reading.rows} == {"et", "he"}
    assert {row["video"] for row in reading.rows if row["split"] == "dev"} == {voxlingua_tree.DEV_VIDEO}
    assert reading.expected == {"test": 1_609}


def test_languages_of_voxlingua_are_chosen_by_code(tmp_path: Path) -> None:
    root = voxlingua_tree.build(tmp_path).root
    reading = voxlingua107.read(root, languages="iw, jw")
    assert {row["language"] for row in reading.rows} == {"he", "jv"}
    assert reading.expected == {}
    for code, said in (("de", "not here"), ("xx", "no language")):
        with pytest.raises(UserError, match=said):
            voxlingua107.read(root, languages=code)
    (root / "et/holiday.wav").touch()
    with pytest.raises(UserError, match="holiday"):
        voxlingua107.read(root)


def test_the_parts_may_lie_in_folders_of_their_own_and_ids_stay(tmp_path: Path) -> None:
    root = voxlingua_tree.build(tmp_path).root
    before = [row["id"] for row in voxlingua107.read(root).rows]
    (root / "train").mkdir()
    for code in ("et", "iw", "jw"):
        (root / code).rename(root / "train" / code)
    (root / "dev").rename(root / "inner")
    (root / "dev").mkdir()
    (root / "inner").rename(root / "dev" / "dev")
    rows = voxlingua107.read(root).rows
    assert [row["id"] for row in rows] == before
    assert all((root / row["audio"]).is_file() for row in rows)
    assert len(voxlingua107.LANGUAGES) == 107


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00\xff\xfe\x80"])
@pytest.mark.parametrize("name", ["mls", "fleurs", "common_language"])
def test_a_list_that_is_empty_or_no_text_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    tree = importlib.import_module(f"corpus_trees.{name}").build(tmp_path)
    tree.index.write_bytes(content)
    with pytest.raises(UserError, match=r"is empty|is not utf"):
        load_corpus(name).read(tmp_path)
