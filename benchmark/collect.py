"""The records of a results folder, with those left out that cannot be read or are not what their scores say."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wavbench.benchmark.forked import mapped, workers_for
from wavbench.benchmark.record import Record, read_record, read_scores, scores_bytes, write_text
from wavbench.downstream.metrics import METRICS
from wavbench.downstream.spec import (
    ACCURACY,
    BLEU,
    EQUAL_ERROR_RATE,
    FRAME_ACCURACY,
    PHONE_ERROR_RATE,
    WORD_ERROR_RATE,
)
from wavbench.upstream.errors import UserError

CACHE = Path(".cache/verified.json")  # under the results; not for git
VERSION = 2  # of how records are verified: another number forgets what was kept
ROUNDING = 1e-3  # of a value: records keep four digits, scores of trials five


KNOWN = {m.name: m for m in (ACCURACY, FRAME_ACCURACY, PHONE_ERROR_RATE, WORD_ERROR_RATE, EQUAL_ERROR_RATE, BLEU)}


@dataclass(frozen=True)
class Collected:
    """Records in order of their keys, and what is wrong with those that are not among them."""

    records: list[Record]
    problems: list[UserError]


def collect(results: Path) -> Collected:
    """All records whose scores give their value, or that have no scores beside them.

    A record without scores is kept, as its value may be all that somebody passed on; it is compared with no other.

    Args:
        results: folder. What was verified once is not read again until it changes; that is kept under the folder.
    """
    known, paths = _read_cache(results), sorted((results / "runs").glob("*.json"))
    read = mapped(partial(_read, results, known), paths, workers_for(len(paths)))
    verified = [digest for _, digest in read if digest]
    records = [record for record, _ in read if isinstance(record, Record)]
    problems = [problem for problem, _ in read if isinstance(problem, UserError)]
    if set(verified) != known:
        place = results / CACHE
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, json.dumps({"version": VERSION, "verified": sorted(verified)}))
    return Collected(records, problems)


def _read(results: Path, known: set[str], path: Path) -> tuple[Record | UserError, str]:
    """A record or what is wrong with it, and a hash of it and its scores, "" without these."""
    try:
        record = read_record(path)
        _check_metric(record, path)
        scores = scores_bytes(results, record.key)
        if not scores:
            return record, ""
        digest = hashlib.blake2b(path.read_bytes() + b"\0" + scores, digest_size=12).hexdigest()
        if digest not in known:
            _verify(record, results, path.with_name(f"{record.key}.scores.csv"))
        return record, digest
    except UserError as problem:
        return problem, ""
    except OSError as error:
        remedy = "make its files readable, or delete it and run its cell again"
        return UserError("a record cannot be read", where=path, why=str(error)[:200], remedy=remedy), ""


def _check_metric(record: Record, path: Path) -> None:
    """Raise a UserError unless a record says of its metric what is so."""
    if record.metric not in KNOWN:
        raise UserError(
            f"a record has a metric that is not known: {record.metric}",
            where=path,
            remedy=f"one of: {', '.join(KNOWN)}; delete it and run its cell again",
        )
    metric = KNOWN[record.metric]
    if (record.unit, record.higher_is_better) != (metric.unit, metric.higher_is_better):
        raise UserError(
            "a record says otherwise than its metric",
            where=path,
            why=f"{metric.name} is in {metric.unit}, and {'higher' if metric.higher_is_better else 'lower'} is better",
            remedy="delete it and run its cell again",
        )


def _verify(record: Record, results: Path, path: Path) -> None:
    """Raise a UserError unless a record's scores give its value."""
    scores = read_scores(results, record.key)
    if len(scores) != record.n:
        raise UserError(
            "the scores of a record are not all there",
            where=path,
            why=f"{len(scores)} rows, and the record is of {record.n}",
            remedy="delete the record and run its cell again",
        )
    try:
        value = float(METRICS[record.metric](scores)[0])
    except (KeyError, ValueError, TypeError, UserError) as error:
        raise UserError(
            "the scores of a record are not of its metric",
            where=path,
            why=f"{record.metric}: {error}"[:200],
            remedy="delete the record and run its cell again",
        ) from None
    if not abs(value - record.value) <= ROUNDING:
        raise UserError(
            "the scores of a record do not give its value",
            where=path,
            why=f"{record.metric} {value:.4f} from the scores, {record.value:.4f} in the record",
            remedy="delete the record and run its cell again",
        )


def _read_cache(results: Path) -> set[str]:
    """What an earlier report has verified; nothing where the file is none of ours."""
    try:
        found = json.loads((results / CACHE).read_text(encoding="utf-8"))
        return set(found["verified"]) if found["version"] == VERSION else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
