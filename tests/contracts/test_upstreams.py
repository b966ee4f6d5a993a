"""What every upstream keeps to, whatever its family: a new file in `upstream/models` is held to it unasked.

Presets of full size are shrunk through the fields of their config; what they promise does not depend on size.
"""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wavbench.upstream import catalog
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError

TOLERANCE = 1e-5  # relative L2 between an utterance alone and in a batch, float32
SHRUNK = {
    "num_layers": 2,
    "dim": 48,
    "code_dim": 32,
    "num_heads": 4,
    "inner_dim": 96,
    "conv_channels": (32,) * 7,
    "position_kernel": 16,
    "position_groups": 4,
}
SMALL_ENOUGH = 8_000_000  # parameters


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@functools.cache
def small_config(name: str) -> tuple[str, object]:
    """Family and config of a preset, shrunk if it is too large for a test."""
    stem, config = catalog.find_preset(name)
    if hasattr(catalog.family(stem), "NEEDS_NO_WEIGHTS") or stem == "hub":
        return stem, config
    with torch.device("meta"):
        if parameters(catalog.family(stem).build(config)) <= SMALL_ENOUGH:
            return stem, config
    fields = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{k: v for k, v in SHRUNK.items() if k in fields})
    with torch.device("meta"):
        size = parameters(catalog.family(stem).build(config))
    if size > SMALL_ENOUGH:
        pytest.fail(f"{name} has {size} parameters even when shrunk: name its fields like the other families do")
    return stem, config


@functools.cache
def small(name: str, seed: int = 0) -> Upstream:
    stem, config = small_config(name)
    model = catalog.build_random(stem, config, seed)
    return Upstream(name, model, config=catalog.describe(stem, config), checkpoint=f"{name} random seed {seed}")


