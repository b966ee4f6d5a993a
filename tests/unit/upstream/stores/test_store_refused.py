"""Stores that are refused: of something else, damaged, hostile."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_stores import FINGERPRINT, INFO, a_shard, fill, made_states

from wavbench.upstream.errors import UserError
from wavbench.upstream.shards import check_states
from wavbench.upstream.store import Store, create_store, open_store


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"weights": "v" * 32}, "weights"),
        ({"config": {"family": "toy", "dim": 9}}, "config.dim"),
        ({"config": {"family": "toy"}}, "config.dim"),
        ({"config": {"family": "toy", "dim": 8, "norm": None}}, "config.norm"),
        ({"layers": (0, 1)}, "layers"),
        ({"kind": "mean"}, "kind"),
        ({"dtype": "float16"}, "dtype"),
        ({"resampler": "soxr VHQ"}, "resampler"),
        ({"normalisation": "zero mean"}, "normalisation"),
        ({"format_version": 2}, "format_version"),
    ],
)
def test_another_fingerprint_is_refused_by_the_name_of_its_field(store: Store, change: dict, name: str) -> None:
    with pytest.raises(UserError) as error:
        create_store(store.path, replace(FINGERPRINT, **change), INFO)
    assert error.value.what == f"the store was made with another {name}"
    create_store(store.path, FINGERPRINT, INFO)
    assert open_store(store.path).fingerprint == FINGERPRINT


def test_a_shard_of_another_store_is_refused(store: Store, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", made_states(), replace(FINGERPRINT, weights="v" * 32))
    a_shard(other).rename(store.path / "shards" / a_shard(other).name.replace("00000", "99999"))
    with pytest.raises(UserError, match="belongs to another store"):
        open_store(store.path)


def test_shards_without_a_header_are_not_taken_over(store: Store) -> None:
    (store.path / "store.json").unlink()
    with pytest.raises(UserError, match=r"no store\.json"):
        create_store(store.path, FINGERPRINT, INFO)
    with pytest.raises(UserError, match="no feature store"):
        open_store(store.path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"fingerprint": {}, "info": {}}', "\x00"])
def test_a_broken_header_is_an_error_in_words(store: Store, text: str) -> None:
    (store.path / "store.json").write_text(text)
    with pytest.raises(UserError, match=r"store\.json cannot be read"):
        open_store(store.path)


def test_frames_asked_of_a_pooled_store_are_an_error_with_a_way_out(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", made_states(), replace(FINGERPRINT, kind="mean"))
    for ask in (lambda: store["u0"], lambda: store.read_frames([0], [0]), lambda: store.need_frames("ctc")):
        with pytest.raises(UserError, match="pool=none"):
            ask()


def test_an_unknown_utterance_is_an_error_that_names_it(store: Store) -> None:
    with pytest.raises(UserError, match="no utterance 'u77'"):
        store["u77"]


def secret(path: Path) -> None:
    """A file elsewhere on the machine whose numbers must not be read through a store."""
    with h5py.File(path, "w") as file:
        with h5py.File(path.parent / "honest.h5") as honest:
            for name in honest:
                honest.copy(name, file)


TABLES = ["states", "ids", "offsets", "lengths", "hashes", "audio_hashes", "audio_stats", "segments"]


@pytest.mark.parametrize("name", [*TABLES, "rejected", "rejected/ids", "rejected/reasons"])
@pytest.mark.parametrize("way", ["external link", "soft link", "virtual", "external storage"])
def test_a_shard_that_points_out_of_its_file_is_refused(store: Store, tmp_path: Path, name: str, way: str) -> None:
    shard, elsewhere = a_shard(store), tmp_path / "secret.h5"
    (tmp_path / "honest.h5").write_bytes(shard.read_bytes())
    secret(elsewhere)
    with h5py.File(shard, "a") as file:
        old = file[name]
        if isinstance(old, h5py.Group) and way not in ("external link", "soft link"):
            pytest.skip("a group is no virtual dataset")
        shape, dtype = getattr(old, "shape", ()), getattr(old, "dtype", None)
        if way == "external storage" and h5py.check_string_dtype(dtype or np.dtype("i1")):
            pytest.skip("HDF5 keeps text of any length inside the file")
        del file[name]
        if way == "external link":
            file[name] = h5py.ExternalLink(str(elsewhere), name)
        elif way == "soft link":
            file["aside"] = h5py.ExternalLink(str(elsewhere), name)
            file[name] = h5py.SoftLink("/aside")
        elif way == "virtual":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(elsewhere), name, shape)
            file.create_virtual_dataset(name, layout)
        else:
            (tmp_path / "raw").write_bytes(b"\x01" * 1_000_000)
            file.create_dataset(name, shape, dtype, external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(UserError, match="points out of the file"):
        open_store(store.path)["u0"].states  # noqa: B018


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_pooled_shard_that_points_out_of_its_file_is_refused(tmp_path: Path, name: str) -> None:
    store = fill(tmp_path / "s", made_states(), replace(FINGERPRINT, kind="mean"))
    shard = a_shard(store)
    (tmp_path / "honest.h5").write_bytes(shard.read_bytes())
    secret(tmp_path / "secret.h5")
    with h5py.File(shard, "a") as file:
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / "secret.h5"), name)
    with pytest.raises(UserError, match="points out of the file"):
        open_store(store.path).read_pooled([0], [0])


def test_an_index_that_points_out_of_its_file_is_not_followed(store: Store, tmp_path: Path) -> None:
    index = store.path / "features.h5"
    (tmp_path / "secret.h5").write_bytes(index.read_bytes())
    with h5py.File(tmp_path / "secret.h5", "a") as file:
        file["index/ids"][:] = file["index/ids"][:][::-1]
    with h5py.File(index, "a") as file:
        del file["index/ids"]
        file["index/ids"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "index/ids")
    assert open_store(store.path).ids == store.ids  # the order of the shards, as before the first seal


@pytest.mark.parametrize("length", [0, 1, 100, 2_000])
def test_a_shard_cut_short_is_an_error_that_names_it(store: Store, length: int) -> None:
    shard = a_shard(store)
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(UserError, match="damaged") as error:
        open_store(store.path)
    assert shard.name in error.value.where


def test_changed_states_are_never_returned(store: Store) -> None:
    shard = a_shard(store)
    content = bytearray(shard.read_bytes())
    at = content.find(made_states()["u1"][1, 100].tobytes())
    assert at > 0
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        open_store(store.path)["u1"].states  # noqa: B018


@pytest.mark.parametrize(("dtype", "peak", "bad"), [("float16", 7e4, 1), ("float16", 65_504, 0), ("float32", 7e4, 0)])
def test_states_beyond_float16_name_the_layer_and_the_way_out(dtype: str, peak: float, bad: int) -> None:
    states = np.ones((3, 4, 8), np.float32)
    states[1, 2, 3] = -peak
    if not bad:
        check_states(states, dtype, (0, 5, 6), "u1")
        return
    with pytest.raises(UserError, match="layer 5 reaches 7e\\+04") as error:
        check_states(states, dtype, (0, 5, 6), "u1")
    assert "dtype=float32" in error.value.remedy
    assert "u1" in error.value.where


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_states_that_are_no_numbers_name_the_layer(dtype: str, value: float) -> None:
    states = np.ones((3, 4, 8), np.float32)
    states[2, 0, 0] = value
    with pytest.raises(UserError, match="layer 9 of the upstream gives NaN or infinite states"):
        check_states(states, dtype, (0, 5, 9), "u1")
