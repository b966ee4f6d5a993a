"""wav2vec: convolutions to latents every 10 ms, then causal convolutions over them.

Source: Schneider et al. 2019, wav2vec: Unsupervised Pre-training for Speech Recognition; where the paper is silent,
the released fairseq checkpoint (`wav2vec_large.pt`).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.features import Features
from wavbench.upstream.layer_lists import layer_list
from wavbench.upstream.layers.causal import CausalContext, Channels, StridedEncoder, stack_states
from wavbench.upstream.lengths import frames_from_samples, samples_from_frames, total_stride

SAMPLE_RATE = 16_000  # Hz
FAIRSEQ_LEFT_OUT = ("wav2vec_predictions.", "project_features.")  # used by the training objective alone


@dataclass(frozen=True, kw_only=True)
class Config:
    conv_kernels: tuple[int, ...] = (10, 8, 4, 4, 4)  # input steps; 465 samples (29 ms) in all
    conv_strides: tuple[int, ...] = (5, 4, 2, 2, 2)  # input steps; 160 samples (10 ms) in all
    log_compression: bool = True  # of the latents
    dim: int = 512  # width of every layer, and so of every state
    activation: str = "relu"  # or "gelu"
    num_layers: int = 9  # of the context network; there is one more state
    context_kernel: int = 3  # frames seen by its first layer
    context_growth: int = 0  # by how many frames more than the layer before it each further layer sees
    context_bias: bool = True
    # What stands before the first frame. fairseq can pad with zeros too, but its checkpoints repeat that frame.
    context_padding: str = "repeat"
    residual_scale: float | None = None  # input + output of a context layer times its root; None: the output alone


class Wav2Vec(nn.Module):
    """Encoder and context network. The predictor of the checkpoints serves training alone and is not built.

    States: the output of the encoder, then that of every layer of the context network (after its residual), as
    SUPERB takes them.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.num_states = config.num_layers + 1
        self.dim = config.dim
        self.encoder = StridedEncoder(
            config.dim, config.conv_kernels, config.conv_strides, config.activation, config.log_compression
        )
        self.frame_rate = SAMPLE_RATE / total_stride(self.encoder.sizes)
        self.min_samples = samples_from_frames(1, self.encoder.sizes)
        self.context = CausalContext(
            config.dim,
            [config.context_kernel + k * config.context_growth for k in range(config.num_layers)],
            bias=config.context_bias,
            activation=config.activation,
            padding=config.context_padding,
            residual_scale=config.residual_scale,
        )

    def forward(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        sizes = lengths.tolist()
        frames = [frames_from_samples(size, self.encoder.sizes) for size in sizes]
        utterances = [self.states(waveforms[i, :size]) for i, size in enumerate(sizes)]
        states = stack_states(utterances, frames, self.num_states, waveforms.new_zeros(0, self.dim))
        return Features(states, torch.tensor(frames, device=lengths.device), self.frame_rate)

    def recording(
        self, waveform: Float[Tensor, " samples"], top: int
    ) -> Iterator[tuple[int, int, Float[Tensor, "frames dim"]]]:
        """Layer, first frame and states of a recording of any length: exact, in memory for two layers of it."""
        for layer, state in enumerate(itertools.islice(self.states(waveform), top + 1)):
            yield layer, 0, state[0].T

    def states(self, waveform: Float[Tensor, " samples"]) -> Iterator[Channels]:
        """The states of one utterance that has frames, one after the other."""
        latents = self.encoder(waveform)
        yield latents
        yield from self.context(latents)

    @property
    def conv(self) -> StridedEncoder:
        """What makes frames of samples, under the name that it has in every family that is trained."""
        return self.encoder


# Not released: the shape of the large model, narrowed.
NARROW = {"num_layers": 12, "context_kernel": 2, "context_growth": 1, "residual_scale": 0.5}

build = Wav2Vec
presets = {
    "tiny": Config(dim=192, **NARROW),
    "small": Config(dim=320, **NARROW),
    "base": Config(),
    "large": Config(
        conv_kernels=(10, 8, 4, 4, 4, 1, 1),
        conv_strides=(5, 4, 2, 2, 2, 1, 1),
        num_layers=12,
        context_kernel=2,
        context_growth=1,
        residual_scale=0.5,
    ),
}


def from_fairseq(settings: Mapping) -> Config:
    """The config of a checkpoint's `args` or `cfg.model`.

    Args:
        settings: plain values by name. What a checkpoint does not say is what it was trained with before fairseq had
            the option: off.

    Raises:
        ValueError: it asks for what is not built here, or it is a vq-wav2vec.
    """
    if settings.get("vq_type") not in (None, "none"):
        raise ValueError(f"vq_type={settings['vq_type']}: this is a vq-wav2vec, not a wav2vec")
    return Config(**shape_from_fairseq(settings))


LAYERS = {  # fairseq's settings, and what they are where a checkpoint does not say it
    "conv_feature_layers": "[(512, 10, 5), (512, 8, 4)] + [(512, 4, 2)] * 3",
    "conv_aggregator_layers": "[(512, 3, 1)] * 9",
}


def shape_from_fairseq(settings: Mapping) -> dict:
    """Encoder and context network in the words of `Config`, which vq-wav2vec shares."""
    plain = {"aggregator": "cnn", "skip_connections_feat": False, "non_affine_group_norm": False}
    for name, value in plain.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name}={settings[name]} is not supported; every released checkpoint has {value}")
    encoder, context = (layer_list(settings.get(name, text)) for name, text in LAYERS.items())
    widths = {width for width, _, _ in encoder + context}
    kernels = [kernel for _, kernel, _ in context]
    growth = kernels[1] - kernels[0] if len(kernels) > 1 else 0
    if len(widths) > 1:
        raise ValueError(f"layers of several widths ({sorted(widths)}) are not supported")
    even = kernels == [kernels[0] + k * growth for k in range(len(kernels))]
    if not even or any(stride != 1 for _, _, stride in context):
        raise ValueError(f"context layers {context} are not supported: strides of 1 and kernels that grow evenly are")
    scale = float(settings.get("residual_scale", 0.5))
    return {
        "conv_kernels": tuple(kernel for _, kernel, _ in encoder),
        "conv_strides": tuple(stride for _, _, stride in encoder),
        "log_compression": bool(settings.get("log_compression", False)),
        "dim": widths.pop(),
        "activation": str(settings.get("activation", "relu")),
        "num_layers": len(context),
        "context_kernel": kernels[0],
        "context_growth": growth,
        "context_bias": not settings.get("no_conv_bias", False),
        "context_padding": "zeros" if settings.get("agg_zero_pad", False) else "repeat",
        "residual_scale": scale if settings.get("skip_connections_agg", False) else None,
    }


def fairseq_names(config: Config) -> dict[str, tuple[str, ...]]:
    """For every weight here, the weight of fairseq that it is."""
    names = {}
    for i in range(len(config.conv_kernels)):
        ours, theirs = f"encoder.layers.{i}", f"feature_extractor.conv_layers.{i}"
        names |= _layer(ours, f"{theirs}.0", f"{theirs}.2", bias=False)
    for i in range(config.num_layers):
        ours, theirs = f"context.layers.{i}", f"feature_aggregator.conv_layers.{i}"
        names |= _layer(ours, f"{theirs}.1", f"{theirs}.3", bias=config.context_bias)
    return names


def _layer(ours: str, conv: str, norm: str, bias: bool) -> dict[str, tuple[str, ...]]:
    names = {f"{ours}.conv.weight": (f"{conv}.weight",)}
    if bias:
        names[f"{ours}.conv.bias"] = (f"{conv}.bias",)
    return names | {f"{ours}.norm.{kind}": (f"{norm}.{kind}",) for kind in ("weight", "bias")}
