"""Extraction under SIGKILL: whatever the moment and the number of workers, the store ends up the same to the bit."""

import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.shards import NAME, read_rows
from wavbench.upstream.store import open_store
from wavbench.upstream.verify import verify

FILES = 150
PATIENCE = 120  # seconds for one uninterrupted run on a busy machine

# children are forked from a process that has imported the slow things once
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", "pandas", "soundfile", "wavbench.upstream.extract"])


def work(manifest: Path, store: Path) -> None:
    """One worker, with small batches, blocks and shards so that a kill can fall between any two of them."""
    import torch

    from wavbench.upstream import extract as extraction
    from wavbench.upstream.catalog import load

    torch.set_num_threads(1)
    extraction.BATCH_SECONDS, extraction.POLL_SECONDS = 2.0, 0.05
    upstream = load("wav2vec2_tiny", weights="random", seed=0)
    extraction.extract(upstream, read_manifest(manifest), store, block_bytes=600_000, publish_seconds=0.05)


def start(manifest: Path, store: Path) -> multiprocessing.Process:
    process = context.Process(target=work, args=(manifest, store))
    process.start()
    return process


def kill(process: multiprocessing.Process) -> bool:
    """Whether it was still running."""
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def published(store: Path) -> int:
    return len(list((store / "shards").glob("[!.]*.h5")))


def wait_for_shards(store: Path, more: int, process: multiprocessing.Process) -> None:
    """Until so many shards have been added, or the process has ended."""
    wanted, until = published(store) + more, time.monotonic() + PATIENCE
    while published(store) < wanted and process.is_alive() and time.monotonic() < until:
        time.sleep(0.001)


def finish(*processes: multiprocessing.Process) -> None:
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, build_corpus: Callable[..., Path]) -> Path:
    """Short files, one of them no sound."""
    path = build_corpus(tmp_path_factory.mktemp("corpus"), FILES, shortest=0.15, longest=0.25)
    (path.parent / "audio/u0077.wav").write_text("no sound")
    return path


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The store of an uninterrupted run, and the seconds that such a run takes."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(manifest, folder / "warm"))
    began = time.monotonic()
    finish(start(manifest, folder / "store"))
    return folder / "store", time.monotonic() - began


def assert_equal_and_clean(store: Path, whole: Path) -> None:
    found, expected = open_store(store), open_store(whole)
    assert found.ids == expected.ids
    assert len(found.ids) == FILES - 1
    assert found.rejected == expected.rejected
    assert set(found.rejected) == {"u0077"}
    counts = Counter()
    for shard in (store / "shards").iterdir():
        assert NAME.match(shard.name), f"{shard.name} was left behind"
        rows = read_rows(shard)
        counts.update([*rows.ids, *rows.rejected])
    assert len(counts) == FILES
    assert set(counts.values()) == {1}
    rows = np.arange(len(found))
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    for ours, theirs in (
        (found.read_frames(rows, found.layers)[0], expected.read_frames(rows, found.layers)[0]),
        (found.read_pooled(rows, found.layers), expected.read_pooled(rows, found.layers)),
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert verify(store) == []
    assert {path.name for path in store.iterdir()} == {
        "store.json",
        "features.h5",
        "rejected.jsonl",
        "shards",
        "claims",
    }
    assert list((store / "claims").iterdir()) == []


def test_a_worker_killed_twenty_times_leaves_the_store_of_a_quiet_run(
    manifest: Path, whole: tuple[Path, float], tmp_path: Path
) -> None:
    moments, hits, partial = random.Random(0), 0, 0
    for attempt in range(4):
        store = tmp_path / f"store{attempt}"
        for _ in range(5):
            worker = start(manifest, store)
            if attempt % 2:  # anywhere, the first and last moments included
                time.sleep(moments.uniform(0.02, 0.5) * whole[1])
            else:  # amid the work, however busy the machine is
                wait_for_shards(store, moments.randrange(6), worker)
                time.sleep(moments.uniform(0, 0.05))
            hits += kill(worker)
            partial += 0 < published(store) < published(whole[0])
        finish(start(manifest, store))
        assert_equal_and_clean(store, whole[0])
        shutil.rmtree(store)
    assert hits >= 6  # else the moments were too late to test anything
    assert partial >= 4


def test_two_workers_make_the_store_of_one(manifest: Path, whole: tuple[Path, float], tmp_path: Path) -> None:
    finish(*[start(manifest, tmp_path / "store") for _ in range(2)])
    assert_equal_and_clean(tmp_path / "store", whole[0])


def test_of_two_workers_one_may_be_killed(manifest: Path, whole: tuple[Path, float], tmp_path: Path) -> None:
    moments, hits = random.Random(1), 0
    for attempt in range(3):
        store = tmp_path / f"store{attempt}"
        first, second = start(manifest, store), start(manifest, store)
        wait_for_shards(store, moments.randrange(1, published(whole[0]) // 2), first)
        time.sleep(moments.uniform(0, 0.05))
        hits += kill(first)
        finish(second)
        shards = sorted(path.name for path in (store / "shards").iterdir())
        # killed between publishing the last block and giving it back, the first leaves a claim to whoever comes next
        finish(start(manifest, store))
        assert sorted(path.name for path in (store / "shards").iterdir()) == shards
        assert_equal_and_clean(store, whole[0])
    assert hits >= 2


def test_two_workers_may_be_killed_at_once(manifest: Path, whole: tuple[Path, float], tmp_path: Path) -> None:
    moments, store = random.Random(2), tmp_path / "store"
    for _ in range(4):
        pair = [start(manifest, store) for _ in range(2)]
        time.sleep(moments.uniform(0.1, 0.5) * whole[1])
        for worker in pair:
            kill(worker)
    finish(*[start(manifest, store) for _ in range(2)])
    assert_equal_and_clean(store, whole[0])


@pytest.mark.slow
@pytest.mark.real
def test_the_command_is_killed_on_recorded_speech_and_run_again(corpora: Path, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        arguments = ["upstream=wav2vec2_tiny", "weights=random", "seed=0", f"manifest={corpora / 'emotion_pl.csv'}"]
        return [sys.executable, "-m", "wavbench.benchmark.cli", "extract", *arguments, f"stores={tmp_path / name}"]

    def store_of(name: str) -> Path:
        return next((tmp_path / name).glob("*/*/store.json")).parent

    began = time.monotonic()
    subprocess.run(command("whole"), check=True, capture_output=True)
    seconds, moments, hits = time.monotonic() - began, random.Random(3), 0
    for _ in range(6):
        worker = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.1, 0.4) * seconds)
        worker.kill()
        hits += worker.wait() == -signal.SIGKILL
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert hits >= 3
    found, expected = open_store(store_of("killed")), open_store(store_of("whole"))
    assert found.ids == expected.ids == read_manifest(corpora / "emotion_pl.csv").table["id"].tolist()
    for first in range(0, len(found), 200):
        rows = np.arange(first, min(first + 200, len(found)))
        ours, theirs = (store.read_frames(rows, store.layers)[0] for store in (found, expected))
        np.testing.assert_array_equal(ours, theirs)
    assert verify(found.path) == []
