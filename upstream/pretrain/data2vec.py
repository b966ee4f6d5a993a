"""data2vec: predict what an average of the model's own past weights makes of the whole crop.

Source: Baevski et al. 2022, data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.errors import UserError, refuse_below, refuse_outside
from wavbench.upstream.layers.linear import linear
from wavbench.upstream.layers.masking import FrameMask, span_mask
from wavbench.upstream.layers.transformer import Transformer
from wavbench.upstream.objective import Losses, Targets, scale_gradient

NEEDS_UNITS = False
POSITIONS = "positions."  # of the teacher's weights: these are the student's own at every step


@dataclass(frozen=True, kw_only=True)
class Config:
    mask_start_share: float = 0.065  # of the frames that begin a hidden span; the paper's p
    mask_span: int = 10  # frames
    top_blocks: int = 8  # of the teacher, whose mean is predicted; the paper's K
    smooth_l1: float = 0.0  # error from which on the loss is linear, 0 for a square throughout; the paper's beta
    decay_start: float = 0.999  # share of the teacher that an update keeps, at the first; the paper's tau
    decay_end: float = 0.9999  # and from decay_steps on
    decay_steps: int = 30_000  # updates in which it rises, along a line
    feature_gradient: float = 1.0  # factor on the gradient that reaches the convolutions
    min_target_deviation: float = 0.1  # of targets that have not collapsed
    min_prediction_deviation: float = 0.01  # and of predictions
    collapse_steps: int = 5_000  # updates with less than these after which the training is stopped

    def __post_init__(self) -> None:
        refuse_below(self, {"mask_span": 1, "top_blocks": 1, "smooth_l1": 0, "decay_steps": 1, "collapse_steps": 1})
        refuse_outside(self, dict.fromkeys(("mask_start_share", "decay_start", "decay_end"), (0, 1)))


class Data2Vec(nn.Module):
    """A student that sees crops with hidden frames, and a teacher that sees them whole.

    The teacher is the transformer alone, in float32: both read the student's convolutions and projection. Its blocks
    are a running average of the student's; its positional convolutions are the student's own.

    Args:
        encoder: the student, with `raw_latents`, `projection_norm`, `projection`, `projection_dropout` and
            `transformer`, such as wav2vec 2.0's.
        config: of the objective.

    Raises:
        UserError: the encoder has fewer blocks than are averaged.

    Source: Baevski et al. 2022, sections 3 and 4.2; fairseq's `data2vec_audio.py`.
    """

    def __init__(self, encoder: nn.Module, config: Config) -> None:
        super().__init__()
        blocks = len(encoder.transformer.blocks)
        if config.top_blocks > blocks:
            raise UserError(
                f"top_blocks={config.top_blocks} is more than the {blocks} blocks of the encoder",
                remedy=f"1 to {blocks}",
            )
        self.encoder, self.config = encoder, config
        self.mask = FrameMask(encoder.dim)
        self.final = nn.Linear(encoder.dim, encoder.dim)
        self.teacher: Transformer = copy.deepcopy(encoder.transformer).eval().requires_grad_(False)
        self.register_buffer("lively", torch.tensor(0))  # updates done when nothing had collapsed yet

    def train(self, mode: bool = True) -> "Data2Vec":
        super().train(mode)
        self.teacher.eval()  # no dropout
        return self

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        targets: Targets,
        step: int = 0,
    ) -> Losses:
        """Losses of a batch, summed over its hidden frames.

        Args:
            waveforms: crops.
            lengths: their samples.
            targets: what `targets` below made of each, packed.
            step: updates done so far.
        """
        config = self.config
        features, frames = self.encoder.raw_latents(waveforms, lengths)
        features = scale_gradient(features, config.feature_gradient)
        projected = linear(self.encoder.projection, self.encoder.projection_norm(features))
        hidden = targets.masked.nonzero()[:, 0]
        wanted = self.wanted(projected.detach(), frames).index_select(0, hidden)
        x = self.mask(self.encoder.projection_dropout(projected), targets.masked)
        states = self.encoder.transformer(x, frames)[-1].index_select(0, hidden)
        predicted = self.final(states).float()
        if config.smooth_l1:
            loss = F.smooth_l1_loss(predicted, wanted, reduction="sum", beta=config.smooth_l1)
        else:
            loss = F.mse_loss(predicted, wanted, reduction="sum")
        count = len(hidden)
        return Losses(
            loss / math.sqrt(self.encoder.dim),
            {
                "target_deviation": count * deviation(wanted),
                "prediction_deviation": count * deviation(predicted.detach()),
                "explained_variance": count * explained(wanted, predicted.detach()),
                "teacher_decay": torch.tensor(count * self.decay(step + 1)),
            },
        )

    def wanted(
        self, projected: Float[Tensor, "total_frames dim"], lengths: Sequence[int]
    ) -> Float[Tensor, "total_frames dim"]:
        """The mean of the teacher's top blocks, each channel of each normalised over the frames of a crop.

        What stands for a block is the output of its feed-forward part, before the residual. No gradient is kept as
        none is asked for; switching it off would take the products of frozen weights, and which of them is the
        fastest may differ from run to run, and with it the last bits.
        """
        outputs: list[Tensor] = []
        hooks = [
            block.feed_forward.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
            for block in self.teacher.blocks[-self.config.top_blocks :]
        ]
        try:
            self.teacher(projected, lengths)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([normalised(output.float(), lengths) for output in outputs]).mean(dim=0)

    def decay(self, update: int) -> float:
        """Share of the teacher that an update keeps; the first update is 1."""
        config = self.config
        return config.decay_start + (config.decay_end - config.decay_start) * min(update / config.decay_steps, 1.0)

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Move the teacher towards the student, once `step` updates are done."""
        student, rest = dict(self.encoder.transformer.named_parameters()), 1.0 - self.decay(step)
        for name, weight in self.teacher.named_parameters():
            weight.lerp_(student[name], 1.0 if name.startswith(POSITIONS) else rest)

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Look at a row of train.csv.

        Raises:
            UserError: targets or predictions have hardly differed between frames for long: the model tells the
                teacher what it wants to hear.
        """
        config = self.config
        floors = {
            "target_deviation": config.min_target_deviation,
            "prediction_deviation": config.min_prediction_deviation,
        }
        low = [f"{name} {values[name]:.3g} < {floor:g}" for name, floor in floors.items() if values[name] < floor]
        if not low:
            self.lively.fill_(step)
        elif step - int(self.lively) >= config.collapse_steps:
            raise UserError(
                f"the training has collapsed: at step {step} all frames are nearly alike",
                why=f"{', '.join(low)}, for {step - int(self.lively)} steps",
                remedy="the last state is kept, but train again in another out= folder with a lower peak_rate, a "
                "longer warmup, or a decay_start nearer to 1",
            )


def normalised(
    x: Float[Tensor, "total_frames dim"], lengths: Sequence[int], eps: float = 1e-5
) -> Float[Tensor, "total_frames dim"]:
    """Every channel of every crop with zero mean and unit variance over its frames."""
    parts, start = [], 0
    for frames, group in groupby(lengths):
        count = sum(1 for _ in group)
        part = x[start : start + count * frames].view(count, frames, -1)
        variance, mean = torch.var_mean(part, dim=1, correction=0, keepdim=True)
        parts.append(((part - mean) * (variance + eps).rsqrt()).flatten(0, 1))
        start += count * frames
    return torch.cat(parts)


def deviation(x: Float[Tensor, "frames dim"]) -> Float[Tensor, ""]:
    """Standard deviation of a channel over frames, the mean over channels; 0 where there are no frames."""
    return x.var(dim=0, correction=0).sqrt().mean() if len(x) else x.new_zeros(())


def explained(wanted: Float[Tensor, "frames dim"], predicted: Float[Tensor, "frames dim"]) -> Float[Tensor, ""]:
    """Share of the targets' variance that predictions account for: 0 for their mean, less for worse than that.

    Unlike the loss it compares steps between which the targets have changed; 0 where these do not vary.
    """
    if not len(wanted):
        return wanted.new_zeros(())
    variance, error = wanted.var(dim=0, correction=0).sum(), (wanted - predicted).square().mean(dim=0).sum()
    return torch.where(variance > 0, 1 - error / variance, 0.0)


def targets(config: Config, frames: int, units: None, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The mask of one crop; what is to be predicted comes from the teacher."""
    return {"masked": span_mask(frames, config.mask_start_share, config.mask_span, generator)}


def build(encoder: nn.Module, config: Config, units: None) -> Data2Vec:
    return Data2Vec(encoder, config)
