"""Labelled speech for fine-tuning: which utterances can be learned from, and which of them are."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from wavbench.downstream import objectives
from wavbench.downstream.decode import frames_needed
from wavbench.downstream.label_budget import draw
from wavbench.downstream.spec import Task
from wavbench.downstream.splits import splits_of
from wavbench.upstream.decoded import Speech
from wavbench.upstream.errors import UserError
from wavbench.upstream.lengths import Conv, frames_from_samples
from wavbench.upstream.manifest import Manifest

SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True)
class Skipped:
    """An utterance that is left out.

    Args:
        id: in the manifest.
        split: that it would have been in.
        reason: one clause.
    """

    id: str
    split: str
    reason: str


@dataclass(frozen=True)
class Labelled:
    """A corpus with what its utterances are to be recognised as.

    Args:
        speech: decoded audio.
        table: usable rows of the manifest.
        places: utterance of `speech` of each row.
        train: rows that were drawn, in the order of the draw.
        dev: rows.
        test: rows.
        targets: symbols of each row.
        objective: the task's, with a vocabulary from the drawn rows alone.
        skipped: what is left out, and why.
    """

    speech: Speech
    table: pd.DataFrame
    places: Int[np.ndarray, " rows"]
    train: Int[np.ndarray, " train"]
    dev: Int[np.ndarray, " dev"]
    test: Int[np.ndarray, " test"]
    targets: list[list[str]]
    objective: objectives.Ctc
    skipped: list[Skipped]

    @property
    def train_ids(self) -> list[str]:
        return self.table["id"].to_numpy()[self.train].tolist()

    @property
    def train_minutes(self) -> float:
        return float(self.lengths(self.train).sum()) / SAMPLE_RATE / 60

    @property
    def labels_hash(self) -> str:
        """BLAKE2b of the drawn utterances with their labels."""
        drawn = [[id, self.targets[row]] for id, row in zip(self.train_ids, self.train, strict=True)]
        return hashlib.blake2b(json.dumps(drawn).encode(), digest_size=16).hexdigest()

    def lengths(self, rows: Int[np.ndarray, " some"]) -> Int[np.ndarray, " some"]:
        """Samples of some rows."""
        return self.speech.lengths[self.places[rows]]

    def symbols(self, rows: Int[np.ndarray, " some"]) -> list[list[int]]:
        """Symbols of some rows by number; negative where the drawn rows do not have them. 0 is CTC's blank."""
        index = {symbol: number for number, symbol in enumerate(self.objective.vocabulary.symbols, start=1)}
        return [[index.get(symbol, -1) for symbol in self.targets[row]] for row in rows]


def check_task(task: Task) -> None:
    """Raise a UserError where a task is not one of sequences."""
    if not issubclass(getattr(objectives, task.objective), objectives.Ctc):
        raise UserError(
            f"{task.title} cannot be fine-tuned", why="it is not trained with CTC", remedy="task=asr or task=pr"
        )


def labelled(
    task: Task, manifest: Manifest, speech: Speech, conv: Conv, frame_rate: float, minutes: float | None, seed: int
) -> Labelled:
    """Draw what is trained on, and leave out what cannot be.

    An utterance of dev or test whose transcript is too long for its frames is scored as any other: only training must
    not see it.

    Args:
        task: one that is trained with CTC.
        manifest: of the corpus.
        speech: decoded from it.
        conv: (kernel, stride) of the encoder's convolutions.
        frame_rate: of the encoder, Hz.
        minutes: labelled speech to draw; None for all.
        seed: of the draw.

    Raises:
        UserError: another kind of task, an empty split, or less speech than asked for.
    """
    check_task(task)
    manifest.need(task.needs)
    table = manifest.table
    for column in task.needs:
        table = table[table[column] != ""]
    place = {id: row for row, id in enumerate(speech.ids)}
    skipped, kept = [], []
    for number, row in enumerate(table.to_dict("records")):
        where = place.get(f"{manifest.name}/{row['id']}")
        reason = _unusable(task, row, where, speech, conv)
        if reason:
            skipped.append(Skipped(row["id"], row["split"], reason))
        else:
            kept.append(number)
    table = table.iloc[kept].reset_index(drop=True)
    places = np.array([place[f"{manifest.name}/{id}"] for id in table["id"]], np.int64)
    targets = [list(task.target(row)) for row in table.to_dict("records")]
    if not (table["split"] == "train").any() and any(one.split == "train" for one in skipped):
        raise UserError(
            f"{task.title} has nothing to train on: {len(skipped)} utterances are left out",
            why=f"{skipped[0].id}: {skipped[0].reason}",
            remedy="check the audio and the labels of the train split",
        )
    split = splits_of(table, task)[0]
    speakers = table["speaker"].to_numpy()[split.train].tolist() if "speaker" in table else [""] * len(split.train)
    seconds = speech.lengths[places[split.train]] / SAMPLE_RATE
    train = split.train[draw(seconds, speakers, minutes, seed)]
    frames = np.array([frames_from_samples(int(length), conv) for length in speech.lengths[places]])
    objective = getattr(objectives, task.objective)(targets, train, frames, frame_rate)
    return Labelled(speech, table, places, train, split.dev, split.test, targets, objective, skipped)


def _unusable(task: Task, row: dict, where: int | None, speech: Speech, conv: Conv) -> str:
    """Why a row is left out, "" where it is not."""
    if where is None:
        return "its audio cannot be decoded"
    frames = frames_from_samples(int(speech.lengths[where]), conv)
    if not frames:
        return "it is shorter than a frame"
    target = task.target(row)
    if row["split"] == "train":
        if not len(target):
            return "its transcript is empty"
        if (needed := frames_needed(target)) > frames:
            return f"its transcript needs {needed} frames, and it has {frames}"
    return ""
