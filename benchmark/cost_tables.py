"""What upstreams and rows took, as the tables of a page."""

import statistics
from collections.abc import Iterable
from dataclasses import replace

from wavbench.benchmark.cost_plots import pareto_front, seconds_of
from wavbench.benchmark.leaderboard import Board, Row
from wavbench.benchmark.page_tables import Cell, Column, Line, Table, known, number
from wavbench.benchmark.record import Record

AUDIO = Column("audio", "s per s of extraction", down=True)
CPU = Column("audio", "s per CPU second of extraction", down=True)
CLOCKS = ("extract_s", "extract_cpu_s")


def cost_by_upstream(boards: list[Board], records: Iterable[Record]) -> Table:
    """What an upstream takes whatever its heads do; what these took differs from board to board."""
    audio = audio_by_corpus(records)
    columns = (
        Column("upstream", name=True),
        Column("parameters", "millions"),
        Column("boards"),
        *([AUDIO, CPU] if audio else []),
        Column("peak memory", "MB, most"),
    )
    found: dict[str, list[Row]] = {}
    for board in boards:
        for row in board.rows:
            found.setdefault(row.upstream, []).append(row)
    lines = []
    for name, rows in sorted(found.items()):
        costs = [row.record.cost for row in rows]
        rates = [[_rate(row.record, audio, clock) for row in rows] for clock in CLOCKS]
        medians = [statistics.median(known) if (known := [r for r in own if r]) else None for own in rates]
        cells = (
            Cell(name),
            number(costs[0]["upstream_parameters"] / 1e6, 1),
            Cell(str(len(rows))),
            *([number(median, 1) for median in medians] if audio else []),
            _memory(costs),
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
        *([AUDIO, CPU] if audio else []),
        Column("fit and search", "s, layer choices at once"),
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
                Cell(row.upstream, key=row.record.key, **known(row)),
                Cell(board.name),
                Cell(f"{row.value:.2f}"),
                number(cost["extract_s"], 0),
                *([number(_rate(row.record, audio, clock), 1) for clock in CLOCKS] if audio else []),
                replace(number(row.fit_seconds, 0), small=f"{row.fitted}"),
                _memory([cost]),
                number(cost["store_mb"], 0),
                number(cost.get("parameters"), 0),
                Cell("yes" if row.upstream in cheapest else ""),
            )
            lines.append(Line(cells, board.metric))
    return Table(columns, tuple(lines))


def audio_by_corpus(records: Iterable[Record]) -> dict[str, float]:
    """Seconds of audio of each corpus, by its hash, from the records that say it."""
    return {record.corpus_hash: record.cost["audio_s"] for record in records if record.cost.get("audio_s")}


def _memory(costs: list[dict[str, float]]) -> Cell:
    """The most that heads took while they were trained; of older records a bound, the most that a process ever held."""
    exact = [cost["fit_memory_mb"] for cost in costs if "fit_memory_mb" in cost]
    bounds = [cost["peak_memory_mb"] for cost in costs if "peak_memory_mb" in cost]
    found = number(max([*exact, *bounds], default=None), 0)
    return replace(found, text=f"≤ {found.text}") if max(bounds, default=0) > max(exact, default=0) else found


def _rate(record: Record, audio: dict[str, float], clock: str) -> float | None:
    """Audio seconds per second of extraction; None where nothing was stored, or nobody knows."""
    seconds, took = audio.get(record.corpus_hash), record.cost.get(clock)
    return seconds / took if seconds and took and record.cost["store_mb"] else None
