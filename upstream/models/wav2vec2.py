"""wav2vec 2.0: strided convolutions, a wide positional convolution, transformer blocks.

Source: Baevski et al. 2020, wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.features import Features
from wavbench.upstream.layers.attention import RelativePositions
from wavbench.upstream.layers.conv import ConvEncoder
from wavbench.upstream.layers.linear import linear
from wavbench.upstream.layers.packing import pad_states
from wavbench.upstream.layers.positions import PositionalConv
from wavbench.upstream.layers.transformer import Block, Transformer
from wavbench.upstream.layers.waveform import UNIT_VARIANCE, normalise_recording, normalise_waveforms
from wavbench.upstream.lengths import frames_from_samples, samples_from_frames, total_stride

SAMPLE_RATE = 16_000  # Hz
WINDOW_FRAMES = 1_500  # of a long recording that go through at once: 30 s
CONTEXT_FRAMES = 250  # around them that attention sees: 5 s on either side
# A field younger than the first stores is described only where it is set, so that their fingerprints stay.
WHERE_SET = {"described": "where set"}


@dataclass(frozen=True, kw_only=True)
class Config:
    normalise: bool = False  # each waveform to zero mean and unit variance first
    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)  # input steps; 25 ms of samples in all
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)  # input steps; 20 ms of samples in all
    conv_norm: str = "group"  # "group": first layer, over time; "layer": every layer, over channels
    conv_bias: bool = False
    dim: int = 768  # width of every state
    num_layers: int = 12  # transformer blocks; there is one more state
    num_heads: int = 12
    inner_dim: int = 3072  # between the linear layers of a block
    position_kernel: int = 128  # frames
    position_groups: int = 16
    pre_norm: bool = False  # norm before attention and feed-forward, not after
    adapter_dim: int = field(default=0, metadata=WHERE_SET)  # of adapters exchanged per language (MMS); 0: none
    eps: float = 1e-5  # of the norms of projection and transformer
    projection_dropout: float = 0.0  # dropouts are shares, and act in training only
    dropout: float = 0.0  # of the outputs of attention and feed-forward, and of the first block's input
    attention_dropout: float = 0.0
    inner_dropout: float = 0.0
    layerdrop: float = 0.0  # share of blocks skipped


class Wav2Vec2(nn.Module):
    """The encoder, on packed frames throughout.

    Pretraining uses the steps of `forward` apart: `raw_latents`, `projection_norm`, `project` (after which frames are
    masked) and `transformer`.

    Args:
        config: the shape.
        positions: what is added to every frame before the blocks; the convolution of the paper where None.
        relative: relative positions that the blocks' attention is gated with, where the family has them.
    """

    def __init__(
        self, config: Config, *, positions: nn.Module | None = None, relative: RelativePositions | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.num_states = config.num_layers + 1
        self.dim = config.dim
        self.conv = ConvEncoder(
            config.conv_channels, config.conv_kernels, config.conv_strides, config.conv_norm, config.conv_bias
        )
        self.frame_rate = SAMPLE_RATE / total_stride(self.conv.sizes)
        self.min_samples = samples_from_frames(1, self.conv.sizes)
        self.normalisation = UNIT_VARIANCE if config.normalise else "none"
        self.projection_norm = nn.LayerNorm(config.conv_channels[-1], eps=config.eps)
        self.projection = nn.Linear(config.conv_channels[-1], config.dim)
        self.projection_dropout = nn.Dropout(config.projection_dropout)
        blocks = [
            Block(
                config.dim,
                config.num_heads,
                config.inner_dim,
                pre_norm=config.pre_norm,
                eps=config.eps,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                inner_dropout=config.inner_dropout,
                gated=relative is not None,
                adapter_dim=config.adapter_dim,
            )
            for _ in range(config.num_layers)
        ]
        self.transformer = Transformer(
            positions or PositionalConv(config.dim, config.position_kernel, config.position_groups),
            blocks,
            dim=config.dim,
            pre_norm=config.pre_norm,
            eps=config.eps,
            dropout=config.dropout,
            layerdrop=config.layerdrop,
            relative=relative,
        )

    def forward(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        states, frames = self.packed(waveforms, lengths)
        return Features(pad_states(states, frames), torch.tensor(frames, device=lengths.device), self.frame_rate)

    def packed(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], top: int | None = None
    ) -> tuple[list[Float[Tensor, "total_frames dim"]], Sequence[int]]:
        """States 0 to `top` (all where None) of all utterances one after the other, and the frames of each."""
        latents, frames = self.convolve(waveforms, lengths)
        x = self.project(latents)
        if not sum(frames):
            return [x] * (self.num_states if top is None else top + 1), frames
        return self.transformer(x, frames, top), frames

    def recording(
        self, waveform: Float[Tensor, " samples"], top: int
    ) -> Iterator[tuple[int, int, Float[Tensor, "frames dim"]]]:
        """Layer, first frame and states of a recording of any length, in memory for one window of it.

        What looks at all samples (the norm of the waveform, the group norm of the first convolution) does so in a
        first pass. The convolutions are exact; attention and positions see the window and the context around it, so
        that frames far from any seam differ as well, by what attention gives to frames beyond.
        """
        if self.config.normalise:
            waveform = normalise_recording(waveform)
        first = self.conv.first_layer(waveform)
        total, hop = frames_from_samples(len(waveform), self.conv.sizes), total_stride(self.conv.sizes)
        for start in range(0, total, WINDOW_FRAMES):
            stop = min(start + WINDOW_FRAMES, total)
            low, high = max(start - CONTEXT_FRAMES, 0), min(stop + CONTEXT_FRAMES, total)
            seen = waveform[low * hop :][: samples_from_frames(high - low, self.conv.sizes)]
            latents, frames = self.conv(seen[None], torch.tensor([len(seen)]), [first])
            states = self.transformer(self.project(self.projection_norm(latents)), frames, top)
            yield from ((layer, start, state[start - low : stop - low]) for layer, state in enumerate(states))

    def convolve(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "total_frames channels"], Sequence[int]]:
        """Packed latents after their norm (what is quantized in pretraining), and the frames of each utterance."""
        latents, frames = self.raw_latents(waveforms, lengths)
        return self.projection_norm(latents), frames

    def raw_latents(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "total_frames channels"], Sequence[int]]:
        """Packed latents before their norm (what is kept small in pretraining), and the frames of each utterance."""
        if self.config.normalise:
            waveforms = normalise_waveforms(waveforms, lengths)
        return self.conv(waveforms, lengths)

    def project(self, latents: Float[Tensor, "total_frames channels"]) -> Float[Tensor, "total_frames dim"]:
        return self.projection_dropout(linear(self.projection, latents))


DEEP = {"normalise": True, "conv_norm": "layer", "conv_bias": True, "pre_norm": True}  # what large models share
LARGE = {"dim": 1024, "num_layers": 24, "num_heads": 16, "inner_dim": 4096}
BILLION = {"dim": 1280, "num_layers": 48, "num_heads": 16, "inner_dim": 5120}

build = Wav2Vec2
presets = {
    # 12 blocks, as deep as BASE, at a width that trains on a laptop: 5.8 M parameters.
    "tiny": Config(conv_channels=(128,) * 7, dim=192, num_heads=3, inner_dim=768, position_kernel=64, pre_norm=True),
    # For one GPU and half an hour: 22 M parameters.
    "small": Config(conv_channels=(256,) * 7, dim=384, num_heads=6, inner_dim=1536, pre_norm=True),
    # The paper says 8 heads; fairseq's configuration and every released BASE checkpoint have 12.
    "base": Config(),
    "large": Config(**LARGE),
    "large_lv60": Config(**LARGE, **DEEP),  # Libri-Light, 60,000 h
    "xlsr_53": Config(**LARGE, **DEEP),  # 53 languages; Conneau et al. 2020
    "xls_r_300m": Config(**LARGE, **DEEP),  # 128 languages; Babu et al. 2021
    "xls_r_1b": Config(**BILLION, **DEEP),
    "xls_r_2b": Config(**BILLION | {"dim": 1920, "inner_dim": 7680}, **DEEP),
    "mms_300m": Config(**LARGE, **DEEP),  # 1,406 languages; Pratap et al. 2023
    "mms_1b": Config(**BILLION, **DEEP),
}


def from_hugging_face(settings: Mapping, normalise: bool | None) -> Config | None:
    """The config of a `config.json`; None where it asks for what is not built here (adapters, other activations).

    Args:
        settings: the file's content; absent values are the defaults of transformers.
        normalise: what the preprocessor's file says, or None without one.
    """
    plain = {"add_adapter": (False,), "feat_extract_norm": ("group", "layer")}
    plain |= {"hidden_act": ("gelu",), "feat_extract_activation": ("gelu",)}
    if any(settings.get(name, values[0]) not in values for name, values in plain.items()):
        return None
    values = settings_of(settings)
    if settings.get("adapter_attn_dim") and values.get("pre_norm"):  # transformers builds them in no other blocks
        values["adapter_dim"] = settings["adapter_attn_dim"]
    if normalise is None:
        normalise = values.get("conv_norm") == "layer"
    return Config(normalise=normalise, **values)


def settings_of(settings: Mapping) -> dict:
    """Fields of a config that a `config.json` names; what it leaves out is the default of both."""
    return {
        name: tuple(settings[theirs]) if isinstance(settings[theirs], list) else settings[theirs]
        for name, theirs in HUGGING_FACE_SETTINGS.items()
        if theirs in settings
    }


HUGGING_FACE_SETTINGS = {
    "conv_channels": "conv_dim",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "conv_norm": "feat_extract_norm",
    "conv_bias": "conv_bias",
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "inner_dim": "intermediate_size",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "pre_norm": "do_stable_layer_norm",
    "eps": "layer_norm_eps",
}


def hugging_face_names(config: Config) -> dict[str, tuple[str, ...]]:
    """For every weight here, the weights of transformers that it is made of, one after the other."""
    modules = {
        "projection_norm": ("feature_projection.layer_norm",),
        "projection": ("feature_projection.projection",),
        "transformer.norm": ("encoder.layer_norm",),
    }
    for i in range(1 if config.conv_norm == "group" else len(config.conv_channels)):
        modules[f"conv.norms.{i}"] = (f"feature_extractor.conv_layers.{i}.layer_norm",)
    for i in range(config.num_layers):
        ours, theirs = f"transformer.blocks.{i}", f"encoder.layers.{i}"
        if config.adapter_dim:
            adapter = f"{theirs}.adapter_layer"
            modules |= {
                f"{ours}.adapter.norm": (f"{adapter}.norm",),
                f"{ours}.adapter.inner": (f"{adapter}.linear_1",),
                f"{ours}.adapter.out": (f"{adapter}.linear_2",),
            }
        modules |= {
            f"{ours}.attention.qkv": tuple(f"{theirs}.attention.{part}_proj" for part in "qkv"),
            f"{ours}.attention.out": (f"{theirs}.attention.out_proj",),
            f"{ours}.attention_norm": (f"{theirs}.layer_norm",),
            f"{ours}.feed_forward.inner": (f"{theirs}.feed_forward.intermediate_dense",),
            f"{ours}.feed_forward.out": (f"{theirs}.feed_forward.output_dense",),
            f"{ours}.feed_forward_norm": (f"{theirs}.final_layer_norm",),
        }
    names = {
        f"{ours}.{kind}": tuple(f"{part}.{kind}" for part in theirs)
        for ours, theirs in modules.items()
        for kind in ("weight", "bias")
    }
    positions = {"gain": "weight_g", "direction": "weight_v", "bias": "bias"}
    names |= {f"transformer.positions.{k}": (f"encoder.pos_conv_embed.conv.{v}",) for k, v in positions.items()}
    for i in range(len(config.conv_channels)):
        for kind in ("weight", "bias") if config.conv_bias else ("weight",):
            names[f"conv.convs.{i}.{kind}"] = (f"feature_extractor.conv_layers.{i}.conv.{kind}",)
    return names
