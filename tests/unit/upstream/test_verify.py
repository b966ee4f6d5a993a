"""Verification: no bit of a shard changes unnoticed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from wavbench.upstream import verify as verification
from wavbench.upstream.errors import UserError
from wavbench.upstream.shards import AudioStamp, Writer
from wavbench.upstream.store import Fingerprint, Info, create_store, open_store, seal
from wavbench.upstream.verify import verify

FINGERPRINT = Fingerprint(
    weights="w" * 32,
    config={"family": "toy"},
    layers=(0, 1),
    kind="frames",
    dtype="float32",
    resampler="soxr HQ",
    normalisation="none",
)
INFO = Info(upstream="toy", checkpoint="toy", manifest="corpus.csv", dim=4, frame_rate=50.0, parameters=0)
KINDS = {
    "float32": {},
    "float16": {"dtype": "float16"},
    "int8": {"dtype": "int8"},
    "pooled": {"kind": "mean"},
}


@pytest.fixture(scope="module")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A sealed store of two shards of five utterances, one of them refused, by kind."""
    folder = tmp_path_factory.mktemp("stores")
    for kind, change in KINDS.items():
        fingerprint, random = replace(FINGERPRINT, **change), np.random.default_rng(0)
        create_store(folder / kind, fingerprint, INFO)
        for shard in range(2):
            writer = Writer(folder / kind / "shards", fingerprint.hash(), fingerprint.dtype, fingerprint.kind == "mean")
            for k in range(5):
                states = random.standard_normal((2, 20 + k, 4)).astype(np.float32)
                writer.add(k, f"u{shard}{k}", states, AudioStamp("a" * 32, 1, 2, float("nan"), 1.0))
            writer.reject(f"r{shard}", "a reason", AudioStamp("", -1, 0, 0.0, 1.0))
            writer.publish(f"{shard:05d}-block", 1.0)
        seal(folder / kind)
    return folder.__truediv__


@pytest.fixture
def store(store_of: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(store_of("float32"), tmp_path / "store")


def a_shard(store: Path) -> Path:
    return sorted((store / "shards").glob("*.h5"))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_intact_store_has_nothing_to_report(store_of: Callable[[str], Path], kind: str) -> None:
    steps: list[tuple[int, int]] = []
    assert verify(store_of(kind), lambda *step: steps.append(step)) == []
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_any_flipped_bit_is_reported(
    store_of: Callable[[str], Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_look_into", lambda *_: "not looked into")  # a process each
    store = shutil.copytree(store_of(kind), tmp_path / "store")
    shard = a_shard(store)
    content, random = shard.read_bytes(), np.random.default_rng(1)
    places = [*range(0, 100, 9), len(content) - 1, *random.integers(0, len(content), 60)]
    for place in places:
        broken = bytearray(content)
        broken[place] ^= 1 << int(random.integers(8))
        shard.write_bytes(broken)
        assert verify(store) == [f"{shard.name}: its bytes have changed (not looked into)"], place
    shard.write_bytes(content)
    assert verify(store) == []


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_a_flip_in_states_names_the_utterance(store_of: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    store = shutil.copytree(store_of(kind), tmp_path / "store")
    shard = a_shard(store)
    content = bytearray(shard.read_bytes())
    states = open_store(store)["u02"].states
    place = content.find(states[1].tobytes())
    assert place > 0
    content[place + 11] ^= 4
    shard.write_bytes(content)
    (report,) = verify(store)
    # the checksum of a chunk covers its neighbours, which can no longer be read either
    assert "u02" in report
    assert "utterances: " in report


def test_states_changed_with_their_checksum_name_that_utterance_alone(store: Path) -> None:
    shard = a_shard(store)
    with h5py.File(shard, "a") as file:
        file["states"][1, 45, 2] += 1  # the third utterance has frames 41 to 62
    (report,) = verify(store)
    assert report.endswith("(utterances: u02)")


def test_a_changed_table_is_reported_though_all_states_are_whole(store: Path) -> None:
    shard = a_shard(store)
    with h5py.File(shard, "a") as file:
        file["audio_stats"][0, 0] = 7
    (report,) = verify(store)
    assert "outside the states of any utterance" in report


def test_a_shard_on_which_hdf5_hangs_is_reported(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "LOOK_SECONDS", 2.0)
    shard = a_shard(store)
    content = bytearray(shard.read_bytes())
    content[content.find(b"u04") - 8] ^= 64  # length of the last text of its table: HDF5 2.0 walks on for ever
    shard.write_bytes(content)
    (report,) = verify(store)
    assert report.startswith(f"{shard.name}: its bytes have changed (")


def test_many_flips_are_survived_when_looked_into(store: Path) -> None:
    shard = a_shard(store)
    content, random = shard.read_bytes(), np.random.default_rng(2)
    for place in [8, 100, *random.integers(0, len(content), 6)]:
        broken = bytearray(content)
        broken[place] ^= 16
        shard.write_bytes(broken)
        (report,) = verify(store)
        assert "its bytes have changed (" in report
        assert "Traceback" not in report


def test_a_shard_cut_short_is_reported(store: Path) -> None:
    shard = a_shard(store)
    content = shard.read_bytes()
    for length in (0, 1, 1_000, len(content) - 1):
        shard.write_bytes(content[:length])
        (report,) = verify(store)
        assert "its bytes have changed" in report


def test_a_missing_shard_is_reported(store: Path) -> None:
    shard = a_shard(store)
    shard.unlink()
    assert verify(store) == [f"{shard.name}: the index names it, but it is missing"]


def test_a_shard_under_another_name_is_reported(store: Path) -> None:
    shard = a_shard(store)
    shard.rename(shard.with_name("backup.h5"))
    reports = verify(store)
    assert "backup.h5: no name of a shard" in reports
    assert any("missing" in report for report in reports)


def test_two_shards_that_changed_places_are_reported(store: Path) -> None:
    first, second = sorted((store / "shards").glob("*.h5"))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    assert len(verify(store)) == 2


@pytest.mark.parametrize("content", [b"", b"no index", None])
def test_a_broken_index_is_reported_and_sealing_mends_it(store: Path, content: bytes | None) -> None:
    index = store / "features.h5"
    if content is None:
        with h5py.File(index, "w"):
            pass
    else:
        index.write_bytes(content)
    (report,) = verify(store)
    assert report.startswith("features.h5: cannot be read")
    seal(store)
    assert verify(store) == []


def test_verifying_what_is_no_store_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"store\.json cannot be read"):
        verify(tmp_path)
