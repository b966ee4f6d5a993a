"""Train, dev and test of a task on a corpus, and leave-one-out folds where a corpus has few speakers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from wavbench.downstream.spec import CLEAN, Protocol, Task
from wavbench.upstream.errors import UserError

FEW = 10  # at most so many speakers in a corpus: leave each out in turn


@dataclass(frozen=True)
class Split:
    """Rows of the manifest, by part; `test` is looked at once.

    Args:
        name: "" for the corpus' own split, else the speaker or session left out.
    """

    name: str
    train: Int[np.ndarray, " train"]
    dev: Int[np.ndarray, " dev"]
    test: Int[np.ndarray, " test"]


def splits_of(table: pd.DataFrame, task: Task, protocol: Protocol = CLEAN) -> list[Split]:
    """The corpus' own split, or one fold per session or speaker with the next one as dev.

    Args:
        table: usable rows of the manifest, indexed 0 .. n-1.
        protocol: SUPERB's draws dev from the training rows of some tasks.

    Raises:
        UserError: a part is empty, or folds leave a part without rows.
    """
    recipe = task.superb if protocol.name == "superb" else None
    share = recipe.dev_share if recipe else 0.0
    left = fold_column(table, task)
    if left:
        column = table[left].to_numpy()
        groups = sorted(table[left].unique())
        return [
            _with_drawn_dev(
                Split(
                    str(left_out),
                    train=np.flatnonzero((column != left_out) & (column != groups[(k + 1) % len(groups)])),
                    dev=np.flatnonzero(column == groups[(k + 1) % len(groups)]),
                    test=np.flatnonzero(column == left_out),
                ),
                share,
            )
            for k, left_out in enumerate(groups)
        ]
    parts = {name: np.flatnonzero((table["split"] == name).to_numpy()) for name in ("train", "dev", "test")}
    if recipe and recipe.dev_is_test:
        parts["dev"] = parts["test"]
    for name, rows in parts.items():
        if not len(rows):
            counts = ", ".join(f"{key} {len(value)}" for key, value in parts.items())
            raise UserError(
                f"{task.title} has no row in the {name} split",
                why=f"usable rows: {counts}",
                remedy=f"give rows split={name}; rows without {' and '.join(task.needs)} are left out",
            )
    return [_with_drawn_dev(Split("", **parts), share)]


def fold_column(table: pd.DataFrame, task: Task) -> str:
    """What is left out in turn where a corpus is small: sessions where it has them, else speakers; "" for neither."""
    if not task.folds:
        return ""
    separate = task.splits_separate
    for column in ("session", separate):
        if column not in table or (table[column] == "").any() or not 3 <= table[column].nunique() <= FEW:
            continue
        # a speaker of two sessions would be trained on in one and tested on in the other
        if column == separate or table.groupby(separate)[column].nunique().max() == 1:
            return column
    return ""


def _with_drawn_dev(split: Split, share: float) -> Split:
    """SUPERB's emotion recipe: dev is drawn by utterance from all that is not test; train has its speakers, too."""
    if not share:
        return split
    rows = np.random.default_rng(0).permutation(np.sort(np.concatenate([split.train, split.dev])))
    drawn = max(int(len(rows) * share), 1)
    return Split(split.name, train=np.sort(rows[drawn:]), dev=np.sort(rows[:drawn]), test=split.test)


def shared(table: pd.DataFrame, split: Split, column: str) -> int:
    """How many values of a column occur in test and also in train or dev: what the split fails to separate."""
    if not column or column not in table:
        return 0
    values = table[column].to_numpy()
    seen = set(values[split.train]) | set(values[split.dev])
    return len({value for value in values[split.test] if value and value in seen})
