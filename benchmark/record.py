"""One finished cell is one JSON file, with its scores beside it.

results/runs/<key>.json              what was run, and what came of it
results/runs/<key>.scores.csv        counts per utterance or trial under hashed ids: every value can be recomputed
results/runs/<hash>.trials.csv       trials, named in the first line of all scores whose rows belong to them
results/runs/<key>.confusion.csv     of classes: how often each (rows) was taken for each (columns)
results/runs/<key>.predictions.csv   references and hypotheses; not for git, transcripts may not be passed on
results/runs/<key>.skipped.csv       train utterances that could not be learned from, by id; not for git either
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import re
import types
import typing
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.upstream.errors import UserError

SCHEMA = 1
PACKAGES = ("wavbench", "torch", "torchaudio", "transformers", "numpy", "h5py", "scikit-learn", "soundfile", "soxr")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one cell was and gave. See DESIGN, section 4; `secondary` holds the numbers beside the main one."""

    schema: int = SCHEMA
    key: str
    task: str
    corpus: str
    corpus_hash: str
    synthetic: bool  # whether the corpus was made by a synthesiser
    split: str  # "test", or how the folds were made
    upstream: str
    checkpoint: str
    checkpoint_hash: str
    store_fingerprint: str
    protocol: str
    protocol_version: int
    adaptation: str
    head: str
    layers: str | int
    layer_numbers: list[int]  # the states that a mix weighs
    layer_weights: list[float]
    seed: int
    learning_rate: list[float]  # one per fold
    learning_rate_curve: list[dict]
    metric: str
    unit: str
    higher_is_better: bool
    value: float
    ci95: list[float]
    ci_unit: str  # what was resampled
    n: int  # utterances, or trials
    secondary: dict[str, float]
    cost: dict[str, float]
    versions: dict[str, str]
    commit: str
    started: str  # ISO 8601, UTC
    config: dict


FIELDS = {field.name for field in dataclasses.fields(Record)}
HINTS = typing.get_type_hints(Record)
COSTS = {"extract_s", "fit_s", "store_mb", "upstream_parameters"}  # that boards show
WORDS = ("utterance", "speaker", "utterance_b", "speaker_b", "label", "prediction")  # columns of scores; others count
TRIAL = ("utterance", "speaker", "utterance_b", "speaker_b", "target")  # columns that systems share, most of the bytes
ROWS_OF = "# rows of "
TRIALS_FILE = re.compile(r"[0-9a-f]{20}\.trials\.csv")
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # what neither pages nor drawings can hold
LARGEST = 2**63  # of whole numbers: those behind it are no floats, or no columns of tables


def key_of(determinants: dict) -> str:
    """Hash of everything that determines a result; not of commit, times or cost."""
    return _hash(json.dumps(determinants, sort_keys=True, ensure_ascii=False))


def exists(results: Path, key: str) -> bool:
    """Whether a cell is done."""
    return (results / "runs" / f"{key}.json").is_file()


def write_record(
    results: Path, record: Record, scores: pd.DataFrame, predictions: pd.DataFrame | None, **others: pd.DataFrame | None
) -> Path:
    """Write scores, predictions, then the record: a record that exists has its scores.

    Args:
        results: folder.
        record: of the cell.
        scores: public.
        predictions: private; None for none.
        others: further tables by the name that their files have; None for none. Their index is written if it is named.

    Returns:
        The record's path.
    """
    folder = results / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{record.key}.scores.csv", _scores_text(folder, scores))
    for name, table in {"predictions": predictions, **others}.items():
        if table is not None:
            write_text(folder / f"{record.key}.{name}.csv", _csv(table))
    path = folder / f"{record.key}.json"
    write_text(path, json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False) + "\n")
    return path


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=table.index.name is not None, lineterminator="\n")


def _scores_text(folder: Path, scores: pd.DataFrame) -> str:
    """What the file of scores holds; trials go to a file of their own, once for all that are judged by them."""
    if "utterance_b" not in scores:
        return _csv(scores)
    trials = _csv(scores[[name for name in TRIAL if name in scores]])
    path = folder / f"{_hash(trials)}.trials.csv"
    if not path.is_file() or path.read_bytes() != trials.encode():  # a damaged one is mended by the next record
        write_text(path, trials)
    return f"{ROWS_OF}{path.name}\n{_csv(scores.drop(columns=[*TRIAL], errors='ignore'))}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def read_record(path: Path) -> Record:
    """A record from its file.

    Raises:
        UserError: it is damaged, or of another schema.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema {values.get('schema')}, this version reads {SCHEMA}")
        if set(values) != FIELDS:
            raise ValueError(f"fields {', '.join(sorted(set(values) ^ FIELDS))} are missing or unknown")
        wrong = [name for name, hint in HINTS.items() if not fits(values[name], hint)]
        wrong = wrong or _wrong_inside(values)
        if wrong:
            raise ValueError(f"{', '.join(wrong)} holds something else than it should")
        json.dumps(values, ensure_ascii=False).encode()  # half a character cannot be written anywhere
        refuse_unwritable(values)
        if values["key"] != path.stem:
            raise ValueError("its key is not the name of its file")
        return Record(**values)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            "a record cannot be read", where=path, why=str(error)[:200], remedy="delete it and run its cell again"
        ) from error


def fits(value: object, hint: object) -> bool:
    """Whether a value read from JSON is of an annotated type: a record may come from a stranger."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(fits(value, part) for part in inner)
    if origin in (list, dict):
        parts = value.values() if isinstance(value, dict) else value
        return isinstance(value, origin) and all(fits(part, inner[-1]) for part in parts)
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, int) and abs(value) >= LARGEST:
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def refuse_unwritable(values: object) -> None:
    """Raise a ValueError where a text in what was read from JSON can stand in no page or drawing."""
    if any(UNWRITABLE.search(text) for text in _texts(values)):
        raise ValueError("a text in it holds control characters")


