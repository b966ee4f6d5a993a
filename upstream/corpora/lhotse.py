"""Manifests of lhotse: recordings with supervisions, or cuts, as JSON lines. lhotse itself is not needed.

Only plain files are read: sources that are commands would have to be run, URLs fetched, and transforms (speed, volume)
computed. All three are refused with the name of the recording.
"""

import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wavbench.upstream.corpus import Corpus, Reading, find_base, find_root, plain_columns, refuse_row, split_of_name
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="a folder of lhotse manifests",
    folder="manifests",
    tasks=("asr", "pr", "er", "asv", "sid", "lid"),
    licence="that of its recordings",
    source="https://lhotse.readthedocs.io/en/latest/corpus.html",
    obtain="prepared by `lhotse prepare`",
)

KINDS = ("recordings", "cuts")
SPLITS = ("train", "dev", "test")
LONGEST = 16 << 20  # characters of a line: a long cut with alignments has a million
LARGEST = 8 << 30  # characters of a manifest, unpacked
WHOLE = 0.02  # seconds: a supervision that misses less of its recording is all of it
LANGUAGES = {  # as lhotse's recipes write them
    "english": "en", "singaporean english": "en-SG", "chinese": "zh", "mandarin": "zh", "cantonese": "yue",
    "spanish": "es", "japanese": "ja", "arabic": "ar", "korean": "ko", "hebrew": "he", "bengali": "bn",
    "tibetan": "bo", "german": "de", "french": "fr", "italian": "it", "portuguese": "pt", "polish": "pl",
    "russian": "ru", "dutch": "nl",
}  # fmt: skip
FIELDS = ("text", "speaker", "language", "gender")  # of a supervision, beside its times
OWN = ("id", "audio", "split", "start", "end", "duration", "phone_ends", "raw_text", *FIELDS)  # not from `custom`

_NAME = re.compile(r"(?:(.*?)[_-])?(recordings|supervisions|cuts)(?:[_-](.*?))?\.jsonl(?:\.gz)?")


@dataclass(frozen=True)
class _Part:
    """Manifests that belong together: `librispeech_recordings_dev.jsonl.gz` and `librispeech_supervisions_dev...`.

    Args:
        name: what their names share.
        files: by kind.
    """

    name: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class _Recording:
    source: str
    duration: float


def read(
    root: Path, *, train: str = "", dev: str = "", test: str = "", kind: str = "", base: str = "", language: str = ""
) -> Reading:
    """One row for each supervision; one that spans its recording has no times.

    Fields of `custom` that are texts, numbers or truth values become columns. Alignments are not read.

    Args:
        root: folder of manifests.
        train, dev, test: parts of each split, several with commas between: what follows `recordings_` or `cuts_` in the
            names of their files, as in train-clean-100. Where none is given, parts whose name has train, dev, valid,
            test or eval in it.
        kind: "recordings" (with supervisions) or "cuts"; cuts count where there are no recordings if empty.
        base: folder that relative paths start from; the folder of manifests and the four above it are tried if empty.
        language: BCP 47 tag of all utterances, in place of the supervisions' own.
    """
    if kind not in ("", *KINDS):
        raise UserError(f"kind={kind} is not known", remedy=f"one of: {', '.join(KINDS)}")
    root = find_root(root, corpus, *(f"*{kind}*.jsonl{end}" for kind in KINDS for end in ("", ".gz")))
    parts = _parts(root, kind)
    given = {
        name: tuple(filter(None, value.split(","))) for name, value in zip(SPLITS, (train, dev, test), strict=True)
    }
    chosen, left = _choose(parts, given, root)
    rows = [row for part, split in chosen for row in _rows(part, split, language)]
    if not rows:
        raise UserError("the manifests have no supervision", where=root, remedy="prepare them again")
    top = _place(rows, root, base)
    columns = dict.fromkeys(name for row in rows for name in row)
    notes = (f"parts whose name tells no split were left out: {', '.join(left)}",) if left else ()
    return Reading(root=Path(top), rows=[{name: row.get(name, "") for name in columns} for row in rows], notes=notes)