def speech(samples: int, seed: int = 0, loudness: float = 0.1) -> Tensor:
    return loudness * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def batch_with_noise_beyond(utterances: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One row per utterance; what lies beyond its end is noise, louder than the speech."""
    lengths = torch.tensor([len(utterance) for utterance in utterances])
    waveforms = torch.stack([speech(int(lengths.max()), seed=100 + i, loudness=1.0) for i in range(len(utterances))])
    for row, utterance in zip(waveforms, utterances, strict=True):
        row[: len(utterance)] = utterance
    return waveforms, lengths


def blocks(upstream: Upstream) -> int | None:
    config = upstream.config
    return config.get("num_layers", config.get("settings", {}).get("num_hidden_layers"))


def distinct() -> list[str]:
    """One preset of each kind: of those that are the same model once they are shrunk, the first."""
    found: dict[tuple, str] = {}
    for name in catalog.names():
        stem, config = catalog.find_preset(name)
        fields = {field.name for field in dataclasses.fields(config)}
        shape = dataclasses.replace(config, **{k: v for k, v in SHRUNK.items() if k in fields})
        found.setdefault((stem, repr(shape)), name)
    return list(found.values())


def trained(names: list[str]) -> list[str]:
    return [name for name in names if not hasattr(catalog.family(catalog.find_preset(name)[0]), "NEEDS_NO_WEIGHTS")]


every_upstream = pytest.mark.parametrize("name", distinct())
every_trained_upstream = pytest.mark.parametrize("name", trained(distinct()))


@every_upstream
@pytest.mark.parametrize("count", [8, 32])
def test_features_do_not_depend_on_the_batch(name: str, count: int) -> None:
    upstream = small(name)
    least = upstream.min_samples
    sizes = [9_000, least, 4_321, 16_000, least + 321, 4_321, 2_000 + least, 7_777] * (count // 8)
    order = np.random.default_rng(count).permutation(count).tolist()  # equal lengths are neighbours by chance only
    utterances = [speech(sizes[i], seed=i % 8) for i in order]
    together = upstream(*batch_with_noise_beyond(utterances))
    for i in range(8):
        place = order.index(i)
        alone = upstream(utterances[place][None], torch.tensor([sizes[i]]))
        frames = int(alone.lengths)
        assert int(together.lengths[place]) == frames == alone.states.shape[2]
        for layer in range(upstream.num_states):
            reference = alone.states[0, layer]
            difference = (together.states[place, layer, :frames] - reference).norm()
            assert difference <= TOLERANCE * reference.norm()


@every_upstream
def test_frames_beyond_an_utterance_are_zero(name: str) -> None:
    features = small(name)(*batch_with_noise_beyond([speech(9_000), speech(5_000)]))
    assert features.states[0].abs().amax(dim=-1).gt(0).all()
    assert not features.states[1, :, int(features.lengths[1]) :].any()


@every_upstream
def test_the_shape_is_as_announced(name: str) -> None:
    upstream = small(name)
    features = upstream(*batch_with_noise_beyond([speech(16_000), speech(32_000)]))
    frames = features.lengths.tolist()
    assert features.states.shape == (2, upstream.num_states, frames[1], upstream.dim)
    assert features.states.dtype is torch.float32
    assert features.frame_rate == upstream.frame_rate == pytest.approx(frames[1] - frames[0], abs=1)
    if blocks(upstream) is not None:
        assert upstream.num_states == blocks(upstream) + 1


@every_upstream
def test_evaluation_is_deterministic(name: str) -> None:
    batch = batch_with_noise_beyond([speech(9_000), speech(5_000)])
    assert torch.equal(small(name)(*batch).states, small(name)(*batch).states)


@every_upstream
def test_the_shortest_utterance_has_one_frame_and_a_shorter_one_none(name: str) -> None:
    upstream = small(name)
    shortest = upstream.min_samples
    utterances = [speech(shortest), speech(9_000)] + ([speech(shortest - 1)] if shortest > 1 else [])
    features = upstream(*batch_with_noise_beyond(utterances))
    assert features.lengths[0] == 1
    assert features.states.isfinite().all()
    if shortest > 1:
        assert features.lengths[2] == 0
        none = upstream(speech(shortest)[None], torch.tensor([shortest - 1]))
        assert none.states.shape == (1, upstream.num_states, 0, upstream.dim)


@every_upstream
def test_silence_is_finite(name: str) -> None:
    assert small(name)(torch.zeros(2, 8_000), torch.tensor([8_000, 4_000])).states.isfinite().all()


@every_upstream
def test_nothing_is_left_to_train(name: str) -> None:
    upstream = small(name)
    assert not upstream.model.training
    assert not any(parameter.requires_grad for parameter in upstream.model.parameters())


@every_upstream
def test_the_description_is_plain_json(name: str) -> None:
    import json

    upstream = small(name)
    assert json.loads(json.dumps(upstream.config)) == upstream.config
    assert upstream.config["family"] in catalog.families()


@every_upstream
def test_gradients_of_a_batch_are_those_of_its_utterances(name: str) -> None:
    """In float64, where the two agree to rounding, and through the padded layout that the batch came in."""
    stem, config = small_config(name)
    model = catalog.build_random(stem, config, 0).eval().double()
    utterances = [speech(size, seed=i).double() for i, size in enumerate((2_000, 3_300, 2_000))]
    waveforms, lengths = batch_with_noise_beyond([utterance.float() for utterance in utterances])
    weights = [weight for weight in model.parameters() if weight.requires_grad]  # Whisper keeps its positions fixed

    def gradients(waveforms: Tensor, lengths: Tensor) -> list[Tensor]:
        inputs = [waveforms.requires_grad_(), *weights]
        loss = model(waveforms, lengths).states.sin().sum()
        found = torch.autograd.grad(loss, inputs, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]

    together = gradients(waveforms.double(), lengths)
    singles = [gradients(utterance[None], torch.tensor([utterance.shape[0]])) for utterance in utterances]
    for i, single in enumerate(singles):
        found = together[0][i]
        torch.testing.assert_close(found[: lengths[i]], single[0][0], rtol=1e-6, atol=1e-8)
        assert not found[lengths[i] :].any()
    assert not weights or any(gradient.any() for gradient in together[1:])
    for found, *parts in zip(together[1:], *(single[1:] for single in singles), strict=True):
        torch.testing.assert_close(found, sum(parts), rtol=1e-6, atol=1e-8)


@every_trained_upstream
def test_a_random_twin_repeats_its_seed_and_only_that(name: str) -> None:
    stem, config = small_config(name)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = Upstream(name, catalog.build_random(stem, config, 0), config={}, checkpoint="")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.weights_hash == small(name).weights_hash != small(name, seed=1).weights_hash
    batch = batch_with_noise_beyond([speech(5_000)])
    assert torch.equal(again(*batch).states, small(name)(*batch).states)
    assert not torch.equal(again(*batch).states, small(name, seed=1)(*batch).states)


@pytest.mark.parametrize("name", trained(catalog.names()))
def test_a_preset_without_weights_says_so_and_names_the_way_out(name: str) -> None:
    if (catalog.WEIGHTS / f"{name}.safetensors").is_file():
        pytest.skip(f"{name} has weights")
    with pytest.raises(UserError, match="has no weights here") as error:
        catalog.load(name)
    assert "weights=random seed=0" in error.value.remedy
