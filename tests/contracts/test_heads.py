"""What every file in downstream/heads promises: a stack of n heads is n heads."""

import copy
import importlib
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import nn

from wavbench.downstream.fold import HEADS

FILES = sorted(path.stem for path in HEADS.glob("*.py") if path.stem != "__init__")
BUILDS = {name: importlib.import_module(f"wavbench.downstream.heads.{name}").build for name in FILES}
NAMES = [name for name in FILES if not isinstance(BUILDS[name], partial)]  # the others are sizes of these
STACK, INPUTS, OUTPUTS, ROWS = 3, 6, 5, 17
LENGTHS, SYMBOLS = torch.tensor([7, 10]), torch.tensor([[0, 3, 1], [0, 2, 2]])  # the rows of a head that writes symbols


@pytest.fixture(params=NAMES)
def head(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"wavbench.downstream.heads.{request.param}")


def build(head: ModuleType, heads: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return head.build(heads, INPUTS, OUTPUTS)


def scattered(head: ModuleType, heads: int = STACK) -> nn.Module:
    """A stack whose heads have weights of their own, as after training.

    In double precision: what is promised is the same sum, and in float32 a deep head tells one machine's
    order of adding from another's.
    """
    model = build(head, heads).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (parameter[0].std(correction=0) + 0.01))
    return model.eval()


def one_of(head: ModuleType, stack: nn.Module, place: int) -> nn.Module:
    """A single head with the weights of one of a stack."""
    single = build(head, 1).double().eval()
    single.load_state_dict({name: value[place : place + 1] for name, value in stack.state_dict().items()})
    return single


def inputs(heads: int = STACK) -> torch.Tensor:
    return torch.randn(heads, ROWS, INPUTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What heads make of rows; those that read utterances or write take them as the frames of two utterances."""
    if hasattr(model, "takes_symbols"):
        return model(x, LENGTHS, SYMBOLS)
    return model(x, LENGTHS) if hasattr(model, "takes_lengths") else model(x)


def of_utterances(model: nn.Module) -> bool:
    return hasattr(model, "takes_symbols") or hasattr(model, "takes_lengths")


def test_there_are_heads() -> None:
    assert {"affine", "linear", "mean_linear", "projection", "translator"} <= set(NAMES)


def test_every_parameter_has_a_leading_heads_axis(head: ModuleType) -> None:
    model = build(head, STACK)
    assert list(model.parameters())
    assert all(len(parameter) == STACK for parameter in model.parameters())
    assert all(len(buffer) == STACK for buffer in model.buffers())  # running statistics are each head's own


def test_a_stack_is_as_many_single_heads(head: ModuleType) -> None:
    stack, x = scattered(head), inputs()
    together = outputs(stack, x)
    assert len(together) == STACK
    assert of_utterances(stack) or together.shape[1] == ROWS
    for place in range(STACK):
        alone = outputs(one_of(head, stack, place), x[place : place + 1])
        torch.testing.assert_close(together[place], alone[0], rtol=1e-5, atol=1e-6)


def test_all_heads_of_a_stack_begin_as_the_single_head_of_that_seed(head: ModuleType) -> None:
    stack, single = build(head, STACK, seed=3), build(head, 1, seed=3)
    for name, parameter in stack.named_parameters():
        for place in range(STACK):
            assert torch.equal(parameter[place], single.get_parameter(name)[0]), name


def test_the_same_seed_gives_the_same_weights_and_another_others(head: ModuleType) -> None:
    first, again, other = (build(head, STACK, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    drawn = [(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True) if a.std() > 0]  # no norms
    assert drawn
    assert not any(torch.equal(a, b) for a, b in drawn)


def test_the_gradient_of_a_head_does_not_depend_on_the_others(head: ModuleType) -> None:
    stack, x = scattered(head), inputs()
    changed = copy.deepcopy(stack)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter[1:] *= -50
    outputs(stack, x).square().sum().backward()
    x[1:] += 9
    outputs(changed, x).square().sum().backward()
    for name, parameter in stack.named_parameters():
        if parameter.grad is None:  # not of the forward pass: AM-softmax reads it apart
            continue
        torch.testing.assert_close(parameter.grad[0], changed.get_parameter(name).grad[0], msg=name)


def test_a_head_gets_the_gradient_it_would_get_alone(head: ModuleType) -> None:
    stack, x = scattered(head), inputs()
    outputs(stack, x).square().sum().backward()
    for place in range(STACK):
        alone = one_of(head, stack, place)
        outputs(alone, x[place : place + 1]).square().sum().backward()
        for name, parameter in alone.named_parameters():
            if parameter.grad is not None:
                theirs = stack.get_parameter(name).grad[place]
                size = max(1.0, float(parameter.grad.abs().max()))
                torch.testing.assert_close(theirs, parameter.grad[0], rtol=1e-4, atol=1e-5 * size, msg=name)


def test_every_weight_is_trained_by_some_loss(head: ModuleType) -> None:
    model = scattered(head)
    loss = outputs(model, inputs()).square().sum()
    if hasattr(model, "speakers"):
        embeddings = outputs(model, inputs())
        trained = model.trained(embeddings) if hasattr(model, "trained") else embeddings
        loss = loss + (trained @ model.speakers).square().sum()
    loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert not idle


def test_rows_do_not_see_each_other(head: ModuleType) -> None:
    """A head works row by row: frames or utterances can be cut into batches at will."""
    stack, x = scattered(head), inputs()
    if of_utterances(stack):  # its utterances do not see each other
        symbols = [(SYMBOLS,), (SYMBOLS[:1],), (SYMBOLS[1:],)] if hasattr(stack, "takes_symbols") else [()] * 3
        whole = stack(x, LENGTHS, *symbols[0])
        parts = [stack(x[:, :7], LENGTHS[:1], *symbols[1]), stack(x[:, 7:], LENGTHS[1:], *symbols[2])]
        torch.testing.assert_close(whole, torch.cat(parts, dim=1), rtol=1e-4, atol=1e-5)
        return
    whole = stack(x)
    parts = torch.cat([stack(x[:, :3]), stack(x[:, 3:])], dim=1)
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("name", [name for name in FILES if name not in NAMES])
def test_a_size_of_another_head_learns_in_a_few_updates(name: str) -> None:
    model = BUILDS[name](1, INPUTS, OUTPUTS)
    optimiser, losses = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(4):
        loss = (outputs(model, inputs(1).float()) - 3).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
