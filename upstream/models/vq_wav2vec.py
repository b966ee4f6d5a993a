"""vq-wav2vec: wav2vec with its latents replaced by entries of learned codebooks before the context network.

Source: Baevski et al. 2020, vq-wav2vec: Self-Supervised Learning of Discrete Speech Representations; where the paper
and the released fairseq checkpoints differ, the checkpoints.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavbench.upstream.layers.causal import ACTIVATIONS, CHUNK, Channels, NormedConv
from wavbench.upstream.layers.conv import in_float32
from wavbench.upstream.lengths import frames_from_samples
from wavbench.upstream.models import wav2vec
from wavbench.upstream.models.wav2vec import FAIRSEQ_LEFT_OUT, Wav2Vec

__all__ = ["FAIRSEQ_LEFT_OUT", "Config", "build", "fairseq_names", "from_fairseq", "presets"]

NO_CODE = -1  # beyond an utterance's length


@dataclass(frozen=True, kw_only=True)
class Config(wav2vec.Config):
    conv_kernels: tuple[int, ...] = (10, 8, 4, 4, 4, 1, 1, 1)  # input steps
    conv_strides: tuple[int, ...] = (5, 4, 2, 2, 2, 1, 1, 1)  # input steps
    # The paper says ReLU, the released command GELU.
    activation: str = "gelu"
    num_layers: int = 12  # of the context network
    context_kernel: int = 2
    context_growth: int = 1
    residual_scale: float | None = 0.5
    quantizer: str = "gumbel"  # or "kmeans"
    groups: int = 2  # an equal share of the channels of each latent becomes one code
    entries: int = 320  # of the codebook of a group
    share_codebook: bool = False  # one codebook for all groups
    logit_layers: int = 2  # gumbel: linear layers from latent to logits


class GumbelQuantizer(nn.Module):
    """In every group the entry with the largest logit, as in evaluation; training would draw it with Gumbel noise.

    `layers.quantizer` is wav2vec 2.0's: one linear layer to the logits, and no shared codebook.

    Args:
        dim: width of a latent, and of all chosen entries together.
        groups: codes of a frame.
        entries: of a codebook.
        share: one codebook for all groups.
        layers: linear layers from latent to logits; those between are twice as wide as a latent.
        activation: between them.

    Source: Baevski et al. 2020, vq-wav2vec, section 3.1; fairseq's `GumbelVectorQuantizer`.
    """

    def __init__(self, dim: int, groups: int, entries: int, share: bool, layers: int, activation: str) -> None:
        super().__init__()
        self.groups, self.entries, self.share, self.activation = groups, entries, share, activation
        widths = (dim, *(2 * dim,) * (layers - 1), groups * entries)
        self.logits = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.codebook = nn.Parameter(torch.rand(1, (1 if share else groups) * entries, dim // groups))

    def forward(self, x: Channels) -> tuple[Float[Tensor, "1 channels frames"], Int[Tensor, "frames groups"]]:
        """The chosen entries, and their numbers."""
        codes = torch.cat([self.scores(part).argmax(dim=2) for part in x[0].T.split(CHUNK)])
        first = 0 if self.share else self.entries * torch.arange(self.groups, device=codes.device)
        return self.codebook[0, codes + first].flatten(1).T[None], codes

    def scores(self, y: Float[Tensor, "frames channels"]) -> Float[Tensor, "frames groups entries"]:
        """The logit of every entry."""
        for layer in self.logits[:-1]:
            y = ACTIVATIONS[self.activation](layer(y))
        return self.logits[-1](y).view(len(y), self.groups, self.entries)

    def codebooks(self) -> Float[Tensor, "groups entries dim"]:
        """The entries of every group, which are the same ones where it is shared."""
        return self.codebook[0].view(-1, self.entries, self.codebook.shape[2]).expand(self.groups, -1, -1)


class KmeansQuantizer(nn.Module):
    """In every group the nearest entry to a normed projection of the latent.

    The gradient passes the choice as if it were not there, and does not reach the codebook.

    Args:
        dim: width of a latent, and of all chosen entries together.
        groups: codes of a frame.
        entries: of a codebook.
        share: one codebook for all groups.

    Source: Baevski et al. 2020, vq-wav2vec, section 3.2; fairseq's `KmeansVectorQuantizer`.
    """

    def __init__(self, dim: int, groups: int, entries: int, share: bool) -> None:
        super().__init__()
        self.groups = groups
        self.projection = NormedConv(dim, dim, 1, groups=groups, activation="none")
        self.codebook = nn.Parameter(0.01 * torch.randn(entries, 1 if share else groups, dim // groups))

    def forward(self, x: Channels) -> tuple[Float[Tensor, "1 channels frames"], Int[Tensor, "frames groups"]]:
        """The chosen entries, and their numbers."""
        y = self.projection(x)[0].T
        chosen, codes = self.nearest(y)
        return (chosen.detach() + (y - y.detach())).T[None], codes

    def nearest(
        self, y: Float[Tensor, "frames channels"]
    ) -> tuple[Float[Tensor, "frames channels"], Int[Tensor, "frames groups"]]:
        """The entries that are nearest to projected latents, with a gradient to the codebook, and their numbers."""
        codebook = self.codebook.expand(-1, self.groups, -1).transpose(0, 1)  # (groups, entries, dim)
        latents = y.detach().view(len(y), self.groups, -1).transpose(0, 1)  # (groups, frames, dim)
        # distances by differences: as the difference of squares they lose half of their digits
        parts = [
            torch.cdist(part, codebook.detach(), compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=2)
            for part in latents.split(CHUNK, dim=1)
        ]
        codes = torch.cat(parts, dim=1)  # (groups, frames)
        chosen = [F.embedding(row, entries) for entries, row in zip(codebook, codes, strict=True)]
        return torch.cat(chosen, dim=1), codes.T


class VqWav2Vec(Wav2Vec):
    """wav2vec with a quantizer between encoder and context network.

    States: the output of the encoder before it is quantized, then that of every layer of the context network, as
    SUPERB takes them. The codes are asked for by `codes`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.dim % config.groups:
            raise ValueError(f"{config.groups} groups do not divide {config.dim} channels")
        shape = (config.dim, config.groups, config.entries, config.share_codebook)
        if config.quantizer == "gumbel":
            self.quantizer = GumbelQuantizer(*shape, config.logit_layers, config.activation)
        elif config.quantizer == "kmeans":
            self.quantizer = KmeansQuantizer(*shape)
        else:
            raise ValueError(f"quantizer is {config.quantizer!r}; it is 'gumbel' or 'kmeans'")

    def states(self, waveform: Float[Tensor, " samples"]) -> Iterator[Channels]:
        """The states of one utterance that has frames, one after the other."""
        with in_float32(waveform.device.type):
            latents = self.encoder(waveform)
            chosen = self.quantizer(latents)[0]
        yield latents
        yield from self.context(chosen)

    def codes(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, "batch frames groups"], Int[Tensor, " batch"]]:
        """Numbers of the entries chosen in each frame (-1 beyond an utterance's length), and the frames."""
        frames = frames_from_samples(lengths, self.encoder.sizes)
        with in_float32(waveforms.device.type):
            rows = [
                self.quantizer(self.encoder(waveforms[i, :size]))[1]
                if count
                else lengths.new_zeros(0, self.config.groups, dtype=torch.long)
                for i, (size, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True))
            ]
        return pad_sequence(rows, batch_first=True, padding_value=NO_CODE), frames


