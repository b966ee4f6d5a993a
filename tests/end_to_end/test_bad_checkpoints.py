"""Checkpoints that are wrong, damaged or malicious: one screen, exit code 2, nothing run, nothing written."""

import argparse
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SMALL = {
    "conv_dim": [8] * 7,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 8,
}
PREPROCESSOR = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000, "do_normalize": False}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder that loads."""
    return hugging_face(tmp_path / "model")


def hugging_face(folder: Path, kind: str = "Wav2Vec2", model: str = "Model", **settings) -> Path:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **settings})
    getattr(transformers, f"{kind}{model}")(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@pytest.fixture
def turned_away(refused: Callable, corpus: Path) -> Callable[..., str]:
    """A function that asks every command for an upstream which each must refuse, and returns the screen."""

    def ask(upstream: object, *words: str) -> str:
        screens = {
            refused("extract", f"upstream={upstream}", f"manifest={corpus}", *words),
            refused("run", "task=er", f"upstream={upstream}", f"manifest={corpus}", *words),
            refused("export", f"upstream={upstream}", "to=hf:exported", *words),
        }
        assert len(screens) == 1
        return screens.pop()

    return ask


def rewrite(folder: Path, **change: Tensor | None) -> None:
    path = folder / "model.safetensors"
    changed = {name.replace("__", "."): tensor for name, tensor in change.items()}
    state = {name: tensor for name, tensor in {**load_file(path), **changed}.items() if tensor is not None}
    save_file(state, path, {"format": "pt"})


def describe(folder: Path, name: str, **change: object) -> None:
    path = folder / name
    values = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def test_the_folder_of_these_tests_is_taken(wavbench: Callable, folder: Path, corpus: Path, tmp_path: Path) -> None:
    words = (f"upstream={folder}", f"manifest={corpus}", f"stores={tmp_path}", "pool=mean")
    assert wavbench("extract", *words).code == 0


def test_a_wrong_folder_says_what_a_folder_needs(turned_away: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "this folder is no checkpoint" in turned_away("empty")
    assert "there is no such checkpoint" in turned_away("nowhere/model.pt")
    assert "unknown upstream" in turned_away("nowhere/at/all")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "wav2vec2"}')
    assert "this folder has no weights" in turned_away("./model")


@pytest.mark.parametrize("kept", [0, 400, 0.9])
def test_a_truncated_file_is_damaged(turned_away: Callable, folder: Path, tmp_path: Path, kept: float) -> None:
    state = load_file(folder / "model.safetensors")
    settings = argparse.Namespace(arch="wav2vec2")
    torch.save({"args": settings, "model": state}, tmp_path / "new.pt")
    torch.save({"args": settings, "model": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in (folder / "model.safetensors", tmp_path / "new.pt", tmp_path / "old.pt"):
        content = path.read_bytes()
        path.write_bytes(content[: round(kept * len(content)) if kept < 1 else int(kept)])
    for name in (folder, "new.pt", "old.pt", f"hub:{folder}"):
        assert "damaged" in turned_away(name)


class Command:
    """Unpickling it would run a command of the shell."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_run(turned_away: Callable, folder: Path, tmp_path: Path, legacy: bool) -> None:
    target = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    content = {"model": {"x": torch.zeros(1)}, "args": argparse.Namespace(arch="wav2vec2", evil=Command(target))}
    names = ["fairseq.pt", "state.pth", "model/pytorch_model.bin"]
    for name in names:
        value = content if name.endswith(".pt") else {"x": Command(target)}
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    for name in ("fairseq.pt", "state.pth", folder, folder / "pytorch_model.bin"):
        screen = turned_away(name)
        assert "it asks for posix.system, which could run code" in screen
        assert "nothing in it was run" in screen
    assert "way out" in turned_away(f"hub:{folder}")
    assert not target.exists()


