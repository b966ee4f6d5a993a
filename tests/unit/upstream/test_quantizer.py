"""The quantizer against values computed by hand."""

import math

import pytest
import torch

from wavbench.upstream.layers.quantizer import GumbelQuantizer


@pytest.fixture
def quantizer() -> GumbelQuantizer:
    """Two groups of two entries that see their logits as they are."""
    module = GumbelQuantizer(4, 2, 2, 6)
    with torch.no_grad():
        module.choose.weight.copy_(torch.eye(4))
        module.codebook.copy_(torch.arange(12.0).view(2, 2, 3))
    return module


LOGITS = torch.log(torch.tensor([[0.9, 0.1, 0.5, 0.5], [0.3, 0.7, 0.5, 0.5]]))
QUIET = torch.zeros(2, 2, 2)


def test_entries_are_chosen_and_concatenated(quantizer: GumbelQuantizer) -> None:
    result = quantizer(LOGITS, 1.0, torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]]))
    assert result.codes.tolist() == [[0, 1], [1, 0]]
    torch.testing.assert_close(result.vectors, torch.tensor([[0.0, 1, 2, 9, 10, 11], [3, 4, 5, 6, 7, 8]]))


def test_perplexity_is_that_of_the_mean_choice(quantizer: GumbelQuantizer) -> None:
    # means: 0.6 and 0.4 in the first group, 0.5 and 0.5 in the second
    wanted = math.exp(-0.6 * math.log(0.6) - 0.4 * math.log(0.4)) + 2.0
    assert quantizer(LOGITS, 1.0, QUIET).perplexity.item() == pytest.approx(wanted, rel=1e-5)
    quantizer.eval()
    # the most probable entries: 0 and 1 in the first group; ties go to 0 in the second, which leaves one in use
    assert quantizer(LOGITS, 1.0).perplexity.item() == pytest.approx(2.0 + 1.0, rel=1e-5)


def test_the_gradient_of_a_choice_is_that_of_its_soft_version(quantizer: GumbelQuantizer) -> None:
    x = LOGITS.clone().requires_grad_()
    weights = torch.tensor([1.0, 2, 3, 4, 5, 6])
    (quantizer(x, 0.5, QUIET).vectors * weights).sum().backward()
    other = LOGITS.clone().requires_grad_()
    soft = torch.softmax(other.view(2, 2, 2) / 0.5, dim=-1)
    (torch.einsum("fge,ged->fgd", soft, quantizer.codebook.detach()).flatten(1) * weights).sum().backward()
    assert other.grad.abs().max() > 0.1
    torch.testing.assert_close(x.grad, other.grad)
    # the codebook's gradient is that of the hard choice: frames 0 and 1 took entries 0 and 1, then 0 and 0
    wanted = torch.tensor([[[1.0, 2, 3], [1, 2, 3]], [[8, 10, 12], [0, 0, 0]]])
    torch.testing.assert_close(quantizer.codebook.grad, wanted)


def test_noise_is_gumbels(quantizer: GumbelQuantizer) -> None:
    torch.manual_seed(0)
    codes = quantizer(LOGITS[:1].repeat(20_000, 1), 2.0).codes.double()
    # whatever the temperature, an entry is taken as often as its softmax says
    assert codes.mean(dim=0).tolist() == pytest.approx([0.1, 0.5], abs=0.01)


def test_nothing_to_quantize_is_no_error(quantizer: GumbelQuantizer) -> None:
    result = quantizer(torch.zeros(0, 4), 1.0)
    assert result.vectors.shape == (0, 6)
    assert bool(result.perplexity.isfinite())


def test_groups_divide_the_width() -> None:
    with pytest.raises(ValueError, match="3 groups do not divide 8"):
        GumbelQuantizer(4, 3, 2, 8)
