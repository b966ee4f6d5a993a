"""A head that is written comes back as it was, and nothing else comes back."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wavbench.downstream.fit import HeadStack
from wavbench.downstream.fold import Head, head_of
from wavbench.downstream.saved import HASHED, add_about, load_heads, record_of, refuse_other_upstream, save_heads
from wavbench.downstream.use import classify, tokens_of, words_of
from wavbench.upstream.errors import UserError

DIM, LAYERS, SYMBOLS = 6, (0, 2, 5), ("anger", "calm", "joy")


def made(name: str = "mean_linear", single: int | None = None, seed: int = 0) -> Head:
    torch.manual_seed(seed)
    layers = LAYERS if single is None else (single,)
    places = [] if single is None else [0]
    build = head_of(name).build
    model = HeadStack(int(single is None), places, len(layers), lambda n: build(n, DIM, len(SYMBOLS)), DIM).eval()
    shape = (len(layers), 1, DIM)
    return Head(model, layers, SYMBOLS, torch.randn(shape), torch.rand(shape) + 0.5, 1e-3)


def write(folder: Path, *heads: Head, name: str = "mean_linear", **about: object) -> Path:
    upstream = {"name": "wav2vec2_tiny", "weights_hash": "ab" * 16}
    about = about or {"a": 1}
    return save_heads(folder, heads, task="er", objective="Classify", name=name, upstream=upstream, about=about)


@pytest.mark.parametrize("name", ["mean_linear", "attentive", "ecapa"])
def test_heads_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    heads = [made(name, seed=1), made(name, single=4, seed=2)]
    saved = load_heads(write(tmp_path / "head", *heads, name=name))
    assert (saved.task, saved.layers, saved.about) == ("er", (0, 2, 4, 5), {"a": 1})
    for before, after in zip(heads, saved.heads, strict=True):
        assert (before.layers, before.symbols, before.rate) == (after.layers, after.symbols, after.rate)
        assert torch.equal(before.shift, after.shift)
        for key, value in before.model.state_dict().items():
            assert torch.equal(value, after.model.state_dict()[key]), key
    shares = classify(saved, torch.randn(4, 30, DIM))
    assert set(shares) == set(SYMBOLS)
    assert sum(shares.values()) == pytest.approx(1)


def test_a_saved_head_gives_the_probabilities_of_the_head_on_pooled_frames(tmp_path: Path) -> None:
    head, states = made(), torch.randn(3, 20, DIM)
    shares = classify(load_heads(write(tmp_path / "head", head)), states)
    features = (states.mean(dim=1, keepdim=True) - head.shift) * head.scale
    expected = head.model(features)[0, 0].softmax(dim=0)
    for symbol, share in zip(SYMBOLS, expected.tolist(), strict=True):
        assert shares[symbol] == pytest.approx(share, rel=1e-5)


def test_another_upstream_is_refused(tmp_path: Path) -> None:
    saved = load_heads(write(tmp_path / "head", made()))
    refuse_other_upstream(saved, "ab" * 16, "wav2vec2_tiny")
    with pytest.raises(UserError, match="trained on another upstream than hubert_tiny") as caught:
        refuse_other_upstream(saved, "cd" * 16, "hubert_tiny")
    assert "abab" in caught.value.why


def change(folder: Path, **values: object) -> None:
    path = folder / "head.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def fold(folder: Path, **values: object) -> None:
    change(folder, folds=[json.loads((folder / "head.json").read_text())["folds"][0] | values])


def tensors(folder: Path, **values: torch.Tensor) -> None:
    """Other weights, with a description that knows nothing of them, as one from before there were hashes."""
    save_file(load_file(folder / "head.safetensors") | values, folder / "head.safetensors")
    described = json.loads((folder / "head.json").read_text())
    del described[HASHED]
    (folder / "head.json").write_text(json.dumps(described))


WRONG = torch.full((3, 1, DIM), torch.nan)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda f: change(f, format="other"), "format"),
        (lambda f: change(f, head="../../secret"), "no head"),
        (lambda f: change(f, objective="annotations"), "no objective"),
        (lambda f: change(f, head="__init__"), "no head"),
        (lambda f: change(f, head="projection", statistics=["mean", "std"]), "do not fit"),
        (lambda f: change(f, statistics=["zzz"]), "zzz"),
        (lambda f: change(f, statistics=None), "None"),
        (lambda f: change(f, objective="Verify"), "no head of Verify"),
        (lambda f: change(f, upstream={"name": "fbank", "seed": "x"}), "upstream.seed"),
        (lambda f: change(f, upstream={"name": ["fbank"]}), "upstream.name"),
        (lambda f: change(f, folds=[]), "0 heads"),
        (lambda f: change(f, folds=[None]), ""),
        (lambda f: fold(f, inputs=float("inf")), "inf"),
        (lambda f: fold(f, layers=[-1, 0, 2]), "cannot be"),
        (lambda f: fold(f, layers=[0, 2, 2]), "alike"),
        (lambda f: fold(f, layers=[0, 2, 4.5]), "4.5"),
        (lambda f: fold(f, symbols=["a", "a", "b"]), "alike"),
        (lambda f: fold(f, learning_rate=10**400), ""),
        (lambda f: tensors(f, **{"0.shift": WRONG}), "not finite"),
        (lambda f: tensors(f, **{"0.scale": WRONG}), "not finite"),
        (lambda f: tensors(f, **{"0.scale": torch.ones(3, 1, DIM, dtype=torch.complex64)}), "not real"),
        (lambda f: tensors(f, **{"0.mix.logits": torch.full((1, 3), torch.nan)}), "not finite"),
        (lambda f: fold(f, symbols=["a", "b"]), "do not fit"),
        (lambda f: fold(f, inputs=1 << 40), "cannot be"),
        (lambda f: fold(f, layers=[0]), "does not fit"),
        (lambda f: fold(f, symbols=[str(k) for k in range(900_000)]), "do not fit"),
        (lambda f: (f / "head.json").write_text("[" * 100_000), ""),
        (lambda f: (f / "head.safetensors").write_bytes(b"\xff" * 64), ""),
        (lambda f: save_file({"0.other": torch.ones(1)}, f / "head.safetensors"), "other weights"),
    ],
)
def test_a_spoilt_folder_is_refused_by_name(tmp_path: Path, spoil, why: str) -> None:
    folder = write(tmp_path / "head", made())
    spoil(folder)
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_heads(folder)
    assert why in caught.value.why
    assert caught.value.where == str(folder)


def test_weights_and_description_name_the_same_layer(tmp_path: Path) -> None:
    folder = write(tmp_path / "head", made(single=4))
    tensors(folder, **{"0.layer": torch.tensor([7])})
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_heads(folder)
    assert "layer [7]" in caught.value.why


def test_half_a_new_head_over_an_old_one_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill leaves it: the weights of one training under the description of another."""
    folder = write(tmp_path / "head", made(seed=1), record="old")
    assert record_of(folder) == "old"
    replace: Callable = os.replace

    def stop(source: Path, target: Path) -> None:
        if target.name == "head.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write(folder, made(seed=2), record="new")
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == ["head.json", "head.safetensors"]
    assert record_of(folder) == ""
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_heads(folder)
    assert "other weights" in caught.value.why
    assert record_of(write(folder, made(seed=2), record="new")) == "new"