def _parts(root: Path, kind: str) -> list[_Part]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(root.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            name = f"{match[1] or ''}/{match[3] or ''}"
            if match[2] in found.setdefault(name, {}):
                raise UserError(
                    f"{match[2]} of one part are there twice",
                    where=path,
                    why=f"{found[name][match[2]].name} is there too",
                    remedy="remove one of them",
                )
            found[name][match[2]] = path
    kind = kind or ("recordings" if any("recordings" in files for files in found.values()) else "cuts")
    parts = []
    for name, files in found.items():
        if kind not in files:
            continue
        if kind == "recordings" and "supervisions" not in files:
            raise UserError(
                "recordings without supervisions",
                where=files[kind],
                why=f"there is no {files[kind].name.replace('recordings', 'supervisions')}",
                remedy="put the supervisions beside them, or kind=cuts",
            )
        wanted = ("recordings", "supervisions") if kind == "recordings" else ("cuts",)
        parts.append(_Part(name, {each: files[each] for each in wanted}))
    if not parts:
        raise UserError(f"there are no {kind}", where=root, remedy="kind=recordings or kind=cuts")
    return parts


def _choose(parts: list[_Part], given: Mapping, root: Path) -> tuple[list[tuple[_Part, str]], list[str]]:
    """Parts with their splits, and the names of those that are left out."""
    shown = {part.name: part.name.partition("/")[2] or part.name.partition("/")[0] or "unnamed" for part in parts}
    if any(given.values()):
        chosen = []
        for split, names in given.items():
            for name in names:
                those = [part for part in parts if shown[part.name] == name]
                if len(those) != 1:
                    raise UserError(
                        f"{split}={name}: {len(those)} parts are called so",
                        where=root,
                        remedy=f"there are: {', '.join(sorted(shown.values()))}",
                    )
                chosen.append((those[0], split))
        return chosen, []
    chosen = [(part, split) for part in parts if (split := _split(part.name))]
    if not chosen:
        raise UserError(
            "no name of a manifest tells its split",
            where=root,
            why=f"there are {', '.join(sorted(shown.values()))}",
            remedy="train=, dev= and test= take these names",
        )
    return chosen, [shown[part.name] for part in parts if not _split(part.name)]


def _split(name: str) -> str:
    before, _, behind = name.partition("/")
    return split_of_name(behind) or split_of_name(before)


def _rows(part: _Part, split: str, language: str) -> Iterator[dict]:
    """Rows of a part; `audio` is what the manifest says, `_index` where it says so.

    Cuts overlap where people talk at once: a supervision in several of them is the row of the one with most of it.
    """
    if "cuts" in part.files:
        path, best = part.files["cuts"], {}
        for number, cut in _records(path):
            kind = cut.get("type", "MonoCut")
            if kind not in ("MonoCut", "Cut"):
                refuse_row(
                    path, number, f"it is a {str(kind)[:40]}", "export single-channel cuts (MonoCut) of one recording"
                )
            if not isinstance(cut.get("recording"), dict):
                refuse_row(path, number, "the cut has no recording", "export cuts with their recordings")
            recording = _recording(cut["recording"], path, number)
            start = _seconds(cut, "start", path, number)
            end = start + _seconds(cut, "duration", path, number)
            for supervision in _list(cut, "supervisions", path, number):
                row = _row(supervision, split, recording, start, end, language, path, number)
                if row["id"] not in best or row["_span"] > best[row["id"]]["_span"]:
                    best[row["id"]] = {**_custom(cut), **row}
        yield from best.values()
        return
    path = part.files["recordings"]
    recordings = {_text(record, "id", path, n): _recording(record, path, n) for n, record in _records(path)}
    path = part.files["supervisions"]
    for number, supervision in _records(path):
        recording = recordings.get(_text(supervision, "recording_id", path, number))
        if recording is None:
            refuse_row(path, number, f"recording {supervision['recording_id'][:80]!r} is not in the other manifest")
        yield _row(supervision, split, recording, 0.0, recording.duration, language, path, number)


def _row(
    supervision: dict,
    split: str,
    recording: _Recording,
    begin: float,
    end: float,
    language: str,
    path: Path,
    number: int,
) -> dict:
    """One row; `begin` and `end` are those of its cut in the recording, the whole of it where there is none."""
    channel = supervision.get("channel", 0)
    if channel not in (0, [0]):
        refuse_row(path, number, f"channel {str(channel)[:40]} is annotated", "single-channel recordings only")
    start = begin + _seconds(supervision, "start", path, number, negative=True)
    stop = min(start + _seconds(supervision, "duration", path, number), end)
    start = max(start, begin)
    if stop <= start:
        refuse_row(path, number, "the supervision lies outside its recording or cut", "prepare the manifest again")
    whole = start < WHOLE and stop > recording.duration - WHOLE
    row = {
        **_custom(supervision),
        "id": _text(supervision, "id", path, number),
        "audio": recording.source,
        "split": split,
        "start": "" if whole else round(start, 6),
        "end": "" if whole else round(stop, 6),
        "_index": path,
        "_span": stop - start,
    }
    row |= {name: str(supervision[name]) for name in FIELDS if isinstance(supervision.get(name), str | int | float)}
    if language or "language" in row:
        row["language"] = language or LANGUAGES.get(row["language"].lower(), row["language"])
    return row


def _custom(record: Mapping) -> dict:
    """Columns from `custom`."""
    custom = record.get("custom")
    return plain_columns(custom, OWN) if isinstance(custom, dict) else {}


def _recording(record: dict, path: Path, number: int) -> _Recording:
    id = _text(record, "id", path, number)
    sources = _list(record, "sources", path, number)
    if len(sources) != 1 or not isinstance(sources[0], dict) or sources[0].get("channels") != [0]:
        refuse_row(path, number, f"recording {id[:80]!r} has several channels", "single-channel recordings only")
    kind = sources[0].get("type")
    if kind != "file":
        refuse_row(
            path,
            number,
            f"recording {id[:80]!r} is a {str(kind)[:40]}, not a file; nothing is run or fetched",
            "save the audio to files (CutSet.save_audios writes them) and use that manifest",
        )
    if record.get("transforms"):
        refuse_row(
            path, number, f"recording {id[:80]!r} has transforms", "use the manifest from before they were added"
        )
    return _Recording(_text(sources[0], "source", path, number), _seconds(record, "duration", path, number))


def _place(rows: list[dict], root: Path, base: str) -> str:
    """Make `audio` relative to the deepest folder of all audio, which is returned."""
    index = rows[0]["_index"]
    for row in rows:
        del row["_index"], row["_span"]
    relative = list(dict.fromkeys(row["audio"] for row in rows if not os.path.isabs(row["audio"])))
    start = str(find_base(root, relative, base, index)) if relative else ""
    for row in rows:
        row["audio"] = os.path.normpath(os.path.join(start, row["audio"]))
    top = os.path.commonpath([os.path.dirname(row["audio"]) for row in rows])
    for row in rows:
        row["audio"] = os.path.relpath(row["audio"], top).replace(os.sep, "/")
    return top


def _records(path: Path) -> Iterator[tuple[int, dict]]:
    """Numbered objects of a file of JSON lines, packed or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = total = 0
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            while line := file.readline(LONGEST):
                number, total = number + 1, total + len(line)
                if len(line) == LONGEST or total > LARGEST:
                    refuse_row(path, number, "it is too long for a manifest")
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        refuse_row(path, number, f"{line[:80]!r} is no JSON object")
                    yield number, record
    except (ValueError, RecursionError) as error:  # JSON and text
        refuse_row(path, number, f"no JSON: {str(error)[:120]}")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("a manifest cannot be read", where=path, why=str(error)[:200], remedy="copy it again") from None


def _text(record: Mapping, name: str, path: Path, number: int) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        refuse_row(path, number, f"{name} is no text")
    return value


def _seconds(record: Mapping, name: str, path: Path, number: int, negative: bool = False) -> float:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        refuse_row(path, number, f"{name} is no number of seconds")
    if value < 0 and not negative:
        refuse_row(path, number, f"{name} is negative")
    return float(value)


def _list(record: Mapping, name: str, path: Path, number: int) -> list[dict]:
    value = record.get(name)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        refuse_row(path, number, f"{name} is no list of objects")
    return value
