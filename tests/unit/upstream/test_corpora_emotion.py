"""Readers for emotion recognition: labels, speakers and splits."""

from pathlib import Path

import pytest
from corpus_trees import iemocap as iemocap_tree
from corpus_trees import write_text

from wavbench.upstream.corpora import iemocap
from wavbench.upstream.errors import UserError


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    iemocap_tree.build(tmp_path)
    return tmp_path / "IEMOCAP_full_release"


def test_iemocap_has_excited_speech_as_happy_and_leaves_other_labels_out(sessions: Path) -> None:
    rows = iemocap.read(sessions).rows
    first = {row["id"][-4:]: row["emotion"] for row in rows if row["session"] == "1"}
    assert first == {"F000": "neutral", "F001": "happy", "M001": "angry", "M002": "sad"}


def test_iemocap_has_all_labels_on_request_and_none_where_annotators_disagree(sessions: Path) -> None:
    rows = iemocap.read(sessions, classes="all").rows
    first = {row["id"][-4:]: row["emotion"] for row in rows if row["session"] == "1"}
    assert first["M000"] == ""
    assert first["F001"] == "excited"
    assert first["F002"] == "frustrated"


def test_iemocap_takes_the_speaker_from_the_turn_and_not_from_the_dialogue(sessions: Path) -> None:
    speakers = {row["id"]: row["speaker"] for row in iemocap.read(sessions).rows}
    assert speakers["Ses03F_impro01_M001"] == "Ses03M"
    assert speakers["Ses03F_impro01_F000"] == "Ses03F"
    assert len(set(speakers.values())) == 10


def test_iemocap_numbers_are_those_of_the_five_sessions() -> None:
    assert iemocap.COUNTS["4"]["train"] == 1_085 + 1_023 + 1_151
    assert sum(iemocap.COUNTS["4"].values()) == 5_531


def test_iemocap_reads_without_transcriptions_and_with_windows_line_ends(sessions: Path) -> None:
    said = sessions / "Session1/dialog/transcriptions/Ses01F_impro01.txt"
    said.write_bytes(b"\xef\xbb\xbf" + said.read_bytes().replace(b"\n", b"\r\n"))
    labels = sessions / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes().replace(b"\n", b"\r\n"))
    (sessions / "Session2/dialog/transcriptions/Ses02F_impro01.txt").unlink()
    texts = {row["id"]: row["text"] for row in iemocap.read(sessions).rows}
    assert texts["Ses01F_impro01_F000"] == "Sentence 0, please. [LAUGHTER]"
    assert texts["Ses02F_impro01_F000"] == ""


@pytest.mark.parametrize(
    "line",
    [
        "[1.0 - 2.0]\tSes01F_impro01_F000\tneu",
        "[1.0 - 2.0]\tSes01F_impro01_F000\tjoy\t[2.5, 2.5, 2.5]",
        "[1.0 - 2.0]\tSes02F_impro01_F000\tneu\t[2.5, 2.5, 2.5]",
        "[1.0 - 2.0]\tSes01F_../../x_F000\tneu\t[2.5, 2.5, 2.5]",
    ],
)
def test_iemocap_refuses_a_row_that_is_not_as_documented(sessions: Path, line: str) -> None:
    write_text(sessions / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", f"% header\n{line}\n")
    with pytest.raises(UserError, match=r"Ses01F_impro01\.txt, line 2"):
        iemocap.read(sessions)


def test_iemocap_knows_two_sets_of_classes(sessions: Path) -> None:
    with pytest.raises(UserError, match="one of: 4, all"):
        iemocap.read(sessions, classes="5")
