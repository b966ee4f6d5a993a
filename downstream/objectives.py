"""What heads are trained for: a loss, and how outputs become scores. One class per kind of task.

All of them work on a stack of heads: outputs have a leading `heads` axis, losses and values are one per head.
`decode` turns the outputs of a batch into rows of scores, `scores` makes the table of one head from them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.downstream.decode import greedy_ctc
from wavbench.downstream.metrics import edit_distances, equal_error_rate
from wavbench.downstream.text import IGNORED, SILENCE, Segment, Vocabulary, frame_labels
from wavbench.downstream.translate import Translate as Translate
from wavbench.upstream.errors import UserError

Rows = Int[np.ndarray, " batch"]
AnyRows = Int[np.ndarray, " _"]  # of several batches, each as long as it is


def _whole_batch_loss(self, model, states: Tensor, rows: "Rows", lengths, random) -> Float[Tensor, " heads"]:
    """The training loss where nothing is sampled: that of all outputs."""
    return self.loss(model, model(states), rows, lengths)


def _dev_look(self, model, states: Tensor, rows: "Rows", lengths) -> tuple:
    """What dev is judged by where outputs are made at once: decoded, and the loss of each head (zero without one)."""
    outputs = model(states)
    losses = self.loss(model, outputs, rows, lengths).numpy() if self.has_dev_loss else np.zeros(len(outputs))
    return self.decode(outputs, rows, lengths), losses


def _test_look(self, model, states: Tensor, rows: "Rows", lengths, heads: Sequence[int]):
    """The same on test: decoded outputs of some heads."""
    return self.decode(model(states)[list(heads)], rows, lengths)


class Classify:
    """One class per utterance from its pooled mean: cross-entropy, percent right.

    Args:
        targets: class of each row.
        train: rows whose classes may occur.
    """

    statistics = ("mean",)  # what is pooled; None where the head needs frames
    has_dev_loss = True  # whether dev has the classes of train
    train_loss = _whole_batch_loss
    dev_look, test_look = _dev_look, _test_look

    def __init__(self, targets: Sequence[str], train: Rows) -> None:
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

    def decode(self, outputs: Float[Tensor, "heads batch classes"], rows: Rows, lengths) -> np.ndarray:
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

    statistics = None
    has_dev_loss = True
    dev_look, test_look = _dev_look, _test_look
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
        return self._cross_entropy(model(states[:, chosen]), labels[chosen])

    def _cross_entropy(self, outputs: Float[Tensor, "heads frames classes"], labels: Tensor) -> Float[Tensor, " heads"]:
        heads, frames, classes = outputs.shape
        flat = outputs.reshape(heads * frames, classes)  # classes last in memory: a strided softmax takes twice as long
        losses = F.cross_entropy(flat, labels.repeat(heads), ignore_index=IGNORED, reduction="none")
        return losses.reshape(heads, frames).sum(dim=1) / max(int((labels != IGNORED).sum()), 1)

    def decode(self, outputs: Float[Tensor, "heads frames classes"], rows: Rows, lengths) -> np.ndarray:
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


class Ctc:
    """A sequence of symbols per utterance: CTC with blank 0, greedy decoding, edit distance.

    Args:
        targets: symbols of each row.
        train: rows whose symbols make the vocabulary.

    Source: Graves et al. 2006; the loss is averaged as torch.nn.CTCLoss does, per symbol and then per utterance.
    """

    statistics = None
    has_dev_loss = True
    train_loss = _whole_batch_loss
    dev_look, test_look = _dev_look, _test_look

    def __init__(
        self, targets: Sequence[list[str]], train: Rows, lengths: Sequence[int] | np.ndarray, frame_rate: float
    ) -> None:
        self.targets = [list(target) for target in targets]
        self.vocabulary = Vocabulary.of(symbol for row in train for symbol in self.targets[row])
        if not len(self.vocabulary):
            raise UserError("the train split has no symbols to learn", remedy="fill the column that the task reads")
        self.outputs = len(self.vocabulary) + 1
        index = {symbol: number for number, symbol in enumerate(self.vocabulary.symbols, start=1)}
        self.classes = [torch.tensor([index[s] for s in target if s in index]) for target in self.targets]

    def check(self, rows: Rows, split: str) -> None:
        """Raise a UserError when a symbol of these rows never occurs in train."""
        self.vocabulary.encode((symbol for row in rows for symbol in self.targets[row]), split)

    def loss(
        self, head, outputs: Float[Tensor, "heads frames classes"], rows: Rows, lengths
    ) -> Float[Tensor, " heads"]:
        heads = len(outputs)
        frames = torch.from_numpy(lengths)
        parts = outputs.log_softmax(dim=2).split(lengths.tolist(), dim=1)
        padded = torch.nn.utils.rnn.pad_sequence(
            [part.transpose(0, 1) for part in parts]
        )  # (time, batch, heads, classes)
        padded = padded.transpose(1, 2).flatten(1, 2)  # (time, heads * batch, classes)
        classes = [self.classes[row] for row in rows]
        sizes = torch.tensor([len(target) for target in classes])
        losses = F.ctc_loss(
            padded,
            torch.cat(classes).repeat(heads),
            frames.repeat(heads),
            sizes.repeat(heads),
            reduction="none",
            zero_infinity=True,  # an utterance with fewer frames than symbols has no path and teaches nothing
        )
        return (losses.reshape(heads, -1) / sizes.clamp(min=1)).mean(dim=1)

    def decode(self, outputs: Float[Tensor, "heads frames classes"], rows: Rows, lengths) -> list[list[list[int]]]:
        return greedy_ctc(outputs, lengths)

    def values(self, decoded: list[list[list[list[int]]]], rows: list[AnyRows]) -> Float[np.ndarray, " heads"]:
        references = [self.classes[row].tolist() for row in np.concatenate(rows)]
        tokens = sum(len(self.targets[row]) for row in np.concatenate(rows))
        heads = [[hypothesis for batch in decoded for hypothesis in batch[h]] for h in range(len(decoded[0]))]
        return np.array([100 * edit_distances(references, hypotheses).sum() / max(tokens, 1) for hypotheses in heads])

    def scores(self, decoded: list[list[list[list[int]]]], rows: list[AnyRows], head: int) -> pd.DataFrame:
        row = np.concatenate(rows)
        symbols = ["", *self.vocabulary.symbols]
        hypotheses = [[symbols[s] for s in hypothesis] for batch in decoded for hypothesis in batch[head]]
        references = [self.targets[r] for r in row]
        return pd.DataFrame(
            {
                "row": row,
                "errors": edit_distances(references, hypotheses),
                "tokens": [len(reference) for reference in references],
                "reference": [" ".join(reference) for reference in references],
                "hypothesis": [" ".join(hypothesis) for hypothesis in hypotheses],
            }
        )


class Transcribe(Ctc):
    """Characters by CTC, words by the blanks between them: word and character errors.

    A character that dev or test has and train has not cannot be written by any head. It counts as an error, as in the
    field (one é in a test sentence, any Chinese corpus), and such utterances are counted; phones are refused instead.

    Moment and learning rate are chosen on dev by characters: where nearly all words are wrong, the least word error
    rate is that of a head that says next to nothing. Chosen by words, a linear head on english_l2 had a character error
    rate of 90.1 at a word error rate of 99.3.
    """

    def check(self, rows: Rows, split: str) -> None:
        """Characters that are new in dev and test are errors, not a fault of the corpus."""

    def values(self, decoded: list[list[list[list[int]]]], rows: list[AnyRows]) -> Float[np.ndarray, " heads"]:
        references = ["".join(self.targets[row]) for row in np.concatenate(rows)]
        tokens = max(sum(map(len, references)), 1)
        heads = [self._texts(decoded, head) for head in range(len(decoded[0]))]
        return np.array([100 * edit_distances(references, hypotheses).sum() / tokens for hypotheses in heads])

    def scores(self, decoded: list[list[list[list[int]]]], rows: list[AnyRows], head: int) -> pd.DataFrame:
        row, hypotheses, known = np.concatenate(rows), self._texts(decoded, head), set(self.vocabulary.symbols)
        references = ["".join(self.targets[r]) for r in row]
        words = [reference.split() for reference in references]
        return pd.DataFrame(
            {
                "row": row,
                "errors": edit_distances(words, [hypothesis.split() for hypothesis in hypotheses]),
                "tokens": [len(reference) for reference in words],
                "errors_characters": edit_distances(references, hypotheses),
                "tokens_characters": [len(reference) for reference in references],
                "unseen": [sum(character not in known for character in reference) for reference in references],
                "reference": references,
                "hypothesis": hypotheses,
            }
        )

    def _texts(self, decoded: list[list[list[list[int]]]], head: int) -> list[str]:
        """Hypotheses with single blanks, none at the ends."""
        symbols = ["", *self.vocabulary.symbols]
        texts = ["".join(symbols[s] for s in hypothesis) for batch in decoded for hypothesis in batch[head]]
        return [" ".join(text.split()) for text in texts]


class Verify:
    """Same speaker or not: AM-softmax over train speakers, cosine of embeddings, equal error rate over trials.

    Args:
        targets: speaker of each row.
        train: rows of the speakers that are trained against.

    Source: Wang et al. 2018, Additive Margin Softmax, eq. 6; scale and margin as SUPERB's.
    """

    statistics = ("mean", "std")
    has_dev_loss = False
    train_loss = _whole_batch_loss
    dev_look, test_look = _dev_look, _test_look
    SCALE, MARGIN = 30.0, 0.4

    def __init__(self, targets: Sequence[str], train: Rows) -> None:
        self.trials: dict[
            str, tuple[Rows, Rows, np.ndarray]
        ] = {}  # by part: enroll rows, test rows, one speaker or two
        self.vocabulary = Vocabulary.of(targets[row] for row in train)
        self.outputs = len(self.vocabulary)
        index = {symbol: number for number, symbol in enumerate(self.vocabulary.symbols)}
        self.classes = torch.tensor([index.get(target, IGNORED) for target in targets])

    def check(self, rows: Rows, split: str) -> None:
        """Speakers of dev and test are new by design."""

    def loss(self, model, outputs: Float[Tensor, "heads batch dim"], rows: Rows, lengths) -> Float[Tensor, " heads"]:
        classes = self.classes[torch.from_numpy(rows)]
        cosines = F.normalize(outputs, dim=2) @ F.normalize(
            model.stacked("speakers"), dim=1
        )  # (heads, batch, speakers)
        margins = F.one_hot(classes, self.outputs) * self.MARGIN
        logits = self.SCALE * (cosines - margins)
        classes = classes.expand(len(outputs), -1)
        return F.cross_entropy(logits.transpose(1, 2), classes, reduction="none").mean(dim=1)

    def decode(self, outputs: Float[Tensor, "heads batch dim"], rows: Rows, lengths) -> np.ndarray:
        return F.normalize(outputs, dim=2).numpy()

    def values(self, decoded: list[np.ndarray], rows: list[AnyRows]) -> Float[np.ndarray, " heads"]:
        tables = [self.scores(decoded, rows, head) for head in range(len(decoded[0]))]
        return np.array([equal_error_rate(t)[0] if np.isfinite(t["score"]).all() else 100.0 for t in tables])

    def scores(self, decoded: list[np.ndarray], rows: list[AnyRows], head: int) -> pd.DataFrame:
        row = np.concatenate(rows)
        embeddings = np.concatenate([batch[head] for batch in decoded])
        place = {r: k for k, r in enumerate(row.tolist())}
        enroll, test, target = next(t for t in self.trials.values() if t[0][0] in place)
        first, second = embeddings[[place[r] for r in enroll]], embeddings[[place[r] for r in test]]
        return pd.DataFrame({"row": enroll, "row_b": test, "score": (first * second).sum(axis=1), "target": target})
