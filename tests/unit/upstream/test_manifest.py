"""The utterance table: what is read, what is refused and in which words, and that nothing is lost on the way."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import check_manifest, phones_of, read_manifest, write_manifest
from wavbench.upstream.row_checks import COLUMNS, SECONDS, Problem

HEADER = "id,audio,split"
SUFFIXES = (".csv", ".jsonl", ".parquet")


def write(folder: Path, text: str | bytes, name: str = "corpus.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(*lines: str, header: str = HEADER) -> str:
    return "\n".join([header, *lines, ""])


def found(path: Path) -> list[tuple[int, str]]:
    """Line and reason of every problem but absent audio."""
    problems, _, _ = check_manifest(path)
    return [(p.line, p.reason) for p in problems if not p.reason.startswith("there is no audio file")]


def reasons(folder: Path, **values: str) -> list[str]:
    """What is wrong with one row that is good but for these values."""
    row = {"id": "u1", "audio": "a.wav", "split": "train"} | values
    path = write(folder, json.dumps(row) + "\n", "one.jsonl")
    problems = found(path)
    if problems:
        with pytest.raises(UserError) as error:
            read_manifest(path)
        assert all(reason in str(error.value) for _, reason in problems)
    else:
        assert len(read_manifest(path)) == 1
    return [reason for _, reason in problems]


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


# what is refused


def test_every_bad_row_is_listed_in_one_pass_with_its_line(tmp_path: Path) -> None:
    lines = [
        'a,a.wav,train,en,"first\nsecond\nthird"',  # lines 2 to 4
        "a,b.wav,train,en,again",  # 5
        ",c.wav,train,en,no id",  # 6
        "d,../d.wav,train,en,outside",  # 7
        'e,e.wav,tarin,en,"two\nlines"',  # 8 to 9
        "f,f.wav,dev,english language,tag",  # 10
        "g,g.wav,dev",  # 11
        "h,h.wav,dev,en,good",  # 12
        "i,,test,en,no audio",  # 13
    ]
    path = write(tmp_path, rows(*lines, header="id,audio,split,language,text"))
    expected = [
        (5, "the id occurs before"),
        (6, "id is empty"),
        (7, "audio leaves the corpus folder"),
        (8, "split 'tarin' is unknown"),
        (10, "language is no BCP 47 tag"),
        (11, "3 fields where the header has 5"),
        (13, "audio is empty"),
    ]
    assert found(path) == expected
    with pytest.raises(UserError) as error:
        read_manifest(path)
    assert "7 bad rows" in error.value.what
    for line, reason in expected:
        assert f"line {line} " in error.value.why or f"line {line}:" in error.value.why
        assert reason in error.value.why


def test_a_thousand_bad_rows_do_not_fill_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path, rows(*(f"u{k},u{k}.wav,nowhere" for k in range(1_000))))
    with pytest.raises(UserError) as error:
        read_manifest(path)
    assert "1000 bad rows" in str(error.value)
    assert len(str(error.value).splitlines()) < 30
    assert len(found(path)) == 1_000


@pytest.mark.parametrize(
    "audio",
    ["../a.wav", "x/../../a.wav", "/etc/passwd", "..\\a.wav", "x\\..\\..\\a.wav", "C:\\a.wav", "C:/a.wav", "\\\\h\\a"],
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, audio: str) -> None:
    assert "audio leaves the corpus folder" in reasons(tmp_path, audio=audio)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (outside / "deep").mkdir(parents=True)
    (inside / "real").mkdir(parents=True)
    (outside / "a.wav").touch()
    (inside / "real/a.wav").touch()
    (inside / "folder").symlink_to(outside)
    (inside / "file.wav").symlink_to(outside / "a.wav")
    (inside / "twice.wav").symlink_to(inside / "file.wav")
    (inside / "kin").symlink_to(inside / "real")
    (inside / "kin.wav").symlink_to(inside / "real/a.wav")
    (tmp_path / "inside-too").mkdir()
    (inside / "sibling").symlink_to(tmp_path / "inside-too")
    for audio in ("folder/a.wav", "folder/deep/b.wav", "file.wav", "twice.wav", "sibling/a.wav"):
        assert reasons(inside, audio=audio) == ["audio leaves the corpus folder"], audio
    for audio in ("kin/a.wav", "kin.wav", "real/a.wav"):
        assert reasons(inside, audio=audio) == [], audio


def test_a_corpus_behind_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write(tmp_path / "real", rows("a,a.wav,dev"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert len(read_manifest(tmp_path / "link/corpus.csv")) == 1


@pytest.mark.parametrize("column", ["id", "audio", "split", "speaker", "emotion", "fruit"])
@pytest.mark.parametrize("character", ["\x00", "\n", "\x1b", "\x7f"])
def test_control_characters_are_refused(tmp_path: Path, column: str, character: str) -> None:
    value = {"split": "dev", "audio": "a.wav"}.get(column, "x") + character
    assert f"{column} holds control characters" in reasons(tmp_path, **{column: value})


def test_a_transcript_may_hold_lines_but_nothing_that_is_no_text(tmp_path: Path) -> None:
    assert reasons(tmp_path, text="one\ntwo\tthree\r") == []
    assert reasons(tmp_path, text="a\x00b") == ["text holds control characters"]
    for column in ("text", "id", "fruit"):
        row = {"id": "a", "audio": "a.wav", "split": "dev"} | {column: "a\udfffb"}
        assert found(write(tmp_path, f"\n{json.dumps(row)}\n", "half.jsonl")) == [
            (2, "it holds half of a surrogate pair, which is no character")
        ]


@pytest.mark.parametrize("column", SECONDS)
@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-1", "1,5", "0x10", "one", "True", "1 s"])
def test_what_is_no_number_of_seconds_is_refused(tmp_path: Path, column: str, value: str) -> None:
    assert f"{column} is no number of seconds" in reasons(tmp_path, **{column: value})


@pytest.mark.parametrize(
    ("start", "end", "bad"), [("2", "1", True), ("1", "1", True), ("", "0", True), ("1", "2", False), ("1", "", False)]
)
def test_an_end_is_after_its_start(tmp_path: Path, start: str, end: str, bad: bool) -> None:
    assert reasons(tmp_path, start=start, end=end) == ["end is not after start"] * bad


@pytest.mark.parametrize(
    ("start", "end", "duration", "bad"),
    [("1", "", "2", True), ("0", "", "2", False), ("", "", "2", False), ("1", "3", "2", False), ("1", "", "", False)],
)
def test_a_duration_does_not_end_what_begins_inside_a_file(
    tmp_path: Path, start: str, end: str, duration: str, bad: bool
) -> None:
    found = reasons(tmp_path, start=start, end=end, duration=duration)
    assert found == ["start and duration without end: all to the end of the file would be taken"] * bad


@pytest.mark.parametrize(
    ("phones", "ends", "reason"),
    [
        ("a b", "0.1", "2 phones but 1 phone_ends"),
        ("", "0.1", "0 phones but 1 phone_ends"),
        ("a b", "0.1 x", "phone_ends holds something that is no number"),
        ("a b", "0.1 nan", "phone_ends holds a time that is negative or not finite"),
        ("a b", "-0.1 1", "phone_ends holds a time that is negative or not finite"),
        ("a b", "0.1 0.2", None),
        ("a b", "", None),
    ],
)
def test_ends_are_one_time_per_phone_or_word(tmp_path: Path, phones: str, ends: str, reason: str | None) -> None:
    assert reasons(tmp_path, phones=phones, phone_ends=ends) == [reason] * (reason is not None)
    of_words = reason and reason.replace("phone", "word")
    assert reasons(tmp_path, words=phones, word_ends=ends) == [of_words] * (reason is not None)


@pytest.mark.parametrize("tag", ["en", "pt-BR", "qvi", "zh-Hant-TW", "sl-rozaj-biske", "de-1996", ""])
def test_language_tags_are_read(tmp_path: Path, tag: str) -> None:
    assert reasons(tmp_path, language=tag) == []


@pytest.mark.parametrize("tag", ["e", "english language", "en_US", "en-", "-en", "12", "en-abcdefghi"])
def test_what_is_no_language_tag_is_refused(tmp_path: Path, tag: str) -> None:
    assert reasons(tmp_path, language=tag) == ["language is no BCP 47 tag"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"id,audio,split\n", "no rows"),
        (b"id,audio\na,a.wav\n", "lacks the column split"),
        (b"fruit\napple\n", "lacks the columns id, audio, split"),
        (b"id,audio,split,id\na,a.wav,dev,b\n", "twice"),
        (b"id,audio,split\na,caf\xe9.wav,dev\n", "not UTF-8"),
        ("id,audio,split\na,a.wav,dev\n".encode("utf-16"), "not UTF-8"),
        (b'id,audio,split\na,a.wav,dev\nb,"b.wav,dev\nc,c.wav,dev\n', "line 3: broken CSV"),
        (b'id,audio,split\na,a"b".wav,dev\n"b"x,b.wav,dev\n', "line 3: broken CSV"),
        (b"\n\n\n", "error"),
        (b"\x00\x01\x02\x03", "lacks"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_words(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_manifest(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", b"[1]\n", "line 1: no JSON object"),
        ("a.jsonl", b'{"id": "a", "audio": "a.wav", "split": "dev"}\n{"id": "b"\n', "line 2: no JSON"),
        ("a.jsonl", b'{"id": "a"}\n', "lacks the columns audio, split"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1: no JSON"),
        ("a.jsonl", b"\xff\xfe\n", "not UTF-8"),
        ("a.parquet", b"PAR1 this is none PAR1", "cannot be read"),
        ("a.xlsx", b"x", "no kind of manifest"),
        ("a", b"x", "no kind of manifest"),
    ],
)
def test_other_formats_are_refused_in_words(tmp_path: Path, name: str, text: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_manifest(write(tmp_path, text, name))


def test_an_absent_manifest_names_those_beside_it(tmp_path: Path) -> None:
    write(tmp_path, rows("a,a.wav,dev"), "corpus.csv")
    with pytest.raises(UserError, match=r"corpus\.csv"):
        read_manifest(tmp_path / "korpus.csv")
    with pytest.raises(UserError, match="no such manifest"):
        read_manifest(tmp_path / "none" / "a.csv")


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