build = VqWav2Vec
presets = {
    # Not released: sizes to train, with the codebooks of their recipes.
    "tiny": Config(dim=192, quantizer="kmeans", entries=64),
    "small": Config(dim=320, quantizer="kmeans"),
    "base": Config(),
    # SUPERB publishes 34.15 M parameters, predictor included: what two codebooks give, and 34.06 M with a shared one.
    "gumbel": Config(),
    # The released checkpoint shares its codebook: (320, 1, 256).
    "kmeans": Config(quantizer="kmeans", share_codebook=True),
}


def from_fairseq(settings: Mapping) -> Config:
    """The config of a checkpoint's `args` or `cfg.model`.

    Args:
        settings: plain values by name. What a checkpoint does not say is what it was trained with before fairseq had
            the option.

    Raises:
        ValueError: it asks for what is not built here, or has no quantizer.
    """
    shape = wav2vec.shape_from_fairseq(settings)
    kind = settings.get("vq_type")
    if kind not in ("gumbel", "kmeans"):
        raise ValueError(f"vq_type={kind}: this is no vq-wav2vec")
    if settings.get("vq_dim", 0) not in (0, shape["dim"]):
        raise ValueError(f"vq_dim={settings['vq_dim']} is not supported; every released checkpoint has {shape['dim']}")
    return Config(
        **shape,
        quantizer=kind,
        groups=int(settings.get("vq_groups", 2)),
        entries=int(settings.get("vq_vars", 320)),
        share_codebook=bool(settings.get("combine_groups", False)),
        logit_layers=int(settings.get("vq_depth", 1)),
    )


def fairseq_names(config: Config) -> dict[str, tuple[str, ...]]:
    """For every weight here, the weight of fairseq that it is."""
    names, theirs = wav2vec.fairseq_names(config), "vector_quantizer"
    if config.quantizer == "kmeans":
        names["quantizer.codebook"] = (f"{theirs}.embedding",)
        names["quantizer.projection.conv.weight"] = (f"{theirs}.projection.0.weight",)
        return names | {
            f"quantizer.projection.norm.{kind}": (f"{theirs}.projection.1.{kind}",) for kind in ("weight", "bias")
        }
    names["quantizer.codebook"] = (f"{theirs}.vars",)
    last = config.logit_layers - 1
    for i in range(config.logit_layers):
        place = "" if last == 0 else f".{i}" if i == last else f".{i}.0"
        names |= {
            f"quantizer.logits.{i}.{kind}": (f"{theirs}.weight_proj{place}.{kind}",) for kind in ("weight", "bias")
        }
    return names
