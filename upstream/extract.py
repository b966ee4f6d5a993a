"""Corpus + upstream -> feature store, by any number of identical workers.

Three things go on at once: threads decode and resample the next batches (both outside the interpreter lock), the
model runs, and one thread behind it casts, pools and writes. A claim on a block lasts until its shard is published.
"""

import contextlib
import hashlib
import itertools
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavbench.upstream import claims
from wavbench.upstream.audio import RESAMPLER, SAMPLE_RATE, AudioError, audio_hash
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.extraction_plan import Plan, blocks, check_space, durations, row_bytes, ways_out
from wavbench.upstream.inference import WHOLE_SECONDS, Pending
from wavbench.upstream.machine import Stopwatch
from wavbench.upstream.manifest import Manifest, corpus_name
from wavbench.upstream.recordings import Shape, write_recording
from wavbench.upstream.row_states import samples_of, segment_of, states_of
from wavbench.upstream.shards import AudioStamp, Writer, check_states, read_rows
from wavbench.upstream.store import Fingerprint, Info, Store, check_fingerprint, create_store, read_header, seal

BLOCK_BYTES = 160 << 20  # of stored states; shards lie between 64 and 256 MB where utterances allow it
PUBLISH_SECONDS = 50.0  # of work: what a kill can cost at most, with the batch in flight
BATCH_SECONDS = 48.0  # of audio in one forward pass on a CPU; on a GPU as many as its memory allows, at least these
DEVICE_BATCH_SECONDS = 960.0  # more fill no GPU better
HOST_BYTES = 2 << 30  # of a batch's states in pinned memory of the host, where up to four batches lie at once
AHEAD = 3  # batches decoded before the model wants them
DECODERS = 8  # threads at most: what one GPU can use up
BEHIND = 2  # batches computed and not yet stored
POLL_SECONDS = 0.5  # between looks at the claims of others
Loaded = tuple[int, np.ndarray | str, AudioStamp]  # row, its samples or why there are none, and what was read

# oneDNN keeps what it compiled for each shape of a product, and batches of speech hardly ever have the same shape
# twice: by default a thousand such things, which take more memory than a small model and are never used again.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "32")


def fingerprint_of(upstream: Upstream, layers: Sequence[int] | None, pooled: bool, dtype: str) -> Fingerprint:
    """The fingerprint of a store of this upstream.

    Raises:
        UserError: a layer that the upstream does not have, or an unknown type.
    """
    layers = tuple(range(upstream.num_states)) if layers is None else tuple(sorted(set(layers)))
    for layer in layers:
        if not 0 <= layer < upstream.num_states:
            raise UserError(
                f"{upstream.name} has no layer {layer}", remedy=f"layers go from 0 to {upstream.num_states - 1}"
            )
    if dtype not in ("float16", "float32", "int8"):
        raise UserError(f"features cannot be stored as {dtype!r}", remedy="use dtype=float16, float32 or int8")
    return Fingerprint(
        weights=upstream.weights_hash,
        config=upstream.config,
        layers=layers,
        kind="mean" if pooled else "frames",
        dtype="float32" if pooled else dtype,
        resampler=RESAMPLER,
        normalisation=upstream.normalisation,
    )


def store_path(stores: Path, manifest: Manifest, upstream: Upstream, fingerprint: Fingerprint) -> Path:
    """Where a store lies by default: one folder per corpus, in it one per fingerprint."""
    kind = "pooled" if fingerprint.kind == "mean" else "frames"
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in upstream.name.strip("/").rpartition("/")[2])
    folder = corpus_folder(stores, manifest.path, manifest.root)
    return folder / f"{name}-{kind}-{fingerprint.hash()[:10]}"


def corpus_folder(stores: Path, manifest: Path, root: Path) -> Path:
    """Where the stores of a corpus lie by default.

    Args:
        stores: folder of all.
        manifest: its path.
        root: folder that its audio is relative to.
    """
    place = str(manifest.resolve())
    if root.resolve() != manifest.parent.resolve():  # files of one name, size and time may be others elsewhere
        place += f"\0{root.resolve()}"
    return stores / f"{corpus_name(manifest)}-{hashlib.blake2b(place.encode(), digest_size=3).hexdigest()}"


