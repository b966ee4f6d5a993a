"""The feature store: numbers come back as they were stored, in manifest order, and never from somewhere else."""

import json
import multiprocessing
import pickle
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_stores import FINGERPRINT, LENGTHS, STAMP, a_shard, fill, made_states

from wavbench.upstream import shards
from wavbench.upstream.errors import UserError
from wavbench.upstream.shards import Writer, pool, quantize
from wavbench.upstream.store import OPEN_FILES, Store, open_store, seal

# numbers


def test_float32_comes_back_to_the_last_bit(store: Store) -> None:
    for id, states in made_states().items():
        np.testing.assert_array_equal(store[id].states, states)
        np.testing.assert_array_equal(store[id][1], states[1])
        assert len(store[id]) == states.shape[1]
        assert store[id][1].dtype == np.float32


def test_float16_comes_back_as_the_cast(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", made_states(), replace(FINGERPRINT, dtype="float16"))
    for id, states in made_states().items():
        np.testing.assert_array_equal(store[id].states, states.astype(np.float16))
        assert store[id].states.dtype == np.float16


def test_int8_comes_back_within_half_a_scale(tmp_path: Path) -> None:
    states = made_states()
    states["u3"][:, :, 2] = 0  # a silent channel has a scale too
    store = fill(tmp_path / "s", states, replace(FINGERPRINT, dtype="int8"))
    for id, expected in states.items():
        scales = quantize(expected, "int8", np.empty(expected.shape, np.int8))["scales"]
        np.testing.assert_allclose(scales, np.abs(expected).max(axis=1) / 127, rtol=1e-6, atol=1e-37)
        found = store[id].states
        assert found.dtype == np.float32
        assert (np.abs(found - expected) <= scales[:, None] * 0.500_01).all()
        np.testing.assert_allclose(np.abs(found).max(axis=1), np.abs(expected).max(axis=1), rtol=1e-5)


def test_pooled_is_the_plain_mean_and_deviation(tmp_path: Path) -> None:
    states = made_states()
    pooled = fill(tmp_path / "pooled", states, replace(FINGERPRINT, kind="mean"))
    frames = fill(tmp_path / "frames", states)
    rows = [7, 0, 3, 3, 9]
    expected_mean, expected_std = np.zeros((2, len(rows), 3, 8))
    for place, row in enumerate(rows):
        values = states[f"u{row}"].astype(np.float64)
        for layer in range(3):
            for channel in range(8):
                column = [float(value) for value in values[layer, :, channel]]
                mean = sum(column) / len(column)
                expected_mean[place, layer, channel] = mean
                expected_std[place, layer, channel] = (sum((x - mean) ** 2 for x in column) / len(column)) ** 0.5
    for store in (pooled, frames):
        mean, std = store.read_pooled(rows, [0, 1, 2])
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-6, atol=1e-6 * np.abs(expected_std).max())
        np.testing.assert_allclose(std, expected_std, rtol=1e-6, atol=1e-12)
        np.testing.assert_array_equal(store.read_pooled(rows, [2])[0][:, 0], mean[:, 2])


def test_the_mean_of_a_large_offset_keeps_its_deviation(tmp_path: Path) -> None:
    states = {"u": (1e4 + np.random.default_rng(0).standard_normal((3, 5_000, 8))).astype(np.float32)}
    store = fill(tmp_path / "s", states, replace(FINGERPRINT, kind="mean"))
    np.testing.assert_allclose(
        store.read_pooled([0], [0])[1][0, 0], states["u"][0].astype(float).std(axis=0), rtol=1e-6
    )


def test_a_subset_of_layers_is_found_by_its_numbers(tmp_path: Path) -> None:
    states = made_states(layers=2)
    store = fill(tmp_path / "s", states, replace(FINGERPRINT, layers=(4, 8)))
    np.testing.assert_array_equal(store["u1"][8], states["u1"][1])
    np.testing.assert_array_equal(store.read_frames([1], [8, 4])[0], states["u1"][::-1])
    with pytest.raises(UserError, match=r"no layer 1\b") as error:
        store["u1"][1]
    assert "4, 8" in error.value.remedy


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.lists(st.integers(0, 9), max_size=25), layers=st.lists(st.sampled_from([0, 1, 2]), max_size=4))
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_any_order_of_rows_equals_reading_one_by_one(
    store_of: Callable[[str], Store], dtype: str, rows: list[int], layers: list[int]
) -> None:
    store = store_of(dtype)
    states, lengths = store.read_frames(rows, layers)
    expected = [np.stack([store[store.ids[row]][layer] for layer in layers]) for row in rows if layers]
    assert lengths.tolist() == [LENGTHS[row] for row in rows]
    assert states.shape == (len(layers), sum(lengths), 8)
    if expected:
        np.testing.assert_array_equal(states, np.concatenate(expected, axis=1))


