"""Speech translation: characters or pieces of words written one by one, label-smoothed cross-entropy, BLEU."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.downstream.decode import write_beams, write_greedily
from wavbench.downstream.heads.translator import Memory, Translator, Writer
from wavbench.downstream.metrics import bleu, bleu_counts
from wavbench.downstream.stacked import some_heads
from wavbench.downstream.text import IGNORED, Vocabulary
from wavbench.upstream.errors import UserError

PIECE_BLANK = "\u2581"  # sentencepiece's sign for a blank
END = 0  # begins and ends what is written
SMOOTHING = 0.1
BEAMS, SUPERB_BEAMS, PENALTY = 5, 20, 1.0  # on test; dev is written greedily, which takes a fifth of the time
SLACK = 10  # characters that a hypothesis may be longer than anything in train
Rows = Int[np.ndarray, " batch"]


class Translate:
    """A translation per utterance, case and punctuation kept.

    Characters that train lacks are left out of what is learned; in dev and test they cannot be written and cost BLEU.

    Args:
        targets: characters of each row.
        train: rows whose characters make the vocabulary.
        lengths: frames of each row.
        frame_rate: frames per second.

    Source: Szegedy et al. 2016, section 7, for the smoothing; beam and length penalty as fairseq's.
    """

    searched_by_loss = True  # short runs write one sentence for all: their BLEU says little, their loss does

    def __init__(
        self, targets: Sequence[list[str]], train: Rows, lengths: Sequence[int] | np.ndarray, frame_rate: float
    ) -> None:
        self.targets = ["".join(target) for target in targets]
        self.vocabulary = Vocabulary.of(character for row in train for character in self.targets[row])
        if not len(self.vocabulary):
            raise UserError("the train split has no characters to learn", remedy="fill the column that the task reads")
        self.known, self.beams, self.pieces = set(self.vocabulary.symbols), BEAMS, False
        index = {symbol: number for number, symbol in enumerate(self.vocabulary.symbols, start=1)}
        self.classes = [torch.tensor([END] + [index[s] for s in text if s in index] + [END]) for text in self.targets]
        self._bound(train, np.asarray(lengths))

    @property
    def outputs(self) -> int:
        """What may be written at each place."""
        return len(self.vocabulary) + 1

    def as_superb(self) -> None:
        """Search as SUPERB's recipe does."""
        self.beams = SUPERB_BEAMS

    def in_pieces(self, train: Rows, lengths: Int[np.ndarray, " rows"], size: int) -> None:
        """Write pieces of words in place of characters.

        Args:
            train: rows whose texts the pieces are made from.
            lengths: frames of each row.
            size: pieces at most.

        Raises:
            UserError: the texts do not give so many pieces, or fewer than their characters are asked for.

        Source: Kudo 2018, Subword Regularization, section 3.2, without its sampling.
        """
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter([self.targets[row] for row in train]),
                model_writer=model,
                vocab_size=size,
                character_coverage=1.0,
                hard_vocab_limit=False,
                normalization_rule_name="identity",
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(
                f"no {size} pieces can be made of {len(train)} texts",
                why=str(error).strip().rpartition("\n")[2][:200],
                remedy="fewer pieces, but more than there are characters; or units=0 for characters",
            ) from None
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        pieces = [processor.id_to_piece(k) for k in range(processor.get_piece_size()) if not processor.is_control(k)]
        self.vocabulary = Vocabulary(tuple(piece for piece in pieces if piece != processor.id_to_piece(0)))
        index, self.pieces = {piece: k for k, piece in enumerate(self.vocabulary.symbols, start=1)}, True
        written = [[index[p] for p in processor.encode(text, out_type=str) if p in index] for text in self.targets]
        self.classes = [torch.tensor([END, *own, END]) for own in written]
        self._bound(train, lengths)

    def _bound(self, train: Rows, lengths: np.ndarray) -> None:
        # most characters of each utterance: as many as there were for its frames in train, at most the longest of train
        frames, sizes = np.maximum(lengths, 1), np.array([len(self.classes[row]) - 2 for row in train])
        rate = np.quantile(sizes / frames[train], 0.99)
        self.bounds = np.minimum(np.ceil(rate * frames), sizes.max()).astype(int) + SLACK

    def check(self, rows: Rows, split: str) -> None:
        """Characters that are new in dev and test cost score, and are no fault of the corpus."""

    def train_loss(self, model, states: Tensor, rows: Rows, lengths, random) -> Float[Tensor, " heads"]:
        given, wanted = self._symbols(rows)
        frames = torch.from_numpy(lengths)
        parts = [smoothed_loss(heads(seen, frames, given).cpu(), wanted) for heads, seen in model.parts(states)]
        return torch.cat(parts)

    def dev_look(self, model, states: Tensor, rows: Rows, lengths) -> tuple[list[list[list[int]]], np.ndarray]:
        """What is written greedily, and the loss."""
        given, wanted = self._symbols(rows)
        written, losses = [], []
        for heads, seen in model.parts(states):
            memory = heads.encode(seen, torch.from_numpy(lengths))
            losses.append(smoothed_loss(heads.follow(memory, given).cpu(), wanted))
            written += write_greedily(Writer(heads, memory, 1), self.bounds[rows], END)
        return written, torch.cat(losses).numpy()

    def test_look(self, model, states: Tensor, rows: Rows, lengths, heads: Sequence[int]) -> list[list[list[int]]]:
        """What some heads write by beam search."""
        written, first = {}, 0
        for part, seen in model.parts(states):
            own = [head for head in heads if first <= head < first + len(seen)]
            if own:
                places = [head - first for head in own]
                memory, chosen = self._read(part, seen, lengths, places)
                written |= dict(
                    zip(
                        own,
                        write_beams(Writer(chosen, memory, self.beams), self.bounds[rows], PENALTY, END),
                        strict=True,
                    )
                )
            first += len(seen)
        return [written[head] for head in heads]

    def values(self, decoded: list[list[list[list[int]]]], rows: list[Int[np.ndarray, " _"]]) -> np.ndarray:
        references = [self.targets[row] for row in np.concatenate(rows)]
        heads = [self._texts(decoded, head) for head in range(len(decoded[0]))]
        return np.array([bleu(bleu_counts(references, hypotheses))[0] for hypotheses in heads])

    def scores(
        self, decoded: list[list[list[list[int]]]], rows: list[Int[np.ndarray, " _"]], head: int
    ) -> pd.DataFrame:
        row, hypotheses, known = np.concatenate(rows), self._texts(decoded, head), self.known
        references = [self.targets[r] for r in row]
        unseen = [sum(character not in known for character in reference) for reference in references]
        texts = {"unseen": unseen, "reference": references, "hypothesis": hypotheses}
        return bleu_counts(references, hypotheses).assign(row=row, **texts)

    def _read(self, part: Translator, seen: Tensor, lengths, places: list[int]) -> tuple[Memory, Translator]:
        chosen = some_heads(part, places)
        return chosen.encode(seen[places], torch.from_numpy(lengths)), chosen

    def _symbols(self, rows: Rows) -> tuple[Int[Tensor, "batch places"], Int[Tensor, "batch places"]]:
        """What is given at each place, and what is to follow it."""
        pad = torch.nn.utils.rnn.pad_sequence
        given = pad([self.classes[row][:-1] for row in rows], batch_first=True, padding_value=END)
        return given, pad([self.classes[row][1:] for row in rows], batch_first=True, padding_value=IGNORED)

    def _texts(self, decoded: list[list[list[list[int]]]], head: int) -> list[str]:
        symbols = ["", *self.vocabulary.symbols]
        return [text_of([symbols[s] for s in written], self.pieces) for batch in decoded for written in batch[head]]


def text_of(symbols: Sequence[str], pieces: bool) -> str:
    """What was written as text; pieces of words carry the blanks before them."""
    text = "".join(symbols)
    return (text.replace(PIECE_BLANK, " ") if pieces else text).strip()


def smoothed_loss(
    outputs: Float[Tensor, "heads batch places symbols"], wanted: Int[Tensor, "batch places"]
) -> Float[Tensor, " heads"]:
    """Cross-entropy with SMOOTHING of the mass spread over all symbols, averaged over the characters of a batch."""
    heads, symbols = len(outputs), outputs.shape[3]
    losses = F.cross_entropy(
        outputs.reshape(-1, symbols),
        wanted.flatten().repeat(heads),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=SMOOTHING,
    )
    return losses.reshape(heads, -1).sum(dim=1) / (wanted != IGNORED).sum()
