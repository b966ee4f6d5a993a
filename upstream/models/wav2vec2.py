"""wav2vec 2.0: strided convolutions, a wide positional convolution, transformer blocks.

Source: Baevski et al. 2020, wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.features import Features
from wavbench.upstream.layers.conv import ConvEncoder
from wavbench.upstream.layers.linear import linear
from wavbench.upstream.layers.packing import pad_states
from wavbench.upstream.layers.positions import PositionalConv
from wavbench.upstream.layers.transformer import Block, Transformer
from wavbench.upstream.layers.waveform import UNIT_VARIANCE, normalise_waveforms
from wavbench.upstream.lengths import samples_from_frames, total_stride

SAMPLE_RATE = 16_000  # Hz


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
    eps: float = 1e-5  # of the norms of projection and transformer
    projection_dropout: float = 0.0  # dropouts are shares, and act in training only
    dropout: float = 0.0  # of the outputs of attention and feed-forward, and of the first block's input
    attention_dropout: float = 0.0
    inner_dropout: float = 0.0
    layerdrop: float = 0.0  # share of blocks skipped


class Wav2Vec2(nn.Module):
    """The encoder, on packed frames throughout.

    Pretraining uses the three steps of `forward` apart: `convolve`, `project` (after which frames are masked)
    and `transformer`.
    """

    def __init__(self, config: Config) -> None:
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
            )
            for _ in range(config.num_layers)
        ]
        self.transformer = Transformer(
            PositionalConv(config.dim, config.position_kernel, config.position_groups),
            blocks,
            dim=config.dim,
            pre_norm=config.pre_norm,
            eps=config.eps,
            dropout=config.dropout,
            layerdrop=config.layerdrop,
        )

    def forward(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        latents, frames = self.convolve(waveforms, lengths)
        x = self.project(latents)
        states = self.transformer(x, frames) if sum(frames) else [x] * self.num_states
        return Features(
            pad_states(torch.stack(states), frames), torch.tensor(frames, device=lengths.device), self.frame_rate
        )

    def convolve(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "total_frames channels"], Sequence[int]]:
        """Packed latents after their norm (what is quantized in pretraining), and the frames of each utterance."""
        if self.config.normalise:
            waveforms = normalise_waveforms(waveforms, lengths)
        latents, frames = self.conv(waveforms, lengths)
        return self.projection_norm(latents), frames

    def project(self, latents: Float[Tensor, "total_frames channels"]) -> Float[Tensor, "total_frames dim"]:
        return self.projection_dropout(linear(self.projection, latents))


LARGE = {"dim": 1024, "num_layers": 24, "num_heads": 16, "inner_dim": 4096}

build = Wav2Vec2
presets = {
    # 12 blocks, as deep as BASE, at a width that trains on a laptop: 5.8 M parameters.
    "tiny": Config(conv_channels=(128,) * 7, dim=192, num_heads=3, inner_dim=768, position_kernel=64, pre_norm=True),
    # The paper says 8 heads; fairseq's configuration and every released BASE checkpoint have 12.
    "base": Config(),
    "large": Config(**LARGE),
    # Trained on Libri-Light (60,000 h), and the shape of XLSR and MMS.
    "large_lv60": Config(**LARGE, normalise=True, conv_norm="layer", conv_bias=True, pre_norm=True),
}
