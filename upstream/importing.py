"""A data set on disk, as its authors lay it out, to a manifest: read, check, normalise, describe.

Beside `NAME.csv` goes `NAME.json`, its description: licence, citation, the options, the rule that made its text.
"""

import csv
import inspect
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd

from wavbench import __version__
from wavbench.upstream import transcripts
from wavbench.upstream.corpus import Corpus, Reading, load_corpus
from wavbench.upstream.description import description_of
from wavbench.upstream.errors import UserError, closest
from wavbench.upstream.lexicon import Lexicon
from wavbench.upstream.manifest import write_manifest
from wavbench.upstream.row_checks import COLUMNS, REQUIRED, SPLITS, leaks_of, problems_of

TRANSLATION_RULE = "as is"  # of translations: case and punctuation count in BLEU
READERS = 4  # threads that look into audio files
EACH = 200  # files that one of them is given at once: all files one by one would take gigabytes of waiting tasks
SHOWN = 20  # bad rows that an error names


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Args:
        manifest: its path.
        root: folder that `audio` is relative to, where that is not the manifest's own; else None.
        table: its rows.
        trials: paths of verification trials.
        notes: sentences that a person should read.
    """

    manifest: Path
    root: Path | None
    table: pd.DataFrame
    trials: tuple[Path, ...]
    notes: tuple[str, ...]


def import_corpus(
    name: str,
    root: Path,
    out: Path | None = None,
    *,
    options: Mapping[str, object] | None = None,
    lexicon: Lexicon | None = None,
    partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Read a corpus and write its manifest, trials and description; all is checked before the first is written.

    Args:
        name: of a file of corpora/.
        root: folder of the corpus, or its parent.
        out: manifest to write; `NAME.csv` in the corpus' folder where None.
        options: of its reader.
        lexicon: fills `phones` from `text`; rows with a word that it lacks get none, and the words are listed.
        partial: import what is there of a corpus that is not complete.
        progress: called with (audio files looked into, all).

    Raises:
        UserError: the corpus is not there or not complete, rows cannot be a manifest, or splits share what they must
            not.
    """
    module = load_corpus(name)
    if not hasattr(module, "read"):
        raise UserError(f"{name} is made here and not imported", remedy=f"wavbench corpus build {name}")
    corpus: Corpus = module.corpus
    given = _options(module, options or {}, Path(out).parent if out else Path(root), name)
    if out:
        _check_place(Path(out))  # before anything slow
    reading: Reading = module.read(Path(root), **given)
    out = Path(out) if out else reading.root / f"{name}.csv"
    _check_place(out)
    notes = list(reading.notes)
    rows = _present(reading, corpus, partial, notes)
    if not rows:
        raise UserError(
            f"no utterance of {corpus.title} was found", where=root, remedy="check the options and the folder"
        )
    _check_counts(rows, reading.expected, corpus, root, partial, notes)
    table = pd.DataFrame(rows, dtype=object)  # not inferred: an age of 31 beside an empty one would become 31.0
    table = table.where(table.notna(), "")
    described: dict = {"text": None, "lexicon": None}
    if "text" in table:
        described["text"] = _normalise(table, corpus.text or "as is")
    if "translation" in table:
        table["translation"] = [transcripts.normalise(TRANSLATION_RULE, str(t), "") for t in table["translation"]]
    listed, absent = out.with_name(f"{out.stem}.oov.txt"), {}
    if lexicon is not None:
        absent = _pronounce(table, lexicon, listed, notes)
        described["lexicon"] = lexicon.facts() | {"absent": len(absent)}
    _measure(table, reading.root, notes, progress)
    prefix, audio_root = _prefix(reading.root, out)
    table["audio"] = prefix + table["audio"]
    table = _ordered(table)
    separates = corpus.separates if reading.separates is None else reading.separates
    _check_rows(table, audio_root or out.parent, corpus, separates)
    trials = _trials(reading, table, out, partial, notes)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, pairs in trials.items():
        write_manifest(pairs, path)
    _list_words(absent, listed)
    out.with_suffix(".json").unlink(missing_ok=True)  # a kill between the two leaves rows undescribed, not misdescribed
    write_manifest(table, out)
    _describe(out, corpus, name, described, options or {}, partial, audio_root, table)
    return Imported(out, audio_root, table, tuple(trials), tuple(notes))


def _options(module: ModuleType, options: Mapping[str, object], folder: Path, name: str) -> dict:
    """The reader's options; one that has to unpack audio is told where: beside the manifest."""
    given, known = dict(options), list(inspect.signature(module.read).parameters)[1:]
    unknown = [key for key in given if key not in known or key == "into"]
    if unknown:
        plain = [key for key in known if key != "into"]
        remedy = closest(unknown[0], plain) if plain else "it has no options"
        raise UserError(f"{name} has no option {unknown[0]!r}", remedy=remedy)
    return given | ({"into": folder / f"{name}_audio"} if "into" in known else {})


