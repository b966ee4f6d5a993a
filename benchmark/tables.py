"""Boards as text: a line per row for a spreadsheet, Markdown, a terminal."""

import re

import pandas as pd

from wavbench.benchmark.leaderboard import Board, Row

COSTS = ("extract_s", "extract_cpu_s", "audio_s", "fit_memory_mb", "store_mb", "parameters", "upstream_parameters")
# where a spreadsheet begins a cell (behind ; where that parts cells), and what it takes for the beginning of a formula
FORMULA = re.compile("(^|[;\t\r\n])(?=[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-])")
HEARD, UNSCORED = "†", "‡"  # behind values of upstreams that know the corpus, and those whose scores are not there
ABOUT_TIES = (
    "`=` marks rows that this test set does not tell apart from the best one: by paired tests of the same items, seeds "
    "included, at 5 % for all pairs of a board together, or by intervals that meet where rows could not be compared. "
    "Ranks are those that a row can have, given all pairs that are told apart."
)
ABOUT = {
    HEARD: "† marks upstreams that were pretrained on audio of the corpus.",
    UNSCORED: "‡ marks values that cannot be computed again, as their scores are not there; intervals compare them.",
}


def long_table(boards: list[Board]) -> pd.DataFrame:
    """One line per row of every board, for leaderboard.csv."""
    lines = []
    for board in boards:
        for row in board.rows:
            record = row.record
            lines.append(
                {
                    "task": board.task,
                    "corpus": board.corpus,
                    "synthetic": board.synthetic,
                    "rank": row.rank,
                    "upstream": row.upstream,
                    "metric": board.metric,
                    "unit": board.unit,
                    "higher_is_better": board.higher_is_better,
                    "value": round(row.value, 4),
                    "ci95_low": round(row.low, 4),
                    "ci95_high": round(row.high, 4),
                    "ci_unit": board.ci_unit,
                    "rank_first": row.ranks[0] if row.ranks else "",
                    "rank_last": row.ranks[1] if row.ranks else "",
                    "told_apart_from_best": not row.tied,
                    "p_best": row.p_best,
                    "chance": board.chance,
                    "best_layer": row.best_layer[0] if row.best_layer else "",
                    "best_layer_value": round(row.best_layer[1], 4) if row.best_layer else "",
                    **{f"secondary_{name}": value for name, value in record.secondary.items() if name != "chance"},
                    "n": record.n,
                    "seeds": row.seeds,
                    "seed_deviation": round(row.deviation, 4),
                    "split": record.split,
                    "pretrained_on": " ".join(row.heard),
                    "protocol": f"{record.protocol} {record.protocol_version}",
                    "updates": board.updates,
                    "adaptation": record.adaptation,
                    "labels_minutes": record.config.get("labels", ""),
                    "head": record.head,
                    "learning_rate": " ".join(f"{rate:g}" for rate in record.learning_rate),
                    **{name: record.cost.get(name, "") for name in COSTS},
                    "fit_s": row.fit_seconds,
                    "fitted_at_once": row.fitted,
                    "corpus_hash": board.corpus_hash,
                    "checkpoint_hash": row.checkpoint_hash,
                    "key": record.key,
                }
            )
    return pd.DataFrame(lines, columns=None if lines else ["task", "corpus", "rank", "upstream", "value"])


def spreadsheet(table: pd.DataFrame) -> str:
    """CSV whose text cells are text in every spreadsheet: an apostrophe stands before what would be a formula.

    Numbers are left alone, negative ones too.
    """
    texts = table.select_dtypes(include=["object", "string"])
    neutral = {
        name: [FORMULA.sub(r"\1'", cell) if isinstance(cell, str) else cell for cell in texts[name]] for name in texts
    }
    named = {name: FORMULA.sub(r"\1'", str(name)) for name in table}
    return table.assign(**neutral).rename(columns=named).to_csv(index=False, lineterminator="\n")


def overview_names(boards: list[Board]) -> list[str]:
    """The upstreams of all boards, sorted."""
    return sorted({row.upstream for board in boards for row in board.rows})


def overview(boards: list[Board]) -> tuple[list[str], list[list[str]]]:
    """Upstreams x boards: header and cells; `=` marks what the intervals cannot tell from the best."""
    header = ["upstream"]
    for board in boards:
        remarks = ", synthetic" if board.synthetic else ""
        remarks += "" if board.protocol == "clean" else f", protocol {board.protocol}"
        remarks += f", {board.training}" if board.training else ""
        remarks += "".join(f", {more}" for more in (board.head, board.apart) if more)
        header.append(
            f"{board.task} ({board.corpus}{remarks}), {board.metric} {'↑' if board.higher_is_better else '↓'}"
        )
    lines = []
    for name in overview_names(boards):
        cells = [name]
        for board in boards:
            row = next((row for row in board.rows if row.upstream == name), None)
            cells.append(cell(row) if row else "")
        lines.append(cells)
    return header, lines


def cell(row: Row) -> str:
    """A value with its interval."""
    mark = " **best**" if row.rank == 1 else " =" if row.tied else ""
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]{marks_of(row)}{mark}"


