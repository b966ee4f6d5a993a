"""Classification of any manifest column: `task=classify-gender` predicts the column `gender`."""

from collections.abc import Mapping

from wavbench.downstream.spec import ACCURACY, UTTERANCE_HEADS, Budget, Task
from wavbench.upstream.errors import UserError

# columns that are no label
NO_CLASSES = ("id", "audio", "split", "start", "end", "duration", "phone_ends", "word_ends")


def of(column: str) -> Task:
    """The task of one column.

    Raises:
        UserError: a column that every manifest has and that is no label.
    """
    if column in NO_CLASSES:
        raise UserError(
            f"the column {column!r} has no classes", remedy="classify-COLUMN takes a column of labels, such as gender"
        )

    def target(row: Mapping[str, object]) -> str:
        return str(row[column])

    return Task(
        title=f"classification of {column}",
        needs=(column,),
        target=target,
        objective="Classify",
        head="mean_linear",
        metric=ACCURACY,
        budget=Budget(updates=2_000, batch=32, evaluate_every=100, learning_rates=(1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2)),
        heads=UTTERANCE_HEADS,
        source="Yang et al. 2021, SUPERB, the utterance head of SID and ER",
    )
