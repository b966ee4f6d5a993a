"""A data set on disk, as its authors lay it out, to a manifest: read, check, normalise, describe.

Beside `NAME.csv` goes `NAME.json`, its description: licence, citation, the options, the rule that made its text.
"""

import hashlib
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
from wavbench.upstream.errors import UserError
from wavbench.upstream.lexicon import Lexicon
from wavbench.upstream.manifest import write_manifest
from wavbench.upstream.row_checks import COLUMNS, SPLITS, leaks_of, problems_of

TRANSLATION_RULE = "as is"  # of translations: case and punctuation count in BLEU
READERS = 4  # threads that look into audio files


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
    """Read a corpus and write its manifest, trials and description.

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
        raise UserError(f"{name} is not imported", remedy=f"wavbench corpus build {name}")
    corpus: Corpus = module.corpus
    reading: Reading = module.read(
        Path(root), **_options(module, options or {}, Path(out).parent if out else Path(root), name)
    )
    out = _place(Path(out) if out else reading.root / f"{name}.csv")
    notes = list(reading.notes)
    rows = _present(reading, corpus, partial, notes)
    if not rows:
        raise UserError(
            f"no utterance of {corpus.title} was found", where=root, remedy="check the options and the folder"
        )
    _check_counts(rows, reading.expected, corpus, root, partial, notes)
    table = pd.DataFrame(rows)
    described: dict = {"text": None, "lexicon": None}
    if "text" in table:
        described["text"] = _normalise(table, corpus.text or "as is")
    if lexicon is not None:
        described["lexicon"] = _pronounce(table, lexicon, out, notes)
    _measure(table, reading.root, notes, progress)
    prefix, audio_root = _prefix(reading.root, out)
    table["audio"] = prefix + table["audio"]
    table = _ordered(table)
    _check_rows(table, audio_root or out.parent, corpus, _separated(reading, corpus))
    trials = _trials(reading, table, out)
    write_manifest(table, out)
    _describe(out, corpus, name, described, options or {}, partial, audio_root, table)
    return Imported(out, audio_root, table, trials, tuple(notes))


def description_of(manifest: Path) -> dict:
    """What an import wrote of a manifest; {} where there is nothing or it is broken."""
    try:
        path = manifest.with_suffix(".json")
        found = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < 1 << 20 else {}
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def statistics(table: pd.DataFrame) -> list[str]:
    """Utterances, hours, speakers and labels of each split as the lines of a table."""
    labels = [name for name in table if name not in (*COLUMNS, "raw_text") or name in ("language", "emotion")]
    labels = [name for name in labels if 1 < table[name].nunique() <= 200]
    lines = [["split", "utterances", "hours", *(["speakers"] if "speaker" in table else []), *labels]]
    for split in (*SPLITS, ""):
        part = table[table["split"] == split]
        if len(part):
            hours = pd.to_numeric(part["duration"], errors="coerce").sum() / 3600
            speakers = [str(part["speaker"].nunique())] if "speaker" in table else []
            counts = [f"{part[name][part[name] != ''].nunique()} values" for name in labels]
            lines.append([split or "none", f"{len(part):,}", f"{hours:.2f}", *speakers, *counts])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _options(module: ModuleType, options: Mapping[str, object], folder: Path, name: str) -> dict:
    """The reader's options; one that has to unpack audio is told where: beside the manifest."""
    given = dict(options)
    if "into" in inspect.signature(module.read).parameters:
        given["into"] = folder / f"{name}_audio"
    return given


def _place(out: Path) -> Path:
    if out.suffix != ".csv":
        raise UserError(f"{out.name!r} is no name for an imported manifest", where=out, remedy="end it in .csv")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(out.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(
            "the manifest cannot be written there",
            where=out,
            why="the folder is read-only",
            remedy="give out=FILE.csv in a folder of yours; what reads it then takes root=, as will be printed",
        )
    return out


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
            remedy="copy or unpack it again; partial=true imports what is there, and its results say so",
        )
    notes += [f"partial: {sentence}" for sentence in wrong]


def _normalise(table: pd.DataFrame, rule: str) -> str:
    """Texts by their rule; what they were is kept in `raw_text` where a rule does more than tidy blanks."""
    languages = table["language"] if "language" in table else itertools.repeat("")
    raw = table["text"].map(str)
    table["text"] = [transcripts.normalise(rule, t, str(lang)) for t, lang in zip(raw, languages, strict=False)]
    if rule == "words":
        table["raw_text"] = [transcripts.as_is(text, "") for text in raw]
    if "translation" in table:
        table["translation"] = [transcripts.normalise(TRANSLATION_RULE, str(t), "") for t in table["translation"]]
    return transcripts.rule_name(rule)


