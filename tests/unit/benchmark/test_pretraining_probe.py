"""The look at a training from above: the phones probe on the encoder as it is."""

from collections.abc import Callable
from pathlib import Path

import torch
from small_training import SMALL

from wavbench.benchmark.pretraining import make_probe
from wavbench.upstream.catalog import build_random


def test_the_probe_scores_every_layer_and_leaves_the_encoder_alone(tmp_path: Path, build_corpus: Callable) -> None:
    count = 30
    phones = {"phones": ["a b a"] * count, "phone_ends": ["0.3 0.6 1.0"] * count}
    path = build_corpus(tmp_path, count, 1.0, 1.0001, **phones)
    encoder = build_random("wav2vec2", SMALL, 0).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    score = make_probe(str(path), 18)
    values = score(encoder)
    assert list(values) == ["phones_best", "phones_best_layer", *(f"phones_layer_{k}" for k in range(3))]
    layers = [values[f"phones_layer_{k}"] for k in range(3)]
    assert values["phones_best"] == max(layers) == layers[values["phones_best_layer"]]
    assert min(layers) > 50  # "a" is two thirds of every utterance
    assert encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert score(encoder) == values
