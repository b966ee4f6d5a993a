"""WebDataset shards: what becomes of keys and texts, and that nothing of a hostile shard is written."""

import io
import tarfile
from pathlib import Path

import pytest
from corpus_trees import webdataset as tree

from wavbench.upstream.corpora import webdataset
from wavbench.upstream.errors import UserError
from wavbench.upstream.importing import import_corpus


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return tree.build(tmp_path).root


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".tar")


def test_keys_that_count_from_nought_in_every_shard_stay_apart(shards: Path) -> None:
    rows = webdataset.read(shards).rows
    assert [row["id"] for row in rows if row["split"] == "train"] == [
        "speech-train-000000/000000", "speech-train-000000/000001",
        "speech-train-000001/000000", "speech-train-000001/000001",
    ]  # fmt: skip


def test_texts_become_columns(shards: Path) -> None:
    row = webdataset.read(shards, column="keyword").rows[0]
    assert (row["text"], row["keyword"], row["speaker"], row["language"]) == ("Sir, I exist", "3", "s2", "en")
    assert "words" not in row
    assert "duration" not in row


def test_audio_lies_beside_the_manifest_byte_for_byte(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine/corpus.csv"
    made = import_corpus("webdataset", shards, out)
    first = made.table.iloc[0]
    assert first["audio"] == "webdataset_audio/speech-dev-000000/000000.flac"
    assert (out.parent / first["audio"]).read_bytes() == tree.audio(tmp_path, seed=20)
    assert made.root is None


def test_names_that_are_no_file_names_are_flattened_and_stay_apart(tmp_path: Path) -> None:
    sound = tree.audio(tmp_path, seed=1)
    keys = ("a/b", "a_b", "ü x", "-rf", "CON" * 60)
    tree.pack(tmp_path / "shards/train.tar", {f"{key}.flac": sound for key in keys})
    rows = webdataset.read(tmp_path).rows
    assert [row["id"] for row in rows] == [f"train/{key}" for key in keys]
    files = [row["audio"].split("/")[-1] for row in rows]
    assert files[1] == "a_b.flac"
    assert len(set(files)) == len(keys)
    assert all(file.isascii() and len(file) < 110 and not file.startswith(("-", ".")) for file in files)


def test_a_key_ends_at_the_first_dot_and_kinds_are_read_in_any_case(tmp_path: Path) -> None:
    members = {"a.FLAC": tree.audio(tmp_path, seed=1), "a.seg.txt": b"no", "a.TXT": b"\xef\xbb\xbfyes\r\n"}
    tree.pack(tmp_path / "dev/0000.tar", members)
    [row] = webdataset.read(tmp_path).rows
    assert (row["id"], row["text"], row["split"]) == ("dev_0000/a", "yes", "dev")


def evil(path: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    """A shard with a good sample and one member of this name and kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for member, data in (("good.flac", b"x" * 10), (name, b"y" * 10)):
            info = tarfile.TarInfo(member)
            if member == name:
                info.type, info.linkname = kind, link
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../evil.flac", tarfile.REGTYPE, ""),
        ("/tmp/evil.flac", tarfile.REGTYPE, ""),
        ("a/../../evil.flac", tarfile.REGTYPE, ""),
        ("evil.flac", tarfile.SYMTYPE, "/etc/passwd"),
        ("evil.flac", tarfile.LNKTYPE, "good.flac"),
        ("evil.flac", tarfile.CHRTYPE, ""),
        ("evil.flac", tarfile.FIFOTYPE, ""),
        ("good.flac", tarfile.REGTYPE, ""),
        ("GOOD.flac", tarfile.REGTYPE, ""),
    ],
)
def test_nothing_of_a_hostile_shard_is_written(tmp_path: Path, name: str, kind: bytes, link: str) -> None:
    tree.build(tmp_path / "set")
    evil(tmp_path / "set/shards/z-test-9.tar", name, kind, link)
    with pytest.raises(UserError, match="nothing was written"):
        import_corpus("webdataset", tmp_path / "set")
    assert written(tmp_path) == []


def test_a_shard_that_was_cut_is_refused_before_anything_is_written(shards: Path) -> None:
    path = shards / "shards/speech-train-000001.tar"
    path.write_bytes(path.read_bytes()[:3_000])
    with pytest.raises(UserError, match=r"broken|cut off"):
        import_corpus("webdataset", shards)
    assert written(shards) == []


@pytest.mark.parametrize(
    ("member", "data"),
    [("a.json", b"{"), ("a.json", b"[1]"), ("a.txt", b"\xff\xfe"), ("a.json", b"[" * 100_000), ("a.wav", b"RIFF")],
)
def test_a_sample_that_is_not_as_documented_is_named_before_anything_is_written(
    tmp_path: Path, member: str, data: bytes
) -> None:
    sound = tree.audio(tmp_path, seed=1)
    tree.pack(tmp_path / "shards/train-0.tar", {"a.flac": sound, member: data})
    with pytest.raises(UserError, match=r"train-0\.tar"):
        import_corpus("webdataset", tmp_path)
    assert written(tmp_path) == []


def test_a_text_as_large_as_a_recording_is_refused(tmp_path: Path) -> None:
    members = {"a.flac": b"x", "a.txt": b" " * (webdataset.LARGEST + 1)}
    tree.pack(tmp_path / "shards/train-0.tar", members)
    with pytest.raises(UserError, match="is no text of an utterance"):
        webdataset.read(tmp_path)


def test_shards_whose_names_tell_no_split_are_left_out_or_given_one(shards: Path) -> None:
    (shards / "shards/speech-test-000000.tar").rename(shards / "shards/speech-more-000000.tar")
    reading = webdataset.read(shards)
    assert {row["split"] for row in reading.rows} == {"train", "dev"}
    assert reading.notes == ("shards whose name tells no split were left out: speech-more-000000.tar",)
    assert {row["split"] for row in webdataset.read(shards, split="test").rows} == {"test"}
    for path in (shards / "shards").iterdir():
        path.rename(path.with_name(f"{path.stat().st_ino}.tar"))
    with pytest.raises(UserError, match="split=train, split=dev or split=test"):
        webdataset.read(shards)


def test_two_shards_of_one_name_are_refused(shards: Path) -> None:
    (shards / "more").mkdir()
    (shards / "shards/speech-train-000001.tar").rename(shards / "more/speech-train-000000.tar")
    with pytest.raises(UserError, match="two shards have one name"):
        webdataset.read(shards)


def test_samples_without_audio_are_counted(tmp_path: Path) -> None:
    tree.pack(tmp_path / "shards/train-0.tar", {"a.flac": tree.audio(tmp_path, seed=1), "b.txt": b"only text"})
    reading = webdataset.read(tmp_path)
    assert len(reading.rows) == 1
    assert any("1 samples have no audio" in note for note in reading.notes)


def test_a_link_in_the_folder_of_audio_is_not_written_through(shards: Path, tmp_path: Path) -> None:
    (shards / "webdataset_audio").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (shards / "webdataset_audio/speech-dev-000000").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link lies"):
        webdataset.read(shards)
    assert written(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("options", [{"split": "valid"}, {"column": "audio"}, {"column": "A"}])
def test_options_that_cannot_be_are_refused(shards: Path, options: dict) -> None:
    with pytest.raises(UserError):
        webdataset.read(shards, **options)