def _texts(value: object) -> Iterator[str]:
    """All strings in what was read from JSON, names of fields among them."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


def _wrong_inside(values: dict) -> list[str]:
    """Fields of the right type that boards and figures could not be made of all the same."""
    config = values["config"]
    budget = config.get("budget", {})
    budget = budget if isinstance(budget, dict) else None
    heard, trained = config.get("heard", []), config.get("pretraining", {"hours": 0.0, "run": "", "id": ""})
    layer = values["layers"]
    sound = {
        "layers": layer == "mix" or (isinstance(layer, int) and layer >= 0),
        "layer_weights": len(values["layer_weights"]) in (0, len(values["layer_numbers"])),
        "n": values["n"] >= 0,
        "value": math.isfinite(values["value"]),
        "ci95": len(values["ci95"]) == 2 and all(map(math.isfinite, values["ci95"])),
        "cost": set(values["cost"]) >= COSTS,
        "learning_rate_curve": all(fits(fold.get("dev"), dict[str, float]) for fold in values["learning_rate_curve"]),
        "config.budget": budget is not None
        and fits(budget.get("updates", 0), int)
        and fits(budget.get("labels", ""), str),
        "config.labels": not (budget or {}).get("labels") or fits(config.get("labels"), float),
        "config.heard": fits(heard, list[str]),
        "config.pretraining": isinstance(trained, dict)
        and fits(trained.get("hours"), float)
        and 0 <= trained["hours"] < math.inf
        and fits([trained.get("run"), trained.get("id")], list[str]),
    }
    return [name for name, well in sound.items() if not well]


def read_scores(results: Path, key: str, columns: Collection[str] | None = None) -> pd.DataFrame:
    """The scores beside a record; of trials, their columns first.

    Args:
        results: folder.
        key: of the record.
        columns: the only ones that are wanted, of those that are there; None for all.

    Raises:
        UserError: they are missing or damaged, or of other trials than those that are there.
    """
    path = results / "runs" / f"{key}.scores.csv"
    try:
        text = path.read_text(encoding="utf-8")
        named = _trials_of(path, text)
        if named is None:
            return _table(text, columns)
        trials, scores = _trials(named), _table(text.partition("\n")[2], columns)
        if len(trials) != len(scores):
            raise ValueError(f"{len(scores)} scores of {len(trials)} trials")
        if columns is not None:
            trials = trials[[name for name in trials if name in columns]]
        if twice := set(trials) & set(scores):
            raise ValueError(f"{', '.join(sorted(twice))} stand with the trials and with the scores")
        return pd.concat([trials, scores], axis="columns")
    except (OSError, ValueError) as error:
        raise UserError(
            "the scores of a record cannot be read",
            where=path,
            why=str(error)[:200],
            remedy="delete the record and run its cell again",
        ) from error


def _table(text: str, columns: Collection[str] | None = None) -> pd.DataFrame:
    wanted = None if columns is None else columns.__contains__
    # a class may be called NA or 01, and is no number then and nothing that is missing
    table = pd.read_csv(io.StringIO(text), usecols=wanted, dtype=dict.fromkeys(WORDS, str), keep_default_na=False)
    numbers = table.columns.difference(WORDS)
    if not np.isfinite(table[numbers].astype(float).to_numpy()).all():
        raise ValueError(f"{', '.join(numbers)}: not all are finite")
    return table


def scores_bytes(results: Path, key: str) -> bytes:
    """What the scores of a record are read from, as it lies there; b"" where there are none."""
    path = results / "runs" / f"{key}.scores.csv"
    if not path.is_file():
        return b""
    own = path.read_bytes()
    trials = _trials_of(path, own[:200].decode(errors="replace"))
    return own + (b"\0" + trials.read_bytes() if trials and trials.is_file() else b"")


def _trials_of(scores: Path, text: str) -> Path | None:
    """The file of trials that scores name in their first line, if they name one."""
    first = text.partition("\n")[0]
    name = first.removeprefix(ROWS_OF)
    return scores.with_name(name) if first != name and TRIALS_FILE.fullmatch(name) else None


def _trials(path: Path) -> pd.DataFrame:
    text = path.read_text(encoding="utf-8")
    if f"{_hash(text)}.trials.csv" != path.name:
        raise ValueError(f"{path.name} holds other trials than those that were judged")
    return _trial_table(text)


@lru_cache(maxsize=4)  # all scores of a board name the same ones
def _trial_table(text: str) -> pd.DataFrame:
    return _table(text)


def hashed(values: Iterable[str], salt: str) -> list[str]:
    """Short hashes that join the scores of one corpus without naming anybody; "" stays ""."""
    return [hashlib.blake2b(f"{salt}\0{v}".encode(), digest_size=4).hexdigest() if v else "" for v in values]


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of Python, this machine's kind and the packages that numbers depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@lru_cache(maxsize=1)
def commit() -> str:
    """Of the checkout that this code runs from, "" outside one; "+" behind it where files differ."""
    import subprocess

    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
