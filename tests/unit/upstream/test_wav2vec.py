"""wav2vec (2019): shapes by hand, and its states against a plain forward pass written out here."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavbench.upstream import catalog
from wavbench.upstream.layer_lists import layer_list
from wavbench.upstream.layers import causal
from wavbench.upstream.models import wav2vec
from wavbench.upstream.models.wav2vec import Config, Wav2Vec

KERNELS, STRIDES = (10, 8, 4, 4, 4), (5, 4, 2, 2, 2)
PREDICTOR = 512 * 512 * 12 + 512  # a transposed convolution over 12 steps, and its bias; in every checkpoint


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def small(**settings) -> Wav2Vec:
    """A small model whose every weight is random: norms of fresh models are trivial."""
    torch.manual_seed(0)
    model = Wav2Vec(Config(**{"dim": 16, "num_layers": 3, **settings})).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def states_of(model: Wav2Vec, waveform: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(waveform[None], torch.tensor([len(waveform)])).states[0]


def plain_states(weights: dict[str, Tensor], waveform: Tensor, config: Config) -> list[Tensor]:
    """The forward pass of fairseq's model, one call of torch after the other, from weights under fairseq's names."""
    x = waveform[None, None]
    for i, stride in enumerate(config.conv_strides):
        name = f"feature_extractor.conv_layers.{i}"
        x = F.conv1d(x, weights[f"{name}.0.weight"], stride=stride)
        x = torch.relu(F.group_norm(x, 1, weights[f"{name}.2.weight"], weights[f"{name}.2.bias"]))
    x = torch.log(x.abs() + 1)
    states = [x[0].T]
    for i in range(config.num_layers):
        name, kernel = f"feature_aggregator.conv_layers.{i}", config.context_kernel + i * config.context_growth
        first = x[:, :, :1] if config.context_padding == "repeat" else torch.zeros_like(x[:, :, :1])
        y = torch.cat([first] * (kernel - 1) + [x], dim=2)
        y = F.conv1d(y, weights[f"{name}.1.weight"], weights.get(f"{name}.1.bias"))
        y = torch.relu(F.group_norm(y, 1, weights[f"{name}.3.weight"], weights[f"{name}.3.bias"]))
        x = (y + x) * math.sqrt(config.residual_scale) if config.residual_scale else y
        states.append(x[0].T)
    return states


def fairseq_weights(model: Wav2Vec) -> dict[str, Tensor]:
    state = model.state_dict()
    names = wav2vec.fairseq_names(model.config)
    assert set(names) == set(state)
    return {theirs: state[ours] for ours, (theirs,) in names.items()}


@pytest.mark.parametrize("padding", ["repeat", "zeros"])
@pytest.mark.parametrize(
    "shape", [{}, {"context_kernel": 2, "context_growth": 1, "residual_scale": 0.5}, {"context_bias": False}]
)
@pytest.mark.parametrize("samples", [465, 5_000])
def test_every_state_equals_that_of_a_plain_forward_pass(padding: str, shape: dict, samples: int) -> None:
    model = small(context_padding=padding, **shape)
    states = states_of(model, noise(samples))
    reference = plain_states(fairseq_weights(model), noise(samples), model.config)
    assert len(reference) == model.num_states
    for state, expected in zip(states, reference, strict=True):
        assert (state - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(("preset", "published"), [("base", (12.3, 15.5)), ("large", (29.4, 32.5))])
def test_parameters_are_as_many_as_published(preset: str, published: tuple[float, float]) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Wav2Vec(wav2vec.presets[preset]).parameters())
    assert (round(count / 1e6, 1), round((count + PREDICTOR) / 1e6, 1)) == published


def test_parameters_are_those_counted_by_hand() -> None:
    convs = 512 * (10 + 512 * (8 + 4 + 4 + 4))
    norm = 2 * 512
    base = convs + 5 * norm + 9 * (512 * 512 * 3 + 512 + norm)
    large = convs + 2 * 512 * 512 + 7 * norm + sum(512 * 512 * kernel + 512 + norm for kernel in range(2, 14))
    with torch.device("meta"):
        counts = [sum(p.numel() for p in Wav2Vec(wav2vec.presets[name]).parameters()) for name in ("base", "large")]
    assert counts == [base, large] == [12_344_832, 29_390_848]
    assert round((large + PREDICTOR) / 1e4) == 3254  # SUPERB: 32.54 M


@pytest.mark.parametrize("preset", ["base", "large"])
def test_a_frame_sees_465_samples_and_comes_every_160(preset: str) -> None:
    with torch.device("meta"):
        model = Wav2Vec(wav2vec.presets[preset])
    # 1 + (10 - 1) + (8 - 1) * 5 + (4 - 1) * 20 + (4 - 1) * 40 + (4 - 1) * 80
    assert model.min_samples == 465
    assert model.frame_rate == 16_000 / 160


def test_the_receptive_field_of_a_latent_is_its_465_samples() -> None:
    model = small()
    without_norms(model)
    waveform = noise(465 + 9 * 160).requires_grad_()
    latents = model.encoder(waveform)
    assert latents.shape[2] == 10
    (gradient,) = torch.autograd.grad(latents[0, :, 4].sum(), waveform)
    touched = gradient.nonzero()[:, 0]
    assert (int(touched.min()), int(touched.max())) == (4 * 160, 4 * 160 + 464)


def without_norms(model: Wav2Vec) -> None:
    for module in model.modules():
        if isinstance(module, causal.NormedConv):
            module.norm = nn.Identity()


@pytest.mark.parametrize("padding", ["repeat", "zeros"])
def test_the_context_network_sees_the_past_alone_and_as_far_as_its_kernels_reach(padding: str) -> None:
    model = small(context_kernel=2, context_growth=1, context_padding=padding)  # kernels 2, 3, 4: 6 frames back
    without_norms(model)
    latents = torch.randn(1, 16, 30)
    before = [state.clone() for state in model.context(latents)]
    changed = latents.clone()
    changed[:, :, 12] += 1
    after = list(model.context(changed))
    for layer, reach in enumerate((1, 3, 6)):
        different = (before[layer] != after[layer]).any(dim=1)[0].nonzero()[:, 0].tolist()
        assert min(different) == 12
        assert max(different) <= 12 + reach
    assert max(different) == 18


def test_with_its_norms_an_early_frame_does_depend_on_the_future() -> None:
    model, waveform = small(), noise(20_000)
    assert not torch.allclose(states_of(model, waveform)[:, :20], states_of(model, waveform[:10_000])[:, :20])


@pytest.mark.parametrize("padding", ["repeat", "zeros"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("long", "chunk"), [(10, 7), (100, 1), (50, 1_000)])
def test_an_utterance_in_pieces_has_the_states_of_one_in_one_piece(
    padding: str, activation: str, long: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(
        conv_kernels=(*KERNELS, 1),
        conv_strides=(*STRIDES, 1),
        activation=activation,
        context_padding=padding,
        context_kernel=2,
        context_growth=4,
        residual_scale=0.5,
    ).double()
    waveform = 3 + noise(20_123).double()  # a mean far from zero
    whole = states_of(model, waveform)
    monkeypatch.setattr(causal, "LONG", long)
    monkeypatch.setattr(causal, "CHUNK", chunk)
    torch.testing.assert_close(states_of(model, waveform), whole, rtol=1e-9, atol=1e-12)


def test_pieces_give_the_same_to_rounding_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    model, waveform = small(residual_scale=0.5), noise(30_000)
    whole = states_of(model, waveform)
    monkeypatch.setattr(causal, "LONG", 20)
    monkeypatch.setattr(causal, "CHUNK", 13)
    for state, expected in zip(states_of(model, waveform), whole, strict=True):
        assert (state - expected).norm() <= 2e-6 * expected.norm()


def test_states_with_and_without_a_gradient_are_equal() -> None:
    model = small()
    waveforms, lengths = torch.stack([noise(4_000), noise(4_000, 1)]), torch.tensor([4_000, 1_500])
    with torch.inference_mode():
        without = model(waveforms, lengths)
    model.requires_grad_()
    torch.testing.assert_close(model(waveforms, lengths).states, without.states, rtol=1e-5, atol=1e-6)


RELEASED = {  # the options of wav2vec_large.pt that shape the model
    "conv_feature_layers": "[(512, 10, 5), (512, 8, 4), (512, 4, 2), (512, 4, 2), (512, 4, 2)] + [(512, 1, 1)] * 2",
    "conv_aggregator_layers": f"[{', '.join(f'(512, {kernel}, 1)' for kernel in range(2, 14))}]",
    "skip_connections_agg": True,
    "residual_scale": 0.5,
    "log_compression": True,
}


def test_settings_of_fairseq_give_the_presets() -> None:
    assert wav2vec.from_fairseq(RELEASED) == wav2vec.presets["large"]
    assert wav2vec.from_fairseq({"log_compression": True}) == wav2vec.presets["base"]
    odd = wav2vec.from_fairseq({"agg_zero_pad": True, "no_conv_bias": True, "activation": "gelu"})
    assert odd == Config(context_padding="zeros", context_bias=False, activation="gelu", log_compression=False)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"aggregator": "gru"}, "aggregator=gru"),
        ({"skip_connections_feat": True}, "skip_connections_feat"),
        ({"non_affine_group_norm": True}, "non_affine_group_norm"),
        ({"vq_type": "gumbel"}, "vq-wav2vec"),
        ({"conv_aggregator_layers": "[(256, 3, 1)]"}, "several widths"),
        ({"conv_aggregator_layers": "[(512, 3, 2)]"}, "strides of 1"),
        ({"conv_aggregator_layers": "[(512, 3, 1), (512, 2, 1), (512, 3, 1)]"}, "grow evenly"),
    ],
)
def test_settings_that_are_not_built_are_refused(settings: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wav2vec.from_fairseq(settings)


def test_lists_of_layers_are_read_and_never_run() -> None:
    assert layer_list(" [(512, 10, 5)] + [(512, 3, 2)] * 2") == [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    for text in (
        "[(512, 10, 5)] * 10**9",
        "[[(1, 1, 1)] * 100] * 100",
        "[(512, 10)]",
        "[(512, 0, 1)]",
        "[('a', 1, 1)]",
        "[]",
        "512",
        "(512, 10, 5)",
        "print(1)",
        "[x for x in y]",
        "[" * 5_000,
        "[(512, 10, 5)",
    ):
        with pytest.raises(ValueError, match="is no list of"):
            layer_list(text)


@pytest.mark.parametrize("wrong", [{"activation": "tanh"}, {"context_padding": "reflect"}])
def test_unknown_words_in_a_config_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="is one of"):
        Wav2Vec(Config(**wrong))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["base", "large"])
def test_full_size_states_equal_those_of_a_plain_forward_pass(preset: str) -> None:
    upstream = catalog.load(f"wav2vec_{preset}", weights="random")
    waveform = noise(160_000)
    states = upstream(waveform[None], torch.tensor([160_000])).states[0]
    with torch.inference_mode():
        reference = plain_states(fairseq_weights(upstream.model), waveform, upstream.model.config)
    for state, expected in zip(states, reference, strict=True):
        assert (state - expected).norm() <= 1e-5 * expected.norm()
