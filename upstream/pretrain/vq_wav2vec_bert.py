"""BERT over the codes of a trained vq-wav2vec: predict the tokens of hidden frames from those around them.

Source: Baevski et al. 2020, vq-wav2vec: Self-Supervised Learning of Discrete Speech Representations, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.codes import fill_tokens
from wavbench.upstream.errors import UserError, refuse_below
from wavbench.upstream.layers.masking import span_mask, varied_spans
from wavbench.upstream.lengths import frames_from_samples
from wavbench.upstream.models.vq_wav2vec_bert import FIRST_TOKEN, UNKNOWN, VqWav2VecBert
from wavbench.upstream.objective import Losses, Targets
from wavbench.upstream.units import Units

NEEDS_UNITS = True
NEEDS_CODES = True  # of a vq-wav2vec: the units are pairs of them
NEEDS_WAVEFORMS = False  # units are all that is read
KEPT, MASKED = -1, -2  # in the place of the number of a token: its own, and <mask>
DRAWS = 1 << 31  # numbers that a random token is drawn from


@dataclass(frozen=True, kw_only=True)
class Config:
    mask_start_share: float = 0.05  # of the tokens that begin a hidden span; the paper's p
    mask_span: int = 10  # tokens; the paper's M
    # Of the length of a span. 0 is the paper's; fairseq's command has 10, which hides 42 % instead of 40 %.
    mask_deviation: float = 0.0
    random_share: float = 0.1  # of the hidden tokens that are read as a random one
    kept_share: float = 0.1  # of the hidden tokens that are read as they are; all others are read as <mask>

    def __post_init__(self) -> None:
        refuse_below(self, {"mask_start_share": 0, "mask_span": 1, "mask_deviation": 0})
        refuse_below(self, {"random_share": 0, "kept_share": 0})
        if self.random_share + self.kept_share > 1:
            raise UserError(
                f"random_share={self.random_share:g} and kept_share={self.kept_share:g} are more than all",
                remedy="shares of the hidden tokens that add up to 1 at most; the usual ones are 0.1 and 0.1",
            )


class MaskedPrediction(nn.Module):
    """From states to a logit for every token; the last map is that of the embeddings, with a bias.

    Args:
        dim: width of the states.
        tokens: of the dictionary, and the special ones.
        eps: of the norm.

    Source: Liu et al. 2019, RoBERTa; fairseq's `RobertaLMHead`.
    """

    def __init__(self, dim: int, tokens: int, eps: float) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=eps)
        self.bias = nn.Parameter(torch.zeros(tokens))
        nn.init.normal_(self.dense.weight, std=0.02)  # as all of BERT's
        nn.init.zeros_(self.dense.bias)

    def forward(
        self, states: Float[Tensor, "frames dim"], embeddings: Float[Tensor, "tokens dim"]
    ) -> Float[Tensor, "frames tokens"]:
        return F.linear(self.norm(F.gelu(self.dense(states))), embeddings, self.bias)


class VqWav2VecBertPretraining(nn.Module):
    """BERT with what it needs to predict tokens.

    The convolutions and the quantizer of the encoder stay as they are, and do not run: units are what is read. As in
    fairseq, <unk> is predicted like any other token.

    Args:
        encoder: with the codebook of a trained vq-wav2vec.
        config: of the objective.
        pairs: of the dictionary, among which random tokens are.

    Source: Baevski et al. 2020, section 4; Devlin et al. 2019, BERT, section 3.1; fairseq's `masked_lm`.
    """

    def __init__(self, encoder: VqWav2VecBert, config: Config, pairs: int) -> None:
        super().__init__()
        self.encoder, self.config, self.pairs = encoder, config, pairs
        shape = encoder.bert.config
        self.head = MaskedPrediction(shape.hidden_size, shape.vocab_size, shape.layer_norm_eps)

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        targets: Targets,
        step: int = 0,
    ) -> Losses:
        """Losses of a batch, summed over its hidden tokens.

        Args:
            waveforms: not read.
            lengths: samples of the crops.
            targets: what `targets` below made of each, packed.
            step: updates done so far; nothing here depends on it.
        """
        tokens, hidden = targets.units + UNKNOWN, targets.masked.nonzero()[:, 0]
        frames = [frames_from_samples(size, self.encoder.conv.sizes) for size in lengths.tolist()]
        states = self.states(self.shown(tokens, targets.replaced), frames).index_select(0, hidden)
        logits = self.head(states, self.encoder.bert.embeddings.word_embeddings.weight)
        true = tokens.index_select(0, hidden)
        loss = F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), true, reduction="sum")
        return Losses(
            loss,
            {
                "accuracy": (logits.argmax(dim=1) == true).sum().float(),
                "unknown_share": (true == UNKNOWN).sum().float(),
            },
        )

    def shown(
        self, tokens: Int[Tensor, " total_frames"], replaced: Int[Tensor, " total_frames"]
    ) -> Int[Tensor, " total_frames"]:
        """What is read in the place of the true tokens."""
        mask = self.encoder.bert.config.vocab_size - 1
        drawn = torch.where(replaced == MASKED, mask, FIRST_TOKEN + replaced % self.pairs)
        return torch.where(replaced == KEPT, tokens, drawn)

    def states(self, tokens: Int[Tensor, " total_frames"], frames: Sequence[int]) -> Float[Tensor, "total_frames dim"]:
        """Last states of crops; those of equal length are computed together, so that nothing is padded."""
        crops, found = tokens.split(list(frames)), {}
        for count in {*frames} - {0}:
            rows = [row for row, other in enumerate(frames) if other == count]
            last = self.encoder.transform(torch.stack([crops[row] for row in rows])).last_hidden_state
            found |= dict(zip(rows, last, strict=True))
        return torch.cat([found[row] for row in sorted(found)])


def targets(config: Config, frames: int, units: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """What one crop is to predict: its units, which of them are hidden, and what is read in their place."""
    if config.mask_deviation:
        masked = varied_spans(frames, config.mask_start_share, config.mask_span, config.mask_deviation, generator)
    else:
        masked = span_mask(frames, config.mask_start_share, config.mask_span, generator)
    place = generator.random(frames)
    drawn = generator.integers(0, DRAWS, frames)  # of which the module takes the remainder by the pairs that there are
    kept, changed = config.kept_share, config.kept_share + config.random_share
    replaced = np.where(~masked | (place < kept), KEPT, np.where(place < changed, drawn, MASKED))
    return {"masked": masked, "units": units[:frames].astype(np.int64), "replaced": replaced}


def build(encoder: VqWav2VecBert, config: Config, units: Units) -> VqWav2VecBertPretraining:
    fill_tokens(encoder, units)
    return VqWav2VecBertPretraining(encoder, config, max(len(units.centroids) - 1, 1))
