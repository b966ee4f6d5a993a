"""Boards to ranks: the scores files of a board's rows to tests of every pair, kept by the hash of what they read."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from wavbench.benchmark.leaderboard import Board
from wavbench.benchmark.record import read_scores, write_text
from wavbench.benchmark.stats import columns_of, holm, pairwise, rank_ranges, told_apart
from wavbench.upstream.errors import UserError

CACHE = Path(".cache/comparisons.json")  # under the results; not for git
VERSION = 1  # of how rows are compared: another number forgets what was kept


def ranked(boards: Iterable[Board], results: Path) -> list[Board]:
    """The same boards, whose rows know the ranks that they can have and how likely they equal the best one.

    Args:
        boards: made of the records of a results folder.
        results: that folder. Rows whose scores are not there are told apart from none.
    """
    kept, used = _read_cache(results), {}
    found = []
    for board in boards:
        paths = [[results / "runs" / f"{key}.scores.csv" for key in row.keys] for row in board.rows]
        digest = _digest(board.metric, paths)
        p = _kept(kept.get(digest), len(board.rows))
        p = _compared(board, results).round(6) if p is None else p
        used[digest] = [[None if np.isnan(value) else float(value) for value in own] for own in p]
        found.append(_with_ranks(board, p))
    if used != kept:
        path = results / CACHE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"version": VERSION, "p": used}))
    return found


def _with_ranks(board: Board, p: Float[np.ndarray, "rows rows"]) -> Board:
    apart = told_apart(p)
    adjusted = np.ones(p.shape)
    upper = np.triu_indices(len(p), 1)
    adjusted[upper] = adjusted.T[upper] = holm(p[upper])
    rows = [
        replace(row, ranks=ranks, p_best=float(adjusted[0, place]))
        if np.isnan(p[0, place])
        else replace(row, ranks=ranks, p_best=float(adjusted[0, place]), tied=not apart[0, place])
        for place, (row, ranks) in enumerate(zip(board.rows, rank_ranges(apart), strict=True))
    ]
    return replace(board, rows=tuple(rows))


def _compared(board: Board, results: Path) -> Float[np.ndarray, "rows rows"]:
    """p-values of all pairs; NaN where the scores of a row cannot be read."""
    scores = {}
    for place, row in enumerate(board.rows):
        try:
            own = [read_scores(results, key) for key in row.keys]
        except UserError:  # what is wrong with them is said where records are read
            continue
        if all(set(columns_of(board.metric)) <= set(table) for table in own):
            scores[place] = own
    p = np.full((len(board.rows), len(board.rows)), np.nan)
    np.fill_diagonal(p, 1.0)
    places = list(scores)
    if places:
        p[np.ix_(places, places)] = pairwise(board.metric, list(scores.values()))
    return p


def _digest(metric: str, paths: list[list[Path]]) -> str:
    digest = hashlib.blake2b(metric.encode(), digest_size=16)
    for own in paths:
        digest.update(b"row")
        for path in own:
            digest.update(hashlib.blake2b(path.read_bytes()).digest() if path.is_file() else b"none")
    return digest.hexdigest()


def _kept(found: object, rows: int) -> Float[np.ndarray, "rows rows"] | None:
    """A matrix of the cache, None where it is none of so many rows."""
    try:
        p = np.array(found, float)
    except (TypeError, ValueError):
        return None
    return p if p.shape == (rows, rows) else None


def _read_cache(results: Path) -> dict[str, list]:
    """What an earlier report has computed; nothing where the file is none of ours."""
    try:
        found = json.loads((results / CACHE).read_text(encoding="utf-8"))
        return found["p"] if found["version"] == VERSION and isinstance(found["p"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
