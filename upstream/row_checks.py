"""What can be wrong with the rows of a manifest."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from wavbench.upstream.audio import audio_hash

REQUIRED = ("id", "audio", "split")
SECONDS = ("start", "end", "duration")  # columns in seconds
TEXT = (
    "speaker", "language", "text", "phones", "phone_ends", "words", "word_ends", "emotion", "translation",
    "translation_language", "session",
)  # fmt: skip
COLUMNS = REQUIRED + SECONDS + TEXT
SPLITS = ("train", "dev", "test")

_LANGUAGE = re.compile(r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$")  # BCP 47, well-formedness only
MENDS = "`wavbench corpus check MANIFEST mended=FILE` does so for audio that lies in FILE's folder"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one row.

    Args:
        line: line of the file (the header is line 1), 0 when it concerns the whole file.
        id: the row's utterance id, as far as it has one.
        reason: what is wrong.
        remedy: how to mend it.
    """

    line: int
    id: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "file"
        return f"{place}{f' ({self.id})' if self.id else ''}: {self.reason}; {self.remedy}"


def problems_of(table: pd.DataFrame, root: Path) -> list[Problem]:
    """Every bad row, found column by column."""
    problems: list[Problem] = []
    if table.empty:
        return problems
    lines, ids = table["_line"].astype(int).to_numpy(), table["id"].to_numpy()

    def report(bad: Iterable[bool], reason: str | list[str], remedy: str) -> None:
        for row in np.flatnonzero(np.asarray(bad, bool)):
            text = reason if isinstance(reason, str) else reason[row]
            problems.append(Problem(int(lines[row]), str(ids[row])[:80], text, remedy))

    for column in REQUIRED:
        report(table[column].str.strip() == "", f"{column} is empty", f"fill in {column}")
    for column in table.columns.drop("_line"):
        bad = (
            table[column].str.contains(_CONTROL)
            if column not in ("text", "translation")
            else table[column].str.contains("\x00", regex=False)
        )
        report(bad, f"{column} holds control characters", "remove them")
    report(table["id"].duplicated(keep="first") & (table["id"] != ""), "the id occurs before", "make ids unique")
    report(
        ~table["split"].isin((*SPLITS, "")),
        [f"split {s!r} is unknown" for s in table["split"]],
        f"use {', '.join(SPLITS)}",
    )
    real_root, parents = os.path.realpath(root), {}
    leaves = [_leaves(audio, root, real_root, parents) for audio in table["audio"]]
    absolute = [leaves[row] and is_absolute(audio) for row, audio in enumerate(table["audio"])]
    report(
        absolute,
        "audio leaves the corpus folder",
        f"write it relative to the manifest, or give root=; {MENDS}",
    )
    outside = [left and not whole for left, whole in zip(leaves, absolute, strict=True)]
    report(outside, "audio leaves the corpus folder", "give a path relative to the manifest, inside its folder")
    seconds = {}
    for column in SECONDS:
        if column not in table:
            continue
        values = pd.to_numeric(table[column].replace("", np.nan), errors="coerce").astype(float)
        bad = (table[column] != "") & ~np.isfinite(values) | (values < 0)
        report(bad, f"{column} is no number of seconds", "write seconds such as 1.25")
        seconds[column] = values
    if "end" in seconds:
        start = seconds["start"].fillna(0) if "start" in seconds else 0
        report(seconds["end"] <= start, "end is not after start", "swap or correct them")
    if {"start", "duration"} <= set(seconds):  # as other toolkits write segments; of a start at 0 it may be the file's
        open_ended = seconds["end"].isna() if "end" in seconds else True
        report(
            (seconds["start"] > 0) & (seconds["duration"] > 0) & open_ended,
            "start and duration without end: all to the end of the file would be taken",
            "write end = start + duration",
        )
    for column in ("language", "translation_language"):
        if column in table:
            bad = ~table[column].str.fullmatch(_LANGUAGE) & (table[column] != "")
            report(bad, f"{column} is no BCP 47 tag", "write tags such as en, pt-BR or qvi")
    for one in ("phone", "word"):
        name, ends = f"{one}s", f"{one}_ends"
        if ends in table:
            reasons = [
                _ends_reason(n, e, name, ends) for n, e in zip(table.get(name, table[ends]), table[ends], strict=True)
            ]
            report([reason != "" for reason in reasons], reasons, f"give one end time in seconds per {one}")
    return problems


def is_absolute(audio: str) -> bool:
    return audio.startswith(("/", "\\")) or bool(re.match(r"^[A-Za-z]:", audio))


