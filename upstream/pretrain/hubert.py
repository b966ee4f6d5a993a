"""HuBERT: predict the k-means unit of every hidden frame.

Source: Hsu et al. 2021, HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.errors import refuse_below, refuse_outside
from wavbench.upstream.layers.masking import FrameMask, span_mask
from wavbench.upstream.objective import Losses, Targets, scale_gradient
from wavbench.upstream.units import Units

NEEDS_UNITS = True  # targets come from a unit store


@dataclass(frozen=True, kw_only=True)
class Config:
    mask_start_share: float = 0.08  # of the frames that begin a hidden span; the paper's p
    mask_span: int = 10  # frames
    unit_dim: int = 256  # width that states and unit embeddings are compared in
    temperature: float = 0.1  # the cosine similarity is divided by it
    unmasked_weight: float = 0.0  # of the loss at frames that are not hidden; (1 - alpha) / alpha in the paper
    feature_penalty: float = 10.0  # weight of the mean square of the convolutions' outputs
    feature_gradient: float = 0.1  # factor on the gradient that reaches the convolutions

    def __post_init__(self) -> None:
        refuse_below(self, {"mask_span": 1, "unit_dim": 1, "unmasked_weight": 0, "feature_penalty": 0})
        refuse_outside(self, {"mask_start_share": (0, 1), "temperature": (1e-4, 1e4)})


class Hubert(nn.Module):
    """An encoder with what it needs to predict units.

    Args:
        encoder: with `raw_latents`, `projection_norm`, `project` and `transformer`, such as wav2vec 2.0's.
        config: of the objective.
        num_units: clusters of the k-means.

    Source: Hsu et al. 2021, section II-B and equations 1 to 3.
    """

    def __init__(self, encoder: nn.Module, config: Config, num_units: int) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.mask = FrameMask(encoder.dim)
        self.final = nn.Linear(encoder.dim, config.unit_dim)
        self.units = nn.Parameter(torch.randn(num_units, config.unit_dim))

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
            step: updates done so far; nothing here depends on it.
        """
        config = self.config
        features, frames = self.encoder.raw_latents(waveforms, lengths)
        features = scale_gradient(features, config.feature_gradient)
        penalty = features.float().square().mean()
        x = self.encoder.project(self.encoder.projection_norm(features))
        x = self.encoder.transformer(self.mask(x, targets.masked), frames)[-1]
        logits = self.logits(x)  # (total_frames, units)
        losses = F.cross_entropy(logits, targets.units, reduction="none")
        hidden = targets.masked
        count = hidden.sum()
        masked, unmasked = losses[hidden].sum(), losses[~hidden].sum()
        unmasked_mean = unmasked / (~hidden).sum().clamp(min=1)
        correct = logits.argmax(dim=1) == targets.units
        terms = {
            "masked_loss": masked.detach(),
            "unmasked_loss": count * unmasked_mean.detach(),
            "feature_penalty": count * penalty.detach(),
            "accuracy": correct[hidden].sum().float(),
        }
        if targets.overlapped is not None:
            overlapped = targets.overlapped & hidden
            terms["overlapped_share"] = overlapped.sum().float()
            terms["overlapped_correct"] = correct[overlapped].sum().float()
        total = masked + count * (config.unmasked_weight * unmasked_mean + config.feature_penalty * penalty)
        return Losses(total, terms)

    def logits(self, x: Float[Tensor, "frames dim"]) -> Float[Tensor, "frames units"]:
        """Cosine similarity of projected states and unit embeddings over the temperature (equation 3)."""
        x, units = F.normalize(self.final(x).float(), dim=-1), F.normalize(self.units.float(), dim=-1)
        with torch.autocast(x.device.type, enabled=False):  # near 1, bf16 has eight steps to a temperature
            return x @ units.T / self.config.temperature


def targets(config: Config, frames: int, units: np.ndarray | None, generator: np.random.Generator) -> dict:
    """What one crop is to predict: its mask and its units."""
    masked = span_mask(frames, config.mask_start_share, config.mask_span, generator)
    return {"masked": masked, "units": units[:frames].astype(np.int64)}


def build(encoder: nn.Module, config: Config, units: Units) -> Hubert:
    return Hubert(encoder, config, len(units.centroids))
