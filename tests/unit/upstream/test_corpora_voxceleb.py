"""VoxCeleb1: splits for two uses, and lists of trials."""

from pathlib import Path

import pytest
from corpus_trees import voxceleb1 as tree
from corpus_trees import write_text

from wavbench.downstream.trials import read_trials
from wavbench.upstream.corpora import voxceleb1
from wavbench.upstream.errors import UserError
from wavbench.upstream.importing import import_corpus

FIRST, SECOND = tree.VIDEOS
PAIRS = (f"id10001/{FIRST}/00001.wav", f"id10001/{SECOND}/00002.wav", f"id10270/{FIRST}/00001.wav")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree.build(tmp_path)
    return tmp_path / "VoxCeleb1"


def splits(rows) -> dict[str, set[str]]:
    return {split: {row["speaker"] for row in rows if row["split"] == split} for split in ("train", "dev", "test")}


def test_published_numbers_agree_with_each_other() -> None:
    assert sum(voxceleb1.IDENTIFICATION.values()) == voxceleb1.UTTERANCES
    assert len(voxceleb1.TEST) == 40
    others = set(range(10_001, 11_252)) - set(voxceleb1.TEST)
    assert len(others) == 1_211
    assert sum(number % voxceleb1.DEV_EVERY == 0 for number in others) == 41


def test_verification_keeps_the_test_speakers_apart_and_lists_their_trials(root: Path) -> None:
    made = import_corpus("voxceleb1", root, partial=True)
    assert [path.name for path in made.trials] == ["voxceleb1.o.csv", "voxceleb1.o_clean.csv"]
    trials = read_trials(made.trials[0])
    assert trials["enroll"].tolist() == [f"id10270-{FIRST}-00001"] * 2 + [f"id10309-{FIRST}-00001"]
    assert trials["test"].tolist() == [f"id10270-{SECOND}-00002", f"id10309-{FIRST}-00001", f"id10270-{SECOND}-00002"]
    assert trials["target"].tolist() == [True, False, False]
    in_test = set(made.table["id"][made.table["split"] == "test"])  # where the probe wants all that trials name
    assert set(trials["enroll"]) | set(trials["test"]) <= in_test


def test_the_merged_folder_and_the_archives_names_give_the_same_rows(root: Path, tmp_path: Path) -> None:
    apart = {row["id"]: row["split"] for row in voxceleb1.read(root).rows}
    (root / "dev/wav").rename(root / "wav")
    for speaker in tree.SPEAKERS["test"]:
        (root / "test/wav" / speaker).rename(root / "wav" / speaker)
    assert {row["id"]: row["split"] for row in voxceleb1.read(root).rows} == apart
    (root / "wav").rename(root / "vox1_dev_wav")
    assert {row["id"]: row["split"] for row in voxceleb1.read(root).rows} == apart


@pytest.mark.parametrize(("name", "file"), [("e", "list_test_all2.txt"), ("h", "list_test_hard2.txt")])
def test_trials_over_dev_speakers_make_those_utterances_test_and_no_split_shares_a_speaker(
    root: Path, name: str, file: str
) -> None:
    write_text(root / file, f"1 {PAIRS[0]} {PAIRS[1]}\r\n0 {PAIRS[0]} {PAIRS[2]}\r\n")
    made = import_corpus("voxceleb1", root, options={"trials": name}, partial=True)
    assert [path.name for path in made.trials] == [f"voxceleb1.{name}_clean.csv"]
    in_test = set(made.table["id"][made.table["split"] == "test"])
    assert in_test == {pair.removesuffix(".wav").replace("/", "-") for pair in PAIRS}
    found = splits(made.table.to_dict("records"))
    assert found["train"] == {"id10002", "id10309"}
    assert found["dev"] == {"id10020", "id10050"}
    assert found["test"] == {"id10001", "id10270"}
    assert any("name 2 speakers: 5 other utterances" in note and "8 utterances" in note for note in made.notes)


def test_trials_that_are_asked_for_and_not_there_are_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"list_test_hard\.txt or list_test_hard2\.txt"):
        voxceleb1.read(root, trials="h")


def test_identification_has_every_speaker_in_every_split(root: Path) -> None:
    ids = {row["id"]: row for row in voxceleb1.read(root).rows}
    places = ["/".join((row["speaker"], row["session"], id[-5:] + ".wav")) for id, row in ids.items()]
    lines = [f"{(1, 1, 2, 3)[k % 4]} {place}\n" for k, place in enumerate(sorted(places))]
    write_text(root / "iden_split.txt", "".join(lines))
    made = import_corpus("voxceleb1", root, options={"use": "identification"}, partial=True)
    assert made.table["split"].value_counts().to_dict() == {"train": 12, "dev": 6, "test": 6}
    assert (made.table.groupby("speaker")["split"].nunique() == 3).all()
    assert not made.trials


def test_identification_names_a_listed_file_that_is_missing(root: Path) -> None:
    write_text(root / "iden_split.txt", f"1 id10001/{SECOND}/00001.wav\n3 id10001/{SECOND}/00009.wav\n")
    with pytest.raises(UserError, match=rf"1 of 2 .*dev/wav/id10001/{SECOND}/00009\.wav"):
        import_corpus("voxceleb1", root, options={"use": "identification"})


@pytest.mark.parametrize("line", ["2 a/b/c.wav d/e/f.wav", "1 a/b/c.wav", "1 c.wav d/e/f.wav", "1 a/b/c.txt d/e/f.wav"])
def test_a_line_that_is_no_trial_is_refused_with_its_number(root: Path, line: str) -> None:
    write_text(root / "veri_test.txt", f"1 {PAIRS[2]} {PAIRS[2]}\n{line}\n")
    with pytest.raises(UserError, match=r"veri_test\.txt, line 2"):
        voxceleb1.read(root)


@pytest.mark.parametrize("options", [{"use": "recognition"}, {"trials": "x"}])
def test_unknown_options_are_refused_with_the_known_ones(root: Path, options: dict) -> None:
    with pytest.raises(UserError, match="one of: "):
        voxceleb1.read(root, **options)
