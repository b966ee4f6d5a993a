"""What a report shows beside its records: published scores, licences of corpora, speeds, scores over tasks."""

import json
from pathlib import Path

import pandas as pd

from wavbench.benchmark.leaderboard import Board
from wavbench.benchmark.overall import relative_scores, superb_scores
from wavbench.benchmark.page_data import Reference
from wavbench.downstream.spec import load_task
from wavbench.upstream.corpus import corpus_names, load_corpus
from wavbench.upstream.errors import UserError

PUBLISHED = "published/superb.csv"  # under the results
LICENCES = "corpora.csv"  # under the results; columns corpus, licence, source
BASELINE = "fbank"


def read_reference(results: Path, boards: list[Board]) -> Reference:
    """Gather it from a results folder and the readers of corpora; what is damaged is left out and named."""
    problems: list[UserError] = []
    counted = counted_boards(boards)
    return Reference(
        published=_published(results / PUBLISHED, problems),
        overall=relative_scores(counted, BASELINE),
        counted=tuple(board.name for board in counted),
        licences=_licences(results / LICENCES, boards, problems),
        speeds=tuple(_speeds(results / "speed", problems)),
        problems=tuple(problems),
    )


def counted_boards(boards: list[Board]) -> list[Board]:
    """One board for each task and corpus: its own head, protocol clean, frozen upstreams, filterbanks among them.

    Boards that do not tell the best row from filterbanks are left out: the formula divides by that difference. Of
    several budgets the board with the most rows counts. Synthetic speech counts where there is nothing else.
    """
    chosen: dict[tuple[str, str], Board] = {}
    for board in boards:
        heads = {row.record.head for row in board.rows}
        frozen = all(row.record.adaptation == "frozen" for row in board.rows)
        known = any(row.upstream == BASELINE and not row.tied for row in board.rows)
        if board.protocol == "clean" and frozen and known and heads == {_own_head(board.task)}:
            here = (board.task, board.corpus)
            if here not in chosen or len(board.rows) > len(chosen[here].rows):
                chosen[here] = board
    recorded = [board for board in chosen.values() if not board.synthetic]
    return recorded or list(chosen.values())


def _own_head(task: str) -> str:
    try:
        return load_task(task).head
    except (UserError, ImportError):
        return ""


def _published(path: Path, problems: list[UserError]) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
        table["parameters"] = pd.to_numeric(table["parameters"]).astype(float)
        table["upstream"] = table["upstream"].astype(str)
        scores = superb_scores(table)
    except UserError as error:
        problems.append(error)
        return None
    except (OSError, ValueError, KeyError, OverflowError) as error:
        remedy = "columns upstream, parameters and those of SUPERB's metrics, or no such file"
        problems.append(
            UserError("the published table cannot be read", where=path, why=str(error)[:200], remedy=remedy)
        )
        return None
    return table.drop(columns=[name for name in table if name in scores]).join(scores)


def _licences(path: Path, boards: list[Board], problems: list[UserError]) -> dict[str, str]:
    """From the records, the file beside them, and the readers of the corpora's names, the first that knows."""
    found = {}
    if path.is_file():
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            found = dict(zip(table["corpus"], table["licence"], strict=True))
        except (OSError, ValueError, KeyError) as error:
            why = str(error)[:200]
            remedy = "columns corpus and licence, or no such file"
            problems.append(UserError("the licences of corpora cannot be read", where=path, why=why, remedy=remedy))
    readers = set(corpus_names())
    for board in boards:
        reader = board.corpus if board.corpus in readers else board.corpus.partition("-")[0]
        if board.corpus not in found and reader in readers:
            found[board.corpus] = load_corpus(reader).corpus.licence
        for row in board.rows:
            licence = row.record.config.get("licence")
            if licence and isinstance(licence, str):
                found[board.corpus] = licence
    return found


def _speeds(folder: Path, problems: list[UserError]) -> list[dict]:
    """Measured extractions, those whose files are what `tests/benchmarks/extraction_speed.py` writes."""
    found = []
    for path in sorted(folder.glob("extraction_*.json")):
        try:
            own = json.loads(path.read_text(encoding="utf-8"))
            found.append(
                {
                    "upstream": str(own["upstream"]),
                    "precision": str(own["precision"]),
                    "threads": int(own["threads"]),
                    "processor": str(own["processor"]),
                    "rate": float(own["extract_per_cpu_second"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            remedy = "measure it again with tests/benchmarks/extraction_speed.py, or delete it"
            why = f"{type(error).__name__}: {error}"[:200]
            problems.append(UserError("a measurement cannot be read", where=path, why=why, remedy=remedy))
    return found