def _first_with_segment(table: pd.DataFrame) -> np.ndarray:
    """For each row, the first row that is the same part of the same file, however its path and times are written."""
    parts = {"audio": [os.path.normpath(audio) if audio else "" for audio in table["audio"]]}
    for name, missing in (("start", 0.0), ("end", np.inf)):
        if name in table:
            parts[name] = pd.to_numeric(table[name].replace("", np.nan), errors="coerce").astype(float).fillna(missing)
    groups = pd.DataFrame(parts, index=table.index).groupby([*parts], sort=False).ngroup().to_numpy()
    _, first = np.unique(groups, return_index=True)
    return first[groups]


def leaks_of(table: pd.DataFrame) -> list[Problem]:
    """Rows that are the audio of an earlier row in another split."""
    if table.empty:
        return []
    first, splits, ids = _first_with_segment(table), table["split"].to_numpy(), table["id"].to_numpy()
    return [
        Problem(
            int(table["_line"].iat[row]),
            str(ids[row])[:80],
            f"it is the audio of {ids[first[row]]} in split {splits[first[row]]} again",
            "keep it in one split: what is trained on cannot be tested on",
        )
        for row in np.flatnonzero(splits != splits[first])
    ]


def repeated_audio(table: pd.DataFrame, root: Path) -> Iterable[tuple[int, int]]:
    """Pairs of rows (later, earlier) whose files differ in name and not in content: one recording under two ids.

    Only files of one size are read, so that a large corpus costs a listing and little more.
    """
    columns = [name for name in ("start", "end") if name in table]
    parts = list(zip(*(table[name] for name in columns), strict=True)) if columns else [()] * len(table)
    sizes: dict[int, list[str]] = {}
    for audio in table["audio"].unique():
        with contextlib.suppress(OSError, ValueError):
            stat = os.stat(os.path.join(root, audio))
            sizes.setdefault(stat.st_size, []).append(audio)
    content = {}
    for size, files in sizes.items():
        if len(files) > 1 and size:
            for audio in files:
                with contextlib.suppress(OSError):
                    content[audio] = audio_hash(os.path.join(root, audio))
    seen: dict[tuple, int] = {}
    for row, audio in enumerate(table["audio"]):
        if audio in content:
            one = seen.setdefault((content[audio], *parts[row]), row)
            if one != row and table["audio"].iat[one] != audio:
                yield row, one


def _leaves(audio: str, root: Path, real_root: str, parents: dict[str, bool]) -> bool:
    """Whether a path would read outside the corpus folder, through its text or through a link."""
    path = PurePosixPath(audio.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z]:", audio) or "\x00" in audio:
        return True
    parent = str(path.parent)
    if parent not in parents:
        real = os.path.realpath(os.path.join(root, parent))
        parents[parent] = real != real_root and not real.startswith(real_root.rstrip(os.sep) + os.sep)
    if parents[parent]:
        return True
    full = os.path.join(root, audio)
    return os.path.islink(full) and not os.path.realpath(full).startswith(real_root.rstrip(os.sep) + os.sep)


def _ends_reason(symbols: str, ends: str, name: str, column: str) -> str:
    """What is wrong with the end times of phones or words."""
    if not ends:
        return ""
    try:
        times = [float(end) for end in ends.split()]
    except ValueError:
        return f"{column} holds something that is no number"
    if len(times) != len(symbols.split()):
        return f"{len(symbols.split())} {name} but {len(times)} {column}"
    if not all(np.isfinite(times)) or min(times) < 0:
        return f"{column} holds a time that is negative or not finite"
    return ""


def missing_audio(table: pd.DataFrame, root: Path) -> Iterable[Problem]:
    for line, id_, audio in zip(table["_line"].astype(int), table["id"], table["audio"], strict=True):
        if audio and "\x00" not in audio and not os.path.isfile(os.path.join(root, audio)):
            yield Problem(int(line), str(id_)[:80], f"there is no audio file {audio[:120]!r}", "correct the path")


def warnings_of(table: pd.DataFrame) -> Iterable[str]:
    if "speaker" in table:
        named = table[table["speaker"] != ""]
        splits = named.groupby("speaker")["split"].nunique()
        shared = sorted(splits[splits > 1].index)
        if shared:
            names = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
            yield f"{len(shared)} speakers occur in more than one split ({names})"
    repeats = np.flatnonzero(_first_with_segment(table) != np.arange(len(table)))
    if len(repeats):
        one = table["id"].iat[repeats[0]]
        yield f"{len(repeats)} rows are the audio of an earlier row under another id (first: {one})"
    if "phone_ends" in table:
        backwards = [_goes_back(ends) for ends in table["phone_ends"]]
        if any(backwards):
            yield (
                f"phone_ends go back in time in {sum(backwards)} rows (first: {table['id'][backwards.index(True)]}): "
                "frames that two phones claim are left out of frame targets"
            )


def _goes_back(ends: str) -> bool:
    times = ends.split()
    try:
        return any(float(b) < float(a) for a, b in itertools.pairwise(times))
    except ValueError:
        return False
