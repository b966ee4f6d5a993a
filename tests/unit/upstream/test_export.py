"""Exported folders: `transformers.AutoModel` opens them with our states, and they come back as they went."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from wavbench.upstream import catalog, export
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.export import export_hugging_face

TOLERANCE = 1e-5  # relative L2, float32
SHAPE = {"conv_channels": (24,) * 7, "dim": 32, "num_layers": 2, "num_heads": 4, "inner_dim": 48}
SHAPE |= {"position_kernel": 8, "position_groups": 4, "dropout": 0.1, "layerdrop": 0.05}
LARGE = {"normalise": True, "conv_norm": "layer", "conv_bias": True, "pre_norm": True}
CASES = [
    ("wav2vec2", {}),
    ("wav2vec2", LARGE),
    ("wav2vec2", LARGE | {"adapter_dim": 6}),
    ("wav2vec2", {"pre_norm": True, "eps": 1e-3}),
    ("hubert", {}),
    ("hubert", LARGE),
    ("wavlm", {"buckets": 16, "max_distance": 40}),
    ("wavlm", LARGE | {"conv_bias": False}),
    ("data2vec", {"position_kernel": 5, "position_depth": 2}),
]
PLAIN = {"position_depth": 0, "pre_norm": True, "conv_norm": "group", "normalise": False}  # data2vec's smaller presets


def random_upstream(family: str, **changes) -> Upstream:
    """A small model of a family, every weight random."""
    config = dataclasses.replace(catalog.family(family).Config(), **{**SHAPE, **changes})
    model = catalog.build_random(family, config, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return Upstream(family, model, config=catalog.describe(family, config), checkpoint="of a test")


@pytest.mark.parametrize(("family", "changes"), CASES, ids=str)
def test_auto_model_opens_an_export_with_equal_states(family: str, changes: dict, tmp_path: Path) -> None:
    import transformers

    upstream = random_upstream(family, **changes)
    folder = export_hugging_face(upstream, tmp_path / "new" / "model", licence="MIT")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    model, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    waveform = 0.1 * torch.randn(5_000, generator=torch.Generator().manual_seed(1))
    inputs = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        output = model.eval()(**inputs, output_hidden_states=True)
    states = upstream(waveform[None], torch.tensor([5_000])).states
    references = [*output.hidden_states[:-1], output.last_hidden_state]
    assert len(references) == upstream.num_states
    for k, reference in enumerate(references):
        assert ((states[:, k] - reference).norm() / reference.norm()).item() <= TOLERANCE


@pytest.mark.parametrize(("family", "changes"), CASES, ids=str)
def test_an_export_comes_back_as_it_went(family: str, changes: dict, tmp_path: Path) -> None:
    upstream = random_upstream(family, **changes)
    again = catalog.load(str(export_hugging_face(upstream, tmp_path / "model")))
    assert again.weights_hash == upstream.weights_hash
    training = dict.fromkeys(export.TRAINING, 0.0)  # from a folder comes a model for inference
    assert again.config == {**upstream.config, **training}
    assert again.remarks() == []


def test_a_data2vec_with_the_positions_of_wav2vec2_leaves_as_a_wav2vec2(tmp_path: Path) -> None:
    upstream = random_upstream("data2vec", **PLAIN)
    folder = export_hugging_face(upstream, tmp_path / "model")
    again = catalog.load(str(folder))
    assert again.config["family"] == "wav2vec2"
    assert "wav2vec2 encoder" in (folder / "README.md").read_text()
    assert again.weights_hash == upstream.weights_hash
    waveform = 0.1 * torch.randn(1, 5_000, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([5_000])
    assert torch.equal(again(waveform, lengths).states, upstream(waveform, lengths).states)


def test_a_checkpoint_in_half_precision_comes_back_as_it_went(tmp_path: Path) -> None:
    upstream = catalog.load("wav2vec2_tiny")
    again = catalog.load(str(export_hugging_face(upstream, tmp_path / "tiny")))
    assert again.weights_hash == upstream.weights_hash


def test_a_model_that_computes_in_bfloat16_is_exported_as_any(tmp_path: Path) -> None:
    upstream = random_upstream("hubert")
    export_hugging_face(upstream, tmp_path / "fp32")
    upstream.set_precision("bf16")
    export_hugging_face(upstream, tmp_path / "bf16")
    contents = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("fp32", "bf16")]
    assert contents[0] == contents[1]


def test_the_card_says_where_the_weights_come_from(tmp_path: Path) -> None:
    upstream = random_upstream("hubert")
    card = (export_hugging_face(upstream, tmp_path / "mine") / "README.md").read_text()
    for part in (
        "of a test",
        upstream.weights_hash,
        "licence of the weights: unknown",
        "HubertModel",
        "not normalised",
    ):
        assert part in card
    card = (export_hugging_face(upstream, tmp_path / "ours", licence="CC-BY 4.0") / "README.md").read_text()
    assert "licence of the weights: CC-BY 4.0" in card


def test_the_preprocessor_says_what_the_model_was_trained_with(tmp_path: Path) -> None:
    for changes in ({}, LARGE):
        folder = export_hugging_face(random_upstream("wav2vec2", **changes), tmp_path / str(len(changes)))
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        assert settings["do_normalize"] is bool(changes)
        assert settings["sampling_rate"] == 16_000


@pytest.mark.parametrize("name", ["fbank", "hub_wavlm_tiny", "wav2vec_base"])
def test_what_transformers_does_not_have_is_refused_with_the_families_that_it_has(name: str, tmp_path: Path) -> None:
    upstream = catalog.load(name, weights=None if name == "fbank" else "random")
    with pytest.raises(UserError, match="cannot be exported") as error:
        export_hugging_face(upstream, tmp_path / "model")
    assert "already" in error.value.why if name.startswith("hub") else "hubert" in error.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_settings_that_transformers_has_no_place_for_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no place for pre_norm=True"):
        export_hugging_face(random_upstream("data2vec", pre_norm=True), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_never_overwritten(tmp_path: Path) -> None:
    upstream = random_upstream("wav2vec2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name, said in (("full", "not empty"), ("file", "is a file")):
        with pytest.raises(UserError, match=said):
            export_hugging_face(upstream, tmp_path / name)
    assert (tmp_path / "full" / "mine").read_text() == (tmp_path / "file").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert (export_hugging_face(upstream, tmp_path / "empty") / "config.json").is_file()


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = random_upstream("wav2vec2")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        export_hugging_face(upstream, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_exported_weights_are_those_of_a_model_on_any_device(tmp_path: Path) -> None:
    upstream = random_upstream("wav2vec2")
    upstream.model = nn.Module.half(upstream.model)  # as a device may hold them
    folder = export_hugging_face(upstream, tmp_path / "model")
    assert {p.dtype for p in catalog.load(str(folder)).model.parameters()} == {torch.float32}
