"""WebDataset shards: tar files in which KEY.flac, KEY.json, KEY.txt and KEY.cls are one utterance.

Audio is unpacked, because a manifest names files. All shards are looked through and all their texts read before the
first file is written; what no shard holds (links, device files, paths that leave the folder) is refused.
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wavbench.upstream.archives import check
from wavbench.upstream.corpus import Corpus, Reading, find_root, plain_columns, split_of_name
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="a folder of WebDataset shards",
    folder="shards",
    tasks=("asr", "er", "asv", "sid", "lid", "ks", "ic"),
    licence="that of its recordings",
    source="https://github.com/webdataset/webdataset",
    obtain="made by whoever packed it",
)

AUDIO = ("wav", "flac", "mp3", "ogg", "opus")
TEXTS = ("json", "txt", "cls")
LARGEST = 4 << 20  # bytes of a text
SPLITS = ("train", "dev", "test")
OWN = ("id", "audio", "split", "start", "end", "duration", "phone_ends", "raw_text")  # not from JSON
ALIASES = {"speaker_id": "speaker", "spk": "speaker", "lang": "language", "transcript": "text", "transcription": "text"}

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COLUMN = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class _Shard:
    """One tar file that was looked through.

    Args:
        name: of its folder of audio.
        audio: member and file to write of every key.
        size: bytes of audio.
        fields: columns of every key.
        silent: keys without audio.
    """

    path: Path
    name: str
    split: str
    audio: Mapping[str, tuple[str, str]]
    size: int
    fields: Mapping[str, dict]
    silent: int


def read(
    root: Path, *, split: str = "", column: str = "label", language: str = "", into: Path | None = None
) -> Reading:
    """Utterances of all shards, id SHARD/KEY.

    KEY.txt becomes `text`, KEY.cls the column of classes, and texts and numbers of KEY.json columns of their names.

    Args:
        root: folder of shards, or of folders of them; the name of a shard or of its folder tells the split
            (train-0000.tar, dev/0000.tar).
        split: of all shards, where names do not tell.
        column: that KEY.cls is written to, for example emotion or keyword.
        language: BCP 47 tag of all utterances.
        into: folder that audio is unpacked into; `webdataset_audio` in the root if None.
    """
    if split not in ("", *SPLITS):
        raise UserError(f"split={split} is not known", remedy=f"one of: {', '.join(SPLITS)}")
    if not _COLUMN.fullmatch(column) or column in OWN:
        raise UserError(
            f"column={column} cannot hold classes",
            remedy=f"a name of small letters, digits and _ other than {', '.join(OWN)}",
        )
    root = find_root(root, corpus, "*.tar", "*/*.tar")
    into = into or root / "webdataset_audio"
    paths, left = _paths(root, split)
    shards = [_look(path, name, part, column) for (path, part), name in zip(paths, _names(root, paths), strict=True)]
    _unpack(shards, into)
    rows = [row for shard in shards for row in _rows(shard, into.name, language)]
    columns = dict.fromkeys(name for row in rows for name in row)
    notes = [f"shards whose name tells no split were left out: {', '.join(left[:10])}"] if left else []
    if silent := sum(shard.silent for shard in shards):
        notes.append(f"{silent:,} samples have no audio ({', '.join(AUDIO)}) and were left out")
    rows = [{name: row.get(name, "") for name in columns} for row in rows]
    return Reading(root=into.parent, rows=rows, notes=tuple(notes))


def _paths(root: Path, split: str) -> tuple[list[tuple[Path, str]], list[str]]:
    """Shards with their splits, and the names of those that are left out."""
    paths = sorted((*root.glob("*.tar"), *root.glob("*/*.tar")))
    parts = [
        split or split_of_name(path.name) or (path.parent != root and split_of_name(path.parent.name)) for path in paths
    ]
    if not any(parts):
        raise UserError(
            "no name of a shard tells its split",
            where=root,
            why=f"there are {', '.join(path.name for path in paths[:10])}",
            remedy="split=train, split=dev or split=test, or move shards into folders of these names",
        )
    chosen = [(path, part) for path, part in zip(paths, parts, strict=True) if part]
    return chosen, [path.name for path, part in zip(paths, parts, strict=True) if not part]


def _names(root: Path, paths: list[tuple[Path, str]]) -> list[str]:
    """A name for every shard: that of its file, with that of its folder before it where the file's tells no split."""
    names, seen = [], {}
    for path, _ in paths:
        place = (path.stem,) if split_of_name(path.stem) else path.relative_to(root).with_suffix("").parts
        names.append(_plain("_".join(place)))
        other = seen.setdefault(names[-1].casefold(), path)
        if other != path:
            raise UserError("two shards have one name", where=path, why=f"{other} is there too", remedy="rename one")
    return names


