"""Data sets of the Hub: columns, audio inside and beside tables, splits, and what is refused."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet
import pytest
from corpus_trees.hugging_face import build, flac

from wavbench.upstream.corpora import hugging_face
from wavbench.upstream.corpus import split_of_name
from wavbench.upstream.errors import UserError
from wavbench.upstream.importing import import_corpus


def write(path: Path, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("name", "split"),
    [("train.clean.100", "train"), ("validation", "dev"), ("test_other", "test"), ("validated", ""), ("other", "")],
)
def test_splits_of_the_hub_are_splits_of_the_manifest(name: str, split: str) -> None:
    assert split_of_name(name) == split


@pytest.mark.parametrize(
    ("content", "path", "suffix"),
    [
        (b"fLaC...", "x.wav", ".flac"),
        (b"????", "x.OPUS", ".opus"),
        (b"????", "../x.a/b", ".wav"),
        (b"RIFF", "", ".wav"),
    ],
)
def test_audio_is_named_by_how_it_begins(content: bytes, path: str, suffix: str) -> None:
    assert hugging_face.suffix_of(content, path) == suffix


def test_columns_are_found_by_their_usual_names_and_classes_by_theirs(tmp_path: Path) -> None:
    rows = hugging_face.read(build(tmp_path).root, keep="accent", language="de-AT").rows
    assert (rows[1]["text"], rows[1]["emotion"], rows[1]["accent"]) == ("Sentence 1.", "joy", "northern")
    assert {row["language"] for row in rows} == {"de-AT"}
    assert [row["id"] for row in rows if row["split"] == "train"] == [f"train_{k:07d}" for k in range(3)]


def test_audio_is_written_once_under_its_content_wherever_its_path_points(tmp_path: Path) -> None:
    root = build(tmp_path / "set").root
    made = import_corpus("hugging_face", root, tmp_path / "out" / "it.csv")
    files = sorted(path for path in (tmp_path / "out").rglob("*.flac"))
    assert len(files) == 6
    assert {tmp_path / "out" / audio for audio in made.table["audio"]} == set(files)
    before = [path.stat().st_mtime_ns for path in files]
    import_corpus("hugging_face", root, tmp_path / "out" / "again.csv")
    assert [path.stat().st_mtime_ns for path in files] == before


def test_audio_beside_the_tables_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.flac").write_bytes(flac(1))
    write(tmp_path / "train.parquet", audio=["clips/a.flac"], text=["one"])
    write(tmp_path / "test.parquet", audio=[str(tmp_path / "clips/a.flac")], text=["one"])
    assert [row["audio"] for row in hugging_face.read(tmp_path).rows] == ["clips/a.flac"] * 2


def test_audio_outside_of_the_data_set_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", audio=["/etc/passwd"])
    with pytest.raises(UserError, match="only its path"):
        hugging_face.read(tmp_path)
    (tmp_path / "secret.flac").write_bytes(flac(1))
    write(tmp_path / "set/train.parquet", audio=["../secret.flac"])
    with pytest.raises(UserError):
        import_corpus("hugging_face", tmp_path / "set")


def test_one_of_several_configurations_is_asked_for(tmp_path: Path) -> None:
    for name in ("de", "fr"):
        write(tmp_path / name / "train-00000-of-00001.parquet", audio=[{"bytes": flac(1), "path": ""}], text=[name])
        write(tmp_path / name / "other" / "0000.parquet", audio=[{"bytes": flac(2), "path": ""}], text=["other"])
    with pytest.raises(UserError, match="configurations"):
        hugging_face.read(tmp_path)
    assert [row["text"] for row in hugging_face.read(tmp_path, configuration="fr").rows] == ["fr"]
    with pytest.raises(UserError, match="it"):
        hugging_face.read(tmp_path, configuration="it")


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"sound": [b"x"]}, {}, "no column 'audio'"),
        ({"audio": [b"x"]}, {"text": "words"}, "no column 'words'"),
        ({"audio": [b"x"]}, {"keep": "words"}, "no column 'words'"),
        ({"audio": [[0.1, 0.2]]}, {}, "no audio file"),
        ({"audio": [None]}, {}, "no audio file"),
        ({"audio": [b"x"], "text": [["a", "b"]]}, {}, "neither text nor numbers"),
    ],
)
def test_what_cannot_be_a_manifest_is_named(tmp_path: Path, columns: dict, options: dict, said: str) -> None:
    write(tmp_path / "train.parquet", **columns)
    with pytest.raises(UserError, match=said):
        hugging_face.read(tmp_path, **options)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    root = build(tmp_path).root
    path = root / "data/train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be read"):
        hugging_face.read(root)


def test_says_what_to_install_where_the_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    for options in ({}, {"id": "owner/name"}):
        with pytest.raises(UserError) as caught:
            hugging_face.read(tmp_path, **options)
        assert "wavbench[datasets]" in caught.value.remedy


def test_reads_what_the_library_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets extra is not installed")
    columns = {"speech": [{"bytes": flac(1), "path": "a.flac"}], "text": ["Yes."], "emotion": [1]}
    part = datasets.Dataset.from_dict(columns).cast_column("speech", datasets.Audio())
    part = part.cast_column("emotion", datasets.ClassLabel(names=["anger", "joy"]))
    datasets.DatasetDict({"train": part, "validation": part, "unlabelled": part}).save_to_disk(str(tmp_path / "set"))
    reading = hugging_face.read(tmp_path / "set")
    assert [(row["split"], row["text"], row["emotion"]) for row in reading.rows] == [
        ("train", "Yes.", "joy"),
        ("dev", "Yes.", "joy"),
    ]
    assert (reading.root / reading.rows[0]["audio"]).read_bytes() == flac(1)
    assert "unlabelled" in reading.notes[0]
    (tmp_path / "set/train/state.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        hugging_face.read(tmp_path / "set")


def test_reads_what_the_library_loads_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the datasets extra is not installed")
    source = build(tmp_path / "source").root
    (tmp_path / "downloads").mkdir()
    rows = hugging_face.read(tmp_path / "downloads", id=str(source)).rows
    assert len(rows) == 6
    assert (rows[0]["text"], rows[1]["emotion"]) == ("Sentence 0.", "joy")
    with pytest.raises(UserError, match="cannot be loaded"):
        hugging_face.read(tmp_path / "downloads", id=str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no such folder"):
        hugging_face.read(tmp_path / "absent", id=str(source))


def test_a_version_that_runs_scripts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="2.21.0"))
    with pytest.raises(UserError, match="may run code"):
        hugging_face.read(tmp_path, id="owner/name")


@pytest.mark.parametrize("head", [b"", b"[]", b'{"info": {"features": []}}', b"[" * 100_000])
def test_a_head_of_parquet_that_names_no_classes_has_none(head: bytes) -> None:
    assert hugging_face._labels({b"huggingface": head}) == {}
