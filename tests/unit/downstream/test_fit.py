"""A stack of heads is as many heads trained alone; pooled features train the head that frames train."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from wavbench.downstream.fit import HeadStack, StackedAdam, batch_order, fit, like_lengths
from wavbench.downstream.heads import mean_linear, projection
from wavbench.downstream.mix import Mix
from wavbench.downstream.objectives import Classify
from wavbench.downstream.spec import Budget
from wavbench.downstream.stacked import StackedLinear

BUDGET = Budget(updates=60, batch=8, evaluate_every=20, learning_rates=(1e-3, 1e-2))


class Pooled:
    """Batches of random pooled states in which the class shows in one layer."""

    def __init__(self, rows: int = 60, layers: int = 3, dim: int = 6, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.states = torch.randn(rows, layers, dim, generator=random)
        self.labels = torch.randint(0, 3, (rows,), generator=random)
        self.states[:, 1, 0] += 2.0 * self.labels
        self.layers, self.dim = layers, dim

    def take(self, rows: np.ndarray):
        return self.states[torch.from_numpy(rows)].transpose(0, 1), None

    def length(self, row: int) -> int:
        return 1


def trained(data: Pooled, mixed: int, single: list[int], rates: list[float], **more):
    train, dev = np.arange(40), np.arange(40, 60)
    objective = Classify([f"c{label}" for label in data.labels.tolist()], train)
    torch.manual_seed(3)
    model = HeadStack(mixed, single, data.layers, lambda heads: mean_linear.build(heads, data.dim, objective.outputs))
    budget = replace(BUDGET, **more)
    return fit(model, objective, data, train, dev, rates, budget, True, seed=5), objective


def test_a_head_learns_the_same_alone_and_in_a_stack() -> None:
    data = Pooled()
    stack, _ = trained(data, 2, [0, 1, 2, 0, 1, 2], [1e-3, 1e-2, 1e-3, 1e-3, 1e-3, 1e-2, 1e-2, 1e-2])
    outputs = stack.model(data.states.transpose(0, 1))
    for place, (mixed, single, rate) in {1: (1, [], 1e-2), 3: (0, [1], 1e-3), 7: (0, [2], 1e-2)}.items():
        alone, _ = trained(data, mixed, single, [rate])
        torch.testing.assert_close(alone.model(data.states.transpose(0, 1))[0], outputs[place], rtol=1e-4, atol=1e-5)
        assert alone.dev[0] == pytest.approx(stack.dev[place])


def test_the_layer_that_holds_the_class_wins() -> None:
    done, _ = trained(Pooled(), 0, [0, 1, 2], [1e-2] * 3, updates=200)
    assert done.dev.argmax() == 1
    assert done.dev[1] > 60


def test_stacked_adam_is_torch_adam_with_clipping_per_head() -> None:
    torch.manual_seed(0)
    stack = nn.Parameter(torch.randn(3, 4, 5))
    rates, targets = [1e-2, 1e-2, 3e-2], torch.randn(3, 4, 5) * torch.tensor([0.01, 1.0, 50.0])[:, None, None]
    alone = [nn.Parameter(stack[k].detach().clone()) for k in range(3)]
    ours = StackedAdam([stack], rates, clip=1.0)
    theirs = [torch.optim.Adam([p], lr=rate) for p, rate in zip(alone, rates, strict=True)]
    for _ in range(30):
        (stack - targets).square().sum().backward()
        ours.step()
        for p, target, optimiser in zip(alone, targets, theirs, strict=True):
            optimiser.zero_grad()
            (p - target).square().sum().backward()
            torch.nn.utils.clip_grad_norm_([p], 1.0)
            optimiser.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in alone]), rtol=1e-5, atol=1e-6)


def test_a_head_that_diverges_leaves_the_others_alone() -> None:
    data = Pooled()
    calm, _ = trained(data, 0, [1], [1e-2])
    both, _ = trained(data, 0, [1, 1], [1e-2, float("inf")])
    assert both.dev[0] == pytest.approx(calm.dev[0])
    torch.testing.assert_close(calm.model(data.states.transpose(0, 1))[0], both.model(data.states.transpose(0, 1))[0])


def test_the_best_moment_of_each_head_is_kept_not_the_last() -> None:
    data = Pooled()
    done, objective = trained(data, 0, [1, 0], [1e-2, 1e-2], updates=200, evaluate_every=10)
    dev = np.arange(40, 60)
    states, _ = data.take(dev)
    values = objective.values([objective.decode(done.model, done.model(states), dev, None)], [dev])
    np.testing.assert_allclose(values, done.dev)


def test_a_mix_starts_as_the_average_and_is_a_weighted_sum() -> None:
    mix, states = Mix(2, 3), torch.randn(3, 4, 5)
    torch.testing.assert_close(mix(states)[0], states.mean(dim=0))
    with torch.no_grad():
        mix.logits[1] = torch.tensor([0.0, 1.0, 2.0])
    weights = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    torch.testing.assert_close(mix(states)[1], sum(w * s for w, s in zip(weights, states, strict=True)))


def test_stacked_linear_is_as_many_linear_layers() -> None:
    stacked, x = StackedLinear(3, 4, 5), torch.randn(3, 7, 4)
    assert torch.equal(stacked.weight[0], stacked.weight[2])
    with torch.no_grad():
        stacked.weight.copy_(torch.randn(3, 4, 5))
    for head in range(3):
        linear = nn.functional.linear(x[head], stacked.weight[head].T, stacked.bias[head, 0])
        torch.testing.assert_close(stacked(x)[head], linear)


def test_the_affine_head_trains_alike_on_frames_and_on_their_means() -> None:
    """Float64 head, float32 features, the same batches, 200 updates: logits equal to 1e-6 relative."""
    random = np.random.default_rng(0)
    lengths = random.integers(20, 120, 48)
    frames = [torch.from_numpy(random.normal(size=(4, n, 16)).astype(np.float32)) for n in lengths]
    labels = torch.from_numpy(random.integers(0, 5, 48))
    means = torch.stack([part.double().mean(dim=1).float() for part in frames])  # as a pooled store holds them
    logits = {}
    for kind in ("frames", "pooled"):
        torch.manual_seed(1)
        mix, head = Mix(1, 4).double(), mean_linear.build(1, 16, 5).double()
        optimiser = torch.optim.Adam([*mix.parameters(), *head.parameters()], lr=1e-3)

        def output(rows, kind=kind, mix=mix, head=head):
            if kind == "pooled":
                return head(mix(means[rows].double().transpose(0, 1)))
            packed = torch.cat([frames[row].double() for row in rows], dim=1)
            return head.from_frames(mix(packed), torch.from_numpy(lengths[rows]))

        order = batch_order(np.arange(48), 8, seed=2)
        for _ in range(200):
            rows = next(order)
            loss = nn.functional.cross_entropy(output(rows)[0], labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        logits[kind] = output(np.arange(48)).detach()
    error = (logits["frames"] - logits["pooled"]).norm() / logits["frames"].norm()
    assert error < 1e-6


def test_every_epoch_has_every_row_once_and_its_order_depends_on_the_seed_alone() -> None:
    rows = np.arange(10, 33)
    first = [next(order) for order in [batch_order(rows, 8, 1)] for _ in range(6)]
    again = [next(order) for order in [batch_order(rows, 8, 1)] for _ in range(6)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert sorted(np.concatenate(first[:3])) == sorted(rows)
    assert not np.array_equal(np.concatenate(first[:3]), np.concatenate(first[3:]))
    assert not np.array_equal(first[0], next(batch_order(rows, 8, 2)))


def test_a_last_batch_that_is_too_short_for_batch_norms_joins_the_one_before() -> None:
    order = batch_order(np.arange(17), 8, 0, least=2)
    assert [len(next(order)) for _ in range(4)] == [8, 9, 8, 9]
    assert [len(rows) for rows, _ in zip(batch_order(np.arange(1), 8, 0, least=2), range(2), strict=False)] == [1, 1]
    assert [len(rows) for rows, _ in zip(batch_order(np.arange(17), 8, 0), range(3), strict=False)] == [8, 8, 1]


def test_a_projection_stack_gives_its_speaker_weights_head_by_head() -> None:
    model = HeadStack(1, [0, 1], 2, lambda heads: projection.build(heads, 6, 4))
    assert model.stacked("speakers").shape[0] == 3
    assert model(torch.randn(2, 5, 6)).shape[:2] == (3, 5)


def test_batches_of_like_length_hold_every_row_once_an_epoch_and_few_frames_of_padding() -> None:
    random = np.random.default_rng(0)
    rows, lengths = np.arange(100, 400), random.integers(20, 400, 300)
    batches = like_lengths(rows, lengths, 1_000, seed=3)
    seen, epoch = [], []
    while len(seen) < 300:
        batch = next(batches)
        own = lengths[batch - 100]
        assert len(batch) * own.max() <= 1_000 or len(batch) == 1
        seen += batch.tolist()
        epoch.append(own)
    assert sorted(seen) == rows.tolist()
    padded = sum(len(own) * own.max() for own in epoch)
    assert padded < 1.1 * lengths.sum()
    again = like_lengths(rows, lengths, 1_000, seed=3)
    first = np.concatenate([next(again) for _ in epoch])
    assert first.tolist() == seen  # a function of the seed
    assert np.concatenate([next(again) for _ in epoch]).tolist() != seen  # and of the epoch


def test_a_head_that_has_waited_long_enough_stays_as_it_was_and_all_of_them_end_the_training() -> None:
    data, rates = Pooled(), [1e-3, 1e-1]
    whole, _ = trained(data, 0, [1, 1], rates, updates=200, evaluate_every=5)
    stopped, _ = trained(data, 0, [1, 1], rates, updates=200, evaluate_every=5, patience=3)
    assert (stopped.updates <= whole.updates).all()
    assert (stopped.updates < whole.updates).any()
    alone, _ = trained(data, 0, [1], rates[1:], updates=200, evaluate_every=5, patience=3)
    assert alone.updates[0] == stopped.updates[1]  # how long one waits is nothing to the others
    assert alone.dev[0] == pytest.approx(stopped.dev[1])
