"""Any data set of the `datasets` library: saved to disk, a folder of parquet files, or by its name on the Hub."""

import hashlib
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from wavbench.upstream.corpus import Corpus, Reading, find_root, split_of_name
from wavbench.upstream.errors import UserError, closest

corpus = Corpus(
    title="a data set of the Hugging Face Hub",
    folder="data",
    tasks=("asr", "lid", "er", "st"),
    licence="as its card says",
    source="the Hugging Face Hub, by OWNER/NAME",
    obtain='id=OWNER/NAME downloads it with the library datasets (pip install "wavbench[datasets]")',
    text="words",
)

# columns of a manifest and what data sets call them; the first that is there is taken where no option says another
USUAL = {
    "audio": ("audio", "speech"),
    "text": ("text", "sentence", "transcription", "transcript", "raw_transcription"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "locale"),
    "emotion": ("emotion",),
    "translation": (),
}
SAVED = ("dataset_dict.json", "state.json")
PARQUET = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
SAFE = 4  # first version of the library that refuses scripts
BATCH = 64  # rows of parquet in memory at a time: audio is large
TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
# how formats that libsndfile reads begin
MAGIC = {
    b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"NIST": ".sph", b"ID3": ".mp3", b"\xff\xfb": ".mp3",
    b"\xff\xf3": ".mp3", b"\xff\xf2": ".mp3",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """The rows of one split.

    Args:
        name: of the split, as the data set calls it.
        columns: their names.
        labels: names of the classes of columns that hold numbers of classes.
        rows: read once, in order; audio as {bytes, path}, a path, or bytes.
        source: for errors, where it is.
    """

    name: str
    columns: list[str]
    labels: Mapping[str, list[str]]
    rows: Iterator[Mapping[str, object]]
    source: object = field(default="")


def read(
    root: Path, *, id: str = "", configuration: str = "", revision: str = "", audio: str = "", text: str = "",
    speaker: str = "", language: str = "", emotion: str = "", translation: str = "", keep: str = "",
    into: Path | None = None,
) -> Reading:  # fmt: skip
    """Rows of the splits train, validation and test; others, such as `other`, are left out.

    Audio that is inside the tables is written to files named by a hash of their content, so that importing twice, or
    two data sets into one folder, overwrites nothing. It is never decoded here, and no code of a data set is run.

    Args:
        root: a folder of `save_to_disk` or of parquet files; with `id`, one that downloads are kept in.
        id: name on the Hub, such as `google/fleurs`.
        configuration: of the data set; for parquet files the folder of that name.
        revision: on the Hub, a branch, tag or commit.
        audio, text, speaker, language, emotion, translation: columns for those of the manifest; usual names are found.
            `language` may be a tag such as `de` that holds for all rows.
        keep: further columns to take over as they are, with commas between.
        into: folder that audio is written to.
    """
    asked = {
        "audio": audio, "text": text, "speaker": speaker, "language": language, "emotion": emotion,
        "translation": translation,
    }  # fmt: skip
    if id:
        if not root.is_dir():
            said = "there is no such folder to keep the download in"
            raise UserError(said, where=root, remedy="make it, or give another")
        parts = _downloaded(root, id, configuration, revision)
    else:
        root = find_root(root, corpus, *SAVED, *PARQUET)
        parts = _saved(root) if any((root / mark).is_file() for mark in SAVED) else _parquet(root, configuration)
    into = into or root / "hugging_face_audio"
    rows: list[dict] = []
    skipped: list[str] = []
    linked = False
    for part in parts:
        split = split_of_name(part.name)
        if not split:
            skipped.append(part.name)
            continue
        columns, constant = _columns(part, asked, keep)
        for number, found in enumerate(_guarded(part)):
            content, path = _audio(found[columns["audio"]], part, number)
            row = {"id": f"{part.name}_{number:07d}", "split": split, **constant}
            if content:
                row["audio"] = f"{into.name}/{_written(into, content, path)}"
            else:
                row["audio"] = _inside(root, path, part, number)
                linked = True
            for column, theirs in columns.items():
                if column != "audio":
                    row[column] = _value(found[theirs], part, theirs)
            rows.append(row)
    if linked and any(row["audio"].startswith(f"{into.name}/") for row in rows):
        raise UserError("some rows hold their audio and some only paths", where=root, remedy="save it with all audio")
    notes = (f"splits that are left out: {', '.join(skipped)}",) if skipped else ()
    return Reading(root=root if linked else into.parent, rows=rows, notes=notes)


def suffix_of(content: bytes, path: str) -> str:
    """The suffix for audio by how it begins, or that of its path where that is unknown."""
    for magic, suffix in MAGIC.items():
        if content.startswith(magic):
            return suffix
    suffix = PurePosixPath(path.replace("\\", "/")).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ".wav"


def _columns(part: Part, asked: Mapping[str, str], keep: str) -> tuple[dict[str, str], dict[str, str]]:
    """Manifest columns with the columns they are taken from, and those that are the same for all rows."""
    columns, constant = {}, {}
    for column, wanted in asked.items():
        if column == "language" and wanted and wanted not in part.columns and TAG.fullmatch(wanted):
            constant["language"] = wanted
            continue
        found = wanted or next((usual for usual in USUAL[column] if usual in part.columns), "")
        if found and found in part.columns:
            columns[column] = found
        elif wanted or column == "audio":
            raise UserError(
                f"the data set has no column {found or column!r}",
                where=part.source,
                remedy=f"{column}= {closest(found or column, part.columns)}",
            )
    for column in filter(None, (each.strip() for each in keep.split(","))):
        if column not in part.columns:
            said = f"the data set has no column {column!r}"
            raise UserError(said, where=part.source, remedy=closest(column, part.columns))
        if column not in ("id", "split"):
            columns.setdefault(column, column)
    return columns, constant


def _guarded(part: Part) -> Iterator[Mapping[str, object]]:
    """Its rows, with the errors of libraries as ours."""
    try:
        yield from part.rows
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(
            f"split {part.name} cannot be read", where=part.source, why=str(error)[:300], remedy="download it again"
        ) from None


def _audio(value: object, part: Part, number: int) -> tuple[bytes, str]:
    """The content and the path of a cell."""
    if isinstance(value, bytes):
        return value, ""
    if isinstance(value, str) and value:
        return b"", value
    if isinstance(value, Mapping):
        content, path = value.get("bytes") or b"", value.get("path") or ""
        if isinstance(content, bytes) and isinstance(path, str) and (content or path):
            return content, path
    raise UserError(
        "a row has no audio file in its audio column",
        where=f"{part.source}, split {part.name}, row {number}",
        why="neither bytes nor a path",
        remedy="audio= the column with the recordings; decoded samples are not read",
    )


def _written(into: Path, content: bytes, path: str) -> str:
    """Write audio unless it is there already; its path under `into`."""
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    place = into / digest[:2] / f"{digest[2:]}{suffix_of(content, path)}"
    if not place.is_file() or place.stat().st_size != len(content):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        temporary.write_bytes(content)
        os.replace(temporary, place)
    return place.relative_to(into).as_posix()


def _inside(root: Path, path: str, part: Part, number: int) -> str:
    """A path relative to the data set; the importer refuses what leads out of it."""
    if not os.path.isabs(path):
        return path
    if not Path(path).is_relative_to(root.absolute()):
        raise UserError(
            "the audio is not in the data set, which holds only its path",
            where=f"{part.source}, split {part.name}, row {number}",
            why=path[:200],
            remedy="save it with the audio inside, or move it into the folder",
        )
    return Path(path).relative_to(root.absolute()).as_posix()


def _value(value: object, part: Part, column: str) -> str:
    labels = part.labels.get(column)
    if labels and isinstance(value, int):
        return labels[value] if 0 <= value < len(labels) else ""  # -1 is a test set whose classes are not told
    if value is None or isinstance(value, (str, int, float)):
        return "" if value is None else str(value)
    raise UserError(
        f"the column {column} holds neither text nor numbers",
        where=f"{part.source}, split {part.name}",
        why=f"but {type(value).__name__}",
        remedy="give another column, or make one of it",
    )


def _parquet(root: Path, name: str) -> list[Part]:
    """Splits of parquet files, told by their names or folders: train-00000-of-00002.parquet, train/0000.parquet."""
    parquet = _library("pyarrow.parquet", "parquet")
    paths = sorted({path for mark in PARQUET for path in root.glob(mark)})
    configurations: dict[str, list[Path]] = {}
    for path in paths:
        folders = [part for part in path.relative_to(root).parts[:-1] if not split_of_name(part) and part != "data"]
        configurations.setdefault("/".join(folders), []).append(path)
    if name or len(configurations) > 1:
        if name not in configurations:
            known = sorted(filter(None, configurations))
            raise UserError(
                f"there is no configuration {name!r}" if name else f"{len(known)} configurations are here",
                where=root,
                remedy=f"configuration= {closest(name, known)}",
            )
        paths = configurations[name]
    splits: dict[str, list[Path]] = {}
    for path in paths:
        split = path.stem if split_of_name(path.stem) else path.parent.name
        splits.setdefault(re.sub(r"-\d+(-of-\d+)?$", "", split), []).append(path)
    parts = []
    for split, files in splits.items():
        try:
            schema = parquet.read_schema(files[0])
        except (OSError, ValueError) as error:
            raise UserError("a parquet file cannot be read", where=files[0], why=str(error)[:300]) from None
        parts.append(Part(split, schema.names, _labels(schema.metadata or {}), _batches(parquet, files), files[0]))
    return parts


def _batches(parquet, files: list[Path]) -> Iterator[Mapping[str, object]]:
    for path in files:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()


def _labels(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of classes, as the library leaves them in the head of a parquet file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            column: [str(each) for each in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _saved(root: Path) -> list[Part]:
    datasets = _datasets()
    try:
        return _parts(datasets, datasets.load_from_disk(str(root)), root)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError("the data set cannot be loaded", where=root, why=str(error)[:300]) from None


def _downloaded(root: Path, id: str, name: str, revision: str) -> list[Part]:
    datasets = _datasets()
    try:
        loaded = datasets.load_dataset(id, name or None, revision=revision or None, cache_dir=str(root))
        return _parts(datasets, loaded, id)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(
            f"the data set {id} cannot be loaded",
            where=f"id={id}",
            why=str(error)[:300],
            remedy="check id= and configuration=",
        ) from None


def _parts(datasets, loaded, source: object) -> list[Part]:
    """Splits of a loaded data set with their audio as files; one that is not split is all training data."""
    splits = loaded if isinstance(loaded, Mapping) else {str(loaded.split or "train"): loaded}
    parts = []
    for split, table in splits.items():
        labels = {}
        for column, feature in table.features.items():
            if isinstance(feature, datasets.Audio):
                table = table.cast_column(column, datasets.Audio(decode=False))
            elif isinstance(feature, datasets.ClassLabel):
                labels[column] = list(feature.names)
        parts.append(Part(str(split), list(table.column_names), labels, iter(table), source))
    return parts


def _datasets():
    """The library, in a version that runs no scripts of data sets."""
    datasets = _library("datasets", "datasets")
    if int(datasets.__version__.partition(".")[0]) < SAFE:
        raise UserError(
            f"datasets {datasets.__version__} may run code that comes with a data set",
            remedy='pip install "wavbench[datasets]"',
        )
    return datasets


def _library(name: str, extra: str):
    try:
        return importlib.import_module(name)
    except ImportError:
        library = name.partition(".")[0]
        raise UserError(
            f"{library} is not installed, which reads this data set", remedy=f'pip install "wavbench[{extra}]"'
        ) from None