def test_a_malicious_pickle_is_not_run_in_a_process_of_its_own(
    command: list[str], corpus: Path, tmp_path: Path
) -> None:
    torch.save({"model": {"x": Command(tmp_path / "ran")}, "cfg": {"model": {}}}, tmp_path / "evil.pt")
    done = subprocess.run(
        [*command, "extract", "upstream=evil.pt", f"manifest={corpus}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: evil.pt is damaged, or holds more than tensors and settings")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_weights_of_another_family_are_listed(turned_away: Callable, folder: Path, tmp_path: Path) -> None:
    describe(folder, "config.json", model_type="wavlm")
    screen = turned_away(folder)
    assert "the weights do not fit the model" in screen
    assert "rel_attn_embed" in screen
    describe(folder, "config.json", model_type="data2vec-audio")
    screen = turned_away(folder)
    assert "missing: encoder.pos_conv_embed.layers.0.conv.bias" in screen
    assert "unexpected: " in screen
    describe(folder, "config.json", model_type="wav2vec2", do_stable_layer_norm=False, feat_extract_norm="layer")
    assert "missing: feature_extractor.conv_layers.1.layer_norm" in turned_away(folder)


@pytest.mark.parametrize("layers", [10**8, -1])
def test_a_depth_that_no_model_has_is_refused_before_it_is_built(
    turned_away: Callable, folder: Path, layers: int
) -> None:
    describe(folder, "config.json", num_hidden_layers=layers)
    screen = turned_away(folder)
    assert "no model can be built of the checkpoint's settings" in screen
    assert "1,000 are the most" in screen


def test_weights_that_are_missing_unknown_or_misshapen_are_named(turned_away: Callable, folder: Path) -> None:
    name = "encoder__layers__0__attention__k_proj__bias"
    rewrite(folder, **{name: None})
    assert "1 missing: encoder.layers.0.attention.k_proj.bias" in turned_away(folder)
    rewrite(folder, **{name: torch.zeros(16), "encoder__surprise": torch.zeros(1)})
    assert "1 unexpected: encoder.surprise" in turned_away(folder)
    rewrite(folder, **{name: torch.zeros(15), "encoder__surprise": None})
    assert "1 misshapen: transformer.blocks.0.attention.qkv.bias (47,), not (48,)" in turned_away(folder)


@pytest.mark.parametrize("door", ["", "hub:"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(turned_away: Callable, folder: Path, door: str, value: float) -> None:
    bias = torch.zeros(16)
    bias[3] = value
    rewrite(folder, encoder__layer_norm__bias=bias)
    screen = turned_away(f"{door}{folder}")
    assert "1 tensors of the checkpoint hold NaN or infinities" in screen
    assert "encoder.layer_norm.bias" in screen if door else "transformer.norm.bias" in screen


@pytest.mark.parametrize("door", ["", "hub:"])
def test_another_sample_rate_is_refused(turned_away: Callable, folder: Path, door: str) -> None:
    describe(folder, "preprocessor_config.json", sampling_rate=8_000)
    screen = turned_away(f"{door}{folder}")
    assert "another sample rate: 8000 Hz" in screen
    assert "preprocessor_config.json" in screen


@pytest.mark.parametrize("door", ["", "hub:"])
def test_a_flag_of_normalisation_that_is_none_is_refused(turned_away: Callable, folder: Path, door: str) -> None:
    for value in ("yes", None, 1):
        describe(folder, "preprocessor_config.json", do_normalize=value)
        assert f"do_normalize is neither true nor false: {value!r}" in turned_away(f"{door}{folder}")
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 16000}')
    assert "do_normalize is missing" in turned_away(f"{door}{folder}")
    (folder / "preprocessor_config.json").write_text("{")
    assert "preprocessor_config.json cannot be read" in turned_away(f"{door}{folder}")


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_missing_flag_of_normalisation_is_said(wavbench: Callable, corpus: Path, tmp_path: Path, norm: str) -> None:
    folder = hugging_face(tmp_path / "model", feat_extract_norm=norm)
    (folder / "preprocessor_config.json").unlink()
    done = wavbench("extract", f"upstream={folder}", f"manifest={corpus}", f"stores={tmp_path}", "pool=mean")
    assert done.code == 0
    does = {"group": "they are not (as", "layer": "they are (as"}[norm]
    assert f"note: the checkpoint does not say whether waveforms are normalised: {does}" in done.out


def test_what_was_left_out_of_a_checkpoint_is_said(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model", model="ForCTC")
    done = wavbench("extract", f"upstream={folder}", f"manifest={corpus}", f"stores={tmp_path}", "pool=mean")
    assert done.code == 0
    assert "weights beside the encoder were left out: lm_head" in done.out


def test_a_layer_that_is_not_there_is_named(refused: Callable, corpus: Path, folder: Path) -> None:
    for layer in ("2", "-1", "0,5"):
        words = (f"upstream={folder}", f"manifest={corpus}", f"layers={layer}")
        last = layer.split(",")[-1]
        assert f"no layer {last}" in refused("extract", *words)
        assert f"no layer {last}" in refused("run", "task=er", *words)


def test_an_unknown_language_is_refused(turned_away: Callable, tmp_path: Path, folder: Path) -> None:
    settings = {"adapter_attn_dim": 4, "do_stable_layer_norm": True}
    mms = hugging_face(tmp_path / "mms", model="ForCTC", **settings)
    for code in ("eng", "deu"):
        save_file({"x": torch.zeros(1)}, mms / f"adapter.{code}.safetensors")
    screen = turned_away(mms, "language=enh")
    assert "there are no adapters for language 'enh'" in screen
    assert "did you mean eng?" in screen
    assert "deu" in screen
    assert "is no language code" in turned_away(mms, "language=../../model/model")
    assert "has no adapters per language" in turned_away(folder, "language=eng")
    assert "unexpected: x" in turned_away(mms, "language=eng")


@pytest.mark.parametrize("to", ["exported", "hf:", "onnx:exported", "hf", ":exported"])
def test_an_export_to_something_else_names_what_there_is(refused: Callable, to: str) -> None:
    screen = refused("export", "upstream=wav2vec2_tiny", f"to={to}")
    assert f"to={to} is not known" in screen
    assert "to=hf:FOLDER" in screen


def test_an_export_that_cannot_be_says_why(refused: Callable, folder: Path, tmp_path: Path) -> None:
    assert "no names are known for fbank" in refused("export", "upstream=fbank", "to=hf:exported")
    assert "already" in refused("export", f"upstream=hub:{folder}", "to=hf:exported")
    assert "is not empty" in refused("export", "upstream=wav2vec2_tiny", f"to=hf:{folder}")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("export", "upstream=wav2vec2_tiny", "to=hf:file")
    assert "file" in refused("export", "upstream=wav2vec2_tiny", "to=hf:file/under")


def test_an_export_is_written_and_named(wavbench: Callable, tmp_path: Path) -> None:
    done = wavbench("export", "upstream=wav2vec2_tiny", f"to=hf:{tmp_path / 'tiny'}", "licence=CC-BY-4.0")
    assert done.code == 0
    assert done.made("checkpoint") == [tmp_path / "tiny"]
    assert "CC-BY-4.0" in (tmp_path / "tiny/README.md").read_text()
