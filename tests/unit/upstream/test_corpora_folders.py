"""A folder per class: splits from folders, speakers or a hash."""

from collections import Counter
from pathlib import Path

import pytest
from corpus_trees import folders as tree
from corpus_trees import write_audio

from wavbench.upstream.corpora import folders
from wavbench.upstream.errors import UserError
from wavbench.upstream.importing import import_corpus


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return tree.build(tmp_path).root


def test_the_first_folder_is_the_class_and_what_lies_below_does_not_matter(sounds: Path) -> None:
    rows = folders.read(sounds, column="emotion", language="en").rows
    assert {(row["id"].split("/")[0], row["emotion"], row["language"]) for row in rows} == {
        ("calm", "calm", "en"), ("loud", "loud", "en"),
    }  # fmt: skip


def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    for k, split in enumerate(("train", "validation", "Test")):
        write_audio(tmp_path / split / "yes/a.wav", seed=k)
    write_audio(tmp_path / "extra/yes/a.wav", seed=9)
    write_audio(tmp_path / "train/stray.wav", seed=10)
    reading = folders.read(tmp_path)
    assert [(row["id"], row["split"], row["label"]) for row in reading.rows] == [
        ("Test/yes/a", "test", "yes"), ("train/yes/a", "train", "yes"), ("validation/yes/a", "dev", "yes"),
    ]  # fmt: skip
    assert any("extra" in note for note in reading.notes)
    assert any("train/stray.wav" in note for note in reading.notes)


def test_without_speakers_every_class_is_in_every_split(sounds: Path) -> None:
    rows = folders.read(sounds).rows
    counts = Counter((row["label"], row["split"]) for row in rows)
    assert counts == {(name, split): n for name in tree.CLASSES for split, n in (("train", 8), ("dev", 1), ("test", 1))}


def test_a_pattern_finds_speakers_and_no_split_shares_one(sounds: Path) -> None:
    made = import_corpus("folders", sounds, options={"speaker": r"/(s\d)_"})
    speakers = made.table.groupby("speaker")["split"].nunique()
    assert len(speakers) == 10
    assert (speakers == 1).all()
    assert made.table["split"].value_counts().to_dict() == {"train": 16, "dev": 2, "test": 2}


def test_a_new_file_moves_no_speaker_unless_the_tenths_grow(sounds: Path) -> None:
    before = {row["speaker"]: row["split"] for row in folders.read(sounds, speaker=r"/(s\d)_").rows}
    write_audio(sounds / "calm/s1_other.wav", seed=99)
    assert {row["speaker"]: row["split"] for row in folders.read(sounds, speaker=r"/(s\d)_").rows} == before


def test_one_name_in_two_formats_keeps_both(tmp_path: Path) -> None:
    for k, suffix in enumerate((".wav", ".flac")):
        write_audio(tmp_path / f"a/one{suffix}", seed=k)
    assert [row["id"] for row in folders.read(tmp_path).rows] == ["a/one.flac", "a/one.wav"]


def test_folders_without_audio_are_named(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "calm/notes.txt").write_text("no audio\n")
    with pytest.raises(UserError, match="no audio in folders of classes"):
        folders.read(tmp_path)


def test_hidden_files_and_folders_are_left_alone(sounds: Path) -> None:
    write_audio(sounds / ".cache/a.wav")
    (sounds / "calm/._s1_take.wav").write_bytes(b"\x00\x05\x16\x07")
    assert len(folders.read(sounds).rows) == 20


@pytest.mark.parametrize(
    "options",
    [
        {"column": "audio"},
        {"column": "A b"},
        {"column": "speaker", "speaker": "(x)"},
        {"column": "language", "language": "en"},
        {"speaker": "(x"},
        {"speaker": "x"},
        {"speaker": "(x)(y)"},
        {"speaker": r"/(nobody)_"},
    ],
)
def test_options_that_cannot_be_are_refused(sounds: Path, options: dict) -> None:
    with pytest.raises(UserError):
        folders.read(sounds, **options)


def test_two_speakers_cannot_be_parted_into_three_splits(tmp_path: Path) -> None:
    for k in range(6):
        write_audio(tmp_path / f"a/s{k % 2}_{k}.wav", seed=k)
    with pytest.raises(UserError, match="2 speakers are too few"):
        folders.read(tmp_path, speaker=r"/(s\d)_")


def test_many_classes_are_parted_in_one_pass(tmp_path: Path) -> None:
    looks = []

    class Row(dict):
        def __getitem__(self, name: str) -> object:
            looks.append(name)
            return super().__getitem__(name)

    rows = [Row(id=f"c{k % 100}/{k}", label=f"c{k % 100}") for k in range(500)]
    folders._split(rows, "label", False, tmp_path)
    assert {row["split"] for row in rows if row["label"] == "c7"} == {"train", "dev", "test"}
    assert len(looks) < 20 * len(rows)  # and not once for every class