def _look(path: Path, name: str, split: str, column: str) -> _Shard:
    """Check a shard and read its texts; nothing is written."""
    check(path)
    audio: dict[str, tuple[str, str]] = {}
    fields: dict[str, dict] = {}
    size = 0
    for member, archive, key, kind in _members(path):
        known = fields.setdefault(key, {})
        if kind in AUDIO:
            if key in audio:
                raise UserError(
                    f"{key[:80]} has two audio files",
                    where=path,
                    why=f"{audio[key][0]} and {member.name}",
                    remedy="pack one recording under each key",
                )
            audio[key] = (member.name, f"{_plain(key)}.{kind}")
            size += member.size
        elif kind in TEXTS:
            found = _fields(path, member, archive, kind, column)
            fields[key] = {**found, **known} if kind == "json" else {**known, **found}  # files of their own count
    files = [file.casefold() for _, file in audio.values()]
    if len(set(files)) < len(files):
        raise UserError("keys of a shard differ in case only", where=path, remedy="pack it with other keys")
    return _Shard(path, name, split, audio, size, fields, silent=len(set(fields) - set(audio)))


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile, str, str]]:
    """(member, its archive, key, kind) of every file: the key ends at the first dot of the file's name."""
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            folder, slash, file = member.name.removeprefix("./").rpartition("/")
            stem, _, kind = file.partition(".")
            if member.isreg() and stem:
                yield member, archive, f"{folder}{slash}{stem}", kind.lower()


def _fields(path: Path, member: tarfile.TarInfo, archive: tarfile.TarFile, kind: str, column: str) -> dict:
    """Columns of one text."""
    where = f"{path}, {member.name}"
    if member.size > LARGEST:
        raise UserError(f"a {kind} of {member.size / 1e6:.0f} MB is no text of an utterance", where=where)
    try:
        text = archive.extractfile(member).read().decode("utf-8-sig").strip()
        value = json.loads(text) if kind == "json" else text
    except (ValueError, RecursionError) as error:
        raise UserError(f"a {kind} of a shard cannot be read", where=where, why=str(error)[:200]) from None
    if kind != "json":
        return {"text" if kind == "txt" else column: value}
    if not isinstance(value, dict):
        raise UserError("a json of a shard is no object", where=where)
    found = plain_columns(value, OWN)
    for other, name in ALIASES.items():
        if other in found:
            found.setdefault(name, found.pop(other))
    return found


def _plain(name: str) -> str:
    """A name that is one safe file name everywhere; what is changed gets a hash, so that no two become one."""
    if _PLAIN.fullmatch(name):
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    return f"{re.sub('[^A-Za-z0-9_-]', '_', name)[:80]}-{digest}".lstrip("_-")


def _unpack(shards: list[_Shard], into: Path) -> None:
    """Write the audio of all shards, every file whole or not at all."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        size, free = sum(shard.size for shard in shards), shutil.disk_usage(into).free
        if size > free:
            raise UserError(
                f"the audio needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free",
                where=into,
                remedy="make room, or give out=FILE.csv in another place; nothing was written",
            )
        for shard in shards:
            folder = into / shard.name
            if folder.is_symlink():
                raise UserError("a link lies where audio is to be unpacked", where=folder, remedy="remove it")
            folder.mkdir(exist_ok=True)
            files = dict(shard.audio.values())
            for member, archive, *_ in _members(shard.path):
                if member.name in files:
                    _write(archive, member, folder / files[member.name])
    except OSError as error:
        raise UserError(
            "audio cannot be unpacked there",
            where=into,
            why=str(error)[:200],
            remedy="give out=FILE.csv in a folder of yours: audio goes beside it",
        ) from None


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    temporary = path.with_name(f".{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            shutil.copyfileobj(archive.extractfile(member), file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _rows(shard: _Shard, into: str, language: str) -> Iterator[dict]:
    for key, (_, file) in shard.audio.items():
        row = {**shard.fields[key], "id": f"{shard.name}/{key}", "audio": f"{into}/{shard.name}/{file}"}
        yield row | {"split": shard.split} | ({"language": language} if language else {})
