"""vq-wav2vec: tell the true quantized frames that come next from other frames of the same utterance.

Source: Baevski et al. 2020, vq-wav2vec: Self-Supervised Learning of Discrete Speech Representations.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.errors import UserError, refuse_below
from wavbench.upstream.layers.causal import Channels
from wavbench.upstream.models.vq_wav2vec import Config as Shape
from wavbench.upstream.objective import Losses, Targets
from wavbench.upstream.pretrain import wav2vec
from wavbench.upstream.pretrain.wav2vec import SHARE, Sums, equal_lengths, fewest_frames, in_full, prediction, targets
from wavbench.upstream.units import Units

__all__ = ["NEEDS_UNITS", "SHARE", "Config", "build", "fewest_frames", "shape", "targets"]

NEEDS_UNITS = False
QUANTIZERS = ("gumbel", "kmeans")


@dataclass(frozen=True, kw_only=True)
class Config(wav2vec.Config):
    prediction_steps: int = 8  # frames ahead that are predicted, one after the other; fairseq's command has 12
    quantizer: str = "gumbel"  # or "kmeans"
    groups: int = 2  # an equal share of the channels of each latent becomes one code
    entries: int = 320  # of the codebook of a group
    share_codebook: bool = False  # one codebook for all groups, as in the released k-means model
    gumbel_start: float = 2.0  # temperature of the Gumbel softmax at the first step
    gumbel_end: float = 0.5  # and its lowest
    gumbel_decay: float = 0.999995  # per step: the lowest after 277,000 of 400,000, where the paper's line ends too
    # gumbel: of the loss that keeps all entries in use; fairseq has it, and its command leaves it out.
    diversity_weight: float = 0.0
    codebook_weight: float = 1.0  # kmeans: of the losses that draw entries and latents together
    commitment: float = 0.25  # kmeans: share of the latents in these; the paper's gamma

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(self, dict.fromkeys(("groups", "entries"), 1))
        refuse_below(self, dict.fromkeys(("gumbel_decay", "diversity_weight", "codebook_weight", "commitment"), 0))
        if self.quantizer not in QUANTIZERS:
            raise UserError(f"quantizer={self.quantizer} is not known", remedy=f"one of: {', '.join(QUANTIZERS)}")
        if not min(self.gumbel_start, self.gumbel_end) > 0:
            raise UserError("a temperature must be more than 0", where="gumbel_start, gumbel_end", remedy="2 and 0.5")


class Chosen(NamedTuple):
    """What a quantizer made of the latents of some crops.

    Args:
        vectors: the chosen entries, with a gradient to the latents.
        codes: how often each entry was chosen (by the largest logit, where it is drawn).
        probabilities: of each entry, summed over frames; None where there are none.
        codebook: mean squared distance of entries from latents, per frame, summed; moves the entries.
        commitment: the same of latents from entries; moves the latents.
    """

    vectors: Channels
    codes: Float[Tensor, "groups entries"]
    probabilities: Float[Tensor, "groups entries"] | None
    codebook: Float[Tensor, ""]
    commitment: Float[Tensor, ""]


class VqWav2VecPretraining(nn.Module):
    """Encoder, quantizer and context network with the maps that predict the quantized frames.

    The loss is wav2vec's over quantized frames q in the place of the encoder's outputs z, both as what the context
    network sees and as what is told apart. With k-means comes w (|sg(z) - q|^2 + gamma |z - sg(q)|^2), where sg lets
    no gradient pass and z are the projected latents that entries are compared with; the squares are means over
    channels, as in fairseq (sums in the paper's notation), and w is `codebook_weight`.

    Args:
        encoder: a vq-wav2vec.
        config: of the objective.

    Source: Baevski et al. 2020, section 3 and equations 1 to 3; fairseq's `GumbelVectorQuantizer`,
    `KmeansVectorQuantizer` and `Wav2vecCriterion`.
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
        noise: Float[Tensor, "total_frames groups entries"] | None = None,
    ) -> Losses:
        """Losses of a batch, summed over its predictions.

        Args:
            waveforms: crops; those of equal length are computed together.
            lengths: their samples.
            targets: what `targets` made of each, packed.
            step: updates done so far; sets the temperature of the Gumbel softmax.
            noise: Gumbel noise in place of fresh one.
        """
        config, sums, chosen, frames = self.config, Sums(self.predict), [], 0
        temperature = max(config.gumbel_start * config.gumbel_decay**step, config.gumbel_end)
        for part in equal_lengths(self.encoder, waveforms, lengths, targets):
            own = None if noise is None else torch.cat([noise[one] for one in part.frames])
            latents = self.encoder.encoder.together(part.waveforms)
            chosen.append(choose(self.encoder.quantizer, latents, self.training, temperature, own))
            frames += latents.shape[0] * latents.shape[2]
            *_, context = self.encoder.context(chosen[-1].vectors)
            sums.add(self.predict(context, chosen[-1].vectors, part.negatives))
        count, terms = sums.count, {"contrastive_loss": sums.loss.detach()}
        total = sums.loss
        if not chosen:
            raise ValueError("no crop has a frame")

        def mean(name: str) -> Tensor:
            return torch.stack([getattr(one, name) for one in chosen]).sum(dim=0) / frames

        if config.quantizer == "kmeans":
            codebook, commitment = mean("codebook"), mean("commitment")
            total = total + count * config.codebook_weight * (codebook + config.commitment * commitment)
            terms |= {"codebook_loss": count * codebook.detach()}  # the commitment has the same value
        else:
            spread, codes = perplexity(mean("probabilities")), config.groups * config.entries
            diversity = (codes - spread) / codes
            total = total + count * config.diversity_weight * diversity
            terms |= {
                "diversity_loss": count * diversity.detach(),
                "gumbel_temperature": torch.tensor(count * temperature),
            }
        terms |= {"code_perplexity": count * perplexity(mean("codes"))}
        return Losses(total, terms | sums.terms())


