"""What fine-tuning changes of an encoder: exactly the weights it should, and nothing is left of it in a checkpoint."""

import itertools

import pytest
import torch
from small_training import SMALL
from torch import nn

from wavbench.downstream.adaptation import Adaptation, LowRank, adapt, merged_state
from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError

SPEECH = 0.1 * torch.randn(2, 6_000, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([6_000, 4_000])


def encoder(family: str = "wav2vec2") -> nn.Module:
    config = catalog.family(family).Config(**SMALL.__dict__)
    return catalog.build_random(family, config, 0)


def states(model: nn.Module) -> torch.Tensor:
    return torch.stack(model.packed(SPEECH, LENGTHS)[0])


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_full_trains_all_but_the_convolutions() -> None:
    model = encoder()
    adapt(model, Adaptation(kind="full"))
    names = {name for name, _ in model.named_parameters()}
    assert trained(model) == {name for name in names if not name.startswith("conv.")}


def test_partial_trains_the_last_blocks_and_the_norm_that_follows_them() -> None:
    model = encoder()
    adapt(model, Adaptation(kind="partial", blocks=1))
    assert trained(model) == {name for name, _ in model.named_parameters() if name.startswith("transformer.blocks.1.")}
    config = catalog.family("wav2vec2").Config(**{**SMALL.__dict__, "pre_norm": True})
    model = catalog.build_random("wav2vec2", config, 0)
    adapt(model, Adaptation(kind="partial", blocks=1))
    assert {"transformer.norm.weight", "transformer.norm.bias"} < trained(model)
    with pytest.raises(UserError, match=r"blocks=3 is more than the 2(.|\n)*blocks=2"):
        adapt(model, Adaptation(kind="partial", blocks=3))


def test_frozen_trains_nothing() -> None:
    model = encoder()
    adapt(model, Adaptation(kind="frozen"))
    assert trained(model) == set()


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm"])
def test_low_rank_pairs_begin_with_no_change_and_are_all_that_trains(family: str) -> None:
    model = encoder(family)
    with torch.no_grad():
        before = states(model)
    adapt(model, Adaptation(kind="lora", rank=2))
    assert {name.rsplit(".", 1)[1] for name in trained(model)} == {"down", "up"}
    assert len(trained(model)) == 2 * 2 * SMALL.num_layers
    with torch.no_grad():
        torch.testing.assert_close(states(model), before, rtol=1e-4, atol=1e-5)


def test_a_low_rank_pair_adds_a_product_of_its_own_to_each_packed_projection() -> None:
    pair = LowRank(inputs=6, outputs=12, parts=3, rank=2, alpha=5.0)
    nn.init.normal_(pair.up)
    weight = torch.randn(12, 6)
    for part in range(3):
        rows = slice(4 * part, 4 * part + 4)
        wanted = weight[rows] + 5.0 / 2 * pair.up[part] @ pair.down[part]
        torch.testing.assert_close(pair(weight)[rows], wanted)


def test_merged_weights_are_a_plain_encoder_with_the_same_states() -> None:
    model = encoder()
    plain = set(model.state_dict())
    adapt(model, Adaptation(kind="lora", rank=2, alpha=8.0))
    for module in model.modules():
        if isinstance(module, LowRank):
            nn.init.normal_(module.up)
    merged = merged_state(model)
    assert set(merged) == plain
    other = encoder()
    with torch.no_grad():
        assert (states(other) - states(model)).norm() > 0.1 * states(model).norm()
        other.load_state_dict(merged)
        torch.testing.assert_close(states(other), states(model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states(other), states(model), rtol=1e-4, atol=1e-5)  # and on the way of training


def test_pairs_that_change_are_seen_at_once_without_a_gradient() -> None:
    # without one, products remember weights: by where they lie, which for a computed weight is the same place again
    model = encoder()
    adapt(model, Adaptation(kind="lora", rank=2))
    pairs = [module for module in model.modules() if isinstance(module, LowRank)]
    with torch.no_grad():
        seen = []
        for value in (0.0, 0.5, 1.0, 1.5):
            for pair in pairs:
                pair.up.fill_(value)
            seen.append(states(model))
            other = encoder()
            other.load_state_dict(merged_state(model))
            torch.testing.assert_close(seen[-1], states(other), rtol=1e-4, atol=1e-5)
    assert all(not torch.equal(one, after) for one, after in itertools.pairwise(seen))


def test_values_that_cannot_be_are_named() -> None:
    with pytest.raises(UserError, match=r"no adaptation 'lorra'(.|\n)*did you mean lora"):
        Adaptation(kind="lorra")
    for name in ("rank", "blocks"):
        with pytest.raises(UserError, match=f"{name}=0 is not possible"):
            Adaptation(kind="lora", **{name: 0})
