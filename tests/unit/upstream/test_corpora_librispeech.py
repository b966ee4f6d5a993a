"""LibriSpeech: parts that make splits, those that are missing, and transcripts that are not as documented."""

import shutil
from pathlib import Path

import pytest
from corpus_trees import librispeech as trees
from corpus_trees import write_text

from wavbench.upstream.corpora import librispeech
from wavbench.upstream.errors import UserError


def test_parts_are_put_together_as_asked_and_counted_as_published(tmp_path: Path) -> None:
    trees.build(tmp_path)
    reading = librispeech.read(tmp_path, train="train-clean-100,dev-clean", dev="", test="test-clean")
    assert [row["split"] for row in reading.rows].count("train") == 9
    assert {row["speaker"] for row in reading.rows if row["split"] == "train"} == {"19", "26", "84"}
    assert reading.expected == {"train": 28_539 + 2_703, "test": 2_620}
    assert reading.rows[0] == {
        "id": "19-198-0000",
        "audio": "train-clean-100/19/198/19-198-0000.flac",
        "split": "train",
        "speaker": "19",
        "language": "en",
        "text": "A MAN SAID TO THE UNIVERSE",
    }


def test_a_part_that_is_missing_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    trees.build(tmp_path)
    shutil.rmtree(tmp_path / "LibriSpeech/dev-clean")
    with pytest.raises(UserError, match="the part dev-clean of LibriSpeech is missing") as caught:
        librispeech.read(tmp_path)
    assert "train-clean-100" in caught.value.why
    assert "leave the split out with dev=" in caught.value.remedy
    assert {row["split"] for row in librispeech.read(tmp_path, dev="").rows} == {"train", "test"}


def test_a_part_that_does_not_exist_is_named(tmp_path: Path) -> None:
    trees.build(tmp_path)
    with pytest.raises(UserError, match="no part 'train-clean'"):
        librispeech.read(tmp_path, train="train-clean")


def test_a_line_of_another_chapter_is_refused(tmp_path: Path) -> None:
    trees.build(tmp_path)
    write_text(tmp_path / "LibriSpeech/dev-clean/84/198/84-198.trans.txt", "26-198-0000 NOT HERE\n")
    with pytest.raises(UserError, match="not as documented") as caught:
        librispeech.read(tmp_path)
    assert caught.value.where.endswith("84-198.trans.txt, line 1")
