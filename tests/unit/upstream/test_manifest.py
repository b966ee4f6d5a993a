"""The utterance table: what is read, mended and written, and that nothing is lost on the way."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_manifests import HEADER, SUFFIXES, found, rows, write

from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import check_manifest, phones_of, read_manifest, write_manifest
from wavbench.upstream.row_checks import COLUMNS, Problem

# what is read


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_csv_jsonl_and_parquet_hold_the_same_table(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "audio": ["x/a.wav", "x/b.flac", "c.opus"],
            "split": ["train", "dev", "test"],
            "start": [0.1 + 0.2, np.nan, 1 / 3],
            "end": [1e-5 + 1, np.nan, 123_456.789_012_345],
            "speaker": ["s1", "", "s2"],
            "text": ['with, "commas"\nand lines', "NA", "zażółć\r\n gęślą "],
            "phones": ["a b", "", "null"],
            "age": ["7", "None", "07"],
        }
    )
    path = tmp_path / f"corpus{suffix}"
    write_manifest(table, path)
    pd.testing.assert_frame_equal(read_manifest(path).table, table, check_dtype=False)


def test_rows_keep_their_order_and_columns_theirs(tmp_path: Path) -> None:
    path = write(tmp_path, rows("z,z.wav,test,1", "a,a.wav,train,2", header="id,audio,split,fruit"))
    table = read_manifest(path).table
    assert table["id"].tolist() == ["z", "a"]
    assert list(table.columns) == ["id", "audio", "split", "fruit"]
    assert table["fruit"].tolist() == ["1", "2"]


def test_seconds_are_numbers_and_all_else_is_text(tmp_path: Path) -> None:
    path = write(tmp_path, rows("007,a.wav,train,,1.50,12", header="id,audio,split,start,end,age"))
    row = read_manifest(path).table.iloc[0]
    assert row["id"] == "007"
    assert np.isnan(row["start"])
    assert row["end"] == 1.5
    assert row["age"] == "12"


@pytest.mark.parametrize("name", ["corpus.csv", "corpus.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str) -> None:
    text = rows("a,a.wav,dev") if name.endswith("csv") else '{"id": "a", "audio": "a.wav", "split": "dev"}\n'
    assert read_manifest(write(tmp_path, b"\xef\xbb\xbf" + text.encode(), name)).table["id"].tolist() == ["a"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(tmp_path: Path, end: str) -> None:
    path = write(tmp_path, rows("a,a.wav,dev", "b,b.wav,nowhere").replace("\n", end))
    assert found(path) == [(3, "split 'nowhere' is unknown")]


def test_lists_in_json_and_parquet_are_phones(tmp_path: Path) -> None:
    row = {"id": "a", "audio": "a.wav", "split": "dev", "phones": ["k", "a"], "phone_ends": [0.25, 0.5]}
    json_path = write(tmp_path, json.dumps(row) + "\n", "a.jsonl")
    parquet_path = tmp_path / "a.parquet"
    pd.DataFrame([row]).to_parquet(parquet_path)
    for path in (json_path, parquet_path):
        phones, ends = phones_of(read_manifest(path).table.iloc[0].to_dict())
        assert phones == ["k", "a"]
        assert ends.tolist() == [0.25, 0.5]


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "id,audio,split\n\na,a.wav,dev\n\n\nb,b.wav,bad\n")
    assert found(path) == [(6, "split 'bad' is unknown")]


def test_hash_follows_the_columns_asked_for_and_no_other(tmp_path: Path) -> None:
    header = "id,audio,split,emotion,text"
    first = read_manifest(write(tmp_path, rows("a,a.wav,dev,sad,x", header=header), "1.csv"))
    other_text = read_manifest(write(tmp_path, rows("a,a.wav,dev,sad,y", header=header), "2.csv"))
    other_label = read_manifest(write(tmp_path, rows("a,a.wav,dev,glad,x", header=header), "3.csv"))
    columns = ("id", "split", "emotion")
    assert first.hash(columns) == other_text.hash(columns)
    assert first.hash(columns) != other_label.hash(columns)


def test_a_needed_column_without_a_value_is_named(tmp_path: Path) -> None:
    header = "id,audio,split,emotion,speaker,start"
    manifest = read_manifest(write(tmp_path, rows("a,a.wav,dev,,s1,", header=header)))
    manifest.need(["speaker"])
    for column in ("emotion", "start", "speakers"):
        with pytest.raises(UserError, match=f"no values in column '{column}'"):
            manifest.need([column])


# what is warned of


def test_speakers_in_two_splits_are_reported_and_allowed(tmp_path: Path) -> None:
    header = "id,audio,split,speaker"
    lines = [
        "a,a.wav,train,s1",
        "b,b.wav,test,s1",
        "c,c.wav,train,s2",
        "d,d.wav,train,s2",
        "e,e.wav,train,",
        "f,f.wav,dev,",
    ]
    (warning,) = read_manifest(write(tmp_path, rows(*lines, header=header))).warnings
    assert warning.startswith("1 speakers occur in more than one split (s1)")


def test_phones_that_go_back_in_time_are_reported_and_allowed(tmp_path: Path) -> None:
    header = "id,audio,split,phones,phone_ends"
    path = write(tmp_path, rows("a,a.wav,dev,a b,0.1 0.2", "b,b.wav,dev,a b,0.2 0.1", header=header))
    (warning,) = read_manifest(path).warnings
    assert "in 1 rows (first: b)" in warning


# mending and writing


def test_a_mended_manifest_reads_clean(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    lines = [
        " a , a.wav,train ,1",
        "a,b.wav,train,2",  # the same id, once the blanks are gone
        "b,b.wav,dev,3",
        "c,gone.wav,dev,4",
        "d,../a.wav,dev,5",
        "e,a.wav",
        "f,a.wav,verify,6",
    ]
    path = write(tmp_path, rows(*lines, header="id,audio,split,fruit"))
    problems, _, mended = check_manifest(path)
    assert {p.line for p in problems} >= {5, 6, 7, 8}
    assert Problem(5, "c", "there is no audio file 'gone.wav'", "correct the path") in problems
    write_manifest(mended, tmp_path / "mended.csv")
    assert read_manifest(tmp_path / "mended.csv").table["id"].tolist() == ["a", "b"]
    assert list(mended.columns) == ["id", "audio", "split", "fruit"]
    assert check_manifest(tmp_path / "mended.csv")[0] == []


def test_checking_a_header_without_rows_says_so(tmp_path: Path) -> None:
    problems, _, mended = check_manifest(write(tmp_path, "id,audio,split\n"))
    assert [(p.line, p.reason) for p in problems] == [(0, "there is a header but no rows")]
    assert list(mended.columns) == ["id", "audio", "split"]
    assert len(mended) == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"corpus{suffix}"
    table = pd.DataFrame({"id": ["a"], "audio": ["a.wav"], "split": ["dev"]})
    write_manifest(table, path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_manifest(table.assign(split="test"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=12)
NAME = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).filter(str.strip)
TIMES = st.floats(0, 1e5) | st.just(np.nan)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), suffix=st.sampled_from(SUFFIXES))
def test_any_table_survives_writing_and_reading(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    ids = data.draw(st.lists(NAME, min_size=1, max_size=6, unique=True))
    count = len(ids)
    column = {name: st.lists(kind, min_size=count, max_size=count) for name, kind in (("text", TEXT), ("time", TIMES))}
    names = st.lists(NAME.filter(lambda name: name not in (*COLUMNS, "_line")), max_size=2, unique=True)
    table = {
        "id": ids,
        "audio": [f"audio/{k}.wav" for k in range(count)],
        "split": data.draw(st.lists(st.sampled_from(("train", "dev", "test")), min_size=count, max_size=count)),
        "start": data.draw(column["time"]),
        "text": data.draw(column["text"]),
    } | {name: data.draw(st.lists(NAME, min_size=count, max_size=count)) for name in data.draw(names)}
    path = tmp_path / f"random{suffix}"
    write_manifest(pd.DataFrame(table), path)
    back = read_manifest(path).table
    pd.testing.assert_frame_equal(back, pd.DataFrame(table), check_dtype=False)


def test_a_lone_carriage_return_survives_in_csv(tmp_path: Path) -> None:
    """Python's writer quotes what its own line ends hold, and a reader takes the rest for one."""
    table = pd.DataFrame({"id": ["a", "b"], "audio": ["a.wav", "b.wav"], "split": "test", "text": ["\rone", "two\r"]})
    write_manifest(table, tmp_path / "returns.csv")
    assert read_manifest(tmp_path / "returns.csv").table["text"].tolist() == ["\rone", "two\r"]


