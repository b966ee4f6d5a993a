"""Kaldi data folders: paths, commands that are never run, segments, splits."""

from pathlib import Path

import pytest
from corpus_trees import kaldi as tree
from corpus_trees import write_audio, write_text

from wavbench.upstream.corpora import kaldi
from wavbench.upstream.errors import UserError
from wavbench.upstream.importing import import_corpus


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tree.build(tmp_path).root


def one_folder(place: Path, scp: str, **files: str) -> Path:
    """A data folder `train` with a recording r1 beside it."""
    write_audio(place / "r1.wav", seconds=1.0)
    write_text(place / "train/wav.scp", scp)
    for name, text in files.items():
        write_text(place / "train" / name, text)
    return place / "train"


def test_segments_cut_recordings_and_whole_files_have_no_times(recipe: Path) -> None:
    rows = {row["id"]: row for row in kaldi.read(recipe).rows}
    assert (rows["s1-1"]["start"], rows["s1-1"]["end"]) == (0.5, 0.9)
    assert (rows["s3-rec"]["start"], rows["s3-rec"]["end"]) == ("", "")
    assert rows["s1-1"]["audio"] == "s1/s1-rec.wav"
    assert (rows["s1-1"]["speaker"], rows["s1-1"]["text"]) == ("s1", "WORDS OF 1")


def test_the_root_is_the_deepest_folder_of_all_audio(recipe: Path) -> None:
    assert kaldi.read(recipe).root == recipe / "downloads"
    assert kaldi.read(recipe / "data/dev").root == recipe / "downloads/s3"


def test_absolute_paths_and_dots_between_are_resolved(tmp_path: Path) -> None:
    write_audio(tmp_path / "other/r2.wav")
    folder = one_folder(tmp_path, f"r1 {tmp_path}/r1.wav\nr2 {tmp_path}/train/../other/r2.wav\n")
    reading = kaldi.read(folder)
    assert reading.root == tmp_path
    assert [row["audio"] for row in reading.rows] == ["r1.wav", "other/r2.wav"]
    made = import_corpus("kaldi", folder, tmp_path / "made.csv")
    assert made.table["duration"].tolist() == ["1.0", "0.4"]


@pytest.mark.parametrize("command", ["touch {mark} |", "| touch {mark}", "sph2pipe -f wav r1.sph | touch {mark} |"])
def test_commands_are_named_and_never_run(tmp_path: Path, command: str) -> None:
    mark = tmp_path / "was-run"
    folder = one_folder(tmp_path, f"r0 r1.wav\nr1 {command.format(mark=mark)}\n")
    with pytest.raises(UserError, match=r"1 of 2 recordings of wav\.scp are commands, which are never run"):
        kaldi.read(folder)
    assert not mark.exists()


def test_audio_in_archives_is_named(tmp_path: Path) -> None:
    folder = one_folder(tmp_path, "r1 exp/wav_ark/wav.1.ark:17\n")
    with pytest.raises(UserError, match="lie in archives"):
        kaldi.read(folder)


def test_relative_paths_start_where_the_recipe_ran_or_where_base_says(tmp_path: Path) -> None:
    folder = one_folder(tmp_path / "egs/data", "r1 audio/r1.wav\n")
    with pytest.raises(UserError, match="base=FOLDER"):
        kaldi.read(folder)
    write_audio(tmp_path / "elsewhere/audio/r1.wav")
    reading = kaldi.read(folder, base=str(tmp_path / "elsewhere"))
    assert reading.root == tmp_path / "elsewhere/audio"
    write_audio(tmp_path / "egs/audio/r1.wav")
    assert kaldi.read(folder).root == tmp_path / "egs/audio"


def test_a_speaker_for_every_utterance_is_no_speaker(tmp_path: Path) -> None:
    folder = one_folder(tmp_path, "r1 r1.wav\n", utt2spk="r1 r1\n", utt2lang="r1 de\n", text="r1\n")
    assert kaldi.read(folder).rows == [
        {"id": "r1", "audio": "r1.wav", "split": "train", "text": "", "speaker": "", "language": "de"}
    ]
    assert kaldi.read(folder, language="nl").rows[0]["language"] == "nl"


def test_a_segment_to_the_end_of_its_recording(tmp_path: Path) -> None:
    folder = one_folder(tmp_path, "r1 r1.wav\r\n", segments="u1 r1 0.25 -1\r\n")
    made = import_corpus("kaldi", folder, tmp_path / "made.csv")
    assert made.table[["start", "end", "duration"]].to_numpy().tolist() == [["0.25", "1.0", "0.75"]]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("segments", "u1 r1 0 1\nu2 r9 0 1\n"),
        ("segments", "u1 r1 0 1\nu2 r1 0\n"),
        ("segments", "u1 r1 0 1\nu2 r1 0 1 A\n"),
        ("segments", "u1 r1 0 1\nu2 r1 zero 1\n"),
        ("utt2spk", "r1 s1\nr2\n"),
        ("utt2spk", "r1 s1\nr1 s2\n"),
        ("wav.scp", "r1 r1.wav\nr2\n"),
    ],
)
def test_a_line_that_is_not_as_documented_is_refused_with_its_number(tmp_path: Path, file: str, text: str) -> None:
    folder = one_folder(tmp_path, "r1 r1.wav\n")
    write_text(folder / file, text)
    with pytest.raises(UserError, match=rf"{file}, line 2"):
        kaldi.read(folder)


def test_folders_whose_names_tell_no_split_are_left_out_or_given_one(recipe: Path) -> None:
    (recipe / "data/dev").rename(recipe / "data/forum")
    reading = kaldi.read(recipe)
    assert {row["split"] for row in reading.rows} == {"train", "test"}
    assert reading.notes == ("data folders whose name tells no split were left out: forum",)
    given = kaldi.read(recipe, train="train_clean", dev="forum", test="test_other")
    assert {row["split"] for row in given.rows if row["id"] == "s3-rec"} == {"dev"}
    with pytest.raises(UserError, match="split=train"):
        kaldi.read(recipe / "data/forum")
    assert {row["split"] for row in kaldi.read(recipe / "data/forum", split="test").rows} == {"test"}


def test_an_utterance_in_two_folders_is_refused_with_both(recipe: Path) -> None:
    (recipe / "data/train_clean").rename(recipe / "data/train_b")
    for name in ("wav.scp", "text", "utt2spk", "segments"):
        write_text(recipe / "data/train_a" / name, (recipe / "data/train_b" / name).read_text())
    with pytest.raises(UserError, match="train_a too"):
        kaldi.read(recipe)
    assert len(kaldi.read(recipe, train="train_a", dev="dev", test="test_other").rows) == 6


def test_an_empty_wav_scp_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wav\.scp is empty"):
        kaldi.read(one_folder(tmp_path, "\n"))
