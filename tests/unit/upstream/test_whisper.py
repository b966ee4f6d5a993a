"""Whisper's encoder against transformers, through folders with and without a decoder beside it."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.models import whisper

SECOND = 16_000  # samples
SMALL = {
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "vocab_size": 60,
    "pad_token_id": 1,
}


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def save(folder: Path, kind: str = "WhisperModel", **settings) -> torch.nn.Module:
    """A folder like the official ones, of a model whose every weight is random."""
    import transformers

    torch.manual_seed(0)
    config = transformers.WhisperConfig(**{**SMALL, **settings})
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    return model


def reference_states(encoder: torch.nn.Module, waveform: Tensor, num_mels: int) -> tuple[Tensor, ...]:
    """States of transformers for the whole window."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=num_mels)
    mel = extractor(waveform.numpy(), sampling_rate=SECOND, return_tensors="pt").input_features
    with torch.inference_mode():
        output = encoder(mel, output_hidden_states=True)
    return (*output.hidden_states[:-1], output.last_hidden_state)


def assert_parity(upstream, encoder: torch.nn.Module, num_mels: int, samples: int) -> None:
    waveform = noise(samples)
    features = upstream(waveform[None], torch.tensor([samples]))
    frames = -(-samples // 320)  # 50 a second, the last one begun
    assert features.states.shape[2] == frames == int(features.lengths)
    references = reference_states(encoder, waveform, num_mels)
    assert len(references) == upstream.num_states
    for layer, reference in enumerate(references):
        expected = reference[0, :frames]
        assert (features.states[0, layer] - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("kind", ["WhisperModel", "WhisperForConditionalGeneration"])
@pytest.mark.parametrize("num_mels", [80, 128])
def test_every_state_equals_that_of_transformers(kind: str, num_mels: int, tmp_path: Path) -> None:
    model = save(tmp_path, kind, num_mel_bins=num_mels)
    upstream = catalog.load(str(tmp_path))
    for samples in (SECOND + 123, 30 * SECOND):
        assert_parity(upstream, model.get_encoder(), num_mels, samples)


def test_the_decoder_is_neither_built_nor_kept(tmp_path: Path) -> None:
    model = save(tmp_path, "WhisperForConditionalGeneration")
    for upstream in (catalog.load(str(tmp_path)), catalog.load(str(tmp_path), weights="random")):
        assert upstream.num_parameters == sum(p.numel() for p in model.get_encoder().parameters())
        assert not [name for name in upstream.model.state_dict() if "decoder" in name]


def test_a_preset_with_the_weights_of_a_folder_gives_its_features(tmp_path: Path) -> None:
    save(tmp_path)
    folder = catalog.load(str(tmp_path))
    preset = whisper.build(whisper.Config(dim=32, num_layers=3, num_heads=4, inner_dim=48)).eval()
    preset.load_state_dict(folder.model.state_dict())
    waveform = noise(5_000)[None]
    with torch.inference_mode():
        found = preset(waveform, torch.tensor([5_000]))
    assert torch.equal(found.states, folder(waveform, torch.tensor([5_000])).states)
    for name in ("num_states", "dim", "frame_rate", "min_samples", "max_samples", "normalisation"):
        assert getattr(preset, name) == getattr(folder.model, name)


def test_few_windows_are_computed_at_once_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)
    upstream, sizes = catalog.load(str(tmp_path)), []
    compute = upstream.model._states
    monkeypatch.setattr(upstream.model, "_states", lambda batch: sizes.append(len(batch)) or compute(batch))
    found = upstream.batch([noise(SECOND, seed) for seed in range(5)], (0, 3)).result()
    assert sizes == [2, 2, 1]
    alone = upstream.batch([noise(SECOND, 4)], (0, 3)).result()[0]
    assert (found[4] - alone).norm() <= 1e-5 * alone.norm()


def test_an_utterance_longer_than_the_window_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    upstream = catalog.load(str(tmp_path))
    assert upstream.max_samples == 30 * SECOND
    with pytest.raises(UserError, match="too long for this model"):
        upstream(torch.zeros(1, 30 * SECOND + 1), torch.tensor([30 * SECOND + 1]))


def test_missing_weights_of_the_encoder_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("encoder.layers.1.fc1.weight")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.1\.fc1\.weight"):
        catalog.load(str(tmp_path))


def test_a_folder_whose_spectra_do_not_fit_its_encoder_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "feature_size": 128}))
    with pytest.raises(UserError, match="128 mel channels"):
        catalog.load(str(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        catalog.load(str(tmp_path))


@pytest.mark.parametrize(
    ("preset", "dim", "layers", "inner", "mels"),
    [
        ("tiny", 384, 4, 1_536, 80),
        ("base", 512, 6, 2_048, 80),
        ("small", 768, 12, 3_072, 80),
        ("medium", 1_024, 24, 4_096, 80),
        ("large", 1_280, 32, 5_120, 80),
        ("large_v2", 1_280, 32, 5_120, 80),
        ("large_v3", 1_280, 32, 5_120, 128),
    ],
)
def test_parameters_are_those_counted_by_hand(preset: str, dim: int, layers: int, inner: int, mels: int) -> None:
    convs = (3 * mels * dim + dim) + (3 * dim * dim + dim)
    attention = 4 * dim * dim + 3 * dim  # no bias on the keys
    block = attention + (dim * inner + inner) + (inner * dim + dim) + 2 * 2 * dim
    with torch.device("meta"):
        model = whisper.build(whisper.presets[preset])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == convs + 1_500 * dim + layers * block + 2 * dim
    assert (model.num_states, model.dim, model.frame_rate) == (layers + 1, dim, 50.0)
    assert dim // whisper.presets[preset].num_heads == 64


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["base", "large_v3"])
def test_full_size_states_equal_those_of_transformers(preset: str) -> None:
    upstream = catalog.load(f"whisper_{preset}", weights="random")
    assert_parity(upstream, upstream.model.encoder, whisper.presets[preset].num_mels, 10 * SECOND)