@pytest.mark.real
def test_every_manifest_of_recorded_speech_reads(corpora: Path) -> None:
    paths = sorted(corpora.glob("*.csv"))
    assert paths
    for path in paths:
        assert len(read_manifest(path)) > 100


# manifests of other tools, and one recording under two ids


def exported(folder: Path, audio: list[str], newline: str = "\r\n", mark: str = "\ufeff") -> Path:
    """A table as spreadsheets write it: absolute paths, Windows line ends, a byte-order mark."""
    lines = ["id,audio,split", *(f"u{k},{path},train" for k, path in enumerate(audio)), ""]
    return write(folder, (mark + newline.join(lines)).encode())


def test_absolute_paths_are_mended_where_the_audio_lies_in_the_folder(tmp_path: Path) -> None:
    for k, name in enumerate(("a.wav", "b.wav")):
        (tmp_path / name).write_bytes(bytes([k]))
    path = exported(tmp_path, [str(tmp_path / "a.wav"), str(tmp_path / "b.wav"), "/etc/hostname", "C:\\audio\\c.wav"])
    with pytest.raises(UserError, match="leaves the corpus folder") as caught:
        read_manifest(path)
    assert "mended=FILE" in str(caught.value)
    problems, _, mended = check_manifest(path)
    assert {p.line for p in problems} == {2, 3, 4, 5}
    assert mended[["id", "audio", "split"]].to_numpy().tolist() == [["u0", "a.wav", "train"], ["u1", "b.wav", "train"]]
    write_manifest(mended, tmp_path / "mended.csv")
    assert check_manifest(tmp_path / "mended.csv")[0] == []