def test_states_lie_layer_by_layer_in_checked_chunks(store: Store) -> None:
    with h5py.File(a_shard(store)) as file:
        states = file["states"]
        assert states.shape == (3, sum(LENGTHS[:4]), 8)
        assert states.chunks == (1, 256, 8)
        assert states.fletcher32
        assert file["ids"].asstr()[:].tolist() == ["u0", "u1", "u2", "u3"]
        assert file["offsets"][:].tolist() == [0, 3, 303, 304]


def test_plain_h5py_reads_the_same_numbers_through_the_links(store: Store) -> None:
    with h5py.File(store.path / "features.h5") as file:
        index = {name: file["index"][name][:] for name in ("ids", "shard", "offset", "length", "row")}
        for row, id in enumerate(index["ids"]):
            shard = file[f"shards/{index['shard'][row]:05d}"]
            first = index["offset"][row]
            states = shard["states"][:, first : first + index["length"][row]]
            np.testing.assert_array_equal(states, store[id.decode()].states)
            assert shard["ids"][index["row"][row]] == id


# order, versions, names


def test_utterances_come_in_manifest_order(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", made_states())
    wanted = ["u5", "u0", "u9", "u3"]
    store = seal(store.path, [*wanted, "not-there"])
    assert store.ids[:4] == wanted
    assert sorted(store.ids) == sorted(made_states())  # what the manifest lacks stays
    assert open_store(store.path).ids == store.ids
    assert seal(store.path).ids == store.ids
    np.testing.assert_array_equal(store[store.ids[2]].states, made_states()["u9"])
    assert store.lengths.tolist() == [LENGTHS[int(id[1:])] for id in store.ids]


def test_sealing_again_changes_no_byte(store: Store) -> None:
    def content() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in store.path.rglob("*") if p.is_file()}

    before = content()
    seal(store.path)
    seal(store.path, store.ids)
    assert content() == before


