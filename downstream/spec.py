"""What a task is: data that fits one screen."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from wavbench.upstream.errors import UserError, closest

TASKS = Path(__file__).parent / "tasks"
CLASSIFY = "classify"


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
class Augment:
    """What is hidden of the features of a training utterance (SpecAugment on features).

    Args:
        time_masks: stretches of frames set to zero.
        time_width: frames of the longest; each is drawn from 0 up to it.
        channel_masks: bands of channels set to zero.
        channel_width: of the widest, as a share of all channels.
        warp: frames by which a point of the utterance is moved, what lies on either side being stretched; 0 for none.

    Source: Park et al. 2019, SpecAugment, section 2; on the features of an upstream as in s3prl's ASR.
    """

    time_masks: int = 2
    time_width: int = 40
    channel_masks: int = 4
    channel_width: float = 0.065  # 50 of BASE's 768 channels
    warp: int = 0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a head trains, and on what.

    Args:
        updates: optimiser steps.
        batch: utterances a step.
        evaluate_every: steps between two looks at dev; the best look is kept.
        learning_rates: Adam's, searched on dev.
        search: steps of the short runs that choose the learning rate; 0 trains a head in full for every rate.
        seconds: most audio of a step, in utterances of like length; `batch` utterances of any length where 0.
        crop: seconds of each utterance that a step sees, drawn anew each time; all of it where 0.
        augment: what is hidden of the features; nothing where None.
        clip: longest gradient of a head.
        weight_decay: 0 for Adam, more for AdamW.
        warmup: steps in which the rate rises; it falls with the square root of the steps after that. 0 for neither.
        patience: looks at dev without a better one after which training ends; never where 0.
    """

    updates: int
    batch: int
    evaluate_every: int
    learning_rates: tuple[float, ...]
    search: int = 0
    seconds: float = 0.0
    crop: float = 0.0
    augment: Augment | None = None
    clip: float = 1.0
    weight_decay: float = 0.0
    warmup: int = 0
    patience: int = 0

    def described(self) -> dict:
        """Its values as records have them: a field younger than the first records stands there only where it is set."""
        young = {f.name for f in fields(self) if f.name not in FIRST and getattr(self, f.name) == f.default}
        return {name: value for name, value in asdict(self).items() if name not in young}


FIRST = ("updates", "batch", "evaluate_every", "learning_rates")


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


def _of_frames(crop: float) -> Budget:
    """Utterance heads that read frames are dear: learning rates are searched on a fifth of the updates."""
    rates = (3.2e-4, 1e-3, 3.2e-3)
    return Budget(updates=1_000, batch=32, evaluate_every=100, learning_rates=rates, search=200, crop=crop)


UTTERANCE_HEADS = {"attentive": _of_frames(3.0), "ecapa": _of_frames(2.0)}  # of every task with a class per utterance


@dataclass(frozen=True, kw_only=True)
class Superb:
    """A task's recipe in SUPERB.

    Args:
        budget: its updates, batch size and learning rates.
        head: a file of heads/; the task's own where empty.
        dev_share: share of the training rows that are drawn as dev, whoever speaks in them; 0 for the corpus' dev.
        dev_is_test: whether the recipe chooses its moment on test.
        differs: where the recipe here is still another one, for people.
    """

    budget: Budget
    head: str = ""
    dev_share: float = 0.0
    dev_is_test: bool = False
    differs: str = ""


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
        budget: of that head in the `clean` protocol.
        heads: further files of heads/ that can be asked for, with their budgets.
        source: where the recipe comes from.
        superb: SUPERB's recipe; None where it has no such task.
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
    heads: Mapping[str, Budget] = field(default_factory=dict)
    source: str
    superb: Superb | None = None

    def chosen(self, protocol: Protocol = CLEAN, head: str = "") -> "Task":
        """The task with one of its heads and the budget that a protocol gives it.

        Args:
            protocol: whose budget.
            head: name of a file in heads/; the protocol's own where empty.

        Raises:
            UserError: the task has no recipe of that protocol, or no such head.
        """
        if protocol.name != "superb":
            budgets = {self.head: self.budget, **self.heads}
        elif self.superb is None:
            raise UserError(
                f"{self.title} has no protocol superb", why="SUPERB has no such task", remedy="protocol=clean"
            )
        else:
            budgets = {self.superb.head or self.head: self.superb.budget}
        head = head or next(iter(budgets))
        if head not in budgets:
            raise UserError(
                f"{self.title} has no head {head!r} in protocol {protocol.name}",
                remedy=f"head={' or head='.join(budgets)}",
            )
        return replace(self, head=head, budget=budgets[head])


def find_protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol {name!r}", remedy=closest(name, list(PROTOCOLS)))
    return PROTOCOLS[name]


def task_names() -> list[str]:
    """The files of tasks/; `classify` is a task only together with a column."""
    return sorted(path.stem for path in TASKS.glob("*.py") if path.stem not in ("__init__", CLASSIFY))


def load_task(name: str) -> Task:
    """A task by the name of its file; `classify-COLUMN` is the classification of any manifest column.

    Raises:
        UserError: there is none of that name.
    """
    stem, _, column = name.partition("-")
    if not (column if stem == CLASSIFY else name in task_names()):
        known = [*task_names(), f"{CLASSIFY}-COLUMN"]
        raise UserError(f"there is no task {name!r}", remedy=closest(name, known))
    module = importlib.import_module(f"wavbench.downstream.tasks.{stem}")
    return module.of(column) if column else module.task
