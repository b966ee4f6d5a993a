"""Checkpoints of our own format: they come back as they were written, and say what is wrong when they cannot."""

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from wavbench.upstream import catalog, checkpoints
from wavbench.upstream.errors import UserError
from wavbench.upstream.models import wav2vec2

CONFIG = wav2vec2.Config(
    conv_channels=(8,) * 7,
    dim=16,
    num_layers=1,
    num_heads=2,
    inner_dim=24,
    position_kernel=4,
    position_groups=2,
    pre_norm=True,
)


@pytest.fixture
def model() -> nn.Module:
    return catalog.build_random("wav2vec2", CONFIG, 0)


@pytest.fixture
def path(model: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "new" / "model.safetensors"
    checkpoints.write_checkpoint(path, "wav2vec2", CONFIG, model.state_dict())
    return path


def rewrite(path: Path, **metadata: str) -> None:
    """The same tensors under another description."""
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)


def test_a_checkpoint_comes_back_as_it_was_written(model: nn.Module, path: Path) -> None:
    family, config, state = checkpoints.read_checkpoint(path)
    assert (family, config) == ("wav2vec2", CONFIG)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_checkpoint_loads_by_file_and_by_folder(model: nn.Module, path: Path) -> None:
    by_file, by_folder = catalog.load(str(path)), catalog.load(str(path.parent))
    batch = torch.randn(2, 2_000), torch.tensor([2_000, 1_500])
    with torch.inference_mode():
        reference = model.eval()(*batch).states
    assert torch.equal(by_file(*batch).states, reference)
    assert torch.equal(by_folder(*batch).states, reference)
    assert (by_file.checkpoint, by_folder.checkpoint) == ("model.safetensors", "new")


def test_a_random_twin_keeps_the_config_and_draws_new_weights(path: Path) -> None:
    twin, original = catalog.load(str(path), weights="random", seed=3), catalog.load(str(path))
    assert twin.config == original.config
    assert twin.weights_hash == catalog.load(str(path), weights="random", seed=3).weights_hash
    assert twin.weights_hash != original.weights_hash
    assert twin.checkpoint == "model.safetensors random seed 3"


def test_a_failed_write_leaves_the_old_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write_checkpoint(path, "wav2vec2", CONFIG, {"x": torch.zeros(1)})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_half_precision_weights_are_read_as_float32(model: nn.Module, path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in model.state_dict().items()}
    checkpoints.write_checkpoint(path, "wav2vec2", CONFIG, halves)
    assert {p.dtype for p in catalog.load(str(path)).model.parameters()} == {torch.float32}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        catalog.load(str(tmp_path / "nothing.safetensors"))


@pytest.mark.parametrize("size", [0, 4, 500])
def test_a_truncated_file_is_an_error_of_one_screen(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match="is damaged"):
        catalog.load(str(path))


def test_a_file_of_another_program_is_refused(path: Path) -> None:
    rewrite(path, format="pt")
    with pytest.raises(UserError, match="does not say what model"):
        catalog.load(str(path))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"family": "wav2vec9", "config": "{}"}, "no family 'wav2vec9'"),
        ({"family": "../wav2vec2", "config": "{}"}, "no family"),
        ({"family": "wav2vec2", "config": json.dumps({"width": 3})}, "knows no width"),
        ({"family": "wav2vec2", "config": "not json"}, "cannot be used"),
        ({"family": "wav2vec2"}, "cannot be used"),
    ],
)
def test_a_description_that_cannot_be_used_says_why(path: Path, metadata: dict, reason: str) -> None:
    rewrite(path, format=checkpoints.FORMAT, **metadata)
    with pytest.raises(UserError, match=reason):
        catalog.load(str(path))


def test_weights_that_do_not_fit_are_listed(model: nn.Module, path: Path) -> None:
    state = dict(model.state_dict())
    state["extra"] = state.pop("projection.bias")
    state["projection.weight"] = torch.zeros(2, 2)
    checkpoints.write_checkpoint(path, "wav2vec2", CONFIG, state)
    with pytest.raises(UserError) as error:
        catalog.load(str(path))
    assert "1 missing: projection.bias" in error.value.why
    assert "1 unexpected: extra" in error.value.why
    assert "1 misshapen: projection.weight (2, 2), not (16, 8)" in error.value.why


def test_a_folder_with_several_files_needs_the_name_of_one(path: Path) -> None:
    (path.parent / "other.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"2 \.safetensors files"):
        catalog.load(str(path.parent))
    path.rename(path.with_name("checkpoint.safetensors"))
    assert catalog.load(str(path.parent)).dim == 16


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "ran"))


def hugging_face_folder(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    return folder


def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    folder, target = hugging_face_folder(tmp_path), tmp_path / "ran"
    torch.save({"x": Bomb(target)}, folder / "pytorch_model.bin")
    for name in (str(folder), f"hub:{folder}"):
        with pytest.raises(UserError):
            catalog.load(name)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_a_damaged_pickle_is_an_error_of_one_screen(tmp_path: Path, content: bytes) -> None:
    (hugging_face_folder(tmp_path) / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        catalog.load(str(tmp_path))


def test_an_index_that_names_files_elsewhere_reads_none_of_them(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    index = {"weight_map": {"x": f"../new/{path.name}"}}
    (hugging_face_folder(folder) / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="names files that are not there"):
        catalog.load(str(folder))


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_config_is_an_error_of_one_screen(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        catalog.load(str(tmp_path))


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no weights"):
        catalog.load(str(hugging_face_folder(tmp_path)))
