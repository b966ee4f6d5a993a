"""How alike the layers of two upstreams are: linear centred kernel alignment (CKA), from frames that come in blocks.

With frames x and y (both centred) it is |X'Y|^2 / (|X'X| |Y'Y|), in Frobenius norms: 1 where one set of states is the
other turned, mirrored and scaled, 0 where no direction of one says anything of the other. Between unrelated states it
is not 0 but about dim / frames, so that few frames make everything look alike; the debiased form takes that off.

Source: Kornblith et al. 2019, Similarity of Neural Network Representations Revisited, section 3 (linear CKA); Song et
al. 2012, Feature Selection via Dependence Maximization (the unbiased estimate of HSIC); Nguyen et al. 2021, Do Wide and
Deep Networks Learn the Same Things?, section 2 (CKA of it).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

LEAST_FRAMES = 4  # the unbiased estimate divides by frames - 3


@dataclass(frozen=True)
class Hsic:
    """Two estimates of the Hilbert-Schmidt independence criterion of each layer with each, up to one common factor.

    Args:
        plain: |X'Y|^2 of centred frames, [layer, layer].
        unbiased: its U-statistic times frames (frames - 3), [layer, layer]; may be negative.
    """

    plain: Float[np.ndarray, "a b"]
    unbiased: Float[np.ndarray, "a b"]


class CrossProducts:
    """All that HSIC of linear kernels needs of frames, so that no frame has to be kept.

    Frames are shifted by the mean of the first block, which changes neither estimate and keeps the digits that a large
    common mean would take. Products of a block are float32, their sums float64.
    """

    def __init__(self) -> None:
        self.frames = 0

    def add(self, x: Float32[np.ndarray, "frames a dim_x"], y: Float32[np.ndarray, "frames b dim_y"]) -> None:
        """Take a block of frames in: states of both upstreams at the same times."""
        if not len(x):
            return
        if not self.frames:
            self._begin(x, y)
        x, y = x - self.shift_x, y - self.shift_y
        flat_x, flat_y = x.reshape(len(x), -1), y.reshape(len(y), -1)
        norms_x, norms_y = _square_norms(x), _square_norms(y)
        self.frames += len(x)
        self.cross += flat_x.T @ flat_y
        self.sum_x += flat_x.sum(0, dtype=np.float64)
        self.sum_y += flat_y.sum(0, dtype=np.float64)
        self.total_x += norms_x.sum(0)
        self.total_y += norms_y.sum(0)
        self.both += norms_x.T @ norms_y
        self.x_by_norm += flat_x.T.astype(np.float64) @ norms_y
        self.y_by_norm += flat_y.T.astype(np.float64) @ norms_x

    def hsic(self) -> Hsic:
        """Of all frames so far.

        Raises:
            ValueError: there are fewer than LEAST_FRAMES.
        """
        n, (a, dim_x), (b, dim_y) = self.frames, self.shift_x.shape, self.shift_y.shape
        if n < LEAST_FRAMES:
            raise ValueError(f"{n} frames are too few for an unbiased estimate")
        plain, unbiased = np.empty((a, b)), np.empty((a, b))
        for i in range(a):
            for j in range(b):
                here, there = slice(i * dim_x, (i + 1) * dim_x), slice(j * dim_y, (j + 1) * dim_y)
                cross, sum_x, sum_y = self.cross[here, there], self.sum_x[here], self.sum_y[there]
                plain[i, j] = np.square(cross - np.outer(sum_x, sum_y) / n).sum()
                # sums over the kernels with zeros on their diagonals: of their product's trace, of all their entries,
                # and of all entries of their product
                both = self.both[i, j]
                trace = np.square(cross).sum() - both
                entries = (sum_x @ sum_x - self.total_x[i]) * (sum_y @ sum_y - self.total_y[j])
                product = sum_x @ cross @ sum_y + both
                product -= sum_x @ self.x_by_norm[here, j] + sum_y @ self.y_by_norm[there, i]
                unbiased[i, j] = trace + entries / ((n - 1) * (n - 2)) - 2 * product / (n - 2)
        return Hsic(plain, unbiased)

    def _begin(self, x: np.ndarray, y: np.ndarray) -> None:
        self.shift_x, self.shift_y = x.mean(0), y.mean(0)  # (layers, dim)
        self.cross = np.zeros((self.shift_x.size, self.shift_y.size))
        self.sum_x, self.sum_y = np.zeros(self.shift_x.size), np.zeros(self.shift_y.size)
        self.total_x, self.total_y = np.zeros(x.shape[1]), np.zeros(y.shape[1])
        self.both = np.zeros((x.shape[1], y.shape[1]))
        self.x_by_norm = np.zeros((self.shift_x.size, y.shape[1]))
        self.y_by_norm = np.zeros((self.shift_y.size, x.shape[1]))


def aligned(
    cross: Float[np.ndarray, "a b"], own_x: Float[np.ndarray, " a"], own_y: Float[np.ndarray, " b"]
) -> Float[np.ndarray, "a b"]:
    """CKA from HSIC of the layers with each other and with themselves; 0 where a layer does not vary.

    Args:
        cross: of each layer of one upstream with each of the other.
        own_x: of each layer of the one with itself.
        own_y: of the other's.
    """
    scale = np.sqrt(np.maximum(np.outer(own_x, own_y), 0))
    return np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)


def _square_norms(states: Float32[np.ndarray, "frames layers dim"]) -> Float[np.ndarray, "frames layers"]:
    return np.einsum("nld,nld->nl", states, states, dtype=np.float64)
