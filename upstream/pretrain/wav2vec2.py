"""wav2vec 2.0: tell the true quantized latent of a hidden frame from those of other hidden frames.

Source: Baevski et al. 2020, wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.errors import UserError, refuse_below, refuse_outside
from wavbench.upstream.layers.masking import FrameMask, span_mask
from wavbench.upstream.layers.packing import pad_packed
from wavbench.upstream.layers.quantizer import GumbelQuantizer, Quantized
from wavbench.upstream.objective import Losses, Targets, scale_gradient

NEEDS_UNITS = False


@dataclass(frozen=True, kw_only=True)
class Config:
    mask_start_share: float = 0.065  # of the frames that begin a hidden span; the paper's p
    mask_span: int = 10  # frames
    num_negatives: int = 100  # other hidden frames of the same crop that a frame is told apart from
    groups: int = 2  # codebooks
    entries: int = 320  # of each codebook
    code_dim: int = 256  # width of all codebooks together
    compare_dim: int = 256  # width that states and codes are compared in
    temperature: float = 0.1  # the cosine similarity is divided by it
    gumbel_start: float = 2.0  # temperature of the Gumbel softmax at the first step
    gumbel_end: float = 0.5  # and its lowest
    gumbel_decay: float = 0.999995  # per step
    diversity_weight: float = 0.1  # of the loss that keeps all entries in use
    feature_penalty: float = 10.0  # weight of the mean square of the convolutions' outputs
    feature_gradient: float = 0.1  # factor on the gradient that reaches the convolutions
    quantizer_dropout: float = 0.1  # share dropped from the latents before they are quantized

    def __post_init__(self) -> None:
        refuse_below(self, dict.fromkeys(("mask_span", "num_negatives", "groups", "entries"), 1))
        refuse_below(self, dict.fromkeys(("code_dim", "compare_dim"), 1))
        refuse_below(self, dict.fromkeys(("gumbel_decay", "diversity_weight", "feature_penalty"), 0))
        refuse_outside(self, dict.fromkeys(("mask_start_share", "quantizer_dropout"), (0, 1)))
        refuse_outside(self, dict.fromkeys(("temperature", "gumbel_start", "gumbel_end"), (1e-4, 1e4)))
        if self.code_dim % self.groups:
            raise UserError(
                f"groups={self.groups} is not possible",
                why=f"{self.groups} codebooks do not divide code_dim={self.code_dim}",
                remedy="a divisor of it; the paper has 2",
            )


class Wav2Vec2Pretraining(nn.Module):
    """An encoder with the quantizer and the projections that compare its states with codes.

    Args:
        encoder: with `raw_latents`, `projection_norm`, `project` and `transformer`, such as wav2vec 2.0's.
        config: of the objective.

    Source: Baevski et al. 2020, sections 2 and 3.
    """

    def __init__(self, encoder: nn.Module, config: Config) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        channels = encoder.projection_norm.normalized_shape[0]
        self.mask = FrameMask(encoder.dim)
        self.quantizer_dropout = nn.Dropout(config.quantizer_dropout)
        self.quantizer = GumbelQuantizer(channels, config.groups, config.entries, config.code_dim)
        self.code_projection = nn.Linear(config.code_dim, config.compare_dim)
        self.state_projection = nn.Linear(encoder.dim, config.compare_dim)

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        targets: Targets,
        step: int = 0,
        noise: Float[Tensor, "hidden_frames groups entries"] | None = None,
    ) -> Losses:
        """Losses of a batch, summed over its hidden frames.

        Args:
            waveforms: crops.
            lengths: their samples.
            targets: what `targets` below made of each, packed.
            step: updates done so far; sets the temperature of the Gumbel softmax.
            noise: Gumbel noise in place of fresh one.
        """
        config = self.config
        features, frames = self.encoder.raw_latents(waveforms, lengths)
        features = scale_gradient(features, config.feature_gradient)
        penalty = features.float().square().mean()
        latents = self.encoder.projection_norm(features)
        hidden = targets.masked.nonzero()[:, 0]
        temperature = max(config.gumbel_start * config.gumbel_decay**step, config.gumbel_end)
        quantized = self.quantizer(self.quantizer_dropout(latents.index_select(0, hidden)), temperature, noise)
        x = self.mask(self.encoder.project(latents), targets.masked)
        states = self.encoder.transformer(x, frames)[-1].index_select(0, hidden)
        logits = self.logits(states, quantized, targets)  # (hidden, 1 + negatives), the true one first
        contrastive = F.cross_entropy(logits, torch.zeros_like(hidden), reduction="sum")
        count, codes = len(hidden), config.groups * config.entries
        diversity = (codes - quantized.perplexity) / codes
        total = contrastive + count * (config.diversity_weight * diversity + config.feature_penalty * penalty)
        return Losses(
            total,
            {
                "contrastive_loss": contrastive.detach(),
                "diversity_loss": count * diversity.detach(),
                "feature_penalty": count * penalty.detach(),
                "accuracy": (logits[:, 0] > logits[:, 1:].amax(dim=1)).sum().float(),  # a draw is no answer
                "code_perplexity": count * quantized.perplexity.detach(),
                "gumbel_temperature": torch.tensor(count * temperature),
            },
        )

    def logits(
        self, states: Float[Tensor, "hidden_frames dim"], quantized: Quantized, targets: Targets
    ) -> Float[Tensor, "hidden_frames candidates"]:
        """Cosine similarities over the temperature of each state and its candidates (equation 3).

        All hidden frames of a crop are compared with each other in one product, from which the candidates are
        picked: far fewer numbers than a copy of each candidate. A negative with the codes of the true one is out of
        the race, as it could not be told apart.
        """
        sizes = targets.counts.cpu()  # DDP moves all it is given to its GPU
        states = F.normalize(self.state_projection(states).float(), dim=-1)
        codes = F.normalize(self.code_projection(quantized.vectors).float(), dim=-1)
        # One row per crop, as wide as the crop that hides most: (crops, widest, dim).
        own, other = (pad_packed(x, sizes.tolist()) for x in (states, codes))
        with torch.autocast(states.device.type, enabled=False):  # near 1, bf16 has eight steps to a temperature
            similarity = own @ other.transpose(1, 2) / self.config.temperature  # (crops, widest, widest)
        widest = similarity.shape[1]
        crop = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(states.device)
        first = (sizes.cumsum(0) - sizes).to(states.device)[crop]
        place = torch.arange(len(states), device=states.device) - first  # within the crop
        rows = similarity.flatten(0, 1).index_select(0, crop * widest + place)  # (hidden, widest)
        negatives = targets.negatives.long()
        chosen = quantized.codes
        same = (chosen[negatives + first[:, None]] == chosen[:, None]).all(dim=-1)
        wrong = rows.gather(1, negatives).masked_fill(same, -torch.inf)
        return torch.cat([rows.gather(1, place[:, None]), wrong], dim=1)


def targets(config: Config, frames: int, units: None, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The mask of one crop, and for every hidden frame the hidden frames it is told apart from.

    Negatives are drawn with replacement, so a crop with fewer hidden frames than negatives has some of them twice.
    A crop with a single hidden frame has nothing to contrast it with: it is not hidden then.

    Source: Baevski et al. 2020, section 3.2; fairseq's `sample_negatives`.
    """
    masked = span_mask(frames, config.mask_start_share, config.mask_span, generator, min_spans=2)
    count = int(masked.sum())
    if count < 2:
        masked, count = np.zeros_like(masked), 0
    # Of the others: numbers from its own on are moved up by one.
    negatives = generator.integers(0, max(count - 1, 1), (count, config.num_negatives), dtype=np.int32)
    negatives += negatives >= np.arange(count)[:, None]
    return {"masked": masked, "negatives": negatives, "counts": np.array([count])}


def build(encoder: nn.Module, config: Config, units: None) -> Wav2Vec2Pretraining:
    return Wav2Vec2Pretraining(encoder, config)
