"""Means and deviations of utterances in memory, held against one formula over the whole table."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from wavbench.downstream.batches import PooledBatches, Readable


def store_of(rows: int, layers: int, dim: int) -> SimpleNamespace:
    random = np.random.default_rng(0)
    tables = [(3 + random.standard_normal((rows, layers, dim))).astype(np.float32) for _ in range(2)]
    unread = dict.fromkeys(Readable.__annotations__) | dict.fromkeys(("need_frames", "read_frames"), print)
    held = {
        "lengths": random.integers(5, 50, rows),
        "row": int,
        "read_pooled": lambda places, chosen: tuple(table[places].copy() for table in tables),
        "tables": tables,
    }
    return SimpleNamespace(**unread | held)


@pytest.mark.parametrize("statistics", [("mean",), ("mean", "std")])
def test_statistics_are_shifted_and_scaled_by_the_frames_of_train(statistics: tuple) -> None:
    store, train = store_of(40, 3, 4), np.arange(25)
    batches = PooledBatches(store, [str(k) for k in range(40)], range(3), statistics, train)
    means, deviations = (table.astype(float) for table in store.tables)
    count = store.lengths[train].astype(float)
    for layer in range(3):
        mean, std = means[train, layer], deviations[train, layer]
        centre = (count @ mean) / count.sum()
        scale = np.sqrt(count @ (std**2 + (mean - centre) ** 2) / count.sum())
        parts = {"mean": (means[:, layer] - centre) / scale, "std": (deviations[:, layer] - std.mean(0)) / scale}
        expected = np.concatenate([parts[name] for name in statistics], axis=1)
        np.testing.assert_allclose(batches.states[:, layer].numpy(), expected, rtol=1e-5, atol=1e-6)
        raw = np.concatenate([{"mean": means, "std": deviations}[n][:, layer] for n in statistics], axis=1)
        again = (raw - batches.shift[layer].numpy()) * batches.scale[layer].numpy()  # what a kept head does
        np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


def test_without_standardisation_they_are_what_the_store_holds() -> None:
    store = store_of(10, 2, 3)
    batches = PooledBatches(store, [str(k) for k in range(10)], range(2), ("std",), np.arange(5), standardise=False)
    assert np.array_equal(batches.states.numpy(), store.tables[1])
    assert batches.shift is None
    assert batches.scale is None


def test_no_more_is_held_at_once_than_the_tables_themselves() -> None:
    store = store_of(2_000, 12, 64)
    one = store.tables[0].nbytes
    tracemalloc.start()
    try:
        PooledBatches(store, [str(k) for k in range(2_000)], range(12), ("mean",), np.arange(2_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * one
