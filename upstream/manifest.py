"""The utterance table: one CSV, JSON Lines or Parquet file is a corpus.

Reading one lists every bad row in one pass, because a person mending a table of 100,000 rows should not have to
run it once per mistake.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.upstream.errors import UserError, closest
from wavbench.upstream.row_checks import (
    REQUIRED,
    SECONDS,
    Problem,
    is_absolute,
    leaks_of,
    missing_audio,
    problems_of,
    repeated_audio,
    warnings_of,
)

MAX_TABLE_BYTES = 4 << 30  # a larger "manifest" is somebody's archive by mistake


@dataclass(frozen=True)
class Manifest:
    """A checked utterance table.

    Args:
        path: the file that was read.
        table: one row per utterance, in the file's order. Seconds are float64 (NaN where empty), everything else is
            text, "" where empty.
        warnings: sentences about things that are allowed but ought to be known, such as shared speakers.
        audio_root: folder that `audio` is relative to, where that is not the manifest's own.
    """

    path: Path
    table: pd.DataFrame
    warnings: tuple[str, ...] = field(default=())
    audio_root: Path | None = None

    @property
    def name(self) -> str:
        return corpus_name(self.path)

    @property
    def root(self) -> Path:
        """The folder that `audio` is relative to."""
        return self.audio_root or self.path.parent

    def __len__(self) -> int:
        return len(self.table)

    def audio_path(self, row: int) -> Path:
        return self.root / self.table["audio"].iat[row]

    def need(self, columns: Iterable[str]) -> None:
        """Raise unless every column exists and has a value somewhere.

        Raises:
            UserError: names the missing column and the ones there are.
        """
        filled = [name for name in self.table.columns if (self.table[name].notna() & (self.table[name] != "")).any()]
        for column in columns:
            if column not in filled:
                raise UserError(
                    f"the manifest has no values in column {column!r}",
                    where=self.path,
                    remedy=f"add the column, or use {closest(column, filled)}",
                )

    def hash(self, columns: Iterable[str]) -> str:
        """BLAKE2b of these columns of all rows: what a result on this corpus depends on besides the audio."""
        digest = hashlib.blake2b(digest_size=16)
        for column in columns:
            digest.update(f"{column}\0".encode())
            for value in self.table.get(column, ()):
                digest.update(f"{value}\0".encode())
        return digest.hexdigest()


def corpus_name(path: Path) -> str:
    """A manifest file's name, or its folder's where the file is just called manifest."""
    return path.resolve().parent.name if path.stem == "manifest" else path.stem


def read_manifest(path: Path | str, root: Path | str | None = None) -> Manifest:
    """Read and check a manifest.

    Args:
        path: .csv, .jsonl or .parquet.
        root: folder that `audio` is relative to; the manifest's own where None. A manifest cannot say so itself: one
            from a stranger would name any folder.

    Raises:
        UserError: the file is missing, empty or unreadable, or has bad rows; all of them are listed.
    """
    path, audio_root = Path(path), Path(root) if root else None
    if audio_root and not audio_root.is_dir():
        raise UserError("there is no such folder of audio", where=f"root={root}", remedy="check the path")
    table, problems = _read(path)
    problems += problems_of(table, audio_root or path.parent) + leaks_of(table)
    if problems:
        problems.sort(key=lambda problem: problem.line)
        shown = "\n    ".join(str(problem) for problem in problems[:20])
        more = f"\n    ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(
            f"the manifest has {len(problems)} bad row{'s' * (len(problems) > 1)}",
            where=path,
            why=f"\n    {shown}{more}",
            remedy=f"`wavbench corpus check {path}` lists all of them; with mended=FILE it writes a manifest without",
        )
    if table.empty:
        raise UserError("the manifest has a header but no rows", where=path, remedy="add a row per utterance")
    return Manifest(path, _typed(table), tuple(warnings_of(table)), audio_root)


def check_manifest(
    path: Path | str, root: Path | str | None = None, mended_root: Path | str | None = None
) -> tuple[list[Problem], list[str], pd.DataFrame]:
    """Find everything wrong with a manifest, absent audio files and recordings under two ids included.

    Args:
        path: .csv, .jsonl or .parquet.
        root: folder that `audio` is relative to; the manifest's own where None.
        mended_root: folder that the mended table will lie in; where None, that `audio` is relative to now.

    Returns:
        The problems in line order, the warnings, and the mended table: white space around values dropped, paths of
        audio in `mended_root` written relative to it, rows that cannot be mended left out.

    Raises:
        UserError: the file cannot be read as a table at all.
    """
    path = Path(path)
    root = Path(root) if root else path.parent
    table, unreadable = _read(path)
    problems = unreadable + problems_of(table, root) + leaks_of(table) + list(missing_audio(table, root))
    if table.empty and not problems:
        problems.append(Problem(0, "", "there is a header but no rows", "add a row per utterance"))
    mended = table.map(str.strip)
    target = Path(mended_root) if mended_root else root
    mended["audio"] = [_moved(audio, root, target) for audio in mended["audio"]]
    bad = {problem.line for problem in (*problems_of(mended, target), *missing_audio(mended, target))}
    mended = mended[~mended["_line"].astype(int).isin(bad)]
    warnings, leaks = list(warnings_of(mended)), leaks_of(mended)
    for row, one in repeated_audio(mended, target):
        here, there = mended.iloc[row], mended.iloc[one]
        said = f"its file has the same content as that of {there['id']}"
        if here["split"] != there["split"]:
            reason = f"{said} in split {there['split']}"
            leaks.append(Problem(int(here["_line"]), here["id"][:80], reason, "keep one of them"))
            problems.append(leaks[-1])
        else:
            warnings.append(f"{here['id']}: {said}")
    mended = mended[~mended["_line"].astype(int).isin({problem.line for problem in leaks})]
    return sorted(problems, key=lambda problem: problem.line), warnings, mended.drop(columns="_line")


def _moved(audio: str, root: Path, target: Path) -> str:
    """An audio path as seen from another folder; itself where it lies outside or is broken."""
    if not audio or "\x00" in audio or (root == target and not is_absolute(audio)):
        return audio
    place, top = os.path.abspath(os.path.join(root, audio)), os.path.abspath(target)
    return os.path.relpath(place, top) if place.startswith(top.rstrip(os.sep) + os.sep) else audio


def write_manifest(table: pd.DataFrame, path: Path | str) -> None:
    """Write a table whole or not at all; the suffix says how (.csv, .jsonl, .parquet)."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    suffix = _suffix(path)
    table = table.where(table.notna(), "")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if suffix == ".csv":
            returns = any(table[name].astype(str).str.contains("\r", regex=False).any() for name in table)
            quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL  # which quotes no lone carriage return
            table.to_csv(temporary, index=False, lineterminator="\n", quoting=quoting)
        elif suffix == ".jsonl":
            # json and not to_json, which rounds seconds to ten digits: a segment would no longer be the same one
            lines = (json.dumps(row, ensure_ascii=False) for row in table.to_dict("records"))
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        else:
            _pyarrow(path)
            table.astype(str).to_parquet(temporary, index=False)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def phones_of(row: dict) -> tuple[list[str], np.ndarray]:
    """Phones and their end times in seconds (empty where the row has no times)."""
    ends = np.array([float(end) for end in str(row.get("phone_ends", "")).split()])
    return str(row["phones"]).split(), ends