def extract(
    upstream: Upstream,
    manifest: Manifest,
    path: Path,
    *,
    layers: Sequence[int] | None = None,
    pooled: bool = False,
    dtype: str = "float16",
    announce: Callable[[Plan], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    block_bytes: int = BLOCK_BYTES,
    publish_seconds: float = PUBLISH_SECONDS,
) -> Store:
    """Bring a store up to date with a manifest; run it again, or several times at once, at will.

    Args:
        upstream: the frozen model.
        manifest: utterances wanted; rows that the store has beyond these stay.
        path: folder of the store.
        layers: states to keep, all where None.
        pooled: keep means and deviations over frames in place of frames.
        dtype: of frame stores.
        announce: called with the plan before the first batch.
        progress: called with (utterances in the store or rejected, utterances).
        block_bytes: states per shard, about.
        publish_seconds: longest time between two shards.

    Raises:
        UserError: another fingerprint, too little disk, states that the type cannot hold.
    """
    fingerprint = fingerprint_of(upstream, layers, pooled, dtype)
    info = Info(
        upstream=upstream.name,
        checkpoint=upstream.checkpoint,
        manifest=manifest.path.name,
        dim=upstream.dim,
        frame_rate=upstream.frame_rate,
        parameters=upstream.num_parameters,
    )
    if (path / "store.json").exists():
        check_fingerprint(path, read_header(path)[0], fingerprint)
    seconds = durations(manifest)
    job = _Job(upstream, manifest, path, fingerprint, seconds, publish_seconds, progress)
    plan = job.plan()
    check_space(path, plan)
    if announce:
        announce(plan)
    create_store(path, fingerprint, info)
    _clean(path)
    job.report()
    _work(job, blocks(seconds, job.row_bytes, block_bytes, batch_seconds(upstream)))
    _clean(path)
    return seal(path, manifest.table["id"])


def fits(path: Path, fingerprint: Fingerprint, manifest: Manifest, upstream: Upstream) -> bool:
    """Whether a store that is not yet there would fit on the disk of its folder."""
    plan = _Job(upstream, manifest, path, fingerprint, durations(manifest), PUBLISH_SECONDS, None).plan()
    return plan.todo_bytes <= plan.free_bytes


def lacks(path: Path, fingerprint: Fingerprint, manifest: Manifest, upstream: Upstream) -> int:
    """How many utterances of a manifest a store does not hold, or holds of other audio; rejected ones it holds."""
    return len(_Job(upstream, manifest, path, fingerprint, durations(manifest), PUBLISH_SECONDS, None).plan().todo)


def batch_seconds(upstream: Upstream) -> float:
    """Seconds of audio in one forward pass: on a GPU as many as half of its free memory holds, and as the host does."""
    if upstream.device.type != "cuda":
        return BATCH_SECONDS
    free, _ = torch.cuda.mem_get_info(upstream.device)
    # States twice (packed and stacked) and the widest layer, all float32, per second of audio, and as much again.
    needed = 2 * 4 * upstream.frame_rate * upstream.dim * (2 * upstream.num_states + 12)
    copied = 4 * upstream.frame_rate * upstream.dim * upstream.num_states  # bytes per second of audio
    return float(np.clip(min(free / 2 / needed, HOST_BYTES / copied), BATCH_SECONDS, DEVICE_BATCH_SECONDS))


def _clean(path: Path) -> None:
    """Remove what workers that were killed left behind."""
    for folder in (path, path / "shards", path / "claims"):
        claims.remove_orphans(folder)


class _Job:
    """One worker's view of one extraction: what is done, what is to do, and how a batch is computed."""

    def __init__(self, upstream, manifest, path, fingerprint, seconds, publish_seconds, progress) -> None:
        self.upstream, self.manifest, self.path, self.fingerprint = upstream, manifest, path, fingerprint
        self.seconds, self.publish_seconds, self.progress = seconds, publish_seconds, progress
        self.shards = path / "shards"
        self.on_cpu = upstream.device.type == "cpu"
        self.ids: list[str] = manifest.table["id"].tolist()
        self.row_of = {id: row for row, id in enumerate(self.ids)}
        self.seen: set[str] = set()  # names of shards
        self.newest: dict[int, float] = {}  # row -> when the version that the store reads was written
        self.done: set[int] = set()
        self.writer = Writer(self.shards, fingerprint.hash(), fingerprint.dtype, fingerprint.kind == "mean")
        self.decoders = ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1))
        self.watch = Stopwatch()  # of the work that is not yet published

    def plan(self) -> Plan:
        self.scan()
        todo = tuple(row for row in range(len(self.ids)) if row not in self.done)
        probe = self.path
        while not probe.exists():
            probe = probe.parent
        size = sum(self.row_bytes(self.seconds[row]) for row in todo)
        ways = ways_out(
            self.fingerprint, self.upstream.dim, self.upstream.frame_rate, self.seconds[list(todo)].tolist()
        )
        return Plan(len(self.ids), todo, size, shutil.disk_usage(probe).free, ways)

    def row_bytes(self, seconds: float) -> int:
        """Bytes that an utterance takes in the store."""
        return row_bytes(self.fingerprint, self.upstream.dim, self.upstream.frame_rate, seconds)

    def scan(self) -> None:
        """Take in the shards that were published since the last look."""
        for shard in sorted(self.shards.glob("[!.]*.h5")) if self.shards.is_dir() else ():
            if shard.name in self.seen:
                continue
            self.seen.add(shard.name)
            table = read_rows(shard, self.fingerprint.hash())
            stamps = [*zip(table.ids, table.stamps, strict=True), *((i, s) for i, (_, s) in table.rejected.items())]
            for id, stamp in stamps:
                row = self.row_of.get(id)
                if row is None or table.written_at <= self.newest.get(row, -1.0):
                    continue
                self.newest[row] = table.written_at
                (self.done.add if self._current(row, stamp) else self.done.discard)(row)

    def report(self) -> None:
        if self.progress:
            self.progress(len(self.done), len(self.ids))

    def _current(self, row: int, stamp: AudioStamp) -> bool:
        """Whether features were made of the audio that the manifest names today."""
        now = self._stamp(row, hashed=False)
        if not stamp.same_segment(now):
            return False
        if (stamp.size, stamp.mtime_ns) == (now.size, now.mtime_ns):
            return True
        return now.size == stamp.size and now.size >= 0 and audio_hash(self.manifest.audio_path(row)) == stamp.hash

    def _stamp(self, row: int, hashed: bool = True) -> AudioStamp:
        path, (start, end) = self.manifest.audio_path(row), segment_of(self.manifest, row)
        try:
            stat = os.stat(path)
            return AudioStamp(audio_hash(path) if hashed else "", stat.st_size, stat.st_mtime_ns, start, end)
        except OSError:
            return AudioStamp("", -1, 0, start, end)

    def ahead(self, rows: Sequence[int]) -> list[Future]:
        """Have the rows of a batch decoded, each by whichever thread is free."""
        return [self.decoders.submit(self.load, row) for row in rows]

    def load(self, row: int) -> Loaded:
        """A row's samples, or the reason why there are none."""
        stamp = self._stamp(row)
        try:
            return row, samples_of(self.upstream, self.manifest, row), stamp
        except AudioError as error:
            return row, str(error), stamp

    def compute(self, loaded: Sequence[Loaded], key: str, claim: claims.Claim, behind: "_Behind") -> None:
        """Run the model on the rows of a batch that the store lacks; what comes out is stored behind it."""
        sound = [
            (row, torch.from_numpy(samples), stamp) for row, samples, stamp in loaded if not isinstance(samples, str)
        ]
        for row, reason, stamp in loaded:
            if isinstance(reason, str) and row not in self.done:
                behind.do(self.writer.reject, self.ids[row], reason, stamp)
                self.done.add(row)
        limit = WHOLE_SECONDS * SAMPLE_RATE
        batch = [(row, samples, stamp) for row, samples, stamp in sound if len(samples) <= limit]
        if batch:
            pending = states_of(self.upstream, [samples for _, samples, _ in batch], self.fingerprint.layers)
            behind.do(self._store, [row in self.done for row, _, _ in batch], batch, pending)
            self.done.update(row for row, _, _ in batch)
        for row, samples, stamp in sound:
            if len(samples) > limit and row not in self.done:
                self.publish(key, behind)  # a recording may take long, and has a shard and a time of its own
                behind.finish()
                self._store_recording(row, samples, stamp, key, claim)
                self.done.add(row)
                self.watch = Stopwatch()

    def publish(self, key: str, behind: "_Behind") -> None:
        """Have all that was added to the writer published, behind what is still to be stored."""
        cpu = self.watch.cpu_seconds if self.on_cpu else math.nan
        behind.do(self.writer.publish, key, self.watch.seconds, cpu)
        self.watch = Stopwatch()

    def _store(self, had: Sequence[bool], sound: Sequence[tuple], pending: Sequence[Pending]) -> None:
        states = itertools.chain.from_iterable(part.result() for part in pending)
        for skip, (row, _, stamp), of_row in zip(had, sound, states, strict=True):
            if not skip:
                array = of_row.numpy()
                check_states(array, self.fingerprint.dtype, self.fingerprint.layers, self.ids[row])
                self.writer.add(row, self.ids[row], array, stamp)

    def _store_recording(self, row: int, samples: Tensor, stamp: AudioStamp, key: str, claim: claims.Claim) -> None:
        """A long recording, in memory for one window of it, as a shard of its own."""
        states = self.upstream.recording(samples, self.fingerprint.layers)
        own = self.fingerprint
        shape = Shape(own.hash(), own.layers, self.upstream.dim, own.dtype, own.kind == "mean")
        parts = ((layer, first, part.numpy()) for layer, first, part in states)
        write_recording(self.shards, key, shape, self.ids[row], stamp, parts, claim.touch, self.on_cpu)


