"""What a reader of a data set tells of it, and what readers share: finding its folder, reading its tables."""

import csv
import importlib
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pandas as pd

from wavbench.upstream.errors import UserError, closest
from wavbench.upstream.row_checks import COLUMNS

CORPORA = Path(__file__).parent / "corpora"
MAX_FILE_BYTES = 4 << 30  # a larger table is something else
PARENTS = 4  # folders above an index that relative paths are tried from
TRIED = 100  # paths of an index that are looked for

_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,60}")
# `train_dev` and `test_dev93` of recipes are dev sets, so the rarer words count first
_SPLITS = (
    ("dev", re.compile(r"(?<![a-z])(dev|development|valid|validation|val)(set)?(?![a-z])", re.IGNORECASE)),
    ("test", re.compile(r"(?<![a-z])(test|testing|eval|evaluation)(set)?(?![a-z])", re.IGNORECASE)),
    ("train", re.compile(r"(?<![a-z])(train|training)(set)?(?![a-z])", re.IGNORECASE)),
)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A data set, described.

    Args:
        title: as its authors call it.
        folder: name of its top folder as it is distributed, or a pattern of it where the name carries a version;
            importers look for it inside the root, too.
        tasks: what it is used for, `files of downstream/tasks`.
        licence: of the recordings, one line.
        source: address of its page.
        obtain: how to get it where `corpus fetch` does not: an agreement, a form.
        citation: authors, year, title.
        size: of the download, in words.
        hours: of audio, all splits together; 0 where it depends on what is imported.
        separates: columns of which no value occurs in two splits, as its authors promise.
        text: rule of transcripts.py for its `text`; "" where it has none.
        synthetic: whether a synthesiser made its speech.
        part_of: reader of the corpus that its recordings are taken from.
    """

    title: str
    folder: str = ""
    tasks: tuple[str, ...] = ()
    licence: str
    source: str
    obtain: str = ""
    citation: str = ""
    size: str = ""
    hours: float = 0.0
    separates: tuple[str, ...] = ()
    text: str = ""
    synthetic: bool = False
    part_of: str = ""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file to download.

    Args:
        part: what a person asks for it by.
        url: where it is.
        sha256: published or seen before; "" where nobody published one, then the first download is remembered.
        md5: published by those who publish no SHA-256.
        bytes: size of the download, 0 where unknown.
        unpacked: most bytes that it may hold; ten times the download where 0.
        into: folder under the root that it is unpacked into; a file that is no archive is put there.
    """

    part: str
    url: str
    sha256: str = ""
    md5: str = ""
    bytes: int = 0
    unpacked: int = 0
    into: str = ""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reader found.

    Args:
        root: folder that `audio` is relative to.
        rows: manifest rows; `text` as the corpus has it, before any rule.
        expected: utterances of each split as published for these options, or of "all"; {} where releases differ.
        trials: verification trials by name, columns enroll, test (ids) and target (bool).
        separates: in place of the corpus' own, where what the splits separate depends on the options.
        notes: sentences about rows that were left out, and why.
    """

    root: Path
    rows: Sequence[Mapping[str, object]]
    expected: Mapping[str, int] = field(default_factory=dict)
    trials: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    separates: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def corpus_names() -> list[str]:
    """The files of corpora/."""
    return sorted(path.stem for path in CORPORA.glob("*.py") if path.stem != "__init__")


def load_corpus(name: str) -> ModuleType:
    """The module of a corpus: `corpus`, and `read` or `manifest`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in corpus_names():
        raise UserError(f"there is no corpus {name!r}", remedy=closest(name, corpus_names()))
    return importlib.import_module(f"wavbench.upstream.corpora.{name}")


def find_root(root: Path, corpus: Corpus, *marks: str) -> Path:
    """The folder that holds the corpus: `root` itself, or its distributed folder inside.

    Args:
        marks: names or patterns of which at least one must be in it.

    Raises:
        UserError: neither has any of the marks; says what was looked for and what is there.
    """
    if not root.is_dir():
        raise UserError(
            f"there is no such folder for {corpus.title}",
            where=root,
            remedy="give the folder that it was unpacked into",
        )
    for place in (root, *(sorted(root.glob(corpus.folder)) if corpus.folder else ())):
        if place.is_dir() and any(next(place.glob(mark), None) is not None for mark in marks):
            return place
    there = sorted(path.name for path in root.iterdir())
    shown = ", ".join(there[:12]) + (f", ... ({len(there)} in all)" if len(there) > 12 else "")
    inside = f", here or in {corpus.folder}/" if corpus.folder else ""
    raise UserError(
        f"{corpus.title} is not here",
        where=root,
        why=f"none of {', '.join(marks)}{inside}; it holds {shown or 'nothing'}",
        remedy="give the folder that it was unpacked into, or its parent",
    )


def split_of_name(name: str) -> str:
    """The split that the name of a folder or file tells ("train_clean", "cv-en_dev", "eval2000"), "" if none."""
    return next((split for split, words in _SPLITS if words.search(name)), "")


