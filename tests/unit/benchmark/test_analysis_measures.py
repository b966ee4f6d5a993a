"""What an analysis writes is what its measures say of the states, however many passes over a store it takes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark import analysis_measures as measures
from wavbench.benchmark.analysis_sample import Reader
from wavbench.benchmark.cca import PARTS
from wavbench.upstream.errors import UserError
from wavbench.upstream.store import Fingerprint

FINGERPRINT = Fingerprint(
    weights="", config={}, layers=(0, 1, 2), kind="frames", dtype="float16", resampler="", normalisation=""
)


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


class Held:
    """A store in memory: states of each utterance, [layer, frame, dim]."""

    path, rejected, extract_seconds, frame_rate, fingerprint = Path("held"), {}, 0.0, 50.0, FINGERPRINT
    extract_cpu_seconds = 0.0

    def __init__(self, states: dict[str, np.ndarray]) -> None:
        self.states, self.ids = list(states.values()), list(states)
        self.layers, self.dim = tuple(range(len(self.states[0]))), self.states[0].shape[2]
        self.rows = {id: row for row, id in enumerate(self.ids)}
        self.lengths = np.array([states.shape[1] for states in self.states])

    def row(self, id: str) -> int:
        return self.rows[id]

    def need_frames(self, purpose: str) -> None:
        pass

    def read_frames(self, rows, layers) -> tuple:
        return self.states[rows[0]][list(layers)], self.lengths[rows]

    def read_pooled(self, rows, layers) -> tuple:
        means = np.stack([self.states[row][list(layers)].mean(axis=1) for row in rows]).astype(np.float32)
        return means, means


def reader(layers: int, dim: int, seed: int, utterances: int = 24) -> Reader:
    random = np.random.default_rng(seed)
    lengths = np.random.default_rng(99).integers(20, 60, size=utterances)
    states = {f"u{k:02d}": random.standard_normal((layers, n, dim)).astype(np.float16) for k, n in enumerate(lengths)}
    for own in states.values():
        own[1:] += own[:1]  # layers have something in common
    return Reader(Held(states), 0.0125)


def test_norms_are_means_over_frames() -> None:
    one = reader(3, 8, 0)
    values, frames = measures.norms_of(one, [0, 1, 2], one.store.ids, 10**6, 0, quiet)
    norms = np.concatenate([np.linalg.norm(s.astype(float), axis=2) for s in one.store.states], axis=1)
    assert frames == norms.shape[1]
    np.testing.assert_allclose(values["norm"], norms.mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(values["deviation"], norms.std(axis=1), atol=1e-3)


def test_many_passes_over_few_layers_give_what_one_pass_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, layers = [reader(3, 8, 0), reader(3, 6, 1)], [[0, 1, 2], [0, 1, 2]]
    whole, frames = measures.cka_of(pair, layers, pair[0].store.ids, 400, 0, quiet)
    monkeypatch.setattr(measures, "GROUP_BYTES", 8 * 8 * 6 * 4)  # two layers of each at once
    parts, again = measures.cka_of(pair, layers, pair[0].store.ids, 400, 0, quiet)
    assert frames == again >= 400
    assert np.shape(whole["cka"]) == (3, 3)
    for name in ("cka", "debiased"):
        np.testing.assert_allclose(parts[name], whole[name], atol=2e-5)


def test_an_upstream_is_like_itself() -> None:
    one = reader(3, 8, 0)
    values, _ = measures.cka_of([one, one], [[0, 1, 2]] * 2, one.store.ids, 400, 0, quiet)
    np.testing.assert_allclose(np.diag(values["cka"]), 1, atol=1e-5)
    np.testing.assert_allclose(np.diag(values["debiased"]), 1, atol=1e-5)
    assert values["cka"][0][1] < 0.9


def test_three_frames_are_refused() -> None:
    one = Reader(Held({"a": np.ones((1, 3, 2), np.float16)}), 0.0125)
    with pytest.raises(UserError, match="3 frames are too few"):
        measures.cka_of([one, one], [[0], [0]], ["a"], 100, 0, quiet)


def spoken(strength: float) -> tuple[Reader, pd.DataFrame]:
    """Utterances whose segments of 0.1 s are of three classes that layer 1 shows and layer 0 does not."""
    one, random, rows = reader(2, 8, 5, utterances=60), np.random.default_rng(6), []
    means = strength * random.standard_normal((3, 8))
    for id, states in zip(one.store.ids, one.store.states, strict=True):
        for k in range(states.shape[1] // 5):
            label = int(random.integers(3))
            states[1, 5 * k : 5 * k + 5] += means[label].astype(np.float16)
            rows.append((id, 0.1 * k, 0.1 * k + 0.1, "abc"[label]))
    return one, pd.DataFrame(rows, columns=["id", "start", "end", "label"])


def test_the_layer_that_shows_what_is_said_scores_and_the_other_does_not() -> None:
    one, segments = spoken(2.0)
    values = measures.timed_cca(one, [0, 1], segments, 0, quiet)
    assert np.shape(values["weighted"]) == (2, PARTS)
    assert np.shape(values["permuted"]) == (2, PARTS * measures.PERMUTATIONS)
    assert (values["classes"], values["rows"]) == (3, len(segments))
    silent, telling = np.mean(values["weighted"], axis=1)
    assert abs(silent) < 0.15 < 0.7 < telling
    assert np.abs(np.mean(values["permuted"], axis=1)).max() < 0.1


def test_layers_in_groups_score_what_they_score_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, segments = spoken(1.0)
    whole = measures.timed_cca(one, [0, 1], segments, 0, quiet)
    monkeypatch.setattr(measures, "GROUP_BYTES", 1)
    assert measures.timed_cca(one, [0, 1], segments, 0, quiet) == whole


def test_segments_of_one_utterance_are_held_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, segments = spoken(1.0)
    seen = []

    def keep(blocks, layers, dim, parts, codes, seed, progress):
        seen.append(parts)
        return {"rows": len(codes)}

    monkeypatch.setattr(measures, "_cca", keep)
    measures.timed_cca(one, [0], segments, 0, quiet)
    counts = pd.Series(seen[0]).groupby(segments["id"]).nunique()
    assert set(counts) == {1}
    assert set(np.bincount(pd.Series(seen[0]).groupby(segments["id"]).first())) == {15}
    labels = pd.DataFrame({"id": one.store.ids, "label": ["x", "y", "z"] * 20})
    measures.pooled_cca(one, [0], labels, 0, quiet)
    assert set(pd.crosstab(labels["label"], seen[1]).to_numpy().ravel()) == {5}  # an equal share of every class


def test_labels_of_whole_utterances_are_compared_with_their_means() -> None:
    one = reader(2, 6, 7, utterances=80)
    labels = pd.DataFrame({"id": one.store.ids, "label": ["left", "right"] * 40})
    for states, label in zip(one.store.states, labels["label"], strict=True):
        states[1] += np.float16(1.0 if label == "left" else -1.0)
    values = measures.pooled_cca(one, [0, 1], labels, 0, quiet)
    nothing, all_of_it = np.mean(values["weighted"], axis=1)
    assert abs(nothing) < 0.3 < 0.9 < all_of_it


def test_rare_labels_and_none_are_left_out_and_one_class_is_refused() -> None:
    one = reader(1, 4, 8)
    labels = pd.DataFrame({"id": one.store.ids, "label": ["a"] * 10 + ["b"] * 8 + ["rare"] * 3 + [""] * 3})
    values = measures.pooled_cca(one, [0], labels, 0, quiet)
    assert (values["classes"], values["rows"]) == (2, 18)
    assert measures.enough_classes(labels["label"])
    labels["label"] = ["a"] * 21 + ["rare"] * 3
    assert not measures.enough_classes(labels["label"])
    with pytest.raises(UserError, match="two classes with 4 utterances each"):
        measures.pooled_cca(one, [0], labels, 0, quiet)


def test_only_the_most_frequent_classes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MOST_CLASSES", 2)
    one = reader(1, 4, 9)
    labels = pd.DataFrame({"id": one.store.ids, "label": ["a"] * 5 + ["b"] * 10 + ["c"] * 9})
    assert measures.pooled_cca(one, [0], labels, 0, quiet)["rows"] == 19


def test_a_map_keeps_neighbours_and_counts_them() -> None:
    random, places = np.random.default_rng(0), {"left": -5.0, "right": 5.0}
    labels = pd.DataFrame({"id": [f"u{k:02d}" for k in range(40)], "label": ["left", "right"] * 20})
    states = {
        id: (random.standard_normal((2, 3, 4)) + places[label]).astype(np.float32)
        for id, label in labels.itertuples(index=False)
    }
    values = measures.tsne_of(Reader(Held(states), 0.0125), 1, labels, "corpus", False, 0)
    assert values["neighbour"] == 1.0
    assert values["chance"] == pytest.approx(2 * 20 * 19 / (40 * 39), abs=1e-5)
    plane = pd.DataFrame(values)[["x", "y"]].to_numpy()
    own = np.array(values["label"]) == "left"
    assert np.linalg.norm(plane[own].mean(0) - plane[~own].mean(0)) > plane[own].std() / 2
    assert measures.tsne_of(Reader(Held(states), 0.0125), 1, labels, "corpus", False, 0) == values
    hidden = measures.tsne_of(Reader(Held(states), 0.0125), 1, labels, "corpus", True, 0)
    assert {"left", "right"}.isdisjoint(hidden["label"])
    assert not set(labels["id"]) & set(values["utterance"])


def test_a_map_of_many_utterances_is_of_some_and_of_three_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MOST_POINTS", 15)
    one = reader(1, 4, 10)
    labels = pd.DataFrame({"id": one.store.ids, "label": ["a", "b"] * 12})
    assert len(measures.tsne_of(one, 0, labels, "corpus", False, 0)["x"]) == 15
    with pytest.raises(UserError, match="3 utterances are too few"):
        measures.tsne_of(one, 0, labels.head(3), "corpus", False, 0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_map_of_utterances_that_are_all_the_same_is_refused(value: float) -> None:
    states = {f"u{k}": np.full((1, 12, 8), value, np.float32) for k in range(12)}
    labels = pd.DataFrame({"id": list(states), "label": ["a", "b"] * 6})
    with pytest.raises(UserError, match="all utterances have the same state at layer 0"):
        measures.tsne_of(Reader(Held(states), 0.0125), 0, labels, "corpus", False, 0)
