"""Readers for emotion recognition: labels, speakers and splits."""

from pathlib import Path

import pytest
from corpus_trees import emodb as emodb_tree
from corpus_trees import iemocap as iemocap_tree
from corpus_trees import nemo as nemo_tree
from corpus_trees import ravdess as ravdess_tree
from corpus_trees import write_audio, write_text

from wavbench.upstream.corpora import crema_d, emodb, iemocap, nemo, ravdess
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


def test_emodb_reads_speaker_sentence_and_emotion_from_the_name(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in emodb.read(emodb_tree.build(tmp_path).root).rows}
    assert {id: row["emotion"] for id, row in rows.items()} == {
        "03a01Fa": "happiness", "03a01Nc": "neutral", "08b03Tb": "sadness", "12a04Wb": "anger",
        "14b10Lb": "boredom", "14a07Aa": "fear", "15a02Ec": "disgust", "16b09Fd": "happiness",
    }  # fmt: skip
    assert (rows["15a02Ec"]["speaker"], rows["15a02Ec"]["gender"]) == ("15", "male")
    assert rows["15a02Ec"]["text"] == "Das will sie am Mittwoch abgeben."


def test_emodb_has_a_man_and_a_woman_in_dev_and_in_test() -> None:
    for split in ("dev", "test"):
        genders = [emodb.SPEAKERS[speaker][0] for speaker, part in emodb.SPLITS.items() if part == split]
        assert sorted(genders) == ["female", "male"]
    assert sorted(gender for gender, _ in emodb.SPEAKERS.values()) == ["female"] * 5 + ["male"] * 5


@pytest.mark.parametrize("name", ["04a01Fa.wav", "03a03Fa.wav", "03a01Xa.wav", "03a01F a.wav"])
def test_emodb_refuses_a_file_of_another_name(tmp_path: Path, name: str) -> None:
    write_audio(emodb_tree.build(tmp_path).root / "emodb/wav" / name)
    with pytest.raises(UserError, match="is not named as EmoDB names its files"):
        emodb.read(tmp_path)


def test_ravdess_leaves_song_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    root = ravdess_tree.build(tmp_path).root
    assert {row["channel"] for row in ravdess.read(root).rows} == {"speech"}
    assert ravdess.read(root).expected == {"all": 1_440}
    both = ravdess.read(root, song=True)
    assert sum(row["channel"] == "song" for row in both.rows) == 6
    assert both.expected == {"all": 2_452}


def test_ravdess_reads_the_seven_numbers_of_a_name(tmp_path: Path) -> None:
    rows = {row["id"]: row for row in ravdess.read(ravdess_tree.build(tmp_path).root).rows}
    row = rows["03-01-06-02-02-01-20"]
    assert (row["emotion"], row["intensity"], row["text"]) == ("fearful", "strong", "Dogs are sitting by the door")
    assert (row["speaker"], row["gender"], row["split"]) == ("20", "female", "dev")
    assert rows["03-01-01-01-01-01-17"]["gender"] == "male"


def test_ravdess_finds_actors_in_the_folders_of_both_archives(tmp_path: Path) -> None:
    write_audio(tmp_path / "Audio_Speech_Actors_01-24/Actor_01/03-01-01-01-01-01-01.wav")
    write_audio(tmp_path / "Audio_Song_Actors_01-24/Actor_01/03-02-01-01-01-01-01.wav")
    assert [row["channel"] for row in ravdess.read(tmp_path, song=True).rows] == ["speech", "song"]


@pytest.mark.parametrize("name", ["Actor_01/03-01-09-01-01-01-01.wav", "Actor_02/03-01-01-01-01-01-01.wav"])
def test_ravdess_refuses_a_file_of_another_name_or_actor(tmp_path: Path, name: str) -> None:
    write_audio(tmp_path / name)
    with pytest.raises(UserError, match="is not named as RAVDESS names its files"):
        ravdess.read(tmp_path)


def test_nemo_has_speakers_without_the_blanks_of_its_table(tmp_path: Path) -> None:
    rows = nemo.read(nemo_tree.build(tmp_path).root).rows
    assert {row["speaker"] for row in rows} == set(nemo_tree.SPEAKERS)
    assert rows[0]["text"] == "„Ród smoka” to serial telewizyjny."
    assert (rows[0]["id"], rows[0]["audio"]) == ("EB0_fear_1", "samples/EB0_fear_1.wav")


def test_nemo_refuses_an_emotion_that_it_does_not_have(tmp_path: Path) -> None:
    path = nemo_tree.build(tmp_path).index
    path.write_text(path.read_text(encoding="utf-8").replace("\tsurprised\t", "\tjoy\t"), encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.tsv, line 3"):
        nemo.read(tmp_path)


def test_crema_d_lists_what_is_fetched_after_its_list(tmp_path: Path) -> None:
    lines = '"Stimulus_Number","Filename"\n1,"1001_IEO_NEU_XX"\n2,"1040_ITH_SAD_XX"\n'
    write_text(tmp_path / "CREMA-D" / crema_d.LIST, lines)
    first, second = crema_d.more(tmp_path)
    assert first.url.endswith("/CREMA-D/master/AudioWAV/1001_IEO_NEU_XX.wav")
    assert first.into == "CREMA-D/AudioWAV"
    assert second.url.endswith("/1040_ITH_SAD_X.wav")  # the one file that the list misspells
    assert all(archive.url.startswith("https://") for archive in (first, second))


@pytest.mark.parametrize("name", ["../../1001_IEO_NEU_XX", "1001_IEO_NEU_XX/..", "", "1001_IEO_NEU"])
def test_crema_d_refuses_a_list_of_other_names(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / crema_d.LIST, f'"Stimulus_Number","Filename"\n1,"{name}"\n')
    with pytest.raises(UserError, match=r"SentenceFilenames\.csv, line 2"):
        crema_d.more(tmp_path)
