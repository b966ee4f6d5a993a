"""WavLM: the encoder of wav2vec 2.0 whose attention sees gated relative positions.

Source: Chen et al. 2022, WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from wavbench.upstream.layers.attention import RelativePositions
from wavbench.upstream.models import wav2vec2
from wavbench.upstream.models.wav2vec2 import LARGE, Wav2Vec2


@dataclass(frozen=True, kw_only=True)
class Config(wav2vec2.Config):
    buckets: int = 320  # of relative positions, half of them ahead
    max_distance: int = 800  # frames; all distances beyond are one


def build(config: Config) -> Wav2Vec2:
    return Wav2Vec2(config, relative=RelativePositions(config.num_heads, config.buckets, config.max_distance))


presets = {
    # The sizes of wav2vec 2.0 that train on a laptop and on one GPU.
    **{name: Config(**asdict(wav2vec2.presets[name])) for name in ("tiny", "small")},
    "base": Config(),  # LibriSpeech, 960 h
    "base_plus": Config(),  # the same shape, 94,000 h
    "large": Config(**LARGE, normalise=True, conv_norm="layer", pre_norm=True),  # 94,000 h
}


def from_hugging_face(settings: Mapping, normalise: bool | None) -> Config | None:
    """The config of a `config.json`; None where it asks for what is not built here.

    Args:
        settings: the file's content; absent values are the defaults of transformers.
        normalise: what the preprocessor's file says, or None without one.
    """
    plain = wav2vec2.from_hugging_face(settings, normalise)
    if plain is None or plain.adapter_dim:
        return None
    ours = {"buckets": "num_buckets", "max_distance": "max_bucket_distance"}
    own = {name: settings[theirs] for name, theirs in ours.items() if theirs in settings}
    return Config(**asdict(plain), **own)


def hugging_face_names(config: Config) -> dict[str, tuple[str, ...]]:
    """For every weight here, the weights of transformers that it is made of, one after the other."""
    names = wav2vec2.hugging_face_names(config)
    names["transformer.relative.embedding"] = ("encoder.layers.0.attention.rel_attn_embed.weight",)
    for i in range(config.num_layers):
        ours, theirs = f"transformer.blocks.{i}.attention.gate", f"encoder.layers.{i}.attention.gru_rel_pos"
        names[f"{ours}.scale"] = (f"{theirs}_const",)
        names |= {f"{ours}.inner.{kind}": (f"{theirs}_linear.{kind}",) for kind in ("weight", "bias")}
    return names
