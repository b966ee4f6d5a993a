"""lhotse manifests: recordings with supervisions, cuts, and what is refused."""

import json
from pathlib import Path

import pytest
from corpus_trees import lhotse as tree
from corpus_trees import write_audio

from wavbench.upstream.corpora import lhotse
from wavbench.upstream.errors import UserError
from wavbench.upstream.importing import import_corpus


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    return tree.build(tmp_path).root / "manifests"


def pair(folder: Path, recording: dict, *supervisions: dict) -> Path:
    """One recording r of a second, and its supervisions, as the part `train`."""
    write_audio(folder / "r.wav", seconds=1.0)
    tree.write(folder / "recordings_train.jsonl", [recording])
    tree.write(folder / "supervisions_train.jsonl", list(supervisions))
    return folder


def cut(id: str, start: float, duration: float, *supervisions: dict, **fields: object) -> dict:
    return {
        "id": id, "start": start, "duration": duration, "channel": 0, "supervisions": list(supervisions),
        "recording": tree.recording("r", "r.wav", 4.0), "type": "MonoCut", **fields,
    }  # fmt: skip


def test_a_supervision_of_a_part_has_times_and_one_of_the_whole_has_none(manifests: Path) -> None:
    rows = {row["id"]: row for row in lhotse.read(manifests).rows}
    assert (rows["dev-clean-2-0-b"]["start"], rows["dev-clean-2-0-b"]["end"]) == (0.5, 0.75)
    assert (rows["dev-clean-2-whole"]["start"], rows["dev-clean-2-whole"]["end"]) == ("", "")


def test_columns_come_from_supervisions_and_plain_custom_fields(manifests: Path) -> None:
    rows = {row["id"]: row for row in lhotse.read(manifests).rows}
    row = rows["test-clean-0-a"]
    assert (row["text"], row["speaker"], row["language"]) == ("SIR I EXIST", "stest-clean-0", "en")
    assert (row["emotion"], row["take"]) == ("sad", 2)
    assert "features" not in row
    assert rows["test-clean-0-b"]["emotion"] == ""


def test_cuts_move_their_supervisions_to_the_time_of_the_recording(tmp_path: Path) -> None:
    write_audio(tmp_path / "r.wav", seconds=4.0)
    inside = tree.supervision("s1", "r", 0.25, 0.5, text="inside")
    longer = tree.supervision("s2", "r", -0.5, 3.0, text="cut off at both ends")
    tree.write(tmp_path / "corpus_cuts_test.jsonl.gz", [cut("c", 1.0, 2.0, inside, longer, custom={"session": "7"})])
    made = import_corpus("lhotse", tmp_path)
    assert made.table[["id", "start", "end", "session", "split"]].to_numpy().tolist() == [
        ["s1", "1.25", "1.75", "7", "test"], ["s2", "1.0", "3.0", "7", "test"],
    ]  # fmt: skip


def test_a_supervision_in_several_cuts_is_one_row_with_most_of_it(tmp_path: Path) -> None:
    write_audio(tmp_path / "r.wav", seconds=4.0)
    cuts = [cut(f"c{k}", k, 1.0, tree.supervision("s", "r", 0.5 - k, 1.25)) for k in range(2)]
    tree.write(tmp_path / "cuts_dev.jsonl", cuts)
    [row] = lhotse.read(tmp_path).rows
    assert (row["start"], row["end"]) == (1.0, 1.75)


def test_recordings_count_before_cuts_unless_cuts_are_asked_for(manifests: Path) -> None:
    write_audio(manifests / "r.wav", seconds=4.0)
    one = tree.supervision("s", "r", 0.0, 1.0)
    tree.write(manifests / "librispeech_cuts_dev-clean-2.jsonl.gz", [cut("c", 0.0, 2.0, one)])
    assert len(lhotse.read(manifests).rows) == 11
    assert [row["id"] for row in lhotse.read(manifests, kind="cuts").rows] == ["s"]


