"""A folder for every class, with audio files in it: the layout of most small data sets, for any classification task.

Either `ROOT/CLASS/...` or `ROOT/{train,dev,test}/CLASS/...`; what lies between a class and its files does not matter.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from wavbench.upstream.corpus import Corpus, Reading, find_root
from wavbench.upstream.errors import UserError
from wavbench.upstream.row_checks import REQUIRED, SECONDS

corpus = Corpus(
    title="a folder per class",
    tasks=("er", "lid", "sid", "ks", "ic"),
    licence="that of its recordings",
    source="any folder of audio",
    obtain="it is yours",
)

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
SPLITS = {
    "train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
SHARE = 0.1  # of dev, and of test, where no folders say the splits
FEWEST = 3  # speakers, or files of a class, that can be parted

_COLUMN = re.compile(r"[a-z][a-z0-9_]*")


def read(root: Path, *, column: str = "label", speaker: str = "", language: str = "") -> Reading:
    """Files with their class.

    Where no folders say the splits, a tenth (at least one) is dev, a tenth test, the rest train: a tenth of the
    speakers, if `speaker` tells them, else a tenth of the files of every class, and then the same people may be in
    all splits. Which ones is decided by a hash of the speaker or of the file's path, so it does not change when files
    are read in another order.

    Args:
        root: the folder.
        column: what the classes are, for example emotion, language or keyword: the column that they are written to.
        speaker: regular expression with one group that finds the speaker in a file's path below `root`, for example
            `/(s\\d+)_`.
        language: BCP 47 tag of all files.
    """
    _check(column, speaker, language)
    root = find_root(root, corpus, "*/*")
    folders = [name for name in _folders(root) if name.lower() in SPLITS]
    paths = list(_files(root, folders or _folders(root)))
    if not paths:
        raise UserError(
            "there is no audio in folders of classes",
            where=root,
            why=f"no {', '.join(SUFFIXES)} below {', '.join(_folders(root)[:12])}",
            remedy="give the folder that holds a folder for every class",
        )
    notes = []
    if folders and (others := [name for name in _folders(root) if name not in folders]):
        notes.append(f"folders beside those of the splits were left out: {', '.join(others)}")
    rows, stems = [], Counter(str(PurePosixPath(path).with_suffix("")) for path in paths)
    for path in paths:
        parts = PurePosixPath(path).parts
        if len(parts) < 2 + bool(folders):
            notes.append(f"{path} is in no folder of a class and was left out")
            continue
        stem = str(PurePosixPath(path).with_suffix(""))
        row = {"id": path if stems[stem] > 1 else stem, "audio": path}
        row["split"] = SPLITS[parts[0].lower()] if folders else ""
        row[column] = parts[1] if folders else parts[0]
        if speaker:
            row["speaker"] = _speaker(speaker, path, root)
        rows.append(row | ({"language": language} if language else {}))
    if not folders:
        _split(rows, column, bool(speaker), root)
    promised = ("speaker",) if speaker and not folders else ()
    return Reading(root=root, rows=rows, separates=promised, notes=tuple(notes))


def _check(column: str, speaker: str, language: str) -> None:
    taken = (*REQUIRED, *SECONDS, *(["speaker"] if speaker else []), *(["language"] if language else []))
    if not _COLUMN.fullmatch(column) or column in taken:
        raise UserError(
            f"column={column} cannot hold classes",
            remedy=f"a name of small letters, digits and _ other than {', '.join(taken)}",
        )
    if speaker:
        try:
            groups = re.compile(speaker).groups
        except re.error as error:
            raise UserError(f"speaker={speaker} is no regular expression", why=str(error)) from None
        if groups != 1:
            raise UserError(
                f"speaker={speaker} has {groups} groups", remedy=r"put the speaker into one pair of brackets: /(s\d+)_"
            )


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, folders: Iterable[str]) -> Iterator[str]:
    """Paths of audio below these folders, in order; hidden files are what other systems leave behind."""
    for name in folders:
        found = []
        for place, inner, files in os.walk(root / name):
            inner[:] = [folder for folder in inner if not folder.startswith(".")]
            base = Path(place).relative_to(root).as_posix()
            found += [
                f"{base}/{file}" for file in files if file.lower().endswith(SUFFIXES) and not file.startswith(".")
            ]
        yield from sorted(found)


def _speaker(pattern: str, path: str, root: Path) -> str:
    found = re.search(pattern, path)
    if not found or not found[1]:
        raise UserError(f"speaker={pattern} finds no speaker in {path}", where=root, remedy="correct the expression")
    return found[1]


def _split(rows: list[dict], column: str, speakers: bool, root: Path) -> None:
    """Fill `split` of rows by hash: by speakers as they are, by files class for class."""
    by_speaker = _parts({row["speaker"] for row in rows}) if speakers else {}
    if speakers and len(by_speaker) < FEWEST:
        raise UserError(
            f"{len(by_speaker)} speakers are too few to part",
            where=root,
            remedy="make folders train, dev and test, or leave speaker= out",
        )
    if speakers:
        for row in rows:
            row["split"] = by_speaker[row["speaker"]]
        return
    classes: dict[str, list[dict]] = {}
    for row in rows:
        classes.setdefault(row[column], []).append(row)
    for those in classes.values():
        parts = _parts({row["id"] for row in those})
        for row in those:
            row["split"] = parts[row["id"]]


def _parts(names: set[str]) -> dict[str, str]:
    """Names dealt to the splits in the order of their hashes; all to train where they are too few."""
    ranked = sorted(names, key=lambda name: (hashlib.blake2b(name.encode(), digest_size=8).digest(), name))
    share = max(1, round(SHARE * len(ranked))) if len(ranked) >= FEWEST else 0
    return {name: "test" if k < share else "dev" if k < 2 * share else "train" for k, name in enumerate(ranked)}
