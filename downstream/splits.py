"""Train, dev and test of a task on a corpus, and leave-one-out folds where a corpus has few speakers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from wavbench.downstream.spec import Task
from wavbench.upstream.errors import UserError

FEW = 10  # at most so many speakers in a corpus: leave each out in turn


@dataclass(frozen=True)
class Split:
    """Rows of the manifest, by part; `test` is looked at once.

    Args:
        name: "" for the corpus' own split, else the speaker left out.
    """

    name: str
    train: Int[np.ndarray, " train"]
    dev: Int[np.ndarray, " dev"]
    test: Int[np.ndarray, " test"]


def splits_of(table: pd.DataFrame, task: Task) -> list[Split]:
    """The corpus' own split, or one fold per speaker with the next speaker as dev.

    Args:
        table: usable rows of the manifest, indexed 0 .. n-1.

    Raises:
        UserError: a part is empty, or folds leave a part without rows.
    """
    separate = task.splits_separate
    if task.folds and separate in table and not (table[separate] == "").any():
        groups = sorted(table[separate].unique())
        if 3 <= len(groups) <= FEW:
            column = table[separate].to_numpy()
            return [
                Split(
                    str(left_out),
                    train=np.flatnonzero((column != left_out) & (column != groups[(k + 1) % len(groups)])),
                    dev=np.flatnonzero(column == groups[(k + 1) % len(groups)]),
                    test=np.flatnonzero(column == left_out),
                )
                for k, left_out in enumerate(groups)
            ]
    parts = {name: np.flatnonzero((table["split"] == name).to_numpy()) for name in ("train", "dev", "test")}
    for name, rows in parts.items():
        if not len(rows):
            counts = ", ".join(f"{key} {len(value)}" for key, value in parts.items())
            raise UserError(
                f"{task.title} has no row in the {name} split",
                why=f"usable rows: {counts}",
                remedy=f"give rows split={name}; rows without {' and '.join(task.needs)} are left out",
            )
    return [Split("", **parts)]


def shared(table: pd.DataFrame, split: Split, column: str) -> int:
    """How many values of a column occur in test and also in train or dev: what the split fails to separate."""
    if not column or column not in table:
        return 0
    values = table[column].to_numpy()
    seen = set(values[split.train]) | set(values[split.dev])
    return len({value for value in values[split.test] if value and value in seen})
