"""One class for an utterance, or for each of its frames."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wavbench.downstream.decode import greedy_ctc
from wavbench.downstream.metrics import sequence_scores
from wavbench.downstream.objectives.looks import AnyRows, Rows, dev_look, test_look, whole_batch_loss
from wavbench.downstream.text import IGNORED, SILENCE, Segment, Vocabulary, frame_labels
from wavbench.upstream.errors import UserError


class Classify:
    """One class per utterance: cross-entropy, percent right.

    Args:
        targets: class of each row.
        train: rows whose classes may occur.
    """

    has_dev_loss = True  # whether dev has the classes of train
    train_loss = whole_batch_loss
    dev_look, test_look = dev_look, test_look

    def __init__(self, targets: Sequence[str], train: Rows, lengths=None, frame_rate: float = 0.0) -> None:
        self.targets = list(targets)
        self.vocabulary = Vocabulary.of(self.targets[row] for row in train)
        if len(self.vocabulary) < 2:
            raise UserError(
                f"the train split has one class only: {self.vocabulary.symbols[0]!r}",
                remedy="a classification task needs two or more",
            )
        self.outputs = len(self.vocabulary)
        index = {symbol: number for number, symbol in enumerate(self.vocabulary.symbols)}
        self.classes = torch.tensor([index.get(target, IGNORED) for target in self.targets])

    def check(self, rows: Rows, split: str) -> None:
        """Raise a UserError when a class of these rows never occurs in train."""
        self.vocabulary.encode((self.targets[row] for row in rows), split)

    def loss(
        self, model, outputs: Float[Tensor, "heads batch classes"], rows: Rows, lengths
    ) -> Float[Tensor, " heads"]:
        classes = self.classes[torch.from_numpy(rows)].expand(len(outputs), -1)
        return F.cross_entropy(outputs.transpose(1, 2), classes, reduction="none").mean(dim=1)

    def decode(self, model, outputs: Float[Tensor, "heads batch classes"], rows: Rows, lengths) -> np.ndarray:
        return outputs.argmax(dim=2).numpy()

    def values(self, decoded: list[np.ndarray], rows: list[AnyRows]) -> Float[np.ndarray, " heads"]:
        right = np.concatenate(decoded, axis=1) == self.classes.numpy()[np.concatenate(rows)]
        return 100 * right.mean(axis=1)

    def scores(self, decoded: list[np.ndarray], rows: list[AnyRows], head: int) -> pd.DataFrame:
        row, symbols = np.concatenate(rows), np.array(self.vocabulary.symbols, object)
        prediction = symbols[np.concatenate(decoded, axis=1)[head]]
        label = np.array([self.targets[r] for r in row], object)
        errors = (prediction != label).astype(int)
        return pd.DataFrame({"row": row, "errors": errors, "tokens": 1, "label": label, "prediction": prediction})


class Frames:
    """One class per frame: cross-entropy over labelled frames, percent right with and without silence.

    Args:
        targets: timed segments of each row.
        train: rows whose classes may occur.
        lengths: frames of each row.
        frame_rate: frames per second.
    """

    has_dev_loss = True
    dev_look, test_look = dev_look, test_look
    FRAMES = 1_024  # of a batch that are trained on

    def __init__(
        self, targets: Sequence[list[Segment]], train: Rows, lengths: Sequence[int] | np.ndarray, frame_rate: float
    ) -> None:
        self.vocabulary = Vocabulary.of(segment.phone for row in train for segment in targets[row])
        if len(self.vocabulary) < 2:
            raise UserError("the train split has no timed phones", remedy="fill phones and phone_ends")
        self.outputs = len(self.vocabulary)
        self.targets = targets
        self.labels = [
            torch.from_numpy(frame_labels(segments, int(length), frame_rate, self.vocabulary))
            for segments, length in zip(targets, lengths, strict=True)
        ]
        silent = [number for number, symbol in enumerate(self.vocabulary.symbols) if symbol in SILENCE]
        self.silent = torch.tensor(silent, dtype=torch.long)

    def check(self, rows: Rows, split: str) -> None:
        """Raise a UserError when a phone of these rows never occurs in train."""
        self.vocabulary.encode((segment.phone for row in rows for segment in self.targets[row]), split)

    def loss(
        self, head, outputs: Float[Tensor, "heads frames classes"], rows: Rows, lengths
    ) -> Float[Tensor, " heads"]:
        return self._cross_entropy(outputs, torch.cat([self.labels[row] for row in rows]))

    def train_loss(self, model, states: Tensor, rows: Rows, lengths, random: np.random.Generator) -> Tensor:
        """The loss of a random part of the frames: neighbours are nearly the same frame and teach little more."""
        labels = torch.cat([self.labels[row] for row in rows])
        counted = np.flatnonzero(labels.numpy() != IGNORED)
        chosen = torch.from_numpy(np.sort(random.permutation(counted)[: self.FRAMES]))
        if model.takes_lengths:  # heads that see neighbours see all of them
            return self._cross_entropy(model(states, lengths)[:, chosen], labels[chosen])
        return self._cross_entropy(model(states[:, chosen]), labels[chosen])

    def _cross_entropy(self, outputs: Float[Tensor, "heads frames classes"], labels: Tensor) -> Float[Tensor, " heads"]:
        heads, frames, classes = outputs.shape
        flat = outputs.reshape(heads * frames, classes)  # classes last in memory: a strided softmax takes twice as long
        losses = F.cross_entropy(flat, labels.repeat(heads), ignore_index=IGNORED, reduction="none")
        return losses.reshape(heads, frames).sum(dim=1) / max(int((labels != IGNORED).sum()), 1)

    def decode(self, model, outputs: Float[Tensor, "heads frames classes"], rows: Rows, lengths) -> np.ndarray:
        """Counts per head and utterance: errors, frames, errors in speech, frames of speech."""
        labels = torch.cat([self.labels[row] for row in rows])
        counted = labels != IGNORED
        speech = counted & ~torch.isin(labels, self.silent)
        wrong = outputs.argmax(dim=2) != labels
        columns = [wrong & counted, counted.expand_as(wrong), wrong & speech, speech.expand_as(wrong)]
        stacked = torch.stack(columns, dim=2).long()  # (heads, frames, 4)
        return torch.stack([part.sum(dim=1) for part in stacked.split(lengths.tolist(), dim=1)], dim=1).numpy()

    def values(self, decoded: list[np.ndarray], rows: list[AnyRows]) -> Float[np.ndarray, " heads"]:
        counts = np.concatenate(decoded, axis=1).sum(axis=1)
        return 100 - 100 * counts[:, 0] / np.maximum(counts[:, 1], 1)

    def scores(self, decoded: list[np.ndarray], rows: list[AnyRows], head: int) -> pd.DataFrame:
        counts = np.concatenate(decoded, axis=1)[head]
        names = ("errors", "tokens", "errors_speech", "tokens_speech")
        return pd.DataFrame({"row": np.concatenate(rows)} | {n: counts[:, k] for k, n in enumerate(names)})


class Joined(Frames):
    """A class per frame, read as a sequence: runs of one phone joined, silence left out, edit distance."""

    def __init__(
        self, targets: Sequence[list[Segment]], train: Rows, lengths: Sequence[int] | np.ndarray, frame_rate: float
    ) -> None:
        super().__init__(targets, train, lengths, frame_rate)
        self.silences = {number for number, symbol in enumerate(self.vocabulary.symbols) if symbol in SILENCE}

    def decode(self, model, outputs: Float[Tensor, "heads frames classes"], rows: Rows, lengths) -> list:
        """Phones of each head and utterance."""
        heads = greedy_ctc(outputs, lengths, blank=-1)  # no class is a blank: runs are joined and all are kept
        return [[[c for c in found if c not in self.silences] for found in own] for own in heads]

    def values(self, decoded: list, rows: list[AnyRows]) -> Float[np.ndarray, " heads"]:
        tables = [self.scores(decoded, rows, head) for head in range(len(decoded[0]))]
        return np.array([100 * table["errors"].sum() / max(table["tokens"].sum(), 1) for table in tables])

    def scores(self, decoded: list, rows: list[AnyRows], head: int) -> pd.DataFrame:
        row, symbols = np.concatenate(rows), self.vocabulary.symbols
        hypotheses = [[symbols[c] for c in found] for batch in decoded for found in batch[head]]
        references = [[s.phone for s in self.targets[r] if s.phone not in SILENCE] for r in row]
        return sequence_scores(row, references, hypotheses)
