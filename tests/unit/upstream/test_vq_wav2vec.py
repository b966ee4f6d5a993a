"""vq-wav2vec: codes and chosen entries against plain loops, and parameters as published."""

import dataclasses

import pytest
import torch
from torch import Tensor

from wavbench.upstream.inference import computing
from wavbench.upstream.layers import causal
from wavbench.upstream.models import vq_wav2vec
from wavbench.upstream.models.vq_wav2vec import NO_CODE, Config, GumbelQuantizer, KmeansQuantizer, VqWav2Vec

PREDICTOR = 512 * 512 * 12 + 512  # in every checkpoint


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def small(**settings) -> VqWav2Vec:
    torch.manual_seed(0)
    values = {"dim": 16, "num_layers": 2, "entries": 7}
    model = VqWav2Vec(Config(**{**values, **settings})).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def random_weights(module: torch.nn.Module) -> None:
    for parameter in module.requires_grad_(False).parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_gumbel_takes_the_entry_with_the_largest_logit_of_each_group(share: bool, layers: int) -> None:
    torch.manual_seed(1)
    quantizer = GumbelQuantizer(12, 3, 5, share, layers, "relu")
    random_weights(quantizer)
    latents = torch.randn(1, 12, 20)
    vectors, codes = quantizer(latents)
    for frame in range(20):
        y = latents[0, :, frame]
        for depth, layer in enumerate(quantizer.logits):
            y = layer.weight @ y + layer.bias
            y = torch.relu(y) if depth < layers - 1 else y
        for group in range(3):
            code = max(range(5), key=lambda entry: float(y[group * 5 + entry]))
            entry = quantizer.codebook[0, code if share else group * 5 + code]
            assert int(codes[frame, group]) == code
            assert torch.equal(vectors[0, group * 4 : group * 4 + 4, frame], entry)


@pytest.mark.parametrize("share", [False, True])
def test_kmeans_takes_the_nearest_entry_of_each_group(share: bool) -> None:
    torch.manual_seed(1)
    quantizer = KmeansQuantizer(12, 3, 5, share)
    random_weights(quantizer)
    latents = torch.randn(1, 12, 20)
    vectors, codes = quantizer(latents)
    weight, norm = quantizer.projection.conv.weight[:, :, 0], quantizer.projection.norm
    for group in range(3):
        rows = slice(group * 4, group * 4 + 4)
        y = weight[rows] @ latents[0, rows]  # every group sees its own channels alone, and is normed alone
        y = (y - y.mean()) / torch.sqrt(y.var(correction=0) + 1e-5)
        y = y * norm.weight[rows, None] + norm.bias[rows, None]
        for frame in range(20):
            entries = quantizer.codebook[:, 0 if share else group]
            distances = [float((y[:, frame] - entry).norm()) for entry in entries]
            assert int(codes[frame, group]) == distances.index(min(distances))
            assert torch.equal(vectors[0, rows, frame], entries[codes[frame, group]])


@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_codes_do_not_depend_on_the_batch_and_are_marked_beyond_its_lengths(quantizer: str) -> None:
    model = small(quantizer=quantizer)
    lengths = torch.tensor([6_000, 300, 2_500])
    waveforms = torch.stack([noise(6_000, seed) for seed in range(3)])
    codes, frames = model.codes(waveforms, lengths)
    assert frames.tolist() == [35, 0, 13]
    assert codes.shape == (3, 35, 2)
    assert (codes[1] == NO_CODE).all()
    assert (codes[2, 13:] == NO_CODE).all()
    alone, _ = model.codes(waveforms[2:, :2_500], lengths[2:])
    assert torch.equal(codes[2:, :13], alone)
    assert 0 <= int(alone.min()) <= int(alone.max()) < 7
    none, frames = model.codes(waveforms[1:2], lengths[1:2])
    assert none.shape == (1, 0, 2)
    assert frames.tolist() == [0]


@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_the_context_network_sees_the_chosen_entries_and_state_0_is_before_the_choice(quantizer: str) -> None:
    model, waveform = small(quantizer=quantizer), noise(5_000)
    states = model(waveform[None], torch.tensor([5_000])).states[0]
    latents = model.encoder(waveform)
    vectors, _ = model.quantizer(latents)
    torch.testing.assert_close(states[0], latents[0].T)
    torch.testing.assert_close(states[1], next(model.context(vectors))[0].T)