class _Behind:
    """One thread that stores what the model made, in order, and publishes shards; it never falls far behind."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.waiting: deque[Future] = deque()

    def do(self, work: Callable[..., object], *arguments: object) -> None:
        """Queue some work; waits for older work, and raises what went wrong with it."""
        while len(self.waiting) >= BEHIND:
            self.waiting.popleft().result()
        self.waiting.append(self.thread.submit(work, *arguments))

    def finish(self) -> None:
        while self.waiting:
            self.waiting.popleft().result()

    def stop(self) -> None:
        self.thread.shutdown(wait=True, cancel_futures=True)


def _work(job: _Job, plan: list[list[list[int]]]) -> None:
    """Take free blocks until all are published, waiting for those that other workers hold."""
    keys = [f"{number:05d}-{_key([job.ids[row] for batch in b for row in batch])}" for number, b in enumerate(plan)]
    behind = _Behind()
    with contextlib.ExitStack() as held:
        held.callback(job.decoders.shutdown, wait=False, cancel_futures=True)
        while True:
            waiting = took = False
            for key, block in zip(keys, plan, strict=True):
                if all(row in job.done for batch in block for row in batch):
                    continue
                claim = claims.take(job.path / "claims", key)
                if claim is None:
                    waiting = True
                    continue
                held.enter_context(claim)
                held.callback(behind.stop)  # before any claim is given back
                took = True
                job.scan()  # another worker may have published since
                _work_block(job, key, block, claim, behind)
                behind.do(claim.release)
            behind.finish()
            if not waiting:
                return
            if not took:
                time.sleep(POLL_SECONDS)
                job.scan()
                job.report()


def _work_block(job: _Job, key: str, block: list[list[int]], claim: claims.Claim, behind: _Behind) -> None:
    todo = [batch for batch in block if any(row not in job.done for row in batch)]
    job.watch = Stopwatch()
    ahead = deque(job.ahead(batch) for batch in todo[:AHEAD])
    for number in range(len(todo)):
        loaded = [row.result() for row in ahead.popleft()]
        if number + AHEAD < len(todo):
            ahead.append(job.ahead(todo[number + AHEAD]))
        job.compute(loaded, key, claim, behind)
        claim.touch()
        job.report()
        if job.watch.seconds > job.publish_seconds:
            job.publish(key, behind)
    job.publish(key, behind)


def _key(ids: list[str]) -> str:
    return hashlib.blake2b("\0".join(ids).encode(), digest_size=6).hexdigest()