def _check_place(out: Path) -> None:
    """Refuse a manifest that could not be written, or that would take the place of something else."""
    if out.suffix != ".csv":
        raise UserError(f"{out.name!r} is no name for an imported manifest", where=out, remedy="end it in .csv")
    folder = next(place for place in (out.parent, *out.parent.parents) if place.exists())
    if not folder.is_dir():
        raise UserError("a file lies where the manifest's folder goes", where=folder, remedy="give another out=")
    if not os.access(folder, os.W_OK):
        raise UserError(
            "the manifest cannot be written there", where=out, why="the folder is read-only",
            remedy="give out=FILE.csv in a folder of yours; what reads it then takes root=, as will be printed",
        )  # fmt: skip
    beside = out.with_suffix(".json")
    other = out if out.exists() and not _is_manifest(out) else None
    other = other or (beside if beside.exists() and not out.exists() and not description_of(out) else None)
    if other:
        raise UserError(
            "something else than a manifest lies there already", where=other,
            remedy="give another out=FILE.csv, or move that file away",
        )  # fmt: skip


def _is_manifest(path: Path) -> bool:
    """Whether a file is a CSV with the header of one."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return set(REQUIRED) <= set(next(csv.reader([file.readline(1 << 16)]), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _present(reading: Reading, corpus: Corpus, partial: bool, notes: list[str]) -> list[dict]:
    """Rows whose audio is there. One listing per folder: asking for each of 100,000 files takes minutes on networks."""
    listings: dict[str, set[str]] = {}
    kept, absent = [], []
    rows = [row for row in reading.rows if row["split"]]
    if len(rows) < len(reading.rows):
        notes.append(f"{len(reading.rows) - len(rows):,} utterances are in no split and were left out")
    for row in rows:
        folder, _, file = str(row["audio"]).rpartition("/")
        if folder not in listings:
            place = reading.root / folder
            listings[folder] = {e.name for e in os.scandir(place) if e.is_file()} if place.is_dir() else set()
        (kept if file in listings[folder] else absent).append(row)
    if absent:
        first = reading.root / str(absent[0]["audio"])
        said = f"{len(absent):,} of {len(rows):,} audio files of {corpus.title} are missing (first: {first})"
        if not partial or not kept:
            raise UserError(
                said, where=reading.root, why="it was copied or unpacked in part",
                remedy="copy or unpack it again; partial=true imports what is there",
            )  # fmt: skip
        notes.append(f"partial: {said}")
    return [dict(row) for row in kept]


def _check_counts(
    rows: Sequence[Mapping], expected: Mapping[str, int], corpus: Corpus, root: Path, partial: bool, notes: list[str]
) -> None:
    counts = {split: sum(row["split"] == split for row in rows) for split in SPLITS} | {"all": len(rows)}
    wrong = [f"{s}: {counts[s]:,} utterances where {n:,} are published" for s, n in expected.items() if counts[s] != n]
    if wrong and not partial:
        raise UserError(
            f"{corpus.title} is not as it is published",
            where=root,
            why="; ".join(wrong),
            remedy="copy or unpack it again; partial=true imports what is there, and the description says so",
        )
    notes += [f"partial: {sentence}" for sentence in wrong]


def _normalise(table: pd.DataFrame, rule: str) -> str:
    """Texts by their rule; what they were is kept in `raw_text` where a rule does more than tidy blanks."""
    languages = table["language"] if "language" in table else itertools.repeat("")
    raw = table["text"].map(str)
    table["text"] = [transcripts.normalise(rule, t, str(lang)) for t, lang in zip(raw, languages, strict=False)]
    if rule == "words":
        table["raw_text"] = [transcripts.as_is(text, "") for text in raw]
    return transcripts.rule_name(rule)


def _pronounce(table: pd.DataFrame, lexicon: Lexicon, listed: Path, notes: list[str]) -> dict[str, int]:
    """Fill `phones`; returns the words that the lexicon lacks, with how often they occur."""
    if "text" not in table:
        raise UserError("a lexicon needs transcripts, and this corpus has none", remedy="leave lexicon= out")
    if "phones" in table:
        raise UserError("the corpus has phones of its own", where=lexicon.path, remedy="leave lexicon= out")
    phones, absent = lexicon.of_all(table["text"])
    table["phones"] = phones
    if absent:
        first = ", ".join(sorted(absent, key=lambda word: (-absent[word], word))[:5])
        notes.append(
            f"{len(absent):,} words are not in the lexicon (most frequent: {first}): "
            f"{phones.count(''):,} of {len(table):,} utterances have no phones; the words: {listed}"
        )
    return absent


def _list_words(absent: Mapping[str, int], path: Path) -> None:
    """Words and how often they occur, most frequent first; a list of an earlier import goes where there are none."""
    path.unlink(missing_ok=True)
    if absent:
        ranked = sorted(absent.items(), key=lambda item: (-item[1], item[0]))
        write_text(path, "".join(f"{word}\t{count}\n" for word, count in ranked))


def _measure(table: pd.DataFrame, root: Path, notes: list[str], progress: Callable[[int, int], None] | None) -> None:
    """Fill `duration` in seconds from segments or file headers; extraction says why a file cannot be opened.

    Segments to the end of their file get that end: a duration ends nothing.
    """
    import soundfile

    def seconds(audio: str, start: object, end: object, known: object) -> object:
        if known:
            return known
        try:
            if end != "":
                return round(float(end) - float(start or 0), 6)
            with soundfile.SoundFile(root / audio) as file:
                return round(file.frames / file.samplerate - float(start or 0), 6)
        except (soundfile.SoundFileError, OSError, RuntimeError, ZeroDivisionError, ValueError):
            return ""  # of a start or end that is no number, the check of rows says more

    columns = [table[name] if name in table else itertools.repeat("") for name in ("start", "end", "duration")]
    rows = list(zip(table["audio"], *columns, strict=False))
    found: list[object] = []
    with ThreadPoolExecutor(READERS) as pool:
        for values in pool.map(lambda k: [*itertools.starmap(seconds, rows[k : k + EACH])], range(0, len(rows), EACH)):
            found += [value if _is_length(value) else "" for value in values]
            if progress:
                progress(len(found), len(rows))
    table["duration"] = found
    if "start" in table:
        ends = list(table["end"]) if "end" in table else [""] * len(table)
        table["end"] = [
            round(float(start) + float(length), 6) if end == "" and length != "" and _is_length(start) else end
            for start, end, length in zip(table["start"], ends, found, strict=True)
        ]
    unread = table["id"][table["duration"].eq("")]
    if len(unread):
        notes.append(
            f"{len(unread):,} audio files cannot be opened (first: {unread.iloc[0]}); they stay in the manifest, "
            "extraction lists them with the reason"
        )


def _is_length(value: object) -> bool:
    try:
        return 0 < float(value) < float("inf")
    except (TypeError, ValueError):
        return False


def _prefix(root: Path, out: Path) -> tuple[str, Path | None]:
    """What goes before every audio path, and the folder it is relative to where the manifest lies elsewhere."""
    real, folder = Path(os.path.realpath(root)), Path(os.path.realpath(out.parent))
    if real == folder:
        return "", None
    if real.is_relative_to(folder):
        return f"{real.relative_to(folder).as_posix()}/", None
    return "", real


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Known columns first, in their order, the corpus' own behind them."""
    first = [name for name in COLUMNS if name in table]
    table = table[[*first, *(name for name in table if name not in first)]]
    return table.astype(object).where(table.notna(), "").map(str)


