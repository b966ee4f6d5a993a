"""Running frozen models: precision, layers that are not run, products, and states without padding."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from wavbench.upstream import catalog, extract, inference
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.layers import linear

SMALL = {
    "num_layers": 3, "dim": 48, "num_heads": 4, "inner_dim": 96, "conv_channels": (32,) * 7, "position_kernel": 16,
    "position_groups": 4,
}  # fmt: skip
NATIVE = ["wav2vec2_base", "wav2vec2_large_lv60", "hubert_base", "wavlm_base", "wavlm_large", "data2vec_base"]
every_family = pytest.mark.parametrize("preset", NATIVE)


def small(preset: str, precision: str = "fp32") -> Upstream:
    stem, config = catalog.find_preset(preset)
    fields = {field.name for field in dataclasses.fields(config)}
    model = catalog.build_random(
        stem, dataclasses.replace(config, **{k: v for k, v in SMALL.items() if k in fields}), 0
    )
    return Upstream(preset, model, config={"family": stem}, checkpoint="random", precision=precision)


def speech(*seconds: float) -> list[torch.Tensor]:
    return [
        0.1 * torch.randn(int(s * 16_000), generator=torch.Generator().manual_seed(i)) for i, s in enumerate(seconds)
    ]


def distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    return ((found - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("preset", [*NATIVE, "fbank", "wav2vec_base", "hub_wavlm_tiny"])
def test_a_batch_without_padding_is_each_utterance_alone(preset: str) -> None:
    upstream = small(preset) if preset in NATIVE else catalog.load(preset, weights="random")
    waveforms = speech(0.7, 0.4, 0.7)
    layers = (0, upstream.num_states - 1)
    for states, waveform in zip(upstream.batch(waveforms, layers).result(), waveforms, strict=True):
        alone = upstream(waveform[None], torch.tensor([len(waveform)])).states[0, list(layers)]
        assert states.shape == alone.shape
        assert distance(states, alone) <= 1e-5


@every_family
def test_blocks_above_the_highest_layer_are_not_run(preset: str) -> None:
    upstream, calls = small(preset), []
    for number, block in enumerate(upstream.model.transformer.blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    waveforms = speech(0.5)
    whole = upstream.batch(waveforms, (0, 1, 2, 3)).result()[0]
    calls.clear()
    some = upstream.batch(waveforms, (0, 2)).result()[0]
    assert calls == [1, 2]
    assert torch.equal(some, whole[[0, 2]])


@every_family
def test_bfloat16_is_near_and_comes_back_as_float32(preset: str) -> None:
    waveforms = speech(0.9, 0.6)
    layers = (0, 1, 2, 3)
    for exact, rough in zip(
        small(preset).batch(waveforms, layers).result(),
        small(preset, "bf16").batch(waveforms, layers).result(),
        strict=True,
    ):
        assert rough.dtype is torch.float32
        for k in layers:
            assert 1e-5 < distance(rough[k], exact[k]) < 0.03


@every_family
def test_bfloat16_does_not_depend_on_the_batch_beyond_its_own_rounding(preset: str) -> None:
    upstream, waveforms = small(preset, "bf16"), speech(0.9, 0.6, 0.3)
    together = upstream.batch(waveforms, (3,)).result()
    for states, waveform in zip(together, waveforms, strict=True):
        assert distance(states, upstream.batch([waveform], (3,)).result()[0]) < 0.01


def test_precision_is_part_of_what_a_model_is_called() -> None:
    plain, rough = small("wav2vec2_base"), small("wav2vec2_base", "bf16")
    assert "precision" not in plain.config
    assert (rough.config["precision"], rough.checkpoint) == ("bf16", "random bf16")
    rough.set_precision("fp32")
    assert (rough.config, rough.checkpoint) == (plain.config, plain.checkpoint)
    assert plain.weights_hash == rough.weights_hash
    with pytest.raises(UserError, match="precision=fp16 is not known"):
        catalog.load("wav2vec2_tiny", precision="fp16")


@pytest.mark.parametrize("choice", ["torch", "onednn"])
@pytest.mark.parametrize("preset", ["wav2vec2_base", "wavlm_large"])
def test_either_product_gives_the_same_states(choice: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if choice == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    waveforms = speech(0.6)
    reference = small(preset).batch(waveforms, (0, 3)).result()[0]
    monkeypatch.setenv(linear.PRODUCTS, choice)
    linear.engine.cache_clear()
    try:
        assert linear.engine() == choice
        assert distance(small(preset).batch(waveforms, (0, 3)).result()[0], reference) <= 1e-5
    finally:
        linear.engine.cache_clear()


def test_an_unknown_product_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(linear.PRODUCTS, "magic")
    linear.engine.cache_clear()
    with pytest.raises(UserError, match="magic is not known"):
        linear.engine()


def test_the_chosen_product_is_exact_to_float32() -> None:
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(300, 1_024, generator=random), torch.randn(512, 1_024, generator=random)
    with torch.inference_mode():
        found = linear.product(x, linear.prepare(weight, None, torch.float32))
    reference = x.double() @ weight.double().T
    assert ((found - reference).norm() / reference.norm()).item() < 1e-6


def test_weights_in_training_are_never_answered_with_old_products() -> None:
    """A fused optimizer changes them without counting up their version."""
    layer, x = torch.nn.Linear(8, 8), torch.randn(3, 8)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5, fused=True)
    for _ in range(3):
        with torch.no_grad():
            torch.testing.assert_close(linear.linear(layer, x), layer(x))
        layer(x).sum().backward()
        optimizer.step()


def test_changed_weights_are_never_answered_with_old_products() -> None:
    layer, x = torch.nn.Linear(8, 8).requires_grad_(False), torch.randn(3, 8)
    with torch.no_grad():
        linear.linear(layer, x)
        layer.weight.add_(1.0)
        torch.testing.assert_close(linear.linear(layer, x), layer(x))
        layer.weight.data = torch.randn(8, 8)
        torch.testing.assert_close(linear.linear(layer, x), layer(x))
        layer.load_state_dict(torch.nn.Linear(8, 8).state_dict())
        torch.testing.assert_close(linear.linear(layer, x), layer(x))


def test_the_residual_stream_stays_in_float32_whatever_positions_and_projection_give() -> None:
    upstream = small("wav2vec2_large_lv60")
    transformer = upstream.model.transformer
    transformer.positions = Same()  # as on a GPU, where autocast reaches the positional convolution
    x = torch.randn(20, 48).bfloat16()
    with inference.computing(upstream.device, "bf16"):
        states = transformer(x, [20])
    assert {state.dtype for state in states} == {torch.float32}


class Same(torch.nn.Module):
    def forward(self, x: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        return x.bfloat16()


def test_a_batch_on_a_gpu_fits_into_its_memory_and_into_that_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for preset, free, seconds in [("wav2vec2_base", 140 << 30, 960), ("wav2vec2_base", 1 << 30, 48)]:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
        assert extract.batch_seconds(on_gpu(preset)) == seconds
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (140 << 30, 140 << 30))
    large = on_gpu("wav2vec2_xls_r_2b")
    assert 48 <= extract.batch_seconds(large) <= extract.HOST_BYTES / (4 * 50 * 1920 * 49)


def on_gpu(preset: str) -> Upstream:
    """What decides on a batch, without the weights."""
    upstream, config = small("wav2vec2_base"), catalog.find_preset(preset)[1]
    upstream.device = torch.device("cuda")
    upstream.dim, upstream.num_states = config.dim, config.num_layers + 1
    return upstream


def test_bfloat16_on_a_device_keeps_samples_exact() -> None:
    """Its way through the convolutions, run on the CPU: quiet speech on a constant offset is not rounded away."""
    encoder = small("wav2vec2_base").model.conv
    (waveform,) = speech(0.5)
    waveform, frames = 0.01 * waveform + 0.5, [24]
    with torch.inference_mode():
        first = [encoder.first_layer(waveform)]
        exact = encoder._chunk(waveform[None], first, [(0, 0, frames[0])])
        with torch.autocast("cpu", torch.bfloat16):
            rough = encoder._chunk(waveform[None], first, [(0, 0, frames[0])])
    assert distance(rough.float(), exact) < 0.02


def test_a_head_can_be_trained_on_features() -> None:
    upstream = small("wav2vec2_base")
    features, head = upstream.extract(speech(0.5)[0].numpy()), torch.nn.Linear(48, 2)
    head(features.states[0, -1]).sum().backward()
    assert head.weight.grad.any()
    assert not features.states.requires_grad


def test_bfloat16_works_where_onednn_refuses_it() -> None:
    """On processors without the instructions torch's own product takes its place; seen in a process of its own."""
    code = (
        "import torch; from wavbench.upstream import catalog\n"
        "up = catalog.load('wav2vec2_tiny', weights='random', precision='bf16')\n"
        "print(up.extract(torch.randn(8_000).clamp(-1, 1).numpy() * 0.1).states.isfinite().all().item())"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip().endswith("True"), done.stderr
