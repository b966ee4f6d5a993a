"""Whisper: the encoder alone, through transformers, on log mel spectra of a window of 30 s.

Every utterance is filled up to the window with silence, which the model has to see, and the frames of that silence
are cut from the states; a longer utterance is refused.

Source: Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision, table 1.
"""

from dataclasses import dataclass

from wavbench.upstream.models import hub
from wavbench.upstream.models.hub import Hub


@dataclass(frozen=True, kw_only=True)
class Config:
    num_mels: int = 80  # channels of the log mel spectrum, which has a column every 10 ms
    dim: int = 384  # width of every state
    num_layers: int = 4  # transformer blocks; there is one more state
    num_heads: int = 6
    inner_dim: int = 1536  # between the linear layers of a block


def build(config: Config) -> Hub:
    """An encoder with random weights; its sinusoidal positions are those of every Whisper."""
    from transformers import WhisperConfig, WhisperFeatureExtractor

    settings = WhisperConfig(
        num_mel_bins=config.num_mels,
        d_model=config.dim,
        encoder_layers=config.num_layers,
        encoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.inner_dim,
    )
    extractor = WhisperFeatureExtractor(feature_size=config.num_mels)
    return hub.wrap(hub.encoder_class(settings)(settings), settings, normalise=False, extractor=extractor)


LARGE = Config(dim=1280, num_layers=32, num_heads=20, inner_dim=5120)
presets = {
    "tiny": Config(),
    "base": Config(dim=512, num_layers=6, num_heads=8, inner_dim=2048),
    "small": Config(dim=768, num_layers=12, num_heads=12, inner_dim=3072),
    "medium": Config(dim=1024, num_layers=24, num_heads=16, inner_dim=4096),
    "large": LARGE,
    "large_v2": LARGE,  # trained for longer
    "large_v3": Config(num_mels=128, dim=1280, num_layers=32, num_heads=20, inner_dim=5120),
}
