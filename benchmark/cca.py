"""How much of a label a layer holds: canonical correlation analysis (CCA) of states with one-hot labels, held out.

CCA finds directions of the states and of the labels that correlate most, then next most without the first, and so on.
In the data that it was fitted to it finds correlations of noise too (all of them are 1 where there are more channels
than rows), so what counts here is how well the same directions correlate in rows that played no part. Rows lie in four
parts; two are fitted to, one chooses the ridge, one is scored, and the four take turns.

A score is the mean over directions, each weighed by how much of the states projects onto it (PWCCA): a direction that
the states hardly use counts little, however well it fits.

Source: Hotelling 1936; Morcos et al. 2018, Insights on representational similarity in neural networks with canonical
correlation, section 3 (projection weighting); Pasad et al. 2021, Layer-wise analysis of a self-supervised speech
representation model, section 3 (states with one-hot phones and words; train, dev and test parts).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

PARTS = 4
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # added to every variance of the states, in units of their mean
RANK = 1e-10  # directions with less than this share of the largest variance are none


@dataclass(frozen=True)
class Scores:
    """CCA of one layer with one labelling; one value for each part that was held out, 1 for all that labels say.

    Args:
        weighted: projection-weighted mean of the correlations, in rows that were held out.
        plain: their plain mean, in the same rows.
        fitted: the weighted mean in the rows that were fitted to.
        ridge: that the dev part chose.
    """

    weighted: tuple[float, ...]
    plain: tuple[float, ...]
    fitted: tuple[float, ...]
    ridge: tuple[float, ...]


@dataclass(frozen=True)
class Moments:
    """Sums of products of some rows, centred on their means.

    Args:
        xx: of states with states.
        xy: of states with one-hot labels.
        yy: of labels with labels.
    """

    xx: Float[np.ndarray, "dim dim"]
    xy: Float[np.ndarray, "dim classes"]
    yy: Float[np.ndarray, "classes classes"]


class LabelledProducts:
    """All that CCA needs of labelled rows, layer by layer and part by part, so that no row has to be kept.

    Args:
        classes: of the labels.
        labellings: how many labels each row has; besides the true one those of baselines.
    """

    def __init__(self, classes: int, labellings: int) -> None:
        self.classes, self.labellings, self.shift = classes, labellings, None

    def add(
        self,
        states: Float32[np.ndarray, "rows layers dim"],
        parts: Int[np.ndarray, " rows"],
        labels: Int[np.ndarray, "rows labellings"],
    ) -> None:
        """Take rows in, each with the part that it is in (below PARTS) and its labels."""
        if not len(states):
            return
        if self.shift is None:
            self._begin(states)
        x = states.astype(np.float64) - self.shift
        for part in np.unique(parts):
            rows = x[parts == part]
            one_hot = np.eye(self.classes)[labels[parts == part]].reshape(len(rows), -1)  # labelling by labelling
            self.rows[part] += len(rows)
            self.counts[part] += one_hot.sum(0)
            self.sums[part] += (one_hot.T @ rows.reshape(len(rows), -1)).reshape(self.sums[part].shape)
            for layer in range(rows.shape[1]):
                self.squares[part, layer] += rows[:, layer].T @ rows[:, layer]

    def moments(self, parts: Sequence[int], layer: int, labelling: int = 0) -> Moments:
        """Of the rows of some parts."""
        parts, own = list(parts), slice(labelling * self.classes, (labelling + 1) * self.classes)
        rows, counts = max(self.rows[parts].sum(), 1), self.counts[parts][:, own].sum(0)
        sums = self.sums[parts][:, own, layer].sum(0)  # (classes, dim)
        total = sums.sum(0)
        return Moments(
            xx=self.squares[parts, layer].sum(0) - np.outer(total, total) / rows,
            xy=sums.T - np.outer(total, counts) / rows,
            yy=np.diag(counts) - np.outer(counts, counts) / rows,
        )

    def scores(self, layer: int, labelling: int = 0, ridges: Sequence[float] = RIDGES) -> Scores:
        """Every part held out in turn: fitted to the two behind the next, whose ridge the next one chooses."""
        found = []
        for test in range(PARTS):
            fit = self.moments([(test + 2) % PARTS, (test + 3) % PARTS], layer, labelling)
            dev, held = (self.moments([part], layer, labelling) for part in ((test + 1) % PARTS, test))
            pairs = directions(fit, ridges)
            best = max(range(len(ridges)), key=lambda k: pairs[k].weighted(dev))
            chosen = pairs[best]
            plain = float(chosen.correlations(held).mean()) if len(chosen.weights) else 0.0
            found.append((chosen.weighted(held), plain, chosen.weighted(fit), float(ridges[best])))
        return Scores(*(tuple(values) for values in zip(*found, strict=True)))

    def _begin(self, states: np.ndarray) -> None:
        layers, dim = states.shape[1:]
        self.shift = states.mean(0, dtype=np.float64)
        self.rows = np.zeros(PARTS, int)
        self.squares = np.zeros((PARTS, layers, dim, dim))
        self.counts = np.zeros((PARTS, self.labellings * self.classes))
        self.sums = np.zeros((PARTS, self.labellings * self.classes, layers, dim))


@dataclass(frozen=True)
class Directions:
    """Canonical directions, strongest first.

    Args:
        states: of the states.
        labels: of the labels.
        weights: how much of the states projects onto each; they add up to 1.
    """

    states: Float[np.ndarray, "dim k"]
    labels: Float[np.ndarray, "classes k"]
    weights: Float[np.ndarray, " k"]

    def correlations(self, of: Moments) -> Float[np.ndarray, " k"]:
        """Of each pair of directions in some rows; 0 where one of the two does not vary there."""
        covariance = np.einsum("dk,dc,ck->k", self.states, of.xy, self.labels, optimize=True)
        variance = np.einsum("dk,de,ek->k", self.states, of.xx, self.states, optimize=True)
        variance *= np.einsum("ck,ce,ek->k", self.labels, of.yy, self.labels, optimize=True)
        scale = np.sqrt(np.maximum(variance, 0))
        return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)

    def weighted(self, of: Moments) -> float:
        """The projection-weighted mean of the correlations in some rows."""
        return float(self.weights @ self.correlations(of))


def directions(fit: Moments, ridges: Sequence[float]) -> list[Directions]:
    """Canonical directions of some rows for each ridge; as many as the smaller rank of the two sides."""
    found = []
    white_y = _whitened(fit.yy, 0.0)
    values, vectors = _spectrum(fit.xx)
    for ridge in ridges:
        white_x = vectors / np.sqrt(values + ridge * values.mean()) if len(values) else vectors
        left, _, right = np.linalg.svd(white_x.T @ fit.xy @ white_y, full_matrices=False)
        states = white_x @ left
        projected = fit.xx @ states  # (dim, k): of every channel onto every direction
        length = np.sqrt(np.einsum("dk,dk->k", states, projected))
        weights = np.abs(projected).sum(0) / np.where(length > 0, length, 1)
        found.append(Directions(states, white_y @ right.T, weights / max(weights.sum(), np.finfo(float).tiny)))
    return found


def _whitened(products: np.ndarray, ridge: float) -> np.ndarray:
    values, vectors = _spectrum(products)
    return vectors / np.sqrt(values + ridge)


def _spectrum(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances and directions of what varies at all."""
    values, vectors = np.linalg.eigh(products)
    kept = values > RANK * max(values.max(initial=0), np.finfo(float).tiny)
    return values[kept], vectors[:, kept]