def choose(
    quantizer: nn.Module,
    latents: Channels,
    drawn: bool,
    temperature: float,
    noise: Float[Tensor, "total_frames groups entries"] | None = None,
) -> Chosen:
    """Quantize the latents of crops of equal length.

    Args:
        quantizer: of a vq-wav2vec, of either kind.
        latents: outputs of the encoder.
        drawn: draw entries with Gumbel noise, in training; take the most probable ones otherwise.
        temperature: of the Gumbel softmax.
        noise: Gumbel(0, 1) samples, drawn where None.
    """
    latents = in_full(latents)
    zero = latents.new_zeros(())
    if hasattr(quantizer, "nearest"):
        y = in_full(quantizer.projection(latents))
        table = y.transpose(1, 2).flatten(0, 1)  # (frames, channels)
        entries, codes = quantizer.nearest(table)
        vectors = entries.detach() + (table - table.detach())
        hard = F.one_hot(codes, quantizer.codebook.shape[0]).to(y.dtype)
        codebook, commitment = (
            (a - b.detach()).square().mean(dim=1).sum() for a, b in ((entries, table), (table, entries))
        )
        return Chosen(_as_channels(vectors, latents), hard.sum(dim=0), None, codebook, commitment)
    logits = in_full(quantizer.scores(latents.transpose(1, 2).flatten(0, 1)))
    choice = hard = F.one_hot(logits.argmax(dim=2), quantizer.entries).to(logits.dtype)
    if drawn:
        if noise is None:
            noise = -torch.empty_like(logits).exponential_().log()
        soft = torch.softmax((logits + noise) / temperature, dim=2)
        choice = F.one_hot(soft.argmax(dim=2), quantizer.entries) + soft - soft.detach()
    vectors = torch.einsum("fge,ged->fgd", choice, quantizer.codebooks()).flatten(1)
    probabilities = torch.softmax(logits, dim=2).sum(dim=0)
    return Chosen(_as_channels(vectors, latents), hard.sum(dim=0), probabilities, zero, zero)


def _as_channels(table: Float[Tensor, "total_frames channels"], like: Channels) -> Channels:
    return table.unflatten(0, (like.shape[0], like.shape[2])).transpose(1, 2)


def perplexity(share: Float[Tensor, "groups entries"]) -> Float[Tensor, ""]:
    """exp of the entropy of how often entries are taken, summed over groups: at most groups x entries."""
    return torch.exp(-(share * torch.log(share + 1e-7)).sum(dim=1)).sum()


def shape(config: Config, preset: Shape) -> Shape:
    """The preset with the quantizer that the objective asks for.

    Raises:
        UserError: the groups do not divide its channels.
    """
    if preset.dim % config.groups:
        raise UserError(
            f"groups={config.groups} is not possible",
            why=f"{config.groups} groups do not divide {preset.dim} channels",
            remedy="a divisor of it; the paper has 2",
        )
    names = ("quantizer", "groups", "entries", "share_codebook")
    return dataclasses.replace(preset, **{name: getattr(config, name) for name in names})


def build(encoder: nn.Module, config: Config, units: Units | None) -> VqWav2VecPretraining:
    return VqWav2VecPretraining(encoder, config)
