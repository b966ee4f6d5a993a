"""The causal transformer sees no character before its time, learns, and comes back from its folder as it was."""

import json
import math
import random
from pathlib import Path

import pytest
import torch

from wavbench.downstream.language.causal_lm import (
    SETTINGS,
    TENSORS,
    CausalLm,
    Shape,
    Trained,
    fit_of_characters,
    read_causal_lm,
    train,
    write_causal_lm,
)
from wavbench.upstream.errors import UserError

SMALL = Shape(width=16, layers=2, heads=2, context=8, dropout=0.1)


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(("one", "two", "three"), k=draw.randint(1, 4))) for _ in range(count)]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(sentences(60, 0), sentences(20, 1), shape=SMALL, epochs=15, batch=256, learning_rate=1e-2)


def random_model(seed: int = 0) -> CausalLm:
    torch.manual_seed(seed)
    model = CausalLm(tuple(" abcd"), SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_no_output_depends_on_a_later_character() -> None:
    model = random_model()
    symbols = torch.randint(0, 7, (3, 8), generator=torch.Generator().manual_seed(0))
    other = symbols.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 7
    torch.testing.assert_close(model(symbols)[:, :5], model(other)[:, :5])
    assert not torch.allclose(model(symbols)[:, 5:], model(other)[:, 5:])


def test_the_probability_of_a_sentence_is_the_product_over_its_characters() -> None:
    model, texts = random_model(), ["ab d", "", "dcba", "abcabca", "z"]
    found = model.log_probability(texts)
    for text, value in zip(texts, found.tolist(), strict=True):
        classes = [model.index.get(character, 1) for character in text]
        total = 0.0
        for place, target in enumerate((*classes, 0)):
            logits = model(torch.tensor([[0, *classes[:place]]]))[0, -1]
            total += math.log(float(logits.detach().softmax(dim=0)[target]))
        assert value == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("length", [7, 8, 9, 15, 16, 17, 40])
def test_windows_of_a_long_sentence_score_each_character_once_with_half_a_context_before(length: int) -> None:
    model = random_model()
    text = "".join(random.Random(length).choices("abcd ", k=length))
    classes = [model.index[character] for character in text]
    windows = model.windows(text)
    scored = [target for _, targets in windows for target in targets if target != -1]
    assert scored == [*classes, 0]
    for inputs, targets in windows[1:]:
        assert len(inputs) == len(targets) <= SMALL.context
        assert targets.index(next(t for t in targets if t != -1)) == SMALL.context // 2


def test_training_lowers_the_perplexity_on_dev_and_keeps_its_best_epoch(trained: Trained) -> None:
    assert trained.perplexity == min(trained.curve)
    assert trained.perplexity < 0.6 * (len(trained.model.characters) + 2)
    again = fit_of_characters(trained.model, sentences(20, 1))
    assert again.perplexity == pytest.approx(trained.perplexity, rel=1e-5)


def test_one_seed_gives_one_model_and_leaves_the_random_numbers_of_others_alone(trained: Trained) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    settings = {"shape": SMALL, "epochs": 15, "batch": 256, "learning_rate": 1e-2}
    again = train(sentences(60, 0), sentences(20, 1), **settings)
    assert torch.equal(torch.rand(3), wanted)
    assert again.curve == trained.curve
    other = train(sentences(60, 0), sentences(20, 1), seed=1, **settings)
    assert other.curve != trained.curve


def test_training_stops_when_dev_gets_no_better() -> None:
    done = train(sentences(5, 0), ["xyz" * 9], shape=SMALL, epochs=50, patience=2, batch=64, learning_rate=3e-2)
    assert len(done.curve) < 50
    assert done.curve.index(min(done.curve)) == len(done.curve) - 3


def test_a_model_comes_back_from_its_folder(trained: Trained, tmp_path: Path) -> None:
    for _ in range(2):  # a second time over the first
        write_causal_lm(trained, tmp_path / "lm")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [SETTINGS, "lm", TENSORS]
    back, texts = read_causal_lm(tmp_path / "lm"), sentences(10, 2)
    assert torch.equal(back.log_probability(texts), trained.model.log_probability(texts))


def test_a_folder_of_something_else_is_not_replaced(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no language model"):
        write_causal_lm(trained, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "another"),
        ("characters", []),
        ("characters", ["ab"]),
        ("characters", ["a", "a"]),
        ("shape", {"width": 10**9}),
        ("shape", {"width": 16, "heads": 3}),
        ("shape", {"depth": 3}),
        ("shape", {"width": True}),
        ("shape", 3),
        ("shape", {"width": 32, "layers": 2, "heads": 2, "context": 8}),  # not that of the weights
    ],
)
def test_settings_that_do_not_fit_are_refused(trained: Trained, tmp_path: Path, key: str, value: object) -> None:
    write_causal_lm(trained, tmp_path / "lm")
    settings = json.loads((tmp_path / "lm" / SETTINGS).read_text(encoding="utf-8"))
    (tmp_path / "lm" / SETTINGS).write_text(json.dumps(settings | {key: value}), encoding="utf-8")
    with pytest.raises(UserError):
        read_causal_lm(tmp_path / "lm")


def test_damaged_weights_are_refused(trained: Trained, tmp_path: Path) -> None:
    write_causal_lm(trained, tmp_path / "lm")
    content = (tmp_path / "lm" / TENSORS).read_bytes()
    (tmp_path / "lm" / TENSORS).write_bytes(content[:-10])
    with pytest.raises(UserError, match="damaged"):
        read_causal_lm(tmp_path / "lm")


@pytest.mark.parametrize("name", [SETTINGS, TENSORS])
def test_files_larger_than_the_model_are_not_read(trained: Trained, tmp_path: Path, name: str) -> None:
    write_causal_lm(trained, tmp_path / "lm")
    with open(tmp_path / "lm" / name, "ab") as file:
        file.truncate(20 << 20)
    with pytest.raises(UserError, match="is larger than a model"):
        read_causal_lm(tmp_path / "lm")


@pytest.mark.parametrize(("text", "dev"), [([], ["a"]), (["a"], []), ([""], ["a"])])
def test_a_model_without_text_is_refused(text: list[str], dev: list[str]) -> None:
    with pytest.raises(UserError, match="no"):
        train(text, dev, shape=SMALL)
