"""Folders for transformers: what stands beside the weights decides what a model hears."""

import json
from pathlib import Path

import pytest
import torch

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.layers.waveform import UNIT_VARIANCE

CONVS = {
    "conv_dim": [16] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
EARS = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 16_000}


def write(kind: str, folder: Path, **settings) -> torch.nn.Module:
    """A folder with random weights."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    model.save_pretrained(folder)
    return model


def spectral(folder: Path) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    write("Wav2Vec2Bert", folder, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    SeamlessM4TFeatureExtractor().save_pretrained(folder)


@pytest.mark.parametrize("kind", ["Wav2Vec2", "UniSpeechSat"])
def test_the_file_that_newer_releases_write_says_how_waveforms_are_prepared(kind: str, tmp_path: Path) -> None:
    write(kind, tmp_path, **CONVS)
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": EARS, "processor_class": "P"}))
    newer = catalog.load(str(tmp_path))
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(EARS))
    older = catalog.load(str(tmp_path))
    assert newer.config == older.config
    assert newer.normalisation == older.normalisation == UNIT_VARIANCE
    waveform, length = 3 + torch.randn(1, 6_000), torch.tensor([6_000])
    torch.testing.assert_close(newer(waveform, length).states, older(waveform, length).states)


def test_another_sample_rate_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    write("Wav2Vec2", tmp_path, **CONVS)
    told = {"feature_extractor": {**EARS, "sampling_rate": 8_000}}
    (tmp_path / "processor_config.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="another sample rate: 8000 Hz"):
        catalog.load(str(tmp_path))


def test_states_that_are_pooled_further_have_their_own_rate(tmp_path: Path) -> None:
    write("SEW", tmp_path, **CONVS, squeeze_factor=2)
    upstream = catalog.load(str(tmp_path))
    assert upstream.frame_rate == 25.0
    for samples in (upstream.min_samples, 16_000, 32_000):
        features = upstream(0.1 * torch.randn(1, samples), torch.tensor([samples]))
        assert features.lengths[0] >= 1
        assert features.lengths[0] == pytest.approx(25 * samples / 16_000, abs=1)


def test_a_model_without_its_feature_extractor_is_refused(tmp_path: Path) -> None:
    spectral(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="gives no states for a second of sound") as error:
        catalog.load(str(tmp_path))
    assert "neither preprocessor_config.json nor" in error.value.why
    assert "\n" not in error.value.why


def test_a_model_that_sees_a_fixed_picture_of_sound_is_refused(tmp_path: Path) -> None:
    from transformers import ASTFeatureExtractor

    write(
        "AST", tmp_path, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_length=128,
    )  # fmt: skip
    ASTFeatureExtractor(max_length=128).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="gives no states for a second of sound"):
        catalog.load(str(tmp_path))


def test_a_depth_that_no_model_has_is_refused_before_it_is_built(tmp_path: Path) -> None:
    write("UniSpeechSat", tmp_path, **CONVS)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 10**8}))
    with pytest.raises(UserError, match="cannot open this folder") as error:
        catalog.load(str(tmp_path))
    assert "num_hidden_layers is 100,000,000" in error.value.why


def test_features_of_another_feature_extractor_are_other_features(tmp_path: Path) -> None:
    spectral(tmp_path)
    before = catalog.load(str(tmp_path)).config
    assert catalog.load(str(tmp_path)).config == before
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_value": 0.5}))
    assert catalog.load(str(tmp_path)).config != before