def _suffix(path: Path) -> str:
    suffix = {".json": ".jsonl", ".ndjson": ".jsonl", ".pq": ".parquet"}.get(path.suffix.lower(), path.suffix.lower())
    if suffix not in (".csv", ".jsonl", ".parquet"):
        raise UserError(
            f"{path.name!r} is no kind of manifest", where=path, remedy="use a name ending in .csv, .jsonl or .parquet"
        )
    return suffix


def _pyarrow(path: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            "Parquet manifests need pyarrow", where=path, remedy='pip install "wavbench[parquet]", or use .csv'
        ) from None


def _read(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """The table as text with a `_line` column, and the lines that are no rows."""
    suffix = _suffix(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix in (".csv", ".jsonl", ".parquet"))
        remedy = f"manifests beside it: {', '.join(near)}" if near else "check the path"
        raise UserError("there is no such manifest", where=path, remedy=remedy)
    if path.stat().st_size == 0:
        raise UserError("the manifest is empty", where=path, remedy=f"it needs a header with {', '.join(REQUIRED)}")
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise UserError("the manifest is larger than 4 GiB", where=path, remedy="is this the audio archive?")
    try:
        if suffix == ".csv":
            table, problems = _read_csv(path)
        elif suffix == ".jsonl":
            table, problems = _read_jsonl(path)
        else:
            _pyarrow(path)
            table, problems = pd.read_parquet(path), []
            table = table.astype(object).where(table.notna(), "").map(_flat)
            table["_line"] = np.arange(1, len(table) + 1)
    except UnicodeDecodeError as error:
        raise UserError(
            "the manifest is not UTF-8 text", where=path, why=str(error), remedy="save it as UTF-8"
        ) from None
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise UserError("the manifest cannot be read as a table", where=path, why=str(error)[:300]) from None
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise UserError(
            f"the manifest lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
            where=path,
            why=f"it has {', '.join(str(name) for name in table.columns if name != '_line')[:300]}",
            remedy="every manifest needs id, audio (relative to the manifest) and split",
        )
    return table.astype(str), problems


def _read_csv(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    with open(path, encoding="utf-8-sig", newline="") as file:  # newline="": a transcript keeps its own line ends
        text = file.read()
    rows, problems, lines = [], [], []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    before = 0
    try:
        header = next(reader)
        duplicates = sorted({name for name in header if header.count(name) > 1})
        if duplicates:
            raise ValueError(f"the header names {', '.join(duplicates)} twice")
        before = reader.line_num
        for row in reader:
            line, before = before + 1, reader.line_num
            if not row:
                continue
            if len(row) != len(header):
                reason = f"{len(row)} fields where the header has {len(header)}"
                problems.append(Problem(line, row[0][:80], reason, "quote fields that hold commas"))
                continue
            rows.append(row)
            lines.append(line)
    except csv.Error as error:
        problems.append(Problem(before + 1, "", f"broken CSV ({error})", "close the quotes; later rows were not read"))
    except StopIteration:
        raise ValueError("it has no header line") from None
    table = pd.DataFrame(rows, columns=header, dtype=object)
    table["_line"] = lines
    return table, problems


def _read_jsonl(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    rows, problems = [], []
    with open(path, encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                problems.append(Problem(line, "", f"no JSON ({error})", "write one object per line"))
                continue
            if not isinstance(row, dict):
                problems.append(Problem(line, "", "no JSON object", "write one object per line"))
                continue
            row = {key: _flat(value) for key, value in row.items()}
            try:
                "".join([*row, *row.values()]).encode()
            except UnicodeEncodeError:
                reason = "it holds half of a surrogate pair, which is no character"
                problems.append(Problem(line, "", reason, "write the character itself"))
                continue
            rows.append(row | {"_line": line})
    return pd.DataFrame(rows, dtype=object).fillna("") if rows else pd.DataFrame(columns=[*REQUIRED, "_line"]), problems


def _flat(value: object) -> str:
    """Lists (phones, phone_ends) become blank-separated text, as in a CSV."""
    if value is None:
        return ""
    return " ".join(str(part) for part in value) if isinstance(value, list | np.ndarray) else str(value)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    table = table.drop(columns="_line").astype(object)
    for column in SECONDS:
        if column in table:
            table[column] = pd.to_numeric(table[column].replace("", np.nan)).astype(float)
    return table.reset_index(drop=True)
