"""The native HuBERT, WavLM, data2vec and MMS against transformers, weights copied through official folders."""

import json
from pathlib import Path

import pytest
import torch

from wavbench.upstream import catalog
from wavbench.upstream.models import data2vec

TOLERANCE = 1e-5  # relative L2, float32
SMALL = {
    "conv_dim": [32] * 7,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_conv_pos_embedding_groups": 4,
}
WIDE = {"num_conv_pos_embeddings": 16}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
MODELS = {
    "hubert": ("Hubert", {**SMALL, **WIDE}),
    "hubert pre-norm": ("Hubert", {**SMALL, **WIDE, **STABLE}),
    "wavlm": ("WavLM", {**SMALL, **WIDE}),
    "wavlm pre-norm": ("WavLM", {**SMALL, **WIDE, **STABLE}),
    "wavlm few buckets": ("WavLM", {**SMALL, **WIDE, "num_buckets": 12, "max_bucket_distance": 20}),
    "data2vec": ("Data2VecAudio", {**SMALL}),
    "data2vec other kernels": ("Data2VecAudio", {**SMALL, "conv_pos_kernel_size": 6, "num_conv_pos_embeddings": 3}),
    "mms": ("Wav2Vec2", {**SMALL, **WIDE, **STABLE, "adapter_attn_dim": 5}),
}
every_model = pytest.mark.parametrize("name", MODELS)


def theirs(name: str, scale: float = 0.05, **settings) -> torch.nn.Module:
    """A model of transformers whose every weight is random: norms, biases and gates of fresh models are trivial."""
    import transformers

    kind, plain = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**plain, **settings})
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def worst_distance(folder: Path, model: torch.nn.Module, samples: int) -> float:
    """Largest relative L2 distance of a state of the folder's native model from the same state of `model`."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    upstream = catalog.load(str(folder))
    assert upstream.config["family"] != "hub"
    waveform = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(1))
    features = upstream(waveform, torch.tensor([samples]))
    with torch.inference_mode():
        output = model(waveform, output_hidden_states=True)
    references = [*output.hidden_states[:-1], output.last_hidden_state]
    assert len(references) == upstream.num_states
    return max(
        ((features.states[:, k] - reference).norm() / reference.norm()).item() for k, reference in enumerate(references)
    )


@every_model
@pytest.mark.parametrize("samples", [400, 9_333])
def test_every_state_equals_that_of_transformers(name: str, samples: int, tmp_path: Path) -> None:
    assert worst_distance(tmp_path, theirs(name), samples) <= TOLERANCE


def test_relative_positions_beyond_the_farthest_bucket_equal_those_of_transformers(tmp_path: Path) -> None:
    model = theirs("wavlm", conv_dim=[8] * 7, num_hidden_layers=2)
    assert worst_distance(tmp_path, model, 1_000 * 320) <= TOLERANCE


def test_the_gate_matters(tmp_path: Path) -> None:
    """Otherwise parity would hold without it."""
    model = theirs("wavlm")
    before = worst_distance(tmp_path / "one", model, 9_333)
    with torch.no_grad():
        model.encoder.layers[1].attention.gru_rel_pos_const.add_(5.0)
    model.save_pretrained(tmp_path / "two")
    one, two = (catalog.load(str(tmp_path / name)) for name in ("one", "two"))
    waveform = 0.1 * torch.randn(1, 9_333, generator=torch.Generator().manual_seed(1))
    states = [upstream(waveform, torch.tensor([9_333])).states[:, -1] for upstream in (one, two)]
    assert before <= TOLERANCE < ((states[0] - states[1]).norm() / states[0].norm()).item() / 10


FULL = {
    "hubert": {},
    "hubert pre-norm": {"num_hidden_layers": 4, "hidden_size": 1024, "num_attention_heads": 16},
    "wavlm": {},
    "wavlm pre-norm": {"num_hidden_layers": 4, "hidden_size": 1024, "num_attention_heads": 16},
    "data2vec": {},
    "mms": {"num_hidden_layers": 4, "hidden_size": 1280, "num_attention_heads": 16, "adapter_attn_dim": 16},
}


def test_a_data2vec_without_positional_convolutions_is_left_to_transformers() -> None:
    """Of the Hub such a model has none; of ours it has wav2vec 2.0's."""
    assert data2vec.from_hugging_face({"num_conv_pos_embeddings": 3}, None) is not None
    assert data2vec.from_hugging_face({"num_conv_pos_embeddings": 0}, None) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_states_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    full = {
        "conv_dim": [512] * 7,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "num_conv_pos_embedding_groups": 16,
    }
    full["num_conv_pos_embeddings"] = 5 if name == "data2vec" else 128
    worst = worst_distance(tmp_path, theirs(name, 0.0, **{**full, **FULL[name]}), 80_000)
    print(f"largest relative L2 difference at full width, {name}: {worst:.2e}")
    assert worst <= TOLERANCE
