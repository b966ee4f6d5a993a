"""data2vec for speech: the encoder of wav2vec 2.0, as released with a stack of narrow positional convolutions.

Source: Baevski et al. 2022, data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from wavbench.upstream.layers.positions import PositionalStack
from wavbench.upstream.models import wav2vec2
from wavbench.upstream.models.wav2vec2 import LARGE, Wav2Vec2

MODEL_TYPE = "data2vec-audio"  # what transformers calls it


@dataclass(frozen=True, kw_only=True)
class Config(wav2vec2.Config):
    normalise: bool = True
    conv_norm: str = "layer"
    position_kernel: int = 19  # frames, of each convolution
    position_depth: int = 5  # convolutions; 0: the single weight-normed one of wav2vec 2.0


def build(config: Config) -> Wav2Vec2:
    if not config.position_depth:
        return Wav2Vec2(config)
    return Wav2Vec2(
        config,
        positions=PositionalStack(config.dim, config.position_kernel, config.position_groups, config.position_depth),
    )


presets = {
    # Wav2vec 2.0's presets of the same name: objectives compare at one shape, and can go on from one another's weights.
    "tiny": Config(**asdict(wav2vec2.presets["tiny"]), position_depth=0),
    "small": Config(**asdict(wav2vec2.presets["small"]), position_depth=0),
    "base": Config(),
    "large": Config(**LARGE),
}


def from_hugging_face(settings: Mapping, normalise: bool | None) -> Config | None:
    """The config of a `config.json`; None where it asks for what is not built here.

    Args:
        settings: the file's content; absent values are the defaults of transformers.
        normalise: what the preprocessor's file says, or None without one.
    """
    fixed = {"feat_extract_norm": "layer", "do_stable_layer_norm": False}  # it has no such settings
    positions = {"position_kernel": "conv_pos_kernel_size", "position_depth": "num_conv_pos_embeddings"}
    plain = wav2vec2.from_hugging_face({**settings, **fixed}, normalise)
    if plain is None or plain.adapter_dim or not settings.get(positions["position_depth"], Config.position_depth):
        return None
    own = {name: settings[theirs] for name, theirs in positions.items() if theirs in settings}
    return Config(**{**asdict(plain), "position_kernel": Config.position_kernel, **own})


def as_wav2vec2(config: Config) -> wav2vec2.Config | None:
    """The same model as one of wav2vec 2.0; None where positions are data2vec's own."""
    if config.position_depth:
        return None
    return wav2vec2.Config(**{name: value for name, value in asdict(config).items() if name != "position_depth"})


def hugging_face_names(config: Config) -> dict[str, tuple[str, ...]]:
    """For every weight here, the weights of transformers that it is made of, one after the other."""
    names = wav2vec2.hugging_face_names(config)
    names = {name: theirs for name, theirs in names.items() if not name.startswith("transformer.positions.")}
    for i in range(config.position_depth):
        ours, theirs = f"transformer.positions.convs.{i}", f"encoder.pos_conv_embed.layers.{i}.conv"
        names |= {f"{ours}.direct": (f"{theirs}.weight",), f"{ours}.bias": (f"{theirs}.bias",)}
    return names
