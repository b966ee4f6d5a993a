"""CKA is what its papers say: against a value worked out by hand, kernels written out, and loops over frames."""

import itertools

import numpy as np
import pytest

from wavbench.benchmark.cka import CrossProducts, aligned


def states(frames: int, layers: int, dim: int, seed: int, mean: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_normal((frames, layers, dim)) + mean).astype(np.float32)


def products(x: np.ndarray, y: np.ndarray, block: int = 1_000) -> CrossProducts:
    taken = CrossProducts()
    for start in range(0, len(x), block):
        taken.add(x[start : start + block], y[start : start + block])
    return taken


def cka(x: np.ndarray, y: np.ndarray, block: int = 1_000) -> tuple[float, float]:
    """Plain and debiased CKA of one layer (frames, dim) with another."""
    x, y = x[:, None].astype(np.float32), y[:, None].astype(np.float32)
    cross, own_x, own_y = (products(*pair, block).hsic() for pair in ((x, y), (x, x), (y, y)))
    return tuple(
        float(aligned(getattr(cross, kind), getattr(own_x, kind)[0], getattr(own_y, kind)[0])[0, 0])
        for kind in ("plain", "unbiased")
    )


def test_two_channels_of_four_frames_give_the_value_worked_out_by_hand() -> None:
    # centred x: -3 -1 1 3, y: -1 -1 1 1 and 1 -1 -1 1; x'y = (8, 0), |x'y|^2 = 64, |x'x| = 20,
    # y'y = diag(4, 4), whose norm is sqrt(32)
    x, y = np.array([[0.0], [2.0], [4.0], [6.0]]), np.array([[0.0, 2.0], [0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])
    assert cka(x, y)[0] == pytest.approx(64 / (20 * 32**0.5))


@pytest.mark.parametrize("block", [1, 7, 1_000])
def test_plain_cka_is_that_of_centred_kernels_written_out(block: int) -> None:
    x, y = states(40, 1, 5, 0, mean=3.0)[:, 0], states(40, 1, 8, 1, mean=-2.0)[:, 0]
    y[:, :3] += x[:, :3]
    centring = np.eye(40) - 1 / 40
    k, l = (centring @ (z @ z.T).astype(float) @ centring for z in (x, y))
    expected = np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l))
    assert cka(x, y, block)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("frames", [4, 9])
def test_the_unbiased_estimate_is_the_mean_over_all_choices_of_four_frames(frames: int) -> None:
    """HSIC is a U-statistic: of every four different frames i, j, q, r the mean of K_ij (L_ij + L_qr - 2 L_iq)."""
    x, y = states(frames, 1, 3, 2, mean=5.0), states(frames, 1, 2, 3)
    y[..., 0] += x[..., 0]
    k, l = (z[:, 0].astype(float) @ z[:, 0].T.astype(float) for z in (x, y))
    values = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(frames), 4)]
    found = products(x, y).hsic().unbiased[0, 0] / (frames * (frames - 3))
    assert found == pytest.approx(np.mean(values), rel=1e-4)


def test_layers_are_compared_each_with_each() -> None:
    x, y = states(60, 3, 4, 4), states(60, 2, 6, 5)
    whole = products(x, y, 13).hsic()
    for i, j in itertools.product(range(3), range(2)):
        alone = products(x[:, i : i + 1], y[:, j : j + 1]).hsic()
        assert whole.plain[i, j] == pytest.approx(alone.plain[0, 0], rel=1e-5)
        assert whole.unbiased[i, j] == pytest.approx(alone.unbiased[0, 0], abs=1e-4 * alone.plain[0, 0])


def test_turning_scaling_and_shifting_change_nothing_and_stretching_does() -> None:
    x = states(200, 1, 6, 6)[:, 0].astype(float)
    turn, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((6, 6)))
    assert cka(x, 30 * x @ turn + 100) == pytest.approx((1.0, 1.0), abs=1e-4)
    assert cka(x, x * [9, 1, 1, 1, 1, 1])[0] < 0.7


def test_unrelated_states_look_alike_in_few_frames_unless_debiased() -> None:
    pairs = [(states(60, 1, 40, 2 * k)[:, 0], states(60, 1, 40, 2 * k + 1)[:, 0]) for k in range(20)]
    plain, debiased = np.mean([cka(x, y) for x, y in pairs], axis=0)
    assert plain > 0.35
    assert abs(debiased) < 0.02
    far = cka(states(8_000, 1, 40, 100)[:, 0], states(8_000, 1, 40, 101)[:, 0])
    assert far[0] < 0.01


def test_a_large_common_mean_costs_no_digits() -> None:
    x, y = states(500, 1, 4, 8)[:, 0], states(500, 1, 4, 9)[:, 0]
    y[:, 0] += x[:, 0]
    assert cka(x + 500, y - 300, block=50) == pytest.approx(cka(x, y), abs=1e-4)


def test_a_layer_that_does_not_vary_is_like_none() -> None:
    assert cka(np.ones((10, 2)), states(10, 1, 3, 10)[:, 0]) == (0.0, 0.0)


def test_three_frames_are_too_few() -> None:
    with pytest.raises(ValueError, match="3 frames"):
        cka(np.eye(3), np.eye(3))