def test_kmeans_passes_the_gradient_as_if_nothing_had_been_chosen() -> None:
    quantizer = KmeansQuantizer(8, 2, 5, False)
    latents = torch.randn(1, 8, 6, requires_grad=True)
    weights = torch.randn(1, 8, 6)
    (found,) = torch.autograd.grad((quantizer(latents)[0] * weights).sum(), latents)
    (expected,) = torch.autograd.grad((quantizer.projection(latents) * weights).sum(), latents)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_a_long_utterance_in_pieces_has_the_same_codes_and_states(
    quantizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, waveform = small(quantizer=quantizer).double(), noise(20_000).double()[None]
    lengths = torch.tensor([20_000])
    with torch.inference_mode():
        codes, whole = model.codes(waveform, lengths)[0], model(waveform, lengths).states
        for module in (causal, vq_wav2vec):
            monkeypatch.setattr(module, "CHUNK", 11)
        monkeypatch.setattr(causal, "LONG", 20)
        assert torch.equal(model.codes(waveform, lengths)[0], codes)
        torch.testing.assert_close(model(waveform, lengths).states, whole, rtol=1e-9, atol=1e-12)


def test_parameters_are_as_many_as_published_and_counted_by_hand() -> None:
    norm = 2 * 512
    encoder = 512 * (10 + 512 * (8 + 4 + 4 + 4 + 3)) + 8 * norm
    context = sum(512 * 512 * kernel + 512 + norm for kernel in range(2, 14))
    gumbel = 512 * 1_024 + 1_024 + 1_024 * 640 + 640 + 640 * 256
    kmeans = 512 * 256 + norm + 320 * 256
    with torch.device("meta"):
        counts = {
            name: sum(parameter.numel() for parameter in VqWav2Vec(config).parameters())
            for name, config in vq_wav2vec.presets.items()
            if name in ("gumbel", "kmeans")
        }
    assert counts == {"gumbel": encoder + context + gumbel, "kmeans": encoder + context + kmeans}
    assert round((counts["gumbel"] + PREDICTOR) / 1e4) == 3415  # SUPERB: 34.15 M


RELEASED = {
    "conv_feature_layers": "[(512, 10, 5), (512, 8, 4)] + [(512, 4, 2)] * 3 + [(512, 1, 1)] * 3",
    "conv_aggregator_layers": f"[{', '.join(f'(512, {kernel}, 1)' for kernel in range(2, 14))}]",
    "activation": "gelu",
    "skip_connections_agg": True,
    "log_compression": True,
    "vq_vars": 320,
    "vq_groups": 2,
    "vq_depth": 2,
}


def test_settings_of_fairseq_give_the_presets() -> None:
    assert vq_wav2vec.from_fairseq({**RELEASED, "vq_type": "gumbel"}) == vq_wav2vec.presets["gumbel"]
    kmeans = vq_wav2vec.from_fairseq({**RELEASED, "vq_type": "kmeans", "combine_groups": True})
    assert kmeans == vq_wav2vec.presets["kmeans"]


@pytest.mark.parametrize(
    ("settings", "reason"), [({}, "no vq-wav2vec"), ({"vq_type": "gumbel", "vq_dim": 256}, "vq_dim=256")]
)
def test_settings_that_are_not_built_are_refused(settings: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        vq_wav2vec.from_fairseq({**RELEASED, **settings})


@pytest.mark.parametrize("settings", [{"quantizer": "random"}, {"groups": 3}])
def test_a_config_that_makes_no_sense_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"is 'random'|3 groups"):
        VqWav2Vec(Config(**settings))


@pytest.mark.parametrize("depth", [1, 2])
def test_every_weight_has_the_name_and_shape_that_fairseq_gives_it(depth: int) -> None:
    with torch.device("meta"):
        gumbel = VqWav2Vec(dataclasses.replace(vq_wav2vec.presets["gumbel"], logit_layers=depth))
        kmeans = VqWav2Vec(vq_wav2vec.presets["kmeans"])
    names = {**vq_wav2vec.fairseq_names(gumbel.config), **vq_wav2vec.fairseq_names(kmeans.config)}
    found = {}
    for model in (gumbel, kmeans):
        assert set(vq_wav2vec.fairseq_names(model.config)) == set(model.state_dict())
        found |= {names[name]: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    vq = "vector_quantizer"
    first, last = (f"{vq}.weight_proj.0.0", f"{vq}.weight_proj.1") if depth == 2 else ("", f"{vq}.weight_proj")
    assert found[(f"{last}.weight",)] == (640, 1_024 if first else 512)
    assert not first or found[(f"{first}.bias",)] == (1_024,)
    assert found[(f"{vq}.embedding",)] == (320, 1, 256)
    assert found[(f"{vq}.projection.0.weight",)] == (512, 256, 1)
    assert found[(f"{vq}.projection.1.bias",)] == (512,)
    assert names["quantizer.codebook"] == (f"{vq}.embedding",)
    assert vq_wav2vec.fairseq_names(gumbel.config)["quantizer.codebook"] == (f"{vq}.vars",)
    assert found[("feature_aggregator.conv_layers.11.1.weight",)] == (512, 512, 13)
    assert found[("feature_extractor.conv_layers.7.2.bias",)] == (512,)


@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_half_precision_chooses_the_same_codes(quantizer: str) -> None:
    model, waveform = small(quantizer=quantizer).eval(), noise(20_000)[None]
    lengths = torch.tensor([20_000])
    with computing(torch.device("cpu"), "fp32"):
        codes, states = model.codes(waveform, lengths)[0], model(waveform, lengths).states
    with computing(torch.device("cpu"), "bf16"):
        assert torch.equal(model.codes(waveform, lengths)[0], codes)
        torch.testing.assert_close(model(waveform, lengths).states[:, 0].float(), states[:, 0])