def marks_of(row: Row) -> str:
    """Signs behind a value, a blank before them: see ABOUT."""
    signs = HEARD * bool(row.heard) + UNSCORED * (not row.scored)
    return f" {signs}" if signs else ""


def heard_of(row: Row) -> str:
    """What the sign for corpora that an upstream knows means at one row; "" where it knows none."""
    return f"pretrained on audio of {', '.join(row.heard)}" if row.heard else ""


def about_marks(boards: list[Board]) -> str:
    """What the signs mean that stand behind values of some boards."""
    signs = {sign for board in boards for row in board.rows for sign in marks_of(row).strip()}
    return " ".join(text for sign, text in ABOUT.items() if sign in signs)


def markdown(boards: list[Board]) -> str:
    """leaderboard.md."""
    header, lines = overview(boards)
    text = ["# Leaderboard", "", *markdown_table(header, lines), ""]
    text += [
        f"Values are those of the layer mix, with 95 % bootstrap intervals. **best** is the best value of a column. "
        "Best layers are those with the best test score, which flatters the best of many; mixes are chosen without it. "
        f"{ABOUT_TIES} {about_marks(boards)}".rstrip(),
        "",
    ]
    for board in boards:
        text += [f"## {printable(board.name)}", "", printable(describe(board)), ""]
        text += [*markdown_table(*board_table(board)), ""]
    return "\n".join(text)


def ranks_of(row: Row) -> str:
    """The ranks that a row can have, or its place where it was not compared."""
    if row.ranks is None:
        return f"{row.rank}{' =' if row.tied and row.rank > 1 else ''}"
    first, last = row.ranks
    return str(first) if first == last else f"{first}-{last}"


def describe(board: Board) -> str:
    """One sentence on how a board was measured."""
    direction = "higher" if board.higher_is_better else "lower"
    chance = f"; knowing nothing scores {board.chance:.1f}" if board.chance is not None else ""
    unit = f" in {board.unit}" if board.unit != board.metric else ""
    made = " Speech made by a synthesiser." if board.synthetic else ""
    made += f" {about_marks([board])}".rstrip()
    return (
        f"{board.metric}{unit}, {direction} is better{chance}. {board.n} test "
        f"{'trials' if board.metric == 'EER' else 'utterances'} ({board.split}), intervals over {board.ci_unit}s, "
        f"{board.updates} updates.{made}"
    )


def board_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Header and cells of one board."""
    extra = sorted({k for row in board.rows for k in row.record.secondary if k not in ("chance", "classes", "trials")})
    extra = [name for name in extra if any(row.record.secondary.get(name) for row in board.rows)]
    header = [
        "ranks",
        "upstream",
        board.metric,
        "95 % interval",
        "seeds",
        "best layer",
        *(name.replace("_", " ") for name in extra),
    ]
    header += ["extract s", "fit s", "store MB", "parameters"]
    lines = []
    for row in board.rows:
        cost = row.record.cost
        best = f"{row.best_layer[0]}: {row.best_layer[1]:.2f}" if row.best_layer else "-"
        more = [f"{row.record.secondary[name]:.2f}" if name in row.record.secondary else "-" for name in extra]
        line = [ranks_of(row), row.upstream]
        line += [f"{row.value:.2f}{marks_of(row)}"]
        spread = f"{row.seeds}, deviation {row.deviation:.2f}" if row.seeds > 1 else "1"
        line += [f"{row.low:.2f} to {row.high:.2f}", spread, best, *more]
        line += [f"{cost['extract_s']:.0f}", f"{row.fit_seconds:.0f}", f"{cost['store_mb']:.1f}"]
        lines.append([*line, f"{cost['upstream_parameters'] / 1e6:.1f} M"])
    return header, lines


def plain(boards: list[Board]) -> str:
    """The boards as text for a terminal."""
    text = []
    for board in boards:
        text += [printable(board.name), f"  {printable(describe(board))}"]
        width = max((len(row.upstream) for row in board.rows), default=0)
        for row in board.rows:
            mark = "best" if row.rank == 1 else "=" if row.tied else ""
            best = f"  best layer {row.best_layer[0]}: {row.best_layer[1]:.2f}" if row.best_layer else ""
            interval = f"[{row.low:6.2f}, {row.high:6.2f}]"
            mark = f"{mark:4}{marks_of(row)}"
            line = f"  {ranks_of(row):5}  {row.upstream:{width}}  {row.value:6.2f} {interval} {mark}{best}"
            text.append(printable(line.rstrip()))
        if not board.rows:
            text += [f"  {printable(x.upstream)}  layer {x.layer}: {x.value:.2f}" for x in board.layers.itertuples()]
        text.append("")
    return "\n".join(text).rstrip()


def markdown_table(header: list[str], lines: list[list[str]]) -> list[str]:
    """Lines of a table in which no cell ends another."""
    escaped = [[re.sub(r"([\\|])", r"\\\1", printable(text)) for text in line] for line in [header, *lines]]
    return [f"| {' | '.join(escaped[0])} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(x)} |" for x in escaped[1:])]


def printable(text: str) -> str:
    """Text in which control characters, line ends among them, are blanks."""
    return "".join(character if character.isprintable() else " " for character in text)
