"""wav2vec: tell the true frames that come next from other frames of the same utterance.

Source: Schneider et al. 2019, wav2vec: Unsupervised Pre-training for Speech Recognition.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wavbench.upstream.errors import refuse_below
from wavbench.upstream.layers.causal import Channels
from wavbench.upstream.lengths import frames_from_samples
from wavbench.upstream.objective import Losses, Targets
from wavbench.upstream.units import Units

NEEDS_UNITS = False
SHARE = "predictions_per_frame"  # what train.csv calls the parts of the loss over the frames


@dataclass(frozen=True, kw_only=True)
class Config:
    prediction_steps: int = 12  # frames ahead that are predicted, one after the other
    first_step: int = 1  # frames from the context to the first of them; 3 in fairseq, which shares no sample with it
    num_negatives: int = 10  # other frames of the same crop that a frame is told apart from
    logit_bias: bool = False  # add a learned number to the logits of each step, which begins where chance is

    def __post_init__(self) -> None:
        refuse_below(self, dict.fromkeys(("prediction_steps", "first_step", "num_negatives"), 1))


def in_full(x: Tensor) -> Tensor:
    """`x` as float32 where it is less."""
    return x.float() if x.dtype.itemsize < 4 else x


class Scores(NamedTuple):
    """How well the candidates of every frame fit what was predicted of it.

    Args:
        logits: the true frame first, then its negatives; by how many steps before it they were predicted.
        valid: False where a step reaches back before the utterance.
    """

    logits: Float[Tensor, "utterances frames candidates steps"]
    valid: Bool[Tensor, "frames steps"]

    def loss(self) -> Float[Tensor, ""]:
        """Sum over all predictions of the logistic losses of the true frame and of each negative."""
        wrong = F.softplus(self.logits[:, :, 1:]).sum(dim=2)
        return ((F.softplus(-self.logits[:, :, 0]) + wrong) * self.valid).sum()

    def correct(self) -> Float[Tensor, " steps"]:
        """For each step, how often the true frame is above all negatives."""
        above = self.logits[:, :, 0] > self.logits[:, :, 1:].amax(dim=2)
        return (above & self.valid).sum(dim=(0, 1)).float()


class FuturePrediction(nn.Module):
    """From the context at a frame to the frames that come next: one affine map per step.

    The logit of a candidate z at frame i + k is z . h_k(c_i), with h_k(c) = W_k c + b_k. fairseq has one b for all
    steps; here each has its own, as in the paper.

    Args:
        dim: width of contexts and frames.
        prediction_steps: number of maps.
        first_step: the k of the first of them.
        chance: what the logits of every step are moved by at first, by a number that is learned; None for nothing, as
            in the paper.

    Source: Schneider et al. 2019, section 3.2.
    """

    def __init__(self, dim: int, prediction_steps: int, first_step: int, chance: float | None = None) -> None:
        super().__init__()
        self.bias = None if chance is None else nn.Parameter(torch.full((prediction_steps,), chance))
        self.distances = range(first_step, first_step + prediction_steps)
        self.maps = nn.Linear(dim, prediction_steps * dim)
        for parameter in self.maps.parameters():  # as fairseq's: the first losses are then near chance
            nn.init.uniform_(parameter, -((dim * prediction_steps) ** -0.5), (dim * prediction_steps) ** -0.5)

    def forward(self, context: Channels, frames: Channels, negatives: Int[Tensor, "total_frames negatives"]) -> Scores:
        """Compare.

        All steps of a frame meet the same candidates, so they are one product.

        Args:
            context: of crops of equal length.
            frames: that are to be told from each other.
            negatives: for every frame of every crop, other frames of its crop.
        """
        utterances, dim, count = frames.shape
        maps = self.maps(context.transpose(1, 2)).unflatten(2, (len(self.distances), dim))  # (u, frames, steps, dim)
        ahead = [  # moved to the frame that is predicted
            F.pad(maps[:, : max(count - k, 0), step], (0, 0, min(k, count), 0)) for step, k in enumerate(self.distances)
        ]
        predicted = torch.stack(ahead, dim=3).flatten(0, 1)  # (u * frames, dim, steps)
        places = torch.arange(utterances * count, device=frames.device)
        first = places - places % count  # of the crop
        rows = torch.cat([places[:, None], first[:, None] + negatives], dim=1)
        table = frames.transpose(1, 2).flatten(0, 1).to(predicted.dtype)
        candidates = F.embedding(rows, table)  # (u * frames, candidates, dim), with a gradient that repeats itself
        logits = in_full(candidates @ predicted).unflatten(0, (utterances, count))
        if self.bias is not None:
            logits = logits + self.bias
        steps = torch.tensor([*self.distances], device=frames.device)
        return Scores(logits, places[:count, None] >= steps)

    def counts(self, frames: int) -> list[int]:
        """Predictions of each step in an utterance: none reaches beyond its end."""
        return [max(frames - k, 0) for k in self.distances]


def prediction(dim: int, config: Config) -> FuturePrediction:
    """What an objective predicts with; a model that knows nothing does best with logits of -log(negatives)."""
    chance = -math.log(config.num_negatives) if config.logit_bias else None
    return FuturePrediction(dim, config.prediction_steps, config.first_step, chance)


class Wav2VecPretraining(nn.Module):
    """Encoder and context network with the maps that predict the encoder's outputs.

    The loss is the paper's: the sum over steps k, and over frames i that have an i + k in the utterance, of
    -log s(z_{i+k} . h_k(c_i)) - lambda E[log s(-z' . h_k(c_i))], where s is the logistic function, lambda the number
    of negatives and the expectation their mean: so the sum over the negatives. That is fairseq's loss too (its
    `balanced_classes` is lambda = 1), divided by the number of predictions, as here. Two choices of fairseq are
    not the paper's: k begins at 3, where the samples behind z_{i+k} are none that z_i has seen (`first_step`); and a
    negative is never the true frame itself, which is so here as well. At chance the loss is log(n + 1) +
    n log((n + 1) / n) for n negatives, 3.35 for ten. Its logits are -log n, which only a direction that all frames
    share can give them: with `logit_bias`, which is neither's, they begin there.

    Args:
        encoder: with `encoder` and `context`, such as wav2vec's.
        config: of the objective.

    Source: Schneider et al. 2019, section 3.2 and equation 1; fairseq's `Wav2VecPredictionsModel`.
    """

    def __init__(self, encoder: nn.Module, config: Config) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.predict = prediction(encoder.dim, config)

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        targets: Targets,
        step: int = 0,
    ) -> Losses:
        """Losses of a batch, summed over its predictions.

        Args:
            waveforms: crops; those of equal length are computed together.
            lengths: their samples.
            targets: what `targets` below made of each, packed.
            step: updates done so far; nothing here depends on it.
        """
        sums = Sums(self.predict)
        for part in equal_lengths(self.encoder, waveforms, lengths, targets):
            latents = self.encoder.encoder.together(part.waveforms)
            *_, context = self.encoder.context(latents)
            sums.add(self.predict(context, latents, part.negatives))
        return Losses(sums.loss, sums.terms())


class Part(NamedTuple):
    """The crops of a batch that have the same length.

    Args:
        waveforms: without what lies behind their end.
        negatives: of all their frames, one crop after the other.
        frames: of the batch's packed frames, which are theirs.
    """

    waveforms: Float[Tensor, "utterances samples"]
    negatives: Int[Tensor, "total_frames negatives"]
    frames: list[slice]


def equal_lengths(encoder: nn.Module, waveforms: Tensor, lengths: Tensor, targets: Targets) -> Iterator[Part]:
    """A batch cut into crops of equal length; the trainer's batches are a single such part."""
    sizes = lengths.tolist()
    counts = [frames_from_samples(size, encoder.encoder.sizes) for size in sizes]
    ends = np.cumsum(counts).tolist()
    for size in sorted(set(sizes)):
        rows = [row for row, other in enumerate(sizes) if other == size]
        if counts[rows[0]]:
            frames = [slice(ends[row] - counts[row], ends[row]) for row in rows]
            negatives = torch.cat([targets.negatives[one] for one in frames])
            yield Part(waveforms[rows, :size], negatives, frames)


class Sums:
    """Loss and accuracy of the parts of a batch, added up.

    Args:
        predict: what makes the predictions.
    """

    def __init__(self, predict: FuturePrediction) -> None:
        self.predict = predict
        self.loss = predict.maps.weight.new_zeros(())
        self.correct = predict.maps.weight.new_zeros(len(predict.distances))
        self.counts = [0] * len(predict.distances)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, scores: Scores) -> None:
        self.loss = self.loss + scores.loss()
        self.correct += scores.correct()
        utterances, frames = scores.logits.shape[:2]
        self.counts = [
            old + utterances * new for old, new in zip(self.counts, self.predict.counts(frames), strict=True)
        ]

    def terms(self) -> dict[str, Tensor]:
        """Accuracy over all predictions, and of the nearest and the furthest step as if all were like these."""
        of_step = [self.correct[step] * (self.count / max(self.counts[step], 1)) for step in (0, -1)]
        return {
            "accuracy": self.correct.sum(),
            "accuracy_first_step": of_step[0],
            "accuracy_last_step": of_step[1],
        }


def targets(config: Config, frames: int, units: None, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """For every frame of a crop the other frames of it that it is told apart from, drawn uniformly with replacement.

    They belong to the frame that is predicted, whichever step predicts it.

    Source: Schneider et al. 2019, section 3.2; fairseq's `sample_negatives`.
    """
    predictions = sum(max(frames - config.first_step - step, 0) for step in range(config.prediction_steps))
    negatives = generator.integers(0, max(frames - 1, 1), (frames, config.num_negatives), dtype=np.int32)
    if frames > 1:
        negatives += negatives >= np.arange(frames)[:, None]  # of the others: numbers from its own on are moved up
    return {"masked": np.zeros(frames, bool), "negatives": negatives, "counts": np.array([predictions])}


def fewest_frames(config: Config) -> int:
    """Frames of a crop in which every step has a prediction."""
    return config.first_step + config.prediction_steps


def build(encoder: nn.Module, config: Config, units: Units | None) -> Wav2VecPretraining:
    return Wav2VecPretraining(encoder, config)
