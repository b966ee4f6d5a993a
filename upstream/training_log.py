"""What a training tells while it runs: CSV files and TensorBoard."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.trackers import Tracker

KINDS = ("train", "dev", "probe")


class Log:
    """One CSV file per kind of row (`train.csv`, `dev.csv`, `probe.csv`), and the same numbers for TensorBoard.

    A resumed run first drops the rows that lie behind its checkpoint, so that no step stands there twice.

    Args:
        folder: of the run.
        step: steps that are done; rows beyond it are dropped.
        trackers: told the same numbers; what they were told of steps beyond stays with them.
    """

    def __init__(self, folder: Path, step: int, trackers: Sequence[Tracker] = ()) -> None:
        from tensorboardX import SummaryWriter

        self.folder, self.trackers = folder, trackers
        for kind in KINDS:  # another table in the folder may be somebody's manifest
            if (path := folder / f"{kind}.csv").is_file():
                _refuse_others(path)
                _drop_rows(path, step)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        path = self.folder / f"{kind}.csv"
        row = {"step": step, **values}
        new = not path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )
        for name, value in values.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)
        for tracker in self.trackers:
            tracker.log_metrics({f"{kind}/{name}": float(value) for name, value in values.items()}, step)

    def close(self) -> None:
        self.board.close()
        for tracker in self.trackers:
            tracker.finalize("success")


def _refuse_others(path: Path) -> None:
    """Raise a UserError where a table is none of a training, such as somebody's manifest of that name."""
    with open(path, encoding="utf-8", errors="replace") as file:
        if file.readline(100).partition(",")[0].strip() not in ("step", ""):
            raise UserError(
                f"the folder of the run holds another {path.name}",
                where=path,
                why="a training would write its own numbers there",
                remedy="another out= folder",
            )


def _drop_rows(path: Path, step: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) <= step]
    temporary = temporary_in(path.parent, ".csv")
    temporary.write_text("".join(lines[:1] + kept) if kept else "")
    if kept:
        os.replace(temporary, path)
    else:
        temporary.unlink()
        path.unlink()
