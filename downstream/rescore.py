"""A saved head on features that are stored in another type: its scores again, and how many of its decisions differ."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from wavbench.downstream import objectives
from wavbench.downstream.batches import Readable
from wavbench.downstream.fit import decode_rows
from wavbench.downstream.fold import Head, trials_of
from wavbench.downstream.metrics import edit_distances, equal_error_threshold
from wavbench.downstream.saved import Saved
from wavbench.downstream.spec import Protocol, Task
from wavbench.downstream.splits import Split, splits_of
from wavbench.upstream.errors import UserError


class SavedBatches:
    """Features of rows of a table as a saved head was fed with them.

    Statistics are taken of the frames as they are stored, not those that a store keeps beside them in float32: what
    the type costs shows here, too.

    Args:
        store: of frames.
        ids: utterance of each row; the store needs to have those alone that are asked for.
        head: whose layers, shift and scale.
        statistics: what is pooled for it; None where it reads frames.
    """

    def __init__(self, store: Readable, ids: Sequence[str], head: Head, statistics: tuple[str, ...] | None) -> None:
        store.need_frames("a comparison of types")
        self.store, self.ids, self.head, self.statistics = store, list(ids), head, statistics

    def take(self, rows: Int[np.ndarray, " batch"]) -> tuple[Tensor, Int[np.ndarray, " batch"] | None]:
        """The rows' features, standardised as in training, and how many frames each has."""
        read, lengths = self.store.read_frames([self.store.row(self.ids[row]) for row in rows], self.head.layers)
        states = torch.from_numpy(read).float()
        if self.statistics is not None:
            parts = states.split(lengths.tolist(), dim=1)
            pooled = {
                "mean": [part.mean(dim=1) for part in parts],
                "std": [part.std(dim=1, correction=0) for part in parts],
            }
            states = torch.cat([torch.stack(pooled[name], dim=1) for name in self.statistics], dim=2)
        if self.head.shift is not None:
            states = (states - self.head.shift) * self.head.scale
        return states, (lengths if self.statistics is None else None)

    def length(self, row: int) -> int:
        return int(self.store.lengths[self.store.row(self.ids[row])])


def chosen_splits(saved: Saved, task: Task, protocol: Protocol, table: pd.DataFrame, most: int = 0) -> list[Split]:
    """The split of each head of a folder, its test part thinned out evenly to at most so many rows.

    Args:
        saved: heads, one per fold.
        task: that they were trained for.
        protocol: by which.
        table: usable rows of the corpus that they were trained on.
        most: test rows of all folds together; all where 0.

    Raises:
        UserError: the corpus gives another number of folds.
    """
    splits = splits_of(table, task, protocol)
    if len(splits) != len(saved.heads):
        raise UserError(
            f"the folder holds {len(saved.heads)} heads, and this corpus gives {len(splits)} folds",
            where=saved.folder,
            remedy="give the manifest that they were trained on",
        )
    each = most // len(splits) if most else len(table)
    thinned = []
    for split in splits:
        places = np.unique(np.linspace(0, len(split.test) - 1, min(max(each, 1), len(split.test))).round().astype(int))
        thinned.append(Split(split.name, split.train, split.dev, split.test[places]))
    return thinned


def rescore(
    saved: Saved,
    task: Task,
    protocol: Protocol,
    store: Readable,
    table: pd.DataFrame,
    lengths: Int[np.ndarray, " rows"],
    splits: Sequence[Split],
    *,
    trials: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of the saved heads, each on its own fold, as those of `probe`.

    Args:
        saved: heads, one per fold.
        task: that they were trained for.
        protocol: by which.
        store: frames of the rows that are tested.
        table: usable rows of the corpus that they were trained on.
        lengths: frames of each row, those of train about right: they bound what is written.
        splits: of `chosen_splits`.
        trials: verification trials of the test split, drawn where None.
        seed: of drawn trials.

    Raises:
        UserError: the train split has other labels than the heads know.
    """
    targets, found = [task.target(row) for row in table.to_dict("records")], []
    for head, split in zip(saved.heads, splits, strict=True):
        objective = getattr(objectives, saved.objective)(targets, split.train, lengths, store.frame_rate)
        if protocol.name == "superb" and hasattr(objective, "as_superb"):
            objective.as_superb()
        if saved.about.get("units"):
            objective.in_pieces(split.train, lengths, int(saved.about["units"]))
        if objective.vocabulary.symbols != head.symbols:
            raise UserError(
                "the corpus has other labels than the saved head",
                where=saved.folder,
                remedy="give the manifest that it was trained on",
            )
        rows = split.test
        if saved.objective == "Verify":
            row = {id: k for k, id in enumerate(table["id"])}
            pairs = trials_of(table, split, trials, seed)["test"]
            sides = tuple(pairs[side].map(row).to_numpy() for side in ("enroll", "test"))
            objective.trials = {"test": (*sides, pairs["target"].to_numpy())}
            rows = np.unique(np.concatenate(sides))
        batches = SavedBatches(store, table["id"].tolist(), head, saved.statistics)
        decoded, seen = decode_rows(head.model, batches, rows, [0], objective.test_look)
        found.append(objective.scores(decoded, seen, 0))
    return pd.concat(found, ignore_index=True)


def changed(scores: pd.DataFrame, others: pd.DataFrame) -> tuple[int, int]:
    """How many decisions differ between two scores tables of the same rows, and of how many.

    Decisions are classes; for trials, whether two voices are one at the first table's equal-error threshold; else the
    symbols that are written (characters, or phones), by edit distance between both hypotheses.
    """
    if "score" in scores:
        threshold = equal_error_threshold(scores)
        return int(((scores["score"] >= threshold) != (others["score"] >= threshold)).sum()), len(scores)
    if "prediction" in scores:
        return int((scores["prediction"].to_numpy() != others["prediction"].to_numpy()).sum()), len(scores)
    if "hypothesis" not in scores:
        raise ValueError("this task's scores keep no decisions")
    characters = "unseen" in scores  # counted wherever characters are written; phones stand with blanks between them
    first, second = ([h if characters else h.split() for h in table["hypothesis"]] for table in (scores, others))
    return int(edit_distances(first, second).sum()), max(sum(map(len, first)), 1)
