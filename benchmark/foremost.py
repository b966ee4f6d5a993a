"""The rows of a board that a figure can show: beyond a dozen lines nobody finds theirs, and tables have them all."""

import re
from collections.abc import Iterable
from dataclasses import replace

from wavbench.benchmark.leaderboard import Board, Row, board_key
from wavbench.benchmark.record import Record

MOST = 12  # lines of a board in a figure
BASELINES = ("fbank", "fbank_raw")  # that stand beside them
TWIN = re.compile(r"(.* random) seed \d+(.*)?")  # name of fresh weights


def line_of(name: str) -> str:
    """The line that a checkpoint belongs to: random twins of one model are one, whatever the seed of their weights."""
    twin = TWIN.fullmatch(name)
    return f"{twin[1]}{twin[2] or ''}" if twin else name


def foremost(boards: Iterable[Board]) -> list[Board]:
    """The same boards with the rows of their best lines and filterbanks; ranks are those among all.

    A line stays or goes with all its rows: without the worse seeds of a random twin its mean would be too good.
    """
    found = []
    for board in boards:
        lines = dict.fromkeys(map(_line, board.rows))
        best = {*list(lines)[:MOST], *BASELINES}
        rows = tuple(row for row in board.rows if _line(row) in best)
        if len(rows) < len(board.rows):
            gone = {row.upstream for row in board.rows} - {row.upstream for row in rows}
            board = replace(board, rows=rows, layers=board.layers[~board.layers["upstream"].isin(gone)])
        found.append(board)
    return found


def records_of(boards: Iterable[Board], shown: Iterable[Board], records: Iterable[Record]) -> list[Record]:
    """The records of boards without those of upstreams whose rows `foremost` left out.

    Records of upstreams without a row, of which single layers alone were scored, stay.

    Args:
        boards: with all rows.
        shown: the same boards, as `foremost` left them.
        records: of all layers, seeds and recipes.
    """
    gone: dict[tuple, set[str]] = {}
    for board, few in zip(boards, shown, strict=True):
        if left := _weights(board.rows) - _weights(few.rows):
            gone[board_key(board.rows[0].record)] = left
    return [record for record in records if record.checkpoint_hash not in gone.get(board_key(record), ())]


def _line(row: Row) -> str:
    """Of a row: encoders that were kept along one training are one line, too."""
    trained = row.record.config.get("pretraining")
    return f"training {trained['id']}" if trained else line_of(row.upstream)


def _weights(rows: Iterable[Row]) -> set[str]:
    return {row.checkpoint_hash for row in rows}