def test_a_head_from_before_there_were_hashes_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "head", made(), record="old")
    tensors(folder)
    assert load_heads(folder).about == {"record": "old"}
    assert record_of(folder) == "old"


def test_more_can_be_told_about_a_head(tmp_path: Path) -> None:
    folder = write(tmp_path / "head", made())
    add_about(folder, record="k")
    assert load_heads(folder).about == {"a": 1, "record": "k"}
    assert record_of(folder) == "k"


def test_a_folder_without_a_head_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no saved head") as caught:
        load_heads(tmp_path)
    assert "save=FOLDER" in caught.value.remedy


def test_tokens_have_the_times_of_their_runs_and_words_those_of_their_letters() -> None:
    path = [0, 1, 1, 0, 2, 3, 3, 1, 0, 1]  # blank, a, b, space
    outputs = np.eye(4)[path]
    tokens = tokens_of(outputs, ["a", "b", " "], 0.02)
    assert [(t.symbol, round(t.start, 2), round(t.end, 2)) for t in tokens] == [
        ("a", 0.02, 0.06), ("b", 0.08, 0.1), (" ", 0.1, 0.14), ("a", 0.14, 0.16), ("a", 0.18, 0.2),
    ]  # fmt: skip
    words = words_of(tokens)
    assert [(w.symbol, round(w.start, 2), round(w.end, 2)) for w in words] == [("ab", 0.02, 0.1), ("aa", 0.14, 0.2)]