def test_of_two_versions_the_later_counts(store: Store) -> None:
    other = {"u3": np.full((3, 5, 8), 7, np.float32)}
    writer = Writer(store.path / "shards", FINGERPRINT.hash(), "float32", False)
    writer.add(3, "u3", other["u3"], STAMP)
    writer.publish("00000-0", 1.0)  # a name that sorts before the others
    again = seal(store.path)
    assert again.ids == store.ids
    np.testing.assert_array_equal(again["u3"].states, other["u3"])
    writer.reject("u3", "its audio broke", STAMP)
    writer.publish("00000-0", 1.0)
    last = seal(store.path)
    assert "u3" not in last
    assert last.rejected == {"u3": "its audio broke"}
    lines = (store.path / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": "u3", "reason": "its audio broke"}]
    with pytest.raises(UserError, match="its audio broke"):
        last["u3"]


def test_ids_may_be_any_text(tmp_path: Path) -> None:
    ids = ["a/b", "..", "/", "ü żółć 日本", "x" * 5_000, " ", "u'\"%s", "0"]
    states = {id: np.full((3, 2, 8), k, np.float32) for k, id in enumerate(ids)}
    store = fill(tmp_path / "s", states)
    assert store.ids == ids
    assert all(store[id].states[0, 0, 0] == k for k, id in enumerate(ids))


def test_more_shards_than_open_files_are_read(tmp_path: Path) -> None:
    states = made_states([2] * (OPEN_FILES + 8))
    store = fill(tmp_path / "s", states, per_shard=1)
    for _ in range(2):
        found, _ = store.read_frames(range(len(store)), [0])
        np.testing.assert_array_equal(found[0], np.concatenate([s[0] for s in states.values()]))
    assert len(store._files) <= OPEN_FILES


def _mean_of(store: Store, id: str) -> float:
    return float(store[id].states.mean())


def test_a_store_goes_to_worker_processes(store: Store) -> None:
    store["u1"].states  # noqa: B018  (opens a file, which must not travel)
    assert pickle.loads(pickle.dumps(store)).ids == store.ids  # noqa: S301
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(_mean_of, [(store, id) for id in store.ids])
    np.testing.assert_allclose(found, [float(states.mean()) for states in made_states().values()])


# writing


def test_a_writer_holds_its_block_once_and_writes_with_one_layer_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SLAB_BYTES", 4 << 20)
    states = np.random.default_rng(0).standard_normal((13, 200, 192)).astype(np.float32)
    writer = Writer(tmp_path / "shards", "f", "float16", False)
    writer.add(-1, "warm", states, STAMP)
    writer.publish("warm", 1.0)
    tracemalloc.start()
    try:
        for k in range(40):
            writer.add(k, f"u{k}", states, STAMP)
        held = tracemalloc.get_traced_memory()[0]
        assert writer.bytes == 40 * (states.nbytes // 2 + 2 * 13 * 192 * 4)  # float16 frames, float32 means and stds
        assert held < 1.05 * writer.bytes + (4 << 20)  # less than a slab is to spare
        tracemalloc.reset_peak()
        writer.publish("block", 1.0)
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < held * (1 + 2.5 / 13)
        assert tracemalloc.get_traced_memory()[0] < 0.05 * held
    finally:
        tracemalloc.stop()


def test_utterances_larger_than_a_slab_and_many_in_one_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SLAB_BYTES", 2_000)
    store = fill(tmp_path / "s", made_states(), per_shard=len(LENGTHS))
    for id, states in made_states().items():
        np.testing.assert_array_equal(store[id].states, states)


def test_an_empty_writer_publishes_nothing(tmp_path: Path) -> None:
    assert Writer(tmp_path / "shards", "f", "float16", False).publish("block", 1.0) is None
    assert not (tmp_path / "shards").exists()


def test_a_disk_that_fills_up_leaves_no_shard_and_no_temporary_file(tmp_path: Path) -> None:
    """In a process that may not write files larger than 100 kB."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code = (
        "import sys, numpy, pathlib\n"
        "from wavbench.upstream.shards import Writer, AudioStamp\n"
        "from wavbench.upstream.errors import UserError\n"
        "writer = Writer(pathlib.Path(sys.argv[1]), 'f', 'float32', False)\n"
        "writer.add(0, 'u', numpy.ones((3, 20_000, 8), 'f4'), AudioStamp('', 0, 0, 0.0, 0.0))\n"
        "try: writer.publish('block', 1.0)\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "shards")], capture_output=True, text=True, preexec_fn=limited
    )
    assert "a shard could not be written" in done.stdout, done.stderr
    assert "free disk space" in done.stdout
    assert list((tmp_path / "shards").iterdir()) == []


def test_the_fingerprint_survives_its_file(store: Store) -> None:
    text = json.loads((store.path / "store.json").read_text())
    assert text["fingerprint"] == json.loads(json.dumps(asdict(FINGERPRINT)))
    assert open_store(store.path).fingerprint.hash() == FINGERPRINT.hash()


def test_the_fast_cast_is_that_of_numpy_to_the_bit() -> None:
    random = np.random.default_rng(0)
    states = (random.standard_normal((2, 3_000, 8)) * 10.0 ** random.integers(-9, 5, (2, 3_000, 8))).astype(np.float32)
    states = np.clip(states, -65_504, 65_504)
    cast = quantize(states, "float16", np.empty(states.shape, np.float16))["states"]
    np.testing.assert_array_equal(cast.view(np.uint16), states.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("frames", [1, 2, 255, 256, 257, 5_000])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4])
def test_pooling_in_chunks_is_pooling_in_float64(frames: int, offset: float) -> None:
    states = (offset + np.random.default_rng(frames).standard_normal((2, frames, 64))).astype(np.float32)
    states[:, 0] += 30  # an outlying first frame must not cost digits
    exact = states.astype(np.float64)
    pooled = pool(states)
    np.testing.assert_allclose(pooled["mean"], exact.mean(axis=1), rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(pooled["std"], exact.std(axis=1), rtol=3e-6, atol=1e-6)