def _check_rows(table: pd.DataFrame, root: Path, corpus: Corpus, separates: tuple[str, ...]) -> None:
    numbered = table.assign(_line=range(2, len(table) + 2))
    problems = sorted(problems_of(numbered, root) + leaks_of(numbered), key=lambda problem: problem.line)
    if problems:
        count = len({problem.line for problem in problems})
        shown = "\n    ".join(str(problem) for problem in problems[:SHOWN])
        more = f"\n    ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{count} row{'s' * (count > 1)} of {corpus.title} cannot be in a manifest",
            where=root,
            why=f"\n    {shown}{more}",
            remedy="line numbers are those of the manifest that would have been; mend them where the corpus lies",
        )
    for column in separates:
        values = table[(table[column] != "") & (table["split"] != "")].groupby(column)["split"].nunique()
        shared = sorted(values[values > 1].index)
        if shared:
            raise UserError(
                f"{len(shared)} values of {column} occur in several splits of {corpus.title} (first: {shared[0]})",
                where=root,
                why=f"its authors promise that splits share no {column}",
                remedy="check the options that choose the splits",
            )


def _trials(
    reading: Reading, table: pd.DataFrame, out: Path, partial: bool, notes: list[str]
) -> dict[Path, pd.DataFrame]:
    """Trials by the file that they go to; of what is partial, without those of utterances that are not there."""
    found, ids = {}, set(table["id"])
    for name, trials in reading.trials.items():
        known = trials["enroll"].isin(ids) & trials["test"].isin(ids)
        if not known.all():
            unknown = next(i for i in pd.concat([trials["enroll"], trials["test"]]) if i not in ids)
            said = f"{(~known).sum():,} of {len(trials):,} trials of list {name} name an utterance that there is not"
            if not partial:
                raise UserError(
                    said, where=reading.root, why=f"first: {unknown}",
                    remedy="copy the corpus again, or import without that list; partial=true leaves such trials out",
                )  # fmt: skip
            notes.append(f"partial: {said}, and are left out (first: {unknown})")
        if known.any():
            kept = trials[known]
            found[out.with_name(f"{out.stem}.{name}.csv")] = kept.assign(target=kept["target"].astype(int))
    return found


def _describe(
    out: Path, corpus: Corpus, name: str, described: dict, options: Mapping, partial: bool, root: Path | None, table
) -> None:
    counts = {split: int((table["split"] == split).sum()) for split in SPLITS}
    values = {
        "corpus": name,
        "part_of": corpus.part_of,
        "title": corpus.title,
        "licence": corpus.licence,
        "citation": corpus.citation,
        "source": corpus.source,
        "synthetic": corpus.synthetic,
        "partial": partial,
        "options": {key: str(value) for key, value in options.items()},
        **described,
        "root": str(root) if root else "",
        "utterances": counts,
        "wavbench": __version__,
    }
    write_text(out.with_suffix(".json"), json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