@pytest.mark.parametrize("kind", ["command", "url", "memory", "shar"])
def test_only_files_are_read_and_nothing_is_run(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "was-run"
    recording = tree.recording("r", f"touch {mark}")
    recording["sources"][0]["type"] = kind
    pair(tmp_path, recording, tree.supervision("s", "r", 0, 1))
    with pytest.raises(UserError, match=f"recording 'r' is a {kind}, not a file"):
        lhotse.read(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sources": [{"type": "file", "channels": [0, 1], "source": "r.wav"}]}, "several channels"),
        ({"sources": []}, "several channels"),
        ({"sources": "r.wav"}, "no list"),
        ({"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}, "has transforms"),
        ({"duration": float("nan")}, "no number of seconds"),
        ({"duration": -1}, "is negative"),
        ({"id": 7}, "id is no text"),
    ],
)
def test_a_recording_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, change: dict, reason: str) -> None:
    pair(tmp_path, tree.recording("r", "r.wav") | change, tree.supervision("s", "r", 0, 1))
    with pytest.raises(UserError, match=rf"(?s){reason}.*recordings_train\.jsonl, line 1"):
        lhotse.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recording_id": "other"}, "not in the other manifest"),
        ({"channel": 1}, "channel 1 is annotated"),
        ({"channel": [0, 1]}, "is annotated"),
        ({"start": 2.0}, "outside its recording"),
        ({"start": "0"}, "no number of seconds"),
    ],
)
def test_a_supervision_that_does_not_fit_is_refused_with_its_line(tmp_path: Path, change: dict, reason: str) -> None:
    good = tree.supervision("s0", "r", 0, 0.5)
    pair(tmp_path, tree.recording("r", "r.wav"), good, tree.supervision("s", "r", 0, 1) | change)
    with pytest.raises(UserError, match=rf"(?s){reason}.*supervisions_train\.jsonl, line 2"):
        lhotse.read(tmp_path)


@pytest.mark.parametrize("kind", ["MixedCut", "MultiCut", "PaddingCut"])
def test_cuts_of_several_recordings_are_refused(tmp_path: Path, kind: str) -> None:
    tree.write(tmp_path / "cuts_train.jsonl", [cut("c", 0.0, 1.0, type=kind)])
    with pytest.raises(UserError, match=f"it is a {kind}"):
        lhotse.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "7", "[" * 100_000, '{"id": "r"', '\xff{"id"'])
def test_lines_that_are_no_objects_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cuts_train.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"cuts_train\.jsonl"):
        lhotse.read(tmp_path)


def test_a_packed_manifest_that_was_cut_is_refused(manifests: Path) -> None:
    path = manifests / "librispeech_recordings_train-clean-5.jsonl.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read"):
        lhotse.read(manifests)


def test_parts_are_chosen_by_name_where_names_tell_no_split(manifests: Path) -> None:
    for path in list(manifests.iterdir()):
        path.rename(manifests / path.name.replace("test-clean", "others"))
    reading = lhotse.read(manifests)
    assert {row["split"] for row in reading.rows} == {"train", "dev"}
    assert reading.notes == ("parts whose name tells no split were left out: others",)
    given = lhotse.read(manifests, train="train-clean-5", dev="dev-clean-2", test="others")
    assert {row["split"] for row in given.rows} == {"train", "dev", "test"}
    with pytest.raises(UserError, match="there are: dev-clean-2, others, train-clean-5"):
        lhotse.read(manifests, test="test-clean")


def test_recordings_without_supervisions_are_named(manifests: Path) -> None:
    (manifests / "librispeech_supervisions_test-clean.jsonl.gz").unlink()
    with pytest.raises(UserError, match=r"librispeech_supervisions_test-clean\.jsonl\.gz"):
        lhotse.read(manifests)


def test_absolute_paths_need_no_base_and_relative_ones_may_have_one(tmp_path: Path) -> None:
    one = tree.supervision("s", "r", 0, 1)
    pair(tmp_path / "a", tree.recording("r", str(tmp_path / "a/r.wav")), one)
    assert lhotse.read(tmp_path / "a").root == tmp_path / "a"
    (tmp_path / "b/c").mkdir(parents=True)
    for name in ("recordings_train.jsonl", "supervisions_train.jsonl"):
        (tmp_path / "b/c" / name).write_text((tmp_path / "a" / name).read_text())
    tree.write(tmp_path / "b/c/recordings_train.jsonl", [tree.recording("r", "sounds/r.wav")])
    write_audio(tmp_path / "elsewhere/sounds/r.wav")
    with pytest.raises(UserError, match="base=FOLDER"):
        lhotse.read(tmp_path / "b/c")
    assert lhotse.read(tmp_path / "b/c", base=str(tmp_path / "elsewhere")).root == tmp_path / "elsewhere/sounds"


def test_the_language_may_be_given(manifests: Path) -> None:
    assert {row["language"] for row in lhotse.read(manifests, language="en-US").rows} == {"en-US"}


def test_custom_fields_never_replace_what_the_manifest_needs(tmp_path: Path) -> None:
    custom = {"id": "x", "Audio": "/etc/passwd", "split": "test", "Start": 9, "_index": "x", "a b": 1, "raw_text": "y"}
    pair(tmp_path, tree.recording("r", "r.wav"), tree.supervision("s", "r", 0, 1, custom=custom))
    [row] = lhotse.read(tmp_path).rows
    assert row == {"id": "s", "audio": "r.wav", "split": "train", "start": "", "end": ""}
    assert json.dumps(row)
