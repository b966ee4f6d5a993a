"""From a planned batch to whole utterances with their symbols: what fine-tuning learns from."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Dataset

from wavbench.upstream import batch_plan
from wavbench.upstream.batch_plan import Batch
from wavbench.upstream.crops import CropBatch
from wavbench.upstream.decoded import Speech
from wavbench.upstream.lengths import Conv, frames_from_samples
from wavbench.upstream.masked_encoder import Masking
from wavbench.upstream.objective import Labels


class Utterances(Dataset):
    """Batches of labelled utterances by their plan. What is hidden depends on seed, epoch and utterance alone.

    Args:
        speech: decoded corpus.
        places: utterances of `speech`, by the numbers that a plan gives them.
        rows: of the table that labels come from, of the same utterances.
        symbols: what each is to be recognised as; negative where training data does not have the symbol.
        conv: (kernel, stride) of the encoder's convolutions.
        dim: channels of a frame.
        masking: how much is hidden.
        seed: of the run.
    """

    def __init__(
        self,
        speech: Speech,
        places: Int[np.ndarray, " utterances"],
        rows: Int[np.ndarray, " utterances"],
        symbols: Sequence[list[int]],
        conv: Conv,
        dim: int,
        masking: Masking,
        *,
        seed: int,
    ) -> None:
        self.speech, self.places, self.rows, self.symbols = speech, places, rows, symbols
        self.conv, self.dim, self.masking, self.seed = conv, dim, masking, seed

    def __getitem__(self, batches: Sequence[Batch]) -> list[CropBatch]:
        return [self._make(batch) for batch in batches]

    def _make(self, batch: Batch) -> CropBatch:
        places = [int(self.places[number]) for number in batch.rows]
        ids = tuple(self.speech.ids[place] for place in places)
        lengths = [int(self.speech.lengths[place]) for place in places]
        waveforms = np.zeros((len(places), max(lengths)), np.float32)
        hidden = []
        for line, (place, id, length) in enumerate(zip(places, ids, lengths, strict=True)):
            waveforms[line, :length] = self.speech.crop(place, 0, length)
            generator = batch_plan.generator_of(self.seed, batch.epoch, id, 0)
            hidden.append(self.masking.draw(frames_from_samples(length, self.conv), self.dim, generator))
        symbols = [self.symbols[number] for number in batch.rows]
        labels = Labels(
            masked=torch.from_numpy(np.concatenate([masked for masked, _ in hidden])),
            channels=torch.from_numpy(np.stack([channels for _, channels in hidden])),
            symbols=torch.tensor([symbol for own in symbols for symbol in own], dtype=torch.long),
            counts=torch.tensor([len(own) for own in symbols]),
            rows=torch.from_numpy(self.rows[list(batch.rows)].astype(np.int64)),
        )
        return CropBatch(
            ids, torch.from_numpy(self.speech.offsets[places]), torch.tensor(lengths), labels, len(labels.symbols),
            (batch.epoch, batch.index), torch.from_numpy(waveforms),
        )  # fmt: skip
