"""The native wav2vec 2.0 against transformers, weights copied through the official folder layout."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavbench.upstream import catalog, hugging_face
from wavbench.upstream.errors import UserError

TOLERANCE = 1e-5  # relative L2, float32
SMALL = {
    "conv_dim": [32] * 7,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
}


def theirs(kind: str = "Wav2Vec2Model", **settings) -> torch.nn.Module:
    """A model of transformers whose every weight is random: norms and biases of fresh models are trivial."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.Wav2Vec2Config(**{**SMALL, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def distance(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


def assert_parity(folder: Path, model: torch.nn.Module, samples: int = 9_000) -> float:
    """Every state of the folder's native model equals the state of `model`; returns the largest distance."""
    upstream = catalog.load(str(folder))
    assert upstream.config["family"] == "wav2vec2"
    waveform = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(1))
    features = upstream(waveform, torch.tensor([samples]))
    if upstream.config["normalise"]:
        waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
    with torch.inference_mode():
        output = model(waveform, output_hidden_states=True)
    references = [*output.hidden_states[:-1], output.last_hidden_state]
    assert len(references) == upstream.num_states
    worst = max(distance(features.states[:, k], reference) for k, reference in enumerate(references))
    assert worst <= TOLERANCE
    return worst


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_every_state_equals_that_of_transformers(norm: str, pre_norm: bool, bias: bool, tmp_path: Path) -> None:
    model = theirs(feat_extract_norm=norm, do_stable_layer_norm=pre_norm, conv_bias=bias)
    model.save_pretrained(tmp_path)
    assert_parity(tmp_path, model)


@pytest.mark.parametrize("samples", [400, 719, 720, 3_333])
def test_short_utterances_equal_those_of_transformers(samples: int, tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path)
    assert_parity(tmp_path, model, samples)


def test_an_utterance_longer_than_a_chunk_equals_that_of_transformers(tmp_path: Path) -> None:
    model = theirs(conv_dim=[8] * 7, num_hidden_layers=1)
    model.save_pretrained(tmp_path)
    assert_parity(tmp_path, model, 2 * 500 * 320 + 1_234)


def test_an_odd_positional_kernel_equals_that_of_transformers(tmp_path: Path) -> None:
    model = theirs(num_conv_pos_embeddings=15)
    model.save_pretrained(tmp_path)
    assert_parity(tmp_path, model)


@pytest.mark.parametrize("do_normalize", [True, False])
def test_the_waveform_is_normalised_as_the_preprocessor_says(do_normalize: bool, tmp_path: Path) -> None:
    model = theirs(feat_extract_norm="layer")
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": do_normalize}))
    assert catalog.load(str(tmp_path)).config["normalise"] is do_normalize
    assert_parity(tmp_path, model)


def test_old_names_of_the_weight_norm_load_alike(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    before = catalog.load(str(tmp_path)).weights_hash
    pairs = [("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")]
    if any("weight_g" in name for name in state):  # then this version of transformers writes the old names
        pairs = [(old, new) for new, old in pairs]
    renamed = {
        name.replace(pairs[0][0], pairs[0][1]).replace(pairs[1][0], pairs[1][1]): tensor
        for name, tensor in state.items()
    }
    assert set(renamed) != set(state)
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    assert catalog.load(str(tmp_path)).weights_hash == before
    assert_parity(tmp_path, model)


@pytest.mark.parametrize(("kind", "extra"), [("Wav2Vec2ForPreTraining", "quantizer."), ("Wav2Vec2ForCTC", "lm_head.")])
def test_checkpoints_with_a_head_give_their_encoder_and_name_the_rest(kind: str, extra: str, tmp_path: Path) -> None:
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    left_out = hugging_face.read_hugging_face(tmp_path).left_out
    assert any(name.startswith(extra) for name in left_out)
    assert "masked_spec_embed" in left_out
    assert_parity(tmp_path, model.wav2vec2)


def test_weights_in_several_files_and_in_a_pickle_of_tensors_load_alike(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="50KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_bytes((tmp_path / "one" / "config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    assert len({catalog.load(str(tmp_path / name)).weights_hash for name in ("one", "many", "bin")}) == 1


def test_missing_unknown_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    victim = "encoder.layers.0.attention.k_proj.weight"

    save_file({k: v for k, v in state.items() if k != victim}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"1 missing: {victim}"):
        catalog.load(str(tmp_path))
    save_file({**state, "encoder.surprise": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 unexpected: encoder\.surprise"):
        catalog.load(str(tmp_path))
    save_file({**state, victim: torch.zeros(7, 48)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"blocks\.0\.attention\.qkv\.weight"):
        catalog.load(str(tmp_path))
    save_file({**state, victim: torch.zeros(7, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="do not fit together"):
        catalog.load(str(tmp_path))


@pytest.mark.parametrize(
    "settings", [{"add_adapter": True}, {"hidden_act": "relu"}, {"feat_extract_activation": "relu"}]
)
def test_what_the_native_file_cannot_be_goes_through_transformers(settings: dict, tmp_path: Path) -> None:
    model = theirs(**settings)
    model.save_pretrained(tmp_path)
    upstream = catalog.load(str(tmp_path))
    assert upstream.config["family"] == "hub"
    assert upstream.needs_equal_lengths
    features = upstream(torch.randn(1, 4_000), torch.tensor([4_000]))
    assert features.states.shape == (1, 4, 12, 48)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_both_doors_give_the_same_features(norm: str, tmp_path: Path) -> None:
    theirs(feat_extract_norm=norm, do_stable_layer_norm=True).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": norm == "layer"}))
    native, hub = catalog.load(str(tmp_path)), catalog.load(f"hub:{tmp_path}")
    assert (native.config["family"], hub.config["family"]) == ("wav2vec2", "hub")
    for name in ("num_states", "dim", "frame_rate", "min_samples", "normalisation"):
        assert getattr(native, name) == getattr(hub, name)
    waveforms, lengths = torch.randn(3, 6_000), torch.tensor([6_000, 399, 4_321])
    ours, reference = native(waveforms, lengths), hub(waveforms, lengths)
    assert ours.lengths.tolist() == reference.lengths.tolist()
    assert distance(ours.states, reference.states) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_full_size_states_equal_those_of_transformers(norm: str, pre_norm: bool, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    settings = {"feat_extract_norm": norm, "do_stable_layer_norm": pre_norm}
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**settings)).eval()
    model.save_pretrained(tmp_path)
    worst = assert_parity(tmp_path, model, 80_000)
    print(f"largest relative L2 difference at BASE size, {norm}, pre_norm={pre_norm}: {worst:.2e}")
