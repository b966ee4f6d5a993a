"""Data folders of Kaldi (and ESPnet, WeNet, k2 recipes): wav.scp with text, utt2spk, segments, utt2lang.

`wav.scp` may hold shell commands in place of files. They are never run: a manifest is data.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wavbench.upstream.corpus import (
    Corpus,
    Reading,
    find_base,
    find_root,
    need_folder,
    read_lines,
    refuse_row,
    split_of_name,
)
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="a Kaldi data folder",
    folder="data",
    tasks=("asr", "pr", "asv", "sid", "lid"),
    licence="that of its recordings",
    source="https://kaldi-asr.org/doc/data_prep.html",
    obtain="prepared by a recipe",
)

FILES = ("wav.scp", "text", "utt2spk", "segments")  # one of them makes a data folder
SPLITS = ("train", "dev", "test")
SHOWN = 100

_ARCHIVE = re.compile(r":\d+$")  # FILE.ark:OFFSET


@dataclass(frozen=True)
class _Data:
    """One data folder.

    Args:
        split: that its utterances go to.
        audio: absolute path of every recording.
        segments: recording, start and end (seconds, "" for the whole) of every utterance.
        columns: text, speaker and language by utterance, as far as there are files of them.
    """

    folder: Path
    split: str
    audio: Mapping[str, str]
    segments: Mapping[str, tuple[str, object, object]]
    columns: Mapping[str, Mapping[str, str]]


def read(
    root: Path, *, train: str = "", dev: str = "", test: str = "", split: str = "", base: str = "", language: str = ""
) -> Reading:
    """Utterances of one data folder, or of all in a folder.

    Where every utterance is its own speaker, as recipes write when speakers are not known, `speaker` is empty.

    Args:
        root: a data folder, or a folder of them.
        train, dev, test: names of the data folders of each split, several with commas between; where none is given,
            folders whose name has train, dev, valid, test or eval as a word.
        split: of a single data folder, where its name does not tell.
        base: folder that relative paths start from; the data folder and the four above it are tried where empty.
        language: BCP 47 tag of all utterances; utt2lang counts where empty.
    """
    if split and split not in SPLITS:
        raise UserError(f"split={split} is not known", remedy=f"one of: {', '.join(SPLITS)}")
    given = {
        name: tuple(filter(None, value.split(","))) for name, value in zip(SPLITS, (train, dev, test), strict=True)
    }
    root = find_root(root, corpus, *FILES, *(f"*/{name}" for name in FILES))
    folders, left = _folders(root, given, split)
    datas = [_data(folder, part, base) for folder, part in folders]
    top = os.path.commonpath([os.path.dirname(path) for data in datas for path in data.audio.values()])
    rows, home = [], {}
    columns = [name for name in ("text", "speaker", "language") if any(name in data.columns for data in datas)]
    timed = any(start != "" for data in datas for _, start, _ in data.segments.values())
    for data in datas:
        for row in _rows(data, top, columns, timed, language):
            if row["id"] in home:
                raise UserError(
                    f"utterance {row['id'][:80]} is in two data folders",
                    where=data.folder,
                    why=f"it is in {home[row['id']]} too",
                    remedy="say which to read: train=, dev= and test= take names of data folders",
                )
            home[row["id"]] = data.folder.name
            rows.append(row)
    if "speaker" in columns and all(row["speaker"] in ("", row["id"]) for row in rows):
        rows = [row | {"speaker": ""} for row in rows]
    notes = (f"data folders whose name tells no split were left out: {', '.join(left)}",) if left else ()
    return Reading(root=Path(top), rows=rows, notes=notes)


def _folders(root: Path, given: Mapping[str, tuple[str, ...]], split: str) -> tuple[list[tuple[Path, str]], list[str]]:
    """Data folders with their splits, and the names of those that are left out."""
    if any((root / name).is_file() for name in FILES):
        part = split or split_of_name(root.resolve().name)
        if not part:
            raise UserError(
                "the name of the data folder tells no split", where=root, remedy="split=train, split=dev or split=test"
            )
        return [(root, part)], []
    if any(given.values()):
        named = [(root / name, part) for part, names in given.items() for name in names]
        return [(need_folder(folder, f"the data folder of {part}"), part) for folder, part in named], []
    there = sorted(entry.name for entry in os.scandir(root) if any((root / entry.name / f).is_file() for f in FILES))
    chosen = [(root / name, part) for name in there if (part := split_of_name(name))]
    left = [name for name in there if not split_of_name(name)]
    if not chosen:
        raise UserError(
            "no data folder's name tells its split",
            where=root,
            why=f"there are {', '.join(left)}",
            remedy="train=, dev= and test= take names of data folders",
        )
    return chosen, left


def _data(folder: Path, split: str, base: str) -> _Data:
    paths = _audio(folder / "wav.scp")
    relative = [path for path in paths.values() if not os.path.isabs(path)]
    if relative:
        start = find_base(folder, relative, base, folder / "wav.scp")
        paths = {name: os.path.join(start, path) for name, path in paths.items()}
    paths = {name: os.path.normpath(path) for name, path in paths.items()}
    if (folder / "segments").is_file():
        segments = dict(_segments(folder / "segments", paths))
    else:
        segments = {name: (name, "", "") for name in paths}
    files = {"text": "text", "speaker": "utt2spk", "language": "utt2lang"}
    columns = {
        column: dict(_pairs(folder / file, empty=column == "text"))
        for column, file in files.items()
        if (folder / file).is_file()
    }
    return _Data(folder, split, paths, segments, columns)


def _audio(path: Path) -> dict[str, str]:
    """Files by recording."""
    found = dict(_pairs(path))
    if not found:
        raise UserError("wav.scp is empty", where=path, remedy="copy the data folder again")
    commands = [line for line in found.values() if line.endswith("|") or line.startswith("|")]
    if commands:
        raise UserError(
            f"{len(commands):,} of {len(found):,} recordings of wav.scp are commands, which are never run",
            where=path,
            why=f"first: {commands[0][:SHOWN]}",
            remedy="write the audio to files and their paths into wav.scp; FLAC, SPHERE and MP3 files need no command",
        )
    packed = [line for line in found.values() if _ARCHIVE.search(line)]
    if packed:
        raise UserError(
            f"{len(packed):,} of {len(found):,} recordings of wav.scp lie in archives (FILE.ark:OFFSET)",
            where=path,
            why=f"first: {packed[0][:SHOWN]}",
            remedy="write every recording to a file of its own and its path into wav.scp",
        )
    return found


def _pairs(path: Path, empty: bool = False) -> Iterator[tuple[str, str]]:
    """Lines `NAME VALUE`, a name once; only a text may be empty."""
    seen = set()
    for number, line in read_lines(path, path.name):
        name, *rest = line.split(maxsplit=1)
        if not rest and not empty:
            refuse_row(path, number, f"{line[:80]!r} is no name and value")
        if name in seen:
            refuse_row(path, number, f"{name[:80]} is there twice")
        seen.add(name)
        yield name, rest[0].strip() if rest else ""


def _segments(path: Path, recordings: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, object, object]]]:
    """Lines `UTTERANCE RECORDING START END`; an end of -1 is that of the recording."""
    for number, line in read_lines(path, "segments"):
        fields = line.split()
        if len(fields) != 4:
            refuse_row(path, number, f"{line[:80]!r} is no utterance, recording, start and end")
        name, recording, *times = fields
        if recording not in recordings:
            refuse_row(path, number, f"recording {recording[:80]} is not in wav.scp")
        try:
            start, end = map(float, times)
        except ValueError:
            refuse_row(path, number, f"{' '.join(times)[:80]!r} are no seconds")
        yield name, (recording, start, end if end >= 0 else "")


def _rows(data: _Data, top: str, columns: list[str], timed: bool, language: str) -> Iterator[dict]:
    for id, (recording, start, end) in data.segments.items():
        row = {"id": id, "audio": os.path.relpath(data.audio[recording], top).replace(os.sep, "/"), "split": data.split}
        if timed:
            row |= {"start": start, "end": end}
        row |= {name: data.columns.get(name, {}).get(id, "") for name in columns}
        yield row | ({"language": language} if language else {})
