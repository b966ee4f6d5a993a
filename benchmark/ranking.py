"""Boards to ranks: the scores files of a board's rows to tests of every pair, kept by the hash of what they read."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from wavbench.benchmark.comparing import Compared, columns_of, compare, rank_ranges, told_apart
from wavbench.benchmark.forked import results_of
from wavbench.benchmark.leaderboard import Board, Row
from wavbench.benchmark.record import read_scores, write_text
from wavbench.upstream.errors import UserError
from wavbench.upstream.machine import cores

CACHE = Path(".cache/comparisons.json")  # under the results; not for git
MANY = 100  # rows from which on their boards are compared by several processes
VERSION = 4  # of how rows are compared: another number forgets what was kept


def ranked(boards: Iterable[Board], results: Path) -> list[Board]:
    """The same boards, whose rows know the ranks that they can have and how likely they equal the best one.

    Args:
        boards: made of the records of a results folder.
        results: that folder. Rows whose scores are not there are told apart from none.
    """
    kept, boards = _read_cache(results), list(boards)
    digests = [_digest(board.metric, _paths(board, results)) for board in boards]
    known = [_kept(kept.get(digest), len(board.rows)) for board, digest in zip(boards, digests, strict=True)]
    new = [place for place, tested in enumerate(known) if tested is None]
    new.sort(key=lambda place: -sum(row.record.n for row in boards[place].rows))  # what takes long begins first
    rows = sum(len(boards[place].rows) for place in new)
    jobs = [partial(_compared, boards[place], results) for place in new]
    found = dict(zip(new, results_of(jobs, cores() if rows >= MANY else 1), strict=True))
    tested = [found.get(place) or own for place, own in enumerate(known)]
    used = {
        digest: [[[None if np.isnan(value) else float(value) for value in own] for own in p] for p in both]
        for digest, both in zip(digests, tested, strict=True)
    }
    if used != kept:
        path = results / CACHE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"version": VERSION, "p": used}))
    return [_with_ranks(board, own, results) for board, own in zip(boards, tested, strict=True)]


def _paths(board: Board, results: Path) -> list[list[Path]]:
    return [[results / "runs" / f"{key}.scores.csv" for key in row.keys] for row in board.rows]


def _with_ranks(board: Board, tested: Compared, results: Path) -> Board:
    apart = told_apart(tested.adjusted)
    rows, paths = [], _paths(board, results)
    for place, (row, ranks) in enumerate(zip(board.rows, rank_ranges(apart), strict=True)):
        p = tested.adjusted[0, place]
        scored = all(path.is_file() for path in paths[place])
        row = replace(row, p_best=float(p), tied=row.tied if np.isnan(p) else not apart[0, place], scored=scored)
        alone = np.isnan(np.delete(tested.p[place], place)).all() and len(board.rows) > 1
        rows.append(row if alone else replace(row, ranks=ranks))
    return replace(board, rows=tuple(rows))


def _compared(board: Board, results: Path) -> Compared:
    """Tests of all pairs; NaN where the scores of a row cannot be read."""
    scores = {}
    for place, row in enumerate(board.rows):
        try:
            own = {seed: read_scores(results, key) for seed, key in zip(_seeds(row), row.keys, strict=True)}
        except UserError:  # what is wrong with them is said where records are read
            continue
        if all(len(table) and set(columns_of(board.metric)) <= set(table) for table in own.values()):
            scores[place] = own
    found = Compared(*(np.full((len(board.rows), len(board.rows)), np.nan) for _ in range(2)))
    places = list(scores)
    for matrix, own in zip(found, compare(board.metric, list(scores.values())), strict=True):
        np.fill_diagonal(matrix, 1.0)
        matrix[np.ix_(places, places)] = own.round(6)
    return found


def _seeds(row: Row) -> Sequence[int]:
    """What tells the records of a row apart: their seeds, but for draws of labels that one seed was trained on."""
    return row.head_seeds if len(set(row.head_seeds)) == len(row.keys) else range(len(row.keys))


def _digest(metric: str, paths: list[list[Path]]) -> str:
    digest = hashlib.blake2b(metric.encode(), digest_size=16)
    for own in paths:
        digest.update(b"row")
        for path in own:
            digest.update(hashlib.blake2b(path.read_bytes()).digest() if path.is_file() else b"none")
    return digest.hexdigest()


def _kept(found: object, rows: int) -> Compared | None:
    """Two matrices of the cache, None where they are none of so many rows."""
    try:
        p, adjusted = (np.array(matrix, float) for matrix in found)
    except (TypeError, ValueError):
        return None
    return Compared(p, adjusted) if p.shape == adjusted.shape == (rows, rows) else None


def _read_cache(results: Path) -> dict[str, list]:
    """What an earlier report has computed; nothing where the file is none of ours."""
    try:
        found = json.loads((results / CACHE).read_text(encoding="utf-8"))
        return found["p"] if found["version"] == VERSION and isinstance(found["p"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
