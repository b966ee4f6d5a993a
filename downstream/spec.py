"""What a task is: data that fits one screen."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wavbench.upstream.errors import UserError, closest

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Metric:
    """How a score is named and read.

    Args:
        name: as on the leaderboard.
        unit: "%" for shares of a hundred.
        higher_is_better: whether more is better.
    """

    name: str
    unit: str
    higher_is_better: bool


ACCURACY = Metric("accuracy", "%", True)
FRAME_ACCURACY = Metric("frame accuracy", "%", True)
PHONE_ERROR_RATE = Metric("PER", "%", False)
EQUAL_ERROR_RATE = Metric("EER", "%", False)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a head trains. Learning rates are searched over all of them, each head trained in full.

    Args:
        updates: optimiser steps.
        batch: utterances a step.
        evaluate_every: steps between two looks at dev; the best look is kept.
        learning_rates: Adam's, searched on dev.
    """

    updates: int
    batch: int
    evaluate_every: int
    learning_rates: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task.

    Args:
        title: name in words.
        needs: manifest columns that must be filled.
        target: from a manifest row to what is to be predicted.
        splits_separate: the column that no two splits may share a value of ("" where the corpus decides).
        folds: whether a corpus with few of those values is run leave-one-out.
        objective: name of a class in objectives.py.
        head: name of a file in heads/.
        metric: what is reported.
        budget: of the `clean` protocol.
        source: where the recipe comes from.
    """

    title: str
    needs: tuple[str, ...]
    target: Callable[[dict], object]
    splits_separate: str = ""
    folds: bool = False
    objective: str
    head: str
    metric: Metric
    budget: Budget
    source: str


def task_names() -> list[str]:
    """The files of tasks/."""
    return sorted(path.stem for path in TASKS.glob("*.py") if path.stem != "__init__")


def load_task(name: str) -> Task:
    """A task by the name of its file.

    Raises:
        UserError: there is none of that name.
    """
    if name not in task_names():
        raise UserError(f"there is no task {name!r}", remedy=closest(name, task_names()))
    return importlib.import_module(f"wavbench.downstream.tasks.{name}").task
