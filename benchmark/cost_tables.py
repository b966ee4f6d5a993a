"""What upstreams and rows took, as the tables of a page."""

import statistics
from collections.abc import Iterable

from wavbench.benchmark.cost_plots import pareto_front, seconds_of
from wavbench.benchmark.leaderboard import Board, Row
from wavbench.benchmark.page_tables import Cell, Column, Line, Table, number
from wavbench.benchmark.record import Record

AUDIO = Column("audio", "s per s of extraction", down=True)


def cost_by_upstream(boards: list[Board], records: Iterable[Record]) -> Table:
    """What an upstream takes, over all of its boards."""
    audio = audio_by_corpus(records)
    columns = (
        Column("upstream", name=True),
        Column("parameters", "millions"),
        Column("boards"),
        Column("extraction", "s, median"),
        *([AUDIO] if audio else []),
        Column("fit and search", "s, median"),
        Column("peak memory", "MB, most"),
        Column("store", "MB, median"),
    )
    found: dict[str, list[Row]] = {}
    for board in boards:
        for row in board.rows:
            found.setdefault(row.upstream, []).append(row)
    lines = []
    for name, rows in sorted(found.items()):
        costs = [row.record.cost for row in rows]
        rates = [rate for row in rows if (rate := _rate(row.record, audio))]
        cells = (
            Cell(name),
            number(costs[0]["upstream_parameters"] / 1e6, 1),
            Cell(str(len(rows))),
            number(statistics.median(cost["extract_s"] for cost in costs), 0),
            *([number(statistics.median(rates) if rates else None, 1)] if audio else []),
            number(statistics.median(cost["fit_s"] for cost in costs), 0),
            number(max(cost.get("peak_memory_mb", 0.0) for cost in costs) or None, 0),
            number(statistics.median(cost["store_mb"] for cost in costs), 0),
        )
        lines.append(Line(cells))
    return Table(columns, tuple(lines))


def cost_of_rows(boards: list[Board], records: Iterable[Record]) -> Table:
    """What every row took, beside its score."""
    audio = audio_by_corpus(records)
    columns = (
        Column("upstream", name=True),
        Column("task and corpus", name=True),
        Column("score"),
        Column("extraction", "s"),
        *([AUDIO] if audio else []),
        Column("fit and search", "s"),
        Column("peak memory", "MB"),
        Column("store", "MB"),
        Column("head", "parameters"),
        Column("on the Pareto front", "of seconds and score", name=True),
    )
    lines = []
    for board in boards:
        timed = [row for row in board.rows if seconds_of(row) > 0]
        front = pareto_front([seconds_of(row) for row in timed], [row.value for row in timed], board.higher_is_better)
        cheapest = {timed[place].upstream for place in front}
        for row in board.rows:
            cost = row.record.cost
            cells = (
                Cell(row.upstream, key=row.record.key),
                Cell(board.name),
                Cell(f"{row.value:.2f}"),
                number(cost["extract_s"], 0),
                *([number(_rate(row.record, audio), 1)] if audio else []),
                number(cost["fit_s"], 0),
                number(cost.get("peak_memory_mb"), 0),
                number(cost["store_mb"], 0),
                number(cost.get("parameters"), 0),
                Cell("yes" if row.upstream in cheapest else ""),
            )
            lines.append(Line(cells, board.metric))
    return Table(columns, tuple(lines))


def audio_by_corpus(records: Iterable[Record]) -> dict[str, float]:
    """Seconds of audio of each corpus, by its hash, from the records that say it."""
    return {record.corpus_hash: record.cost["audio_s"] for record in records if record.cost.get("audio_s")}


def _rate(record: Record, audio: dict[str, float]) -> float | None:
    """Audio seconds per second of extraction; None where nothing was stored, or nobody knows."""
    seconds = audio.get(record.corpus_hash)
    return (
        seconds / record.cost["extract_s"] if seconds and record.cost["extract_s"] and record.cost["store_mb"] else None
    )
