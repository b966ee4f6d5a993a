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
WORD_ERROR_RATE = Metric("WER", "%", False)
BLEU = Metric("BLEU", "BLEU", True)
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
class Protocol:
    """What is the same for all tasks of a way to measure.

    Args:
        name: as in the records.
        version: another number is another protocol.
        standardise: whether features are shifted and scaled by statistics of train.
        decay: whether learning rates fall over the second half of the updates.
    """

    name: str
    version: int
    standardise: bool
    decay: bool


PROTOCOLS = {
    # learning rate and moment chosen on speaker-disjoint dev data, test looked at once
    "clean": Protocol(name="clean", version=1, standardise=True, decay=True),
    # SUPERB's own choices: budgets, constant learning rates, features as they are, dev where its recipe takes it from
    "superb": Protocol(name="superb", version=1, standardise=False, decay=False),
}
CLEAN = PROTOCOLS["clean"]


# SUPERB tunes nothing but the learning rate: "five different ones", "from 1.0e-1 to 1.0e-7 with log scale"
SUPERB_RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, kw_only=True)
class Superb:
    """A task's recipe in SUPERB.

    Args:
        budget: its updates, batch size and learning rates.
        dev_share: share of the training rows that are drawn as dev, whoever speaks in them; 0 for the corpus' dev.
    """

    budget: Budget
    dev_share: float = 0.0


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
        superb: SUPERB's recipe, where its head is this task's head; None where the protocol cannot be copied.
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
    superb: Superb | None = None

    def budget_of(self, protocol: Protocol) -> Budget:
        """How long heads train under a protocol.

        Raises:
            UserError: the task has no recipe of that protocol.
        """
        if protocol.name != "superb":
            return self.budget
        if self.superb is None:
            raise UserError(
                f"{self.title} has no protocol superb",
                why=f"SUPERB's head for it is another one than {self.head}",
                remedy="protocol=clean",
            )
        return self.superb.budget


def find_protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol {name!r}", remedy=closest(name, list(PROTOCOLS)))
    return PROTOCOLS[name]


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
