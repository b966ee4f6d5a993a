"""Heads of several folds on one utterance: their mean, worked out head by head."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from wavbench.downstream.fit import HeadStack
from wavbench.downstream.fold import Head, head_of
from wavbench.downstream.saved import load_heads, save_heads
from wavbench.downstream.use import classify, embed, emissions
from wavbench.upstream.errors import UserError

DIM = 6


def made(seed: int, symbols: tuple[str, ...], name: str = "mean_linear", parts: int = 1) -> Head:
    torch.manual_seed(seed)
    build = head_of(name).build
    model = HeadStack(1, [], 2, lambda n: build(n, parts * DIM, len(symbols)), parts * DIM).eval()
    return Head(model, (0, 1), symbols, None, None, 1e-3)


def kept(folder: Path, *heads: Head, objective: str = "Classify", name: str = "mean_linear"):
    about = {"name": "fbank", "weights_hash": "ab"}
    save_heads(folder, heads, task="er", objective=objective, name=name, upstream=about, about={})
    return load_heads(folder)


def test_probabilities_are_the_mean_over_folds_and_none_where_a_fold_lacks_a_class(tmp_path: Path) -> None:
    heads = [made(1, ("anger", "calm", "joy")), made(2, ("anger", "joy"))]
    states = torch.randn(2, 12, DIM)
    alone = [classify(kept(tmp_path / str(k), head), states) for k, head in enumerate(heads)]
    together = classify(kept(tmp_path / "both", *heads), states)
    for symbol in ("anger", "calm", "joy"):
        assert together[symbol] == pytest.approx((alone[0][symbol] + alone[1].get(symbol, 0.0)) / 2)
    assert sum(together.values()) == pytest.approx(1)
    assert list(together) == sorted(together, key=lambda symbol: -together[symbol])


def test_the_cosine_of_voices_is_the_mean_over_folds(tmp_path: Path) -> None:
    heads = [made(seed, ("s0", "s1"), "projection", 2) for seed in (3, 4)]
    first, second = torch.randn(2, 9, DIM), torch.randn(2, 14, DIM)
    cosines = []
    for k, head in enumerate(heads):
        saved = kept(tmp_path / str(k), head, objective="Verify", name="projection")
        cosines.append(F.cosine_similarity(embed(saved, first), embed(saved, second), dim=0))
    both = kept(tmp_path / "both", *heads, objective="Verify", name="projection")
    assert float(embed(both, first).norm()) == pytest.approx(1, abs=1e-5)
    assert float(embed(both, first) @ embed(both, second)) == pytest.approx(float(sum(cosines)) / 2, abs=1e-5)


def test_sequences_come_from_one_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build = head_of("linear").build
    heads = [Head(HeadStack(1, [], 2, lambda n: build(n, DIM, 3), DIM).eval(), (0, 1), ("a", "b"), None, None, 0.1)] * 2
    saved = kept(tmp_path / "two", *heads, objective="Ctc", name="linear")
    with pytest.raises(UserError, match="2 heads where one is needed"):
        emissions(saved, torch.randn(2, 9, DIM))