def plain_columns(values: Mapping[object, object], own: Collection[str]) -> dict[str, object]:
    """Texts, numbers and truth values of a JSON object as columns of a manifest.

    Args:
        values: what stands there; lists, objects and odd names are left out.
        own: columns that the reader fills itself.
    """
    found = {}
    for name, value in values.items():
        if isinstance(name, str) and isinstance(value, str | int | float) and _COLUMN.fullmatch(name):
            found[name.lower() if name.lower() in (*COLUMNS, *own) else name] = value
    return {name: value for name, value in found.items() if name not in own}


def find_base(folder: Path, paths: Sequence[str], base: str, where: Path) -> Path:
    """The folder that relative paths of an index start from: recipes are run some folders above what they write.

    Args:
        folder: of the index.
        paths: relative ones of the index; the first hundred are looked for.
        base: what a person says, "" to try `folder` and those above it.
        where: the index.

    Raises:
        UserError: no file is where they say.
    """
    here = folder.resolve()
    places = [Path(base).resolve()] if base else [here, *here.parents[:PARENTS]]
    for place in places:
        if any((place / path).is_file() for path in paths[:TRIED]):
            return place
    raise UserError(
        f"no audio is where {where.name} says (first: {paths[0][:100]})",
        where=where,
        why=f"tried from {', '.join(map(str, places))}",
        remedy="base=FOLDER says where relative paths start",
    )


def need_file(path: Path, what: str) -> Path:
    """The path, or a UserError that says what ought to be there."""
    if not path.is_file():
        absent = next((p for p in [*reversed(path.parents)] if not p.exists()), None)
        why = f"{absent} is missing as well" if absent else ""
        raise UserError(
            f"{what} is missing", where=path, why=why, remedy="copy or unpack the corpus again: it is not complete"
        )
    return path


def need_folder(path: Path, what: str) -> Path:
    """The path, or a UserError that says what ought to be there."""
    if not path.is_dir():
        raise UserError(f"{what} is missing", where=path, remedy="copy or unpack the corpus again: it is not complete")
    return path


def read_lines(path: Path, what: str, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank, without their ends; a byte-order mark and Windows line ends do no harm.

    Raises:
        UserError: the file is missing, larger than 4 GiB, or not text.
    """
    need_file(path, what)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{what} is larger than 4 GiB", where=path, remedy="is this the audio archive?")
    try:
        with open(path, encoding="utf-8-sig" if encoding == "utf-8" else encoding) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeError as error:  # of which a missing byte-order mark of UTF-16 is one, too
        raise UserError(f"{what} is not {encoding} text", where=path, why=str(error)[:200]) from None


def read_table(
    path: Path, what: str, needs: Iterable[str], *, delimiter: str = "\t", quoted: bool = False, spill: str = ""
) -> list[dict[str, str]]:
    """Rows of a table with a header line, by column name.

    Args:
        what: for errors, what the file is.
        needs: columns that must be there.
        quoted: whether fields may be in double quotes (CSV); tab-separated tables of the field are not.
        spill: column whose text may hold the delimiter: fields that are too many are parts of it.

    Raises:
        UserError: the file is missing, is no text, lacks a column, or a row has another number of fields.
    """
    lines = _quoted(path, what, delimiter) if quoted else ((n, x.split(delimiter)) for n, x in read_lines(path, what))
    header: list[str] = []
    rows = []
    for number, fields in lines:
        if not header:
            header = fields
            absent = [name for name in needs if name not in header]
            if absent:
                raise UserError(
                    f"{what} lacks the column{'s' * (len(absent) > 1)} {', '.join(absent)}",
                    where=path,
                    why=f"it has {', '.join(header)[:300]}",
                    remedy="is this the file of another release?",
                )
            continue
        surplus = len(fields) - len(header)
        if surplus > 0 and spill in header:
            place = header.index(spill)
            fields[place : place + surplus + 1] = [" ".join(fields[place : place + surplus + 1])]
        elif surplus:
            refuse_row(path, number, f"{len(fields)} fields under a header of {len(header)}")
        rows.append(dict(zip(header, fields, strict=True)))
    if not header:
        refuse_empty(path, what)
    return rows


def _quoted(path: Path, what: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Numbered rows of a table whose fields may hold line ends."""
    reader = csv.reader(io.StringIO(_whole(path, what), newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{what} cannot be read as a table", where=path, why=str(error)) from None


def _whole(path: Path, what: str) -> str:
    need_file(path, what)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{what} is larger than 4 GiB", where=path, remedy="is this the audio archive?")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not UTF-8 text", where=path, why=str(error)[:200]) from None


def refuse_empty(path: Path, what: str):
    """Raise the UserError of a list that holds nothing, which would be a smaller corpus without a word."""
    raise UserError(f"{what} is empty", where=path, remedy="copy or unpack the corpus again: it is not complete")


def refuse_row(path: Path, line: int, reason: str, remedy: str = "the file was cut or changed: copy it again"):
    """Raise the UserError of one row that is not as the corpus documents it."""
    raise UserError(f"a row is not as documented: {reason}", where=f"{path}, line {line}", remedy=remedy)
