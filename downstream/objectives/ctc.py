"""Sequences of symbols by connectionist temporal classification (CTC): phones, and characters as words."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wavbench.downstream.decode import frames_needed, greedy_ctc
from wavbench.downstream.metrics import edit_distances, sequence_scores
from wavbench.downstream.objectives.looks import AnyRows, Rows, dev_look, test_look, whole_batch_loss
from wavbench.downstream.text import Vocabulary
from wavbench.downstream.utterances import padded
from wavbench.upstream.errors import UserError


class Ctc:
    """A sequence of symbols per utterance: CTC with blank 0, greedy decoding, edit distance.

    Args:
        targets: symbols of each row.
        train: rows whose symbols make the vocabulary.

    Source: Graves et al. 2006; the loss is averaged as torch.nn.CTCLoss does, per symbol and then per utterance.
    """

    has_dev_loss = True
    searched_by_loss = True  # at first next to nothing is written: errors of a short run say little, its loss does
    dear_loss = True  # a second on one core for a batch of SUPERB's ASR
    train_loss = whole_batch_loss
    dev_look, test_look = dev_look, test_look

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

    def impossible(self, rows: Rows, steps: Rows) -> AnyRows:
        """Those of some rows that CTC has no path for: fewer outputs than symbols, a blank between two alike counted.

        Args:
            rows: some rows.
            steps: outputs of each.
        """
        needed = [frames_needed(self.classes[row].tolist()) for row in rows.tolist()]
        return rows[steps < np.array(needed, int)]

    def loss(
        self, model, outputs: Float[Tensor, "heads steps classes"], rows: Rows, lengths
    ) -> Float[Tensor, " heads"]:
        heads = len(outputs)
        steps = model.steps(lengths)
        each = padded(outputs.log_softmax(dim=2), torch.from_numpy(steps))  # (heads, batch, time, classes)
        classes = [self.classes[row] for row in rows]
        sizes = torch.tensor([len(target) for target in classes])
        losses = F.ctc_loss(
            each.flatten(0, 1).transpose(0, 1),
            torch.cat(classes).repeat(heads).to(each.device),
            torch.from_numpy(steps).repeat(heads),
            sizes.repeat(heads),
            reduction="none",
            zero_infinity=True,  # on dev; what has no path in train is left out of it
        )
        return (losses.reshape(heads, -1) / sizes.clamp(min=1).to(each.device)).mean(dim=1)

    def decode(
        self, model, outputs: Float[Tensor, "heads steps classes"], rows: Rows, lengths
    ) -> list[list[list[int]]]:
        return greedy_ctc(outputs, model.steps(lengths))

    def emissions(self, model, states: Tensor, rows: Rows, lengths, heads: Sequence[int]) -> list[list[np.ndarray]]:
        """Log-probabilities (steps, classes) of each utterance by some heads, for a search with a language model."""
        outputs = model(states, lengths)[list(heads)].log_softmax(dim=2)
        return [[part.numpy() for part in own.split(model.steps(lengths).tolist())] for own in outputs]

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
        return sequence_scores(row, references, hypotheses)


class Transcribe(Ctc):
    """Characters by CTC, words by the blanks between them: word and character errors.

    A character that dev or test has and train has not cannot be written by any head. It counts as an error, as in the
    field (one é in a test sentence, any Chinese corpus), and such utterances are counted; phones are refused instead.

    Moment and learning rate are chosen on dev by characters: where nearly all words are wrong, the least word error
    rate is that of a head that says next to nothing. Chosen by words, a linear head on english_l2 had a character error
    rate of 90.1 at a word error rate of 99.3. SUPERB chooses by words.
    """

    by_words = False  # what dev is judged by

    def as_superb(self) -> None:
        """Choose as SUPERB's recipe does."""
        self.by_words = True

    def check(self, rows: Rows, split: str) -> None:
        """Characters that are new in dev and test are errors, not a fault of the corpus."""

    def values(self, decoded: list[list[list[list[int]]]], rows: list[AnyRows]) -> Float[np.ndarray, " heads"]:
        references = ["".join(self.targets[row]) for row in np.concatenate(rows)]
        heads = [self._texts(decoded, head) for head in range(len(decoded[0]))]
        if self.by_words:
            references, heads = [r.split() for r in references], [[h.split() for h in texts] for texts in heads]
        tokens = max(sum(map(len, references)), 1)
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
