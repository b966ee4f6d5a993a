"""HuBERT: the encoder of wav2vec 2.0, trained to predict units.

Source: Hsu et al. 2021, HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units.
"""

from collections.abc import Mapping

from wavbench.upstream.models import wav2vec2
from wavbench.upstream.models.wav2vec2 import Config, Wav2Vec2, hugging_face_names

__all__ = ["Config", "build", "from_hugging_face", "hugging_face_names", "presets"]

build = Wav2Vec2
presets = {name: wav2vec2.presets[name] for name in ("tiny", "small", "base")}
presets["large"] = wav2vec2.presets["large_lv60"]
presets["xlarge"] = wav2vec2.presets["xls_r_1b"]


def from_hugging_face(settings: Mapping, normalise: bool | None) -> Config | None:
    """The config of a `config.json`; None where it asks for what is not built here.

    Args:
        settings: the file's content; absent values are the defaults of transformers.
        normalise: what the preprocessor's file says, or None without one.
    """
    if (
        settings.get("adapter_attn_dim")
        or not settings.get("feat_proj_layer_norm", True)
        or settings.get("conv_pos_batch_norm", False)
    ):
        return None
    return wav2vec2.from_hugging_face(settings, normalise)
