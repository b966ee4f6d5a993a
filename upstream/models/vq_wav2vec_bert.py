"""BERT over the codes of vq-wav2vec: a RoBERTa of transformers that reads one token per frame of 10 ms.

Source: Baevski et al. 2020, vq-wav2vec, section 4.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.features import Features
from wavbench.upstream.layers.causal import StridedEncoder
from wavbench.upstream.models import vq_wav2vec
from wavbench.upstream.models.vq_wav2vec import VqWav2Vec
from wavbench.upstream.models.wav2vec2 import WHERE_SET

FIRST_TOKEN = 4  # after fairseq's <s>, <pad>, </s> and <unk>
PADDING, UNKNOWN = 1, 3
QUANTIZERS = ("gumbel", "kmeans")
EXACT = ("codes.", "tokens")  # weights that choose tokens: in half precision they would choose others


@dataclass(frozen=True, kw_only=True)
class Config:
    code_dim: int = 512  # width of the convolutions that the codes are made by
    quantizer: str = "kmeans"  # as in vq_wav2vec: of that preset, with its two groups
    entries: int = 320  # of the codebook of a group
    vocabulary: int = 23_000  # tokens for pairs of codes: about as many pairs as speech was seen to have
    dim: int = 768  # width of every state
    num_layers: int = 12  # transformer blocks; there is one more state
    num_heads: int = 12
    inner_dim: int = 3072  # between the linear layers of a block
    positions: int = 2048  # frames of a window: 20 s, as in the released model
    overlap: int = 512  # frames that the windows of a longer utterance share with the next one
    # One codebook for both groups; None as in the preset of the quantizer.
    share_codebook: bool | None = field(default=None, metadata=WHERE_SET)
    # Shares, which act in training only: of embeddings and of the outputs of attention and feed-forward.
    dropout: float = field(default=0.0, metadata=WHERE_SET)
    attention_dropout: float = field(default=0.0, metadata=WHERE_SET)


class VqWav2VecBert(nn.Module):
    """Codes, tokens, transformer.

    A pair of codes has the token that `tokens` says. Of the 320 x 320 pairs a trained model knows those of its
    dictionary, and the others are <unk>; a random twin has no dictionary, so there the pairs share the tokens evenly
    (number of the pair modulo the vocabulary). The table is kept as float32, like all that a checkpoint holds.

    An utterance longer than `positions` is read in overlapping windows; each frame is taken from the window in which
    it is further from an edge. No window is ever padded, and every utterance is computed alone.

    States: the embedded tokens, then the output of every block.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        from transformers import RobertaConfig, RobertaModel

        if not 0 <= config.overlap < config.positions:
            raise ValueError(f"windows of {config.positions} frames cannot share {config.overlap}")
        self.config = config
        self.num_states = config.num_layers + 1
        self.dim = config.dim
        self.codes = VqWav2Vec(codes_config(config))
        self.frame_rate, self.min_samples = self.codes.frame_rate, self.codes.min_samples
        pairs = torch.arange(config.entries**2).view(config.entries, config.entries)
        self.register_buffer("tokens", (FIRST_TOKEN + pairs % config.vocabulary).float())
        self.bert = RobertaModel(
            RobertaConfig(
                vocab_size=FIRST_TOKEN + config.vocabulary + 1,  # <mask> is the last
                hidden_size=config.dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.inner_dim,
                max_position_embeddings=config.positions + PADDING + 1,  # positions are counted from there
                type_vocab_size=1,
                pad_token_id=PADDING,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.attention_dropout,
            ),
            add_pooling_layer=False,
        )
        # Both are given with every call; left in place they would be all that a checkpoint does not fill.
        self.bert.embeddings.position_ids = self.bert.embeddings.token_type_ids = None

    def forward(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        with torch.no_grad():  # nothing passes the choice of a code
            codes, frames = self.codes.codes(waveforms, lengths)
        counts = frames.tolist()
        states = waveforms.new_zeros(len(counts), self.num_states, max(counts), self.dim)
        for i, count in enumerate(counts):
            tokens = self.tokens_of(codes[i, :count])
            for start, first, last in windows(count, self.config.positions, self.config.overlap):
                window = self.read(tokens[start : start + self.config.positions])
                states[i, :, first:last] = window[:, first - start : last - start]
        return Features(states, frames, self.frame_rate)

    def tokens_of(self, codes: Int[Tensor, "frames groups"]) -> Int[Tensor, " frames"]:
        return self.tokens[codes[:, 0], codes[:, 1]].long()

    def read(self, tokens: Int[Tensor, " frames"]) -> Float[Tensor, "states frames dim"]:
        """All states of one window."""
        return torch.cat(self.transform(tokens[None], output_hidden_states=True).hidden_states)

    def transform(self, tokens: Int[Tensor, "windows frames"], **asked):
        """What transformers' model gives for windows of equal length.

        Args:
            tokens: at most `positions` of a window.
            asked: what it is to give beside its last states.
        """
        positions = PADDING + 1 + torch.arange(tokens.shape[1], device=tokens.device)
        return self.bert(
            input_ids=tokens,
            position_ids=positions[None].expand_as(tokens),
            token_type_ids=torch.zeros_like(tokens),
            **asked,
        )

    @property
    def conv(self) -> StridedEncoder:
        """What makes frames of samples, under the name that it has in every family that is trained."""
        return self.codes.encoder


def codes_config(config: Config) -> vq_wav2vec.Config:
    """Of the convolutions and the quantizer that make the codes.

    Raises:
        ValueError: a quantizer that is not known.
    """
    if config.quantizer not in QUANTIZERS:
        raise ValueError(f"quantizer is {config.quantizer!r}; it is one of {', '.join(QUANTIZERS)}")
    preset = vq_wav2vec.presets[config.quantizer]
    share = preset.share_codebook if config.share_codebook is None else config.share_codebook
    return dataclasses.replace(preset, dim=config.code_dim, entries=config.entries, share_codebook=share, num_layers=0)


def windows(frames: int, size: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """(start, first, last): a window begins at frame `start`, and frames from `first` up to `last` are taken from it.

    Args:
        frames: of the utterance.
        size: of a window; the last one ends with the utterance.
        overlap: frames that two windows share, or more for the last two; the cut is in the middle.
    """
    if frames <= size:
        yield from [(0, 0, frames)] if frames else []
        return
    starts = [*range(0, frames - size, size - overlap), frames - size]
    cuts = [0, *((before + size + after) // 2 for before, after in pairwise(starts)), frames]
    yield from ((start, *cut) for start, cut in zip(starts, pairwise(cuts), strict=True))


def token_table(dictionary: Iterable[str], entries: int) -> Float[Tensor, "entries entries"]:
    """`tokens` of a trained model, from the lines of fairseq's `dict.txt`: a pair such as `12-301`, and its count.

    Raises:
        ValueError: a line is no pair of codes.
    """
    table = torch.full((entries, entries), float(UNKNOWN))
    for token, line in enumerate(dictionary, start=FIRST_TOKEN):
        pair = line.split(" ")[0]
        if pair.startswith("madeupword"):  # fairseq fills a dictionary up to a multiple of eight with these
            continue
        try:
            first, second = (int(code) for code in pair.split("-"))
            table[first, second] = token
        except (ValueError, IndexError):
            raise ValueError(
                f"line {token - FIRST_TOKEN + 1} of the dictionary is no pair of codes: {line!r}"
            ) from None
    return table


def join(
    codes: Mapping[str, Tensor], bert: Mapping[str, Tensor], tokens: Float[Tensor, "entries entries"]
) -> dict[str, Tensor]:
    """The weights of this model from those of its parts.

    Args:
        codes: of a vq-wav2vec here; its context network is left out.
        bert: of transformers' `RobertaModel`.
        tokens: from `token_table`.
    """
    state = {f"codes.{name}": tensor for name, tensor in codes.items() if not name.startswith("context.")}
    state |= {f"bert.{name}": tensor for name, tensor in bert.items() if not name.startswith("pooler.")}
    return {**state, "tokens": tokens}


NARROW = {"quantizer": "kmeans", "share_codebook": False}  # as the recipes train vq-wav2vec

build = VqWav2VecBert
presets = {
    "": Config(),
    # Not released: sizes to train, over codes of the vq-wav2vec of the same name. The codebook is what `codes=` has.
    "tiny": Config(
        code_dim=192, entries=64, vocabulary=4_096, dim=192, num_heads=3, inner_dim=768, positions=800, overlap=200,
        **NARROW,
    ),
    "small": Config(code_dim=320, dim=384, num_heads=6, inner_dim=1536, positions=1_000, overlap=250, **NARROW),
    "base": Config(),
}  # fmt: skip
