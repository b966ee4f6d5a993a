"""The rows of a board that a figure can show: beyond a dozen lines nobody finds theirs, and tables have them all."""

from collections.abc import Iterable
from dataclasses import replace

from wavbench.benchmark.leaderboard import Board, board_key
from wavbench.benchmark.record import Record

MOST = 12  # rows of a board in a figure
BASELINES = ("fbank", "fbank_raw")  # that stand beside them


def foremost(boards: Iterable[Board]) -> list[Board]:
    """The same boards with their best rows and filterbanks; ranks are those among all."""
    found = []
    for board in boards:
        if len(board.rows) > MOST:
            rows = [row for k, row in enumerate(board.rows) if k < MOST or row.upstream in BASELINES]
            names = {row.upstream for row in rows}
            board = replace(board, rows=tuple(rows), layers=board.layers[board.layers["upstream"].isin(names)])
        found.append(board)
    return found


def records_of(boards: Iterable[Board], records: Iterable[Record]) -> list[Record]:
    """The records of upstreams that stand on these boards, of all their layers, seeds and recipes.

    Records of boards without rows, on which single layers alone were scored, stay.
    """
    records = list(records)
    keys = {record.key: board_key(record) for record in records}
    kept: dict[tuple, set[str]] = {}
    for board in boards:
        for row in board.rows:
            kept.setdefault(keys[row.record.key], set()).add(row.checkpoint_hash)
    return [r for r in records if keys[r.key] not in kept or r.checkpoint_hash in kept[keys[r.key]]]
