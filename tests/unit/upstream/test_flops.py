"""Counted operations against torch's own counter."""

import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wavbench.upstream.flops import forward_flops, forward_parts, peak_flops, product_rates, training_flops
from wavbench.upstream.models import data2vec, wav2vec2
from wavbench.upstream.models.wav2vec2 import Config, Wav2Vec2

SECONDS = 4.0


def test_a_training_step_has_three_times_the_operations_of_a_forward_pass() -> None:
    shape = {"dim": 24, "num_layers": 2, "num_heads": 2, "inner_dim": 48, "position_kernel": 16, "position_groups": 4}
    model = Wav2Vec2(Config(conv_channels=(16,) * 7, conv_norm="layer", **shape))
    samples = int(SECONDS * 16_000)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the others are not counted
        model(torch.randn(1, samples), torch.tensor([samples]))
    # convolutions at the edges of a crop and around its positions make the difference
    assert forward_flops(model, SECONDS) * SECONDS == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert training_flops(model, SECONDS) == 3 * forward_flops(model, SECONDS)


def test_base_needs_15_gflop_per_second_of_audio_and_most_of_it_in_the_blocks() -> None:
    with torch.device("meta"):
        parts = forward_parts(Wav2Vec2(Config()), 10.0)
    # 50 frames: 12 blocks of 12 * 768 ** 2 products, and as many for scores and sums of 500 frames of 768
    assert parts["attention"] + parts["feed-forward"] == 2 * 50 * 12 * (12 * 768**2 + 2 * 500 * 768)
    assert sum(parts.values()) == pytest.approx(14.8e9, rel=0.05)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_a_data2vec_with_the_positions_of_wav2vec2_needs_what_that_does(preset: str) -> None:
    with torch.device("meta"):
        parts = forward_parts(data2vec.build(data2vec.presets[preset]), 10.0)
        assert parts == forward_parts(Wav2Vec2(wav2vec2.presets[preset]), 10.0)


def test_a_device_does_more_than_a_million_operations_a_second() -> None:
    assert 1e6 < peak_flops(torch.device("cpu"), "fp32") < 1e15


def test_products_are_timed_by_who_computes_them() -> None:
    rates = product_rates(torch.device("cpu"), "bf16", time.process_time)
    assert {"torch", "onednn"} >= set(rates) >= {"torch"}
    assert all(1e6 < rate < 1e15 for rate in rates.values())
