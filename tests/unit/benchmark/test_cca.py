"""CCA is what its papers say, and what it reports is what holds in rows that it was not fitted to."""

import numpy as np
import pytest

from wavbench.benchmark.cca import PARTS, LabelledProducts, directions


def rows(count: int, dim: int, classes: int, strength: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States (rows, 1, dim) whose mean moves with their class, and the classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    means = random.standard_normal((classes, dim)) * strength
    states = random.standard_normal((count, dim)) @ random.standard_normal((dim, dim)) + means[labels]
    return states[:, None].astype(np.float32), labels


def products(states: np.ndarray, *labels: np.ndarray, classes: int, block: int = 100) -> LabelledProducts:
    taken, parts = LabelledProducts(classes, len(labels)), np.arange(len(states)) % PARTS
    table = np.stack(labels, axis=1)
    for start in range(0, len(states), block):
        some = slice(start, start + block)
        taken.add(states[some], parts[some], table[some])
    return taken


def reference(x: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Canonical correlations from orthonormal bases, and projection weights by plain loops (Morcos et al. 2018)."""
    x, y = x - x.mean(0), np.eye(classes)[labels]
    y = (y - y.mean(0))[:, :-1]  # the last column is what the others leave
    basis_x, basis_y = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    left, correlations, _ = np.linalg.svd(basis_x.T @ basis_y, full_matrices=False)
    variates = basis_x @ left  # unit vectors over rows
    weights = [
        sum(abs(sum(h * v for h, v in zip(variates[:, i], x[:, j], strict=True))) for j in range(x.shape[1]))
        for i in range(variates.shape[1])
    ]
    return correlations, np.array(weights) / sum(weights)


def test_without_a_ridge_directions_are_those_of_orthonormal_bases() -> None:
    states, labels = rows(200, 6, 4, 1.0)
    correlations, weights = reference(states[:, 0].astype(float), labels, 4)
    taken = products(states, labels, classes=4)
    moments = taken.moments(range(PARTS), 0)
    (found,) = directions(moments, [0.0])
    np.testing.assert_allclose(found.correlations(moments), correlations, rtol=1e-6)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-6)
    assert found.weighted(moments) == pytest.approx(weights @ correlations)


def test_one_channel_and_two_classes_give_the_correlation_worked_out_by_hand() -> None:
    # centred states -2 -2 0 0 2 2, centred labels -1/2 or 1/2: products add up to 4, squares to 16 and 3/2
    states, labels = np.array([0, 0, 2, 2, 4, 4], np.float32)[:, None, None], np.array([0, 0, 0, 1, 1, 1])
    moments = products(states, labels, classes=2).moments(range(PARTS), 0)
    (found,) = directions(moments, [0.0])
    assert found.correlations(moments).tolist() == pytest.approx([4 / (16 * 1.5) ** 0.5])


def test_blocks_and_layers_change_nothing() -> None:
    (first, labels), (second, _) = rows(240, 5, 3, 1.0), rows(240, 5, 3, 0.3, seed=1)
    both = products(np.concatenate([first, second], axis=1), labels, classes=3, block=17)
    for layer, states in enumerate((first, second)):
        alone = products(states, labels, classes=3, block=240).scores(0)
        np.testing.assert_allclose(both.scores(layer).weighted, alone.weighted, rtol=1e-6)


def test_a_part_is_scored_with_directions_that_never_saw_it() -> None:
    states, labels = rows(400, 8, 3, 1.0)
    parts = np.arange(400) % PARTS
    before = products(states, labels, classes=3).scores(0)
    states[parts == 0] = np.random.default_rng(1).standard_normal((100, 1, 8))  # where nothing is to be found
    after = products(states, labels, classes=3).scores(0)
    assert abs(after.weighted[0]) < 0.35 < min(before.weighted)
    assert len(after.weighted) == PARTS
    assert after.fitted[0] == pytest.approx(before.fitted[0])  # and where part 0 is held out they are the same ones
    assert after.ridge[0] == before.ridge[0]


def test_more_channels_than_rows_fit_noise_and_hold_nothing() -> None:
    random = np.random.default_rng(2)
    states, labels = random.standard_normal((120, 1, 80)).astype(np.float32), random.integers(5, size=120)
    scores = products(states, labels, classes=5).scores(0)
    assert min(scores.fitted) > 0.5
    assert abs(np.mean(scores.weighted)) < 0.15
    assert abs(np.mean(scores.plain)) < 0.15


def test_what_labels_say_whole_scores_one_and_permuted_labels_nothing() -> None:
    labels = np.random.default_rng(3).integers(4, size=800)
    states = (np.eye(4)[labels] @ np.random.default_rng(4).standard_normal((4, 6)))[:, None].astype(np.float32)
    permuted = np.random.default_rng(5).permutation(labels)
    taken = products(states, labels, permuted, classes=4)
    assert min(taken.scores(0).weighted) > 0.999
    assert abs(np.mean(taken.scores(0, labelling=1).weighted)) < 0.1


def test_stronger_layers_score_higher() -> None:
    values = [np.mean(products(*rows(600, 10, 5, s), classes=5).scores(0).weighted) for s in (0.0, 0.5, 2.0)]
    assert values == sorted(values)
    assert values[0] < 0.1


def test_constant_and_doubled_channels_and_classes_that_are_not_there_do_no_harm() -> None:
    states, labels = rows(300, 4, 3, 1.0)
    plain = products(states, labels, classes=3).scores(0)
    more = np.concatenate([states, np.ones_like(states), states[..., :1]], axis=2)
    scores = products(more, labels, classes=9).scores(0)
    assert np.isfinite([*scores.weighted, *scores.plain]).all()
    assert np.mean(scores.plain) == pytest.approx(np.mean(plain.plain), abs=0.02)


def test_states_that_do_not_vary_score_nothing() -> None:
    labels = np.arange(40) // 4 % 3
    scores = products(np.ones((40, 1, 3), np.float32), labels, classes=3).scores(0)
    assert scores.weighted == scores.plain == (0.0,) * PARTS
