"""Checkpoints of fairseq and WavLM: settings of argparse and of Hydra, weights under fairseq's names."""

import argparse
import enum
import sys
import types
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.pickles import read_pickle

TOLERANCE = 1e-5  # relative L2, float32
CONVS = "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32,2,2)] + [(32,2,2)]"
SETTINGS = {
    "extractor_mode": "default",
    "conv_feature_layers": CONVS,
    "conv_bias": False,
    "encoder_layers": 2,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "dropout": 0.1,
}
LARGE = SETTINGS | {"extractor_mode": "layer_norm", "conv_bias": True, "layer_norm_first": True}
DATA2VEC = SETTINGS | {"extractor_mode": "layer_norm", "conv_pos": 15, "pos_conv_depth": 3}
WAVLM = SETTINGS | {
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "num_buckets": 32,
    "max_distance": 80,
    "normalize": False,
}


def theirs(kind: str, settings: Mapping) -> nn.Module:
    """The model of transformers that these settings of fairseq describe, every weight random."""
    import transformers

    shape = {
        "conv_dim": [32] * 7,
        "conv_bias": settings["conv_bias"],
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "layer" if settings["extractor_mode"] == "layer_norm" else "group",
        "do_stable_layer_norm": settings["layer_norm_first"],
    }
    if kind == "Data2VecAudio":
        shape |= {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
    if kind == "WavLM":
        shape |= {"num_buckets": 32, "max_bucket_distance": 80}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def fairseq_state(model: nn.Module, data2vec: bool = False) -> dict[str, Tensor]:
    """A model's weights under the names that fairseq's modules have."""
    convs = {"conv": "0", "layer_norm": "2.1" if model.config.feat_extract_norm == "layer" else "2"}
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        parts = name.replace("parametrizations.weight.original1", "weight_v").split(".")
        match parts:
            case ["masked_spec_embed"]:
                parts = ["mask_emb"]
            case ["feature_extractor", "conv_layers", number, kind, last]:
                parts = ["feature_extractor", "conv_layers", number, convs[kind], last]
            case ["feature_projection", "layer_norm", last]:
                parts = ["layer_norm", last]
            case ["feature_projection", "projection", last]:
                parts = ["post_extract_proj", last]
            case ["encoder", "pos_conv_embed", "layers", number, "conv", last]:
                parts = ["encoder", "pos_conv", number, "0", last]
            case ["encoder", "pos_conv_embed", "conv", last]:
                parts = ["encoder", "pos_conv", "0", last]
            case ["encoder", "layers", number, "attention", *rest]:
                known = {"gru_rel_pos_linear": "grep_linear", "gru_rel_pos_const": "grep_a"}
                known |= {"rel_attn_embed": "relative_attention_bias"}
                parts = ["encoder", "layers", number, "self_attn", known.get(rest[0], rest[0]), *rest[1:]]
            case ["encoder", "layers", number, "layer_norm", last]:
                parts = ["encoder", "layers", number, "self_attn_layer_norm", last]
            case ["encoder", "layers", number, "feed_forward", kind, last]:
                parts = ["encoder", "layers", number, {"intermediate_dense": "fc1", "output_dense": "fc2"}[kind], last]
        state[".".join(parts)] = tensor.clone()
    return state


@pytest.fixture
def fairseq_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module called `fairseq.models` for classes that are pickled by name; absent again when files are read."""
    for name in ("fairseq", "fairseq.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    return sys.modules["fairseq.models"]


def hydra_config(module: types.ModuleType, model: Mapping, task: Mapping) -> object:
    """Settings as Hydra keeps them: typed nodes whose types and enumerations are classes of fairseq."""
    mode = enum.Enum("Choices", {name: name for name in ("default", "layer_norm")}, type=str)
    mode.__module__, mode.__qualname__ = module.__name__, "Choices"
    # as the Pythons of fairseq's files wrote members; early releases of 3.11 ask for getattr, which is refused
    mode.__reduce_ex__ = lambda self, _protocol: (type(self), (self.value,))
    kinds = [(name, mode if name == "extractor_mode" else type(value)) for name, value in model.items()]
    kinds.append(("latent_temp", list[float]))
    schema = make_dataclass("Wav2Vec2Config", kinds)
    schema.__module__ = module.__name__
    module.Choices, module.Wav2Vec2Config = mode, schema
    values = {**model, "latent_temp": [2.0, 0.5, 0.99]}
    typed = OmegaConf.merge(OmegaConf.structured(schema), values)
    whole = OmegaConf.create({"model": {}, "task": dict(task), "common": {"seed": 1, "log": None}})
    whole.model = typed
    whole.common.again = "${common.seed}"
    return whole


def write(path: Path, settings: object, state: Mapping, key: str = "cfg", **more: object) -> Path:
    torch.save({key: settings, "model": OrderedDict(state), **more}, path)
    return path


def assert_parity(path: Path, family: str, model: nn.Module) -> catalog.Upstream:
    """Every state of the file's native model equals the state of `model`."""
    upstream = catalog.load(str(path))
    assert upstream.config["family"] == family
    waveform = 0.1 * torch.randn(1, 5_000, generator=torch.Generator().manual_seed(1))
    states = upstream(waveform, torch.tensor([5_000])).states
    if upstream.config["normalise"]:
        waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
    with torch.inference_mode():
        output = model(waveform, output_hidden_states=True)
    references = [*output.hidden_states[:-1], output.last_hidden_state]
    assert len(references) == upstream.num_states
    worst = max(((states[:, k] - r).norm() / r.norm()).item() for k, r in enumerate(references))
    assert worst <= TOLERANCE
    return upstream


@pytest.mark.parametrize("settings", [SETTINGS, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("legacy", [False, True])
def test_settings_of_argparse_give_the_states_of_transformers(
    settings: dict, kind: str, legacy: bool, tmp_path: Path
) -> None:
    model = theirs({"wav2vec2": "Wav2Vec2", "hubert": "Hubert"}[kind], settings)
    arguments = argparse.Namespace(arch=kind, normalize=settings is LARGE, data=Path("/data"), **settings)
    content = {"args": arguments, "cfg": None, "model": fairseq_state(model), "extra_state": {"epoch": 1}}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=not legacy)
    upstream = assert_parity(tmp_path / "old.pt", kind, model)
    assert upstream.config["normalise"] is (settings is LARGE)
    assert upstream.left_out == ("mask_emb",)
    assert upstream.notes == ()


@pytest.mark.parametrize("settings", [SETTINGS, LARGE], ids=["base", "large"])
def test_settings_of_hydra_give_the_states_of_transformers(
    settings: dict, tmp_path: Path, fairseq_module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = theirs("Hubert", settings)
    config = hydra_config(fairseq_module, {"_name": "hubert", **settings}, {"normalize": True, "labels": ["km"]})
    write(tmp_path / "new.pt", config, fairseq_state(model) | {"label_embs_concat": torch.zeros(3, 4)}, args=None)
    monkeypatch.undo()  # no module of that name is there any more
    assert "fairseq" not in sys.modules
    upstream = assert_parity(tmp_path / "new.pt", "hubert", model)
    assert upstream.config["normalise"] is True
    assert upstream.left_out == ("label_embs_concat", "mask_emb")
    assert "2 weights beside the encoder were left out: label_embs_concat, mask_emb" in upstream.remarks()


def test_a_hydra_config_is_opened_to_plain_values(tmp_path: Path, fairseq_module: types.ModuleType) -> None:
    config = hydra_config(fairseq_module, {"_name": "hubert", **LARGE}, {"normalize": True, "labels": ["km", None]})
    torch.save({"cfg": config}, tmp_path / "new.pt")
    opened: Any = read_pickle(tmp_path / "new.pt")
    assert opened["cfg"]["model"] == {"_name": "hubert", **LARGE, "latent_temp": [2.0, 0.5, 0.99]}
    assert opened["cfg"]["task"] == {"normalize": True, "labels": ["km", None]}


def test_data2vec_leaves_its_teacher_out(tmp_path: Path) -> None:
    model = theirs("Data2VecAudio", DATA2VEC)
    model.config.feat_extract_norm = "layer"
    state = fairseq_state(model) | {"_ema": {"encoder.x": torch.zeros(2)}, "final_proj.0.weight": torch.zeros(2, 2)}
    config = {"model": {"_name": "data2vec_audio", **DATA2VEC}, "task": {"normalize": True}}
    upstream = assert_parity(write(tmp_path / "data2vec.pt", config, state), "data2vec", model)
    assert {"_ema", "final_proj.0.weight", "mask_emb"} <= set(upstream.left_out)


@pytest.mark.parametrize("large", [False, True])
def test_wavlm_has_all_settings_in_one(large: bool, tmp_path: Path) -> None:
    settings = WAVLM | ({"extractor_mode": "layer_norm", "layer_norm_first": True, "normalize": True} if large else {})
    model = theirs("WavLM", settings)
    upstream = assert_parity(write(tmp_path / "wavlm.pt", settings, fairseq_state(model)), "wavlm", model)
    assert upstream.config["normalise"] is large


@pytest.mark.parametrize("inner", ["hydra", "argparse"])
def test_a_ctc_checkpoint_gives_its_encoder_and_names_the_rest(inner: str, tmp_path: Path) -> None:
    model = theirs("Wav2Vec2", LARGE)
    state = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in fairseq_state(model).items()}
    state |= {"w2v_encoder.proj.weight": torch.zeros(3, 48), "w2v_encoder.proj.bias": torch.zeros(3)}
    pretrained: object = argparse.Namespace(arch="wav2vec2", normalize=True, **LARGE)
    if inner == "hydra":
        pretrained = {"model": {"_name": "wav2vec2", **LARGE}, "task": {"normalize": True}}
    config = {"model": {"_name": "wav2vec_ctc", "w2v_args": pretrained, "normalize": "${task.normalize}"}, "task": {}}
    upstream = assert_parity(write(tmp_path / "ctc.pt", config, state), "wav2vec2", model)
    assert "w2v_encoder.proj.weight" in upstream.left_out
    assert "w2v_encoder.w2v_model.mask_emb" in upstream.left_out
    assert upstream.config["normalise"] is True

    config["model"] |= {"w2v_args": None, "w2v_path": "/checkpoints/xlsr.pt"}
    write(tmp_path / "ctc.pt", config, state)
    with pytest.raises(UserError, match=r"fine-tuned from /checkpoints/xlsr\.pt"):
        catalog.load(str(tmp_path / "ctc.pt"))


@pytest.mark.parametrize("settings", [SETTINGS, LARGE], ids=["base", "large"])
def test_a_missing_flag_of_normalisation_follows_the_rule_and_is_said(settings: dict, tmp_path: Path) -> None:
    model = theirs("Wav2Vec2", settings)
    arguments = argparse.Namespace(arch="wav2vec2", **settings)
    upstream = assert_parity(write(tmp_path / "a.pt", arguments, fairseq_state(model), "args"), "wav2vec2", model)
    assert upstream.config["normalise"] is (settings is LARGE)
    assert "does not say whether waveforms are normalised" in " ".join(upstream.remarks())


@pytest.mark.parametrize("name", ["wav2vec", "vq_wav2vec"])
def test_families_that_read_fairseq_themselves_are_asked(name: str, tmp_path: Path) -> None:
    module = catalog.family(name)
    settings = {"conv_feature_layers": "[(16, 10, 5), (16, 8, 4)]", "conv_aggregator_layers": "[(16, 2, 1)] * 2"}
    settings |= {"vq_type": "gumbel", "vq_vars": 5, "vq_groups": 2} if name == "vq_wav2vec" else {}
    config = module.from_fairseq(settings)
    model = catalog.build_random(name, config, 3)
    names = module.fairseq_names(config)
    weights = model.state_dict()
    state = {theirs: weights[ours] for ours, (theirs,) in names.items()}
    state[f"{module.FAIRSEQ_LEFT_OUT[0]}weight"] = torch.zeros(2)
    path = write(tmp_path / "vq.pt", argparse.Namespace(arch="wav2vec", **settings), state, "args")
    upstream = catalog.load(str(path))
    assert upstream.config["family"] == name
    assert upstream.left_out == (f"{module.FAIRSEQ_LEFT_OUT[0]}weight",)
    assert upstream.weights_hash == catalog.Upstream("x", model, config={}, checkpoint="x").weights_hash


def test_a_random_twin_of_a_checkpoint_draws_new_weights(tmp_path: Path) -> None:
    state = fairseq_state(theirs("Wav2Vec2", SETTINGS))
    path = write(tmp_path / "a.pt", argparse.Namespace(arch="wav2vec2", **SETTINGS), state, "args")
    twin, original = catalog.load(str(path), weights="random", seed=3), catalog.load(str(path))
    assert twin.config == original.config
    assert twin.weights_hash != original.weights_hash
    assert twin.checkpoint == "a.pt random seed 3"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "roberta"}, "no native family reads a fairseq model 'roberta'"),
        ({"arch": ""}, "no native family reads"),
        ({"activation_fn": "relu"}, "activation_fn=relu"),
        ({"layer_type": "conformer"}, "layer_type=conformer"),
        ({"pos_conv_depth": 5}, "pos_conv_depth=5"),
        ({"pos_conv_depth": "deep"}, "settings of the model cannot be used"),
        ({"quantize_input": True}, "quantize_input=True"),
        ({"encoder_layers": None}, "lack encoder_layers"),
        ({"encoder_layers": 3}, "16 missing: encoder.layers.2"),
        ({"conv_feature_layers": "__import__('os').system('true')"}, "list of convolutions cannot be read"),
        ({"conv_feature_layers": "[(1, 1, 1)] * 10000000000"}, "list of convolutions cannot be read"),
        ({"conv_feature_layers": None}, "lack conv_feature_layers"),
        ({"encoder_embed_dim": 64}, "misshapen"),
        ({"encoder_attention_heads": 5}, "5 heads do not divide 48"),
        ({"arch": "hubert", "extractor_mode": "layer_norm"}, "missing"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_followed_say_why(change: dict, said: str, tmp_path: Path) -> None:
    state = fairseq_state(theirs("Wav2Vec2", SETTINGS))
    arguments = argparse.Namespace(**{"arch": "wav2vec2", **SETTINGS, **change})
    with pytest.raises(UserError, match=said):
        catalog.load(str(write(tmp_path / "a.pt", arguments, state, "args")))


def test_a_random_twin_of_settings_that_are_of_no_model_says_why(tmp_path: Path) -> None:
    state = fairseq_state(theirs("Wav2Vec2", SETTINGS))
    arguments = argparse.Namespace(**{"arch": "wav2vec2", **SETTINGS, "encoder_attention_heads": 5})
    with pytest.raises(UserError, match="5 heads do not divide 48"):
        catalog.load(str(write(tmp_path / "a.pt", arguments, state, "args")), weights="random")


def test_weights_without_names_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="knows the layout"):
        catalog.load(str(write(tmp_path / "a.pt", argparse.Namespace(arch="wav2vec2"), {0: torch.ones(2)}, "args")))


def test_weights_of_another_family_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", WAVLM, fairseq_state(theirs("Wav2Vec2", SETTINGS)))
    with pytest.raises(UserError, match=r"missing: encoder\.layers\.0\.attention\.gru_rel_pos_const"):
        catalog.load(str(path))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    for bad in (float("nan"), float("inf")):
        state = fairseq_state(theirs("Wav2Vec2", SETTINGS))
        state["encoder.layers.1.fc1.bias"][3] = bad
        path = write(tmp_path / "a.pt", argparse.Namespace(arch="wav2vec2", **SETTINGS), state, "args")
        with pytest.raises(UserError, match=r"transformer\.blocks\.1\.feed_forward\.inner\.bias"):
            catalog.load(str(path))