def test_a_mended_manifest_in_another_folder_points_at_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.wav").write_bytes(b"a")
    path = exported(tmp_path / "corpus", ["a.wav"])
    _, _, mended = check_manifest(path, mended_root=tmp_path)
    assert mended["audio"].tolist() == ["corpus/a.wav"]


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"a")
    plain = read_manifest(exported(tmp_path, ["a.wav"], newline="\n", mark=""))
    assert read_manifest(exported(tmp_path, ["a.wav"])).table.equals(plain.table)


def test_audio_may_lie_under_another_folder_that_the_reader_names(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/a.wav").write_bytes(b"a")
    (tmp_path / "mine").mkdir()
    path = exported(tmp_path / "mine", ["a.wav"])
    manifest = read_manifest(path, tmp_path / "audio")
    assert manifest.audio_path(0) == tmp_path / "audio/a.wav"
    assert check_manifest(path, tmp_path / "audio")[0] == []
    with pytest.raises(UserError, match="no such folder of audio"):
        read_manifest(path, tmp_path / "absent")


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.wav,,", "./a.wav,,"), ("d/a.wav,,", "d//a.wav,,"), ("a.wav,0,1", "a.wav,0.00,1.0"), ("a.wav,,1", "a.wav,0,1")],
)
def test_the_same_audio_written_in_two_ways_is_the_same(first: str, second: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"id,split,audio,start,end\na,train,{first}\nb,test,{second}\n")
    assert found(path) == [(3, "it is the audio of a in split train again")]


def test_other_parts_of_a_file_are_other_audio(tmp_path: Path) -> None:
    path = write(tmp_path, "id,split,audio,start,end\na,train,a.wav,0,1\nb,test,a.wav,1,2\nc,test,a.wav,2,\n")
    assert found(path) == []


def test_the_same_audio_in_two_splits_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, rows("a,a.wav,train", "b,b.wav,dev", "c,a.wav,test"))
    assert found(path) == [(4, "it is the audio of a in split train again")]
    with pytest.raises(UserError, match="cannot be tested on"):
        read_manifest(path)


def test_parts_of_one_recording_may_lie_in_several_splits(tmp_path: Path) -> None:
    path = write(tmp_path, rows("a,a.wav,train,0,1", "b,a.wav,dev,1,2", header=f"{HEADER},start,end"))
    assert len(read_manifest(path)) == 2


def test_the_same_audio_twice_in_a_split_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, rows("a,a.wav,train", "b,a.wav,train", "c,c.wav,dev"))
    assert read_manifest(path).warnings == ("1 rows are the audio of an earlier row under another id (first: b)",)


def test_files_of_one_content_under_two_names_are_found(tmp_path: Path) -> None:
    for name, data in (("a.wav", b"one"), ("b.wav", b"one"), ("c.wav", b"one"), ("d.wav", b"two")):
        (tmp_path / name).write_bytes(data)
    path = write(tmp_path, rows("a,a.wav,train", "b,b.wav,train", "c,c.wav,test", "d,d.wav,test"))
    problems, warnings, mended = check_manifest(path)
    assert [(p.line, p.reason) for p in problems] == [(4, "its file has the same content as that of a in split train")]
    assert warnings == ["b: its file has the same content as that of a"]
    assert mended["id"].tolist() == ["a", "b", "d"]