def _pronounce(table: pd.DataFrame, lexicon: Lexicon, out: Path, notes: list[str]) -> dict:
    if "text" not in table:
        raise UserError("a lexicon needs transcripts, and this corpus has none", remedy="leave lexicon= out")
    phones, absent = [], {}
    for text in table["text"]:
        found, missing = lexicon.of(text)
        phones.append("" if missing else " ".join(found))
        for word in missing:
            absent[word] = absent.get(word, 0) + 1
    table["phones"] = phones
    listed = out.with_name(f"{out.stem}.oov.txt")
    listed.unlink(missing_ok=True)
    if absent:
        ranked = sorted(absent.items(), key=lambda item: (-item[1], item[0]))
        write_text(listed, "".join(f"{word}\t{count}\n" for word, count in ranked))
        left = phones.count("")
        notes.append(
            f"{len(absent):,} words are not in the lexicon (most frequent: {', '.join(w for w, _ in ranked[:5])}): "
            f"{left:,} of {len(table):,} utterances have no phones; the words: {listed}"
        )
    digest = hashlib.blake2b(lexicon.path.read_bytes(), digest_size=16).hexdigest()
    return {"name": lexicon.path.name, "hash": digest, "words": len(lexicon), "absent": len(absent)}


def _measure(table: pd.DataFrame, root: Path, notes: list[str], progress: Callable[[int, int], None] | None) -> None:
    """Fill `duration` in seconds from segments or file headers; extraction says why a file cannot be opened."""
    import soundfile

    def seconds(row: tuple) -> float | str:
        audio, start, end, known = row
        if known:
            return known
        if end != "":
            return round(float(end) - float(start or 0), 6)
        try:
            with soundfile.SoundFile(root / audio) as file:
                return round(file.frames / file.samplerate - float(start or 0), 6)
        except (soundfile.SoundFileError, OSError, RuntimeError, ZeroDivisionError):
            return ""

    columns = [table[name] if name in table else itertools.repeat("") for name in ("start", "end", "duration")]
    rows = list(zip(table["audio"], *columns, strict=False))
    found: list[float | str] = []
    with ThreadPoolExecutor(READERS) as pool:
        for done, value in enumerate(pool.map(seconds, rows, chunksize=256), start=1):
            found.append(value if value == "" or 0 < float(value) < float("inf") else "")
            if progress and (done % 200 == 0 or done == len(rows)):
                progress(done, len(rows))
    table["duration"] = found
    unread = table["id"][table["duration"].eq("")]
    if len(unread):
        notes.append(
            f"{len(unread):,} audio files cannot be opened (first: {unread.iloc[0]}); they stay in the manifest, "
            "extraction lists them with the reason"
        )


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


def _separated(reading: Reading, corpus: Corpus) -> tuple[str, ...]:
    return corpus.separates if reading.separates is None else reading.separates


def _check_rows(table: pd.DataFrame, root: Path, corpus: Corpus, separates: tuple[str, ...]) -> None:
    numbered = table.assign(_line=range(2, len(table) + 2))
    problems = problems_of(numbered, root) + leaks_of(numbered)
    if problems:
        shown = "\n    ".join(str(problem) for problem in problems[:20])
        raise UserError(
            f"{len(problems)} rows of {corpus.title} cannot be a manifest",
            where=root,
            why=f"\n    {shown}",
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


def _trials(reading: Reading, table: pd.DataFrame, out: Path) -> tuple[Path, ...]:
    """Trials beside the manifest, one file each, without those that name utterances which are not there."""
    paths, ids = [], set(table["id"])
    for name, trials in reading.trials.items():
        known = trials["enroll"].isin(ids) & trials["test"].isin(ids)
        if not known.all():
            unknown = next(i for i in pd.concat([trials["enroll"], trials["test"]]) if i not in ids)
            raise UserError(
                f"{(~known).sum():,} of {len(trials):,} trials of list {name} name an utterance that there is not",
                where=reading.root,
                why=f"first: {unknown}",
                remedy="copy the corpus again, or leave that list out of trials=",
            )
        path = out.with_name(f"{out.stem}.{name}.csv")
        write_manifest(trials.assign(target=trials["target"].astype(int)), path)
        paths.append(path)
    return tuple(paths)


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
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
