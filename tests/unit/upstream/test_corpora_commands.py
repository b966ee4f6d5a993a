"""Readers of spoken commands: keywords, silence and intents."""

from collections import Counter
from pathlib import Path

import pytest
from corpus_trees import fluent_speech_commands as fluent_tree
from corpus_trees import speech_commands as words_tree
from corpus_trees import write_audio, write_text

from wavbench.upstream.corpora import fluent_speech_commands, speech_commands
from wavbench.upstream.errors import UserError


@pytest.fixture
def words(tmp_path: Path) -> Path:
    return words_tree.build(tmp_path).root


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    return fluent_tree.build(tmp_path).root


def keywords(reading, split: str) -> Counter:
    return Counter(row["keyword"] for row in reading.rows if row["split"] == split)


def test_ten_commands_keep_their_name_other_words_are_unknown_and_noise_is_silence(words: Path) -> None:
    reading = speech_commands.read(words)
    assert keywords(reading, "train") == {"yes": 2, "_unknown_": 2, "_silence_": 8}
    assert keywords(reading, "dev") == {"yes": 1, "_unknown_": 1, "_silence_": 1}
    assert keywords(reading, "test") == dict.fromkeys(words_tree.CLASSES, 1)


def test_silence_is_whole_seconds_in_the_order_of_the_splits(words: Path) -> None:
    silence = [row for row in speech_commands.read(words, test_set="lists").rows if row["keyword"] == "_silence_"]
    assert [(row["start"], row["end"]) for row in silence] == [(k, k + 1) for k in range(10)]
    assert [row["split"] for row in silence] == ["train"] * 8 + ["dev", "test"]
    assert {row["speaker"] for row in silence} == {""}


def test_expected_numbers_are_published_words_plus_the_silence_that_was_cut(words: Path) -> None:
    assert speech_commands.read(words).expected == {"train": 51_088 + 8, "dev": 6_798 + 1, "test": 3_081}
    lists = speech_commands.read(words, test_set="lists").expected
    assert lists == {"train": 51_088 + 8, "dev": 6_798 + 1, "test": 6_835 + 1}
    assert speech_commands.read(words, classes="all").expected == speech_commands.WORDS["0.01"]
    assert sum(speech_commands.WORDS["0.01"].values()) == 64_727 - 6  # files that its README counts, six are noise
    assert sum(speech_commands.WORDS["0.02"].values()) == 105_829


def test_all_classes_are_the_words_themselves_by_the_lists(words: Path) -> None:
    reading = speech_commands.read(words, classes="all")
    assert {split: keywords(reading, split) for split in ("train", "dev", "test")} == {
        "train": {"yes": 2, "bed": 2}, "dev": {"yes": 1, "bed": 1}, "test": {"yes": 1, "bed": 1},
    }  # fmt: skip


def test_speakers_are_apart_by_the_lists_and_not_promised_of_the_separate_test_set(words: Path) -> None:
    assert speech_commands.read(words, test_set="lists").separates is None
    assert speech_commands.read(words).separates == ()
    assert {row["speaker"] for row in speech_commands.read(words).rows if row["split"] == "dev"} == {"0c40e715", ""}


def test_the_folder_of_words_itself_and_the_one_above_give_the_same_ids(words: Path) -> None:
    above = speech_commands.read(words, test_set="lists")
    itself = speech_commands.read(words / "speech_commands_v0.01", test_set="lists")
    assert [row["id"] for row in itself.rows] == [row["id"] for row in above.rows]
    assert all((itself.root / row["audio"]).is_file() for row in itself.rows)
    with_test_set = speech_commands.read(words / "speech_commands_v0.01")
    assert with_test_set.root == words


def test_two_versions_have_to_be_told_apart(words: Path) -> None:
    second = words / "speech_commands_v0.02"
    write_audio(second / "visual/0a7c2a8d_nohash_0.wav")
    for name in ("validation_list.txt", "testing_list.txt"):
        write_text(second / name, "visual/0a7c2a8d_nohash_0.wav\n")
    with pytest.raises(UserError, match=r"version=0\.01 or version=0\.02"):
        speech_commands.read(words)
    reading = speech_commands.read(words, version="0.02", classes="all")
    assert [row["keyword"] for row in reading.rows] == ["visual"]


def test_what_is_not_there_is_named(words: Path) -> None:
    with pytest.raises(UserError, match=r"what is there is version 0\.01"):
        speech_commands.read(words, version="0.02")
    (words / "speech_commands_test_set_v0.01").rename(words / "elsewhere")
    with pytest.raises(UserError, match=r"speech_commands_test_set_v0\.01"):
        speech_commands.read(words, test_set="archive")


@pytest.mark.parametrize(
    "options", [{"version": "3"}, {"classes": "35"}, {"test_set": "yes"}, {"classes": "all", "test_set": "archive"}]
)
def test_options_that_cannot_be_are_refused(words: Path, options: dict) -> None:
    with pytest.raises(UserError):
        speech_commands.read(words, **options)


def test_a_list_of_something_else_is_refused_with_its_line(words: Path) -> None:
    write_text(words / "speech_commands_v0.01/testing_list.txt", "yes/0d2bcf9d_nohash_0.wav\n../../etc/passwd\n")
    with pytest.raises(UserError, match=r"testing_list\.txt, line 2"):
        speech_commands.read(words)


def test_an_intent_is_action_object_and_location_and_text_may_hold_commas(orders: Path) -> None:
    rows = fluent_speech_commands.read(orders).rows
    assert [row["intent"] for row in rows[:3]] == ["increase/heat/kitchen", "increase/volume/none", "bring/shoes/none"]
    assert rows[1]["text"] == "No, louder"
    assert (rows[0]["action"], rows[0]["object"], rows[0]["location"]) == ("increase", "heat", "kitchen")


def test_a_row_with_another_number_of_fields_is_refused_with_its_line(orders: Path) -> None:
    path = orders / "fluent_speech_commands_dataset/data/test_data.csv"
    path.write_text(path.read_text() + "3,wavs/speakers/x/y.wav,x\n")
    with pytest.raises(UserError, match=r"test_data\.csv, line 5"):
        fluent_speech_commands.read(orders)
