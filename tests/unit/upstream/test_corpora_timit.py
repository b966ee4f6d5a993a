"""TIMIT's foldings, its lists of speakers and the ways that copies of it are named."""

from pathlib import Path

import pytest
from corpus_trees.timit import build

from wavbench.upstream.corpora import timit
from wavbench.upstream.corpora.timit import CORE_TEST, DEV, PHONES, TO_39, TO_48, Stretch, folded
from wavbench.upstream.errors import UserError


@pytest.mark.parametrize(("fold", "size"), [("61", 61), ("48", 48), ("39", 39)])
def test_the_foldings_have_as_many_phones_as_their_names_say(fold: str, size: int) -> None:
    symbols = {phone.symbol for symbol in PHONES for phone in folded([Stretch(symbol, 1)], fold)}
    assert len(symbols) == size


def test_the_tables_name_phones_that_there_are() -> None:
    assert set(TO_48) <= PHONES
    assert set(TO_39) <= PHONES | set(TO_48.values())


def test_there_are_24_and_50_speakers_and_no_one_is_in_both() -> None:
    assert (len(CORE_TEST), len(DEV), len(CORE_TEST & DEV)) == (24, 50, 0)


def test_closures_merge_with_silence_and_the_glottal_stop_gives_its_time_to_the_next_phone() -> None:
    phones = [Stretch(*pair) for pair in (("h#", 10), ("q", 14), ("iy", 20), ("kcl", 24), ("tcl", 27), ("t", 30))]
    assert folded(phones, "39") == [Stretch("sil", 10), Stretch("iy", 20), Stretch("sil", 27), Stretch("t", 30)]
    assert folded(phones, "48") == [Stretch(*p) for p in (("sil", 10), ("iy", 20), ("cl", 24), ("cl", 27), ("t", 30))]
    assert [phone.symbol for phone in folded(phones, "61")] == ["sil", "q", "iy", "kcl", "tcl", "t"]


def test_reads_times_in_seconds_and_text_without_its_samples(tmp_path: Path) -> None:
    row = next(row for row in timit.read(build(tmp_path).root).rows if row["id"] == "FCJF0_SI1027")
    assert row["phones"] == "sil ih sil"
    assert row["phone_ends"] == "0.125000 0.200000 0.400000"
    assert (row["words"], row["word_ends"]) == ("sil yes", "0.125000 0.400000")
    assert row["text"].strip() == "Don't ask me!"
    assert (row["gender"], row["dialect"]) == ("female", "DR1")


def test_words_have_no_gaps_and_share_no_samples(tmp_path: Path) -> None:
    root = build(tmp_path).root
    words = root / "TIMIT/TRAIN/DR1/FCJF0/SI1027.WRD"
    words.write_text("800 1600 Don't\n1600 3200 ask\n2400 3000 'em\n2400 4000 me\n4800 5600 now\n")
    row = next(row for row in timit.read(root).rows if row["id"] == "FCJF0_SI1027")
    assert row["words"] == "sil don't ask me sil now sil"
    assert row["word_ends"] == "0.050000 0.100000 0.200000 0.250000 0.300000 0.350000 0.400000"
    words.write_text("800 Don't\n")
    with pytest.raises(UserError, match="no first sample, last sample and word"):
        timit.read(root)
    words.unlink()
    row = next(row for row in timit.read(root).rows if row["id"] == "FCJF0_SI1027")
    assert (row["words"], row["word_ends"]) == ("", "")


def test_speakers_outside_the_core_test_and_dev_are_left_out(tmp_path: Path) -> None:
    speakers = {row["speaker"]: row["split"] for row in timit.read(build(tmp_path).root).rows}
    assert speakers == {"FCJF0": "train", "MDAC0": "train", "MDAB0": "test", "FAKS0": "dev", "MREB0": "dev"}


def test_lower_case_and_doubled_suffixes_give_the_same_ids(tmp_path: Path) -> None:
    upper = timit.read(build(tmp_path / "a").root).rows
    root = build(tmp_path / "b").root
    for path in sorted((root / "TIMIT").rglob("*"), key=lambda path: -len(path.parts)):
        name = path.name.lower() + (".wav" if path.suffix == ".WAV" else "")
        path.rename(path.with_name(name))
    lower = timit.read(root).rows
    assert [row["id"] for row in lower] == [row["id"] for row in upper]
    assert all((root / "TIMIT" / row["audio"]).is_file() for row in lower)


def test_unknown_foldings_and_phones_are_named(tmp_path: Path) -> None:
    root = build(tmp_path).root
    with pytest.raises(UserError, match="40") as caught:
        timit.read(root, fold="40")
    assert "39, 48, 61" in caught.value.remedy
    (root / "TIMIT/TRAIN/DR1/FCJF0/SX37.PHN").write_text("0 10 h#\n10 20 xx\n")
    with pytest.raises(UserError, match="xx"):
        timit.read(root)
