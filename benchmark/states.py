"""How far each cell of a sweep is: a small file per cell that workers write and `wavbench status` reads.

results/cells/<key>.json    of one cell, by what an experiment says of it: no upstream has to be loaded to look it up

They are no results: a cell counts as done because its records are there, and a sweep looks for these itself.
"""

import contextlib
import hashlib
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path

from wavbench.benchmark.cell import Job
from wavbench.benchmark.record import exists, key_of, write_text
from wavbench.downstream.language.with_lm import TRAIN
from wavbench.downstream.spec import find_protocol
from wavbench.upstream import claims
from wavbench.upstream.catalog import WEIGHTS
from wavbench.upstream.errors import UserError

FOLDER = "cells"
DONE, FAILED, RUNNING, TO_DO = "done", "failed", "running", "to do"
ALL = (DONE, RUNNING, FAILED, TO_DO)


@dataclass(frozen=True, kw_only=True)
class State:
    """What a worker wrote of a cell.

    Args:
        cell: for people.
        state: DONE, FAILED or RUNNING.
        records: keys of its records, once they are known; where all of them are there, the cell is done.
        claim: key of the claim that its worker holds.
        error: what a person is told of a failure.
        trace: where in the code it happened; "" for bad input.
        read: size and time of change of the files that it ran on, and the version of its protocol: of others, other
            records are wanted.
        at: seconds since 1970.
    """

    cell: str
    state: str
    records: tuple[str, ...] = ()
    claim: str = ""
    error: str = ""
    trace: str = ""
    read: dict[str, str] = field(default_factory=dict)
    at: float = 0.0


def write_state(results: Path, job: Job, state: str, **values: object) -> None:
    """Note how far a cell is."""
    path = _path(results, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = State(cell=job.name, state=state, read=_read(job), at=time.time(), **values)
    write_text(path, json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")


def read_state(results: Path, job: Job) -> State | None:
    """What was noted last; None where nothing was, or it cannot be read."""
    try:
        values = json.loads(_path(results, job).read_text(encoding="utf-8"))
        if set(values) != {field.name for field in fields(State)} or values["state"] not in (DONE, FAILED, RUNNING):
            return None
        words = [values[name] for name in ("cell", "claim", "error", "trace")] + values["records"]
        words += [*values["read"].values()]
        if not all(isinstance(word, str) for word in words) or not math.isfinite(values["at"]):
            return None
        if not all(re.fullmatch("[0-9a-f]{0,64}", key) for key in [*values["records"], values["claim"]]):
            return None  # they are to name files
        return State(**values | {"records": tuple(values["records"]), "at": float(values["at"])})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def standing(results: Path, job: Job) -> tuple[str, State | None]:
    """How far a cell is by what was noted and what is there: one of ALL, and the note."""
    found = read_state(results, job)
    if found is None:
        return TO_DO, None
    if any(found.read.get(name) != stamp for name, stamp in _read(job).items() if stamp):
        return TO_DO, None
    if found.records and all(exists(results, key) for key in found.records):
        return DONE, found  # whoever made them, and whatever was noted
    if found.state == RUNNING:
        return (RUNNING if claims.holder(results / "claims", found.claim) else TO_DO), found
    return (FAILED if found.state == FAILED else TO_DO), found


def failed_before(results: Path, job: Job, retry_since: float | None) -> State | None:
    """The failure of a cell that has no records and is not to be tried again.

    Args:
        retry_since: failures older than this (seconds since 1970) are tried again; None where none is.
    """
    state, found = standing(results, job)
    return None if state != FAILED or (retry_since is not None and found.at < retry_since) else found


def counts(results: Path, jobs: Sequence[Job]) -> dict[str, int]:
    """How many cells are done, running, failed and to do."""
    found = [standing(results, job)[0] for job in jobs]
    return {state: found.count(state) for state in ALL}


def _path(results: Path, job: Job) -> Path:
    """Of what decides a cell's result, however its files are named and whatever else is asked for beside it."""
    cell = job.cell
    lm = asdict(cell.lm) if cell.lm else None
    if lm and lm["ngrams"] != TRAIN:
        lm["ngrams"] = _resolved(lm["ngrams"])
    what = {
        "upstream": job.upstream_name,
        "loaded": [[name, str(value)] for name, value in cell.loaded],
        "manifest": _resolved(job.manifest),
        "task": cell.task,
        "layers": cell.layers,
        "seed": cell.seed,
        "budget": cell.budget_share,
        "trials": _resolved(cell.trials),
        "protocol": cell.protocol,
        "head": cell.head,
        "lm": lm,
        "units": cell.units,
        "features": cell.features,
        "dtype": cell.dtype,
        "save": _resolved(cell.save),
    }
    return results / FOLDER / f"{key_of(what)}.json"


def _read(job: Job) -> dict[str, str]:
    """What a cell runs on, as far as that can be seen without loading anything; "" for what is not there."""
    cell = job.cell
    lm = cell.lm.ngrams if cell.lm and cell.lm.ngrams != TRAIN else None
    files = {"manifest": job.manifest, "trials": cell.trials, "lm": lm}
    stamps = {what: _stamp(Path(file)) for what, file in files.items() if file is not None}
    if job.weights is not None:
        stamps["weights"] = _content(job.weights) if job.weights.parent == WEIGHTS else _stamp(job.weights)
    with contextlib.suppress(UserError):  # an unknown protocol is refused where the cell is planned
        stamps["protocol"] = f"version {find_protocol(cell.protocol).version}"
    return stamps


def _content(weights: Path) -> str:
    """Hash of shipped weights: every installation has a file of its own, of another time."""
    try:
        stat = weights.stat()
        return _hash(weights, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return ""


@lru_cache
def _hash(file: Path, size: int, changed: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "blake2b").hexdigest()[:20]


def _stamp(file: Path) -> str:
    """Size and time of change; "" where it is not there."""
    try:
        stat = file.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"
    except OSError:
        return ""


def _resolved(path: Path | str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())
