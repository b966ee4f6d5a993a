"""The utterance table: what is refused, and in which words."""

import json
from pathlib import Path

import pytest
from written_manifests import found, reasons, rows, write

from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.row_checks import SECONDS


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
