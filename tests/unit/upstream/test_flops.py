"""Counted operations against torch's own counter."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wavbench.upstream.flops import peak_flops, training_flops
from wavbench.upstream.models.wav2vec2 import Config, Wav2Vec2

SECONDS = 4.0


def test_a_training_step_has_three_times_the_operations_of_a_forward_pass() -> None:
    shape = {"dim": 24, "num_layers": 2, "num_heads": 2, "inner_dim": 48, "position_kernel": 16, "position_groups": 4}
    model = Wav2Vec2(Config(conv_channels=(16,) * 7, conv_norm="layer", **shape))
    samples = int(SECONDS * 16_000)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the others are not counted
        model(torch.randn(1, samples), torch.tensor([samples]))
    # convolutions at the edges of a crop and around its positions make the difference
    assert training_flops(model, SECONDS) * SECONDS == pytest.approx(3 * counter.get_total_flops(), rel=0.03)


def test_a_device_does_more_than_a_million_operations_a_second() -> None:
    assert 1e6 < peak_flops(torch.device("cpu"), "fp32") < 1e15
