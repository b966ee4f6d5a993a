"""Corpus + upstream -> feature store, by any number of identical workers.

The manifest is cut into blocks and batches that are a pure function of its rows, never of what is already done: a
run that was killed computes the missing rows in the batches of an uninterrupted run, and so to the same last bit.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wavbench.upstream import claims
from wavbench.upstream.audio import MAX_SECONDS, RESAMPLER, SAMPLE_RATE, AudioError, audio_hash, load_audio
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import Manifest
from wavbench.upstream.shards import AudioStamp, Writer, check_states, read_rows
from wavbench.upstream.store import Fingerprint, Info, Store, check_fingerprint, create_store, read_header, seal

BLOCK_BYTES = 160 << 20  # of stored states; shards lie between 64 and 256 MB where utterances allow it
BLOCK_SECONDS = 1_800.0  # of audio: bounds a block of a pooled store, which would otherwise be the whole corpus
PUBLISH_SECONDS = 50.0  # of work: what a kill can cost at most, with the batch in flight
BATCH_SECONDS = 48.0  # of audio in one forward pass
POLL_SECONDS = 0.5  # between looks at the claims of others

# oneDNN keeps what it compiled for each shape of a product, and batches of speech hardly ever have the same shape
# twice: by default a thousand such things, which take more memory than a small model and are never used again.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "32")


@dataclass(frozen=True)
class Plan:
    """What an extraction will do, known before its first batch.

    Args:
        rows: utterances of the manifest.
        todo: positions of those that the store lacks, or has of other audio.
        todo_bytes: size of the states that will be written.
        free_bytes: of the disk that the store lies on.
    """

    rows: int
    todo: tuple[int, ...]
    todo_bytes: int
    free_bytes: int


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
    place = hashlib.blake2b(str(manifest.path.resolve()).encode(), digest_size=3).hexdigest()
    kind = "pooled" if fingerprint.kind == "mean" else "frames"
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in upstream.name.strip("/").rpartition("/")[2])
    return stores / f"{manifest.name}-{place}" / f"{name}-{kind}-{fingerprint.hash()[:10]}"


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
    _work(job, blocks(seconds, job.row_bytes, block_bytes))
    _clean(path)
    return seal(path, manifest.table["id"])


def _clean(path: Path) -> None:
    """Remove what workers that were killed left behind."""
    for folder in (path, path / "shards", path / "claims"):
        claims.remove_orphans(folder)


def check_space(path: Path, plan: Plan) -> None:
    """Raise a UserError when what is left to write does not fit on the disk."""
    if plan.todo_bytes > plan.free_bytes:
        raise UserError(
            f"the features need {plan.todo_bytes / 1e9:.2f} GB and the disk has {plan.free_bytes / 1e9:.2f} GB free",
            where=path,
            remedy="give another stores= folder, fewer layers (layers=4,8), or pool=mean where the head allows it",
        )


def durations(manifest: Manifest) -> np.ndarray:
    """Seconds of each row: from the segment, else the duration column, else the file's header; 0 where unreadable."""
    import soundfile

    table = manifest.table
    empty = np.full(len(table), np.nan)
    start = table["start"].to_numpy() if "start" in table else empty
    end = table["end"].to_numpy() if "end" in table else empty
    seconds = end - np.nan_to_num(start)
    if "duration" in table:
        seconds = np.where(np.isnan(seconds), table["duration"].to_numpy(), seconds)
    for row in np.flatnonzero(np.isnan(seconds)):
        try:
            header = soundfile.info(manifest.audio_path(row))
            seconds[row] = max(header.duration - np.nan_to_num(start[row]), 0) if header.samplerate else 0
        except (soundfile.SoundFileError, OSError, RuntimeError):
            seconds[row] = 0
    return np.minimum(seconds, MAX_SECONDS)  # a header may promise anything; more than this is refused


def blocks(seconds: np.ndarray, row_bytes: Callable[[float], int], limit: int) -> list[list[list[int]]]:
    """Blocks of batches of manifest rows: consecutive rows to a block, in it batches of like length.

    A pure function of the durations. Within a block rows are sorted by length, so that attention over equal lengths
    and upstreams that pad (hub) waste little.
    """
    result, block, size, length = [], [], 0, 0.0
    for row, duration in enumerate(seconds):
        more = row_bytes(duration)
        if block and (size + more > limit or length + duration > BLOCK_SECONDS):
            result.append(block)
            block, size, length = [], 0, 0.0
        block.append(row)
        size, length = size + more, length + duration
    if block:
        result.append(block)
    return [_batches(block, seconds) for block in result]


def _batches(rows: list[int], seconds: np.ndarray) -> list[list[int]]:
    batches, batch, length = [], [], 0.0
    for row in sorted(rows, key=lambda row: (seconds[row], row)):
        if batch and length + seconds[row] > BATCH_SECONDS:
            batches.append(batch)
            batch, length = [], 0.0
        batch.append(row)
        length += seconds[row]
    return [*batches, batch] if batch else batches


class _Job:
    """One worker's view of one extraction: what is done, what is to do, and how a batch is computed."""

    def __init__(self, upstream, manifest, path, fingerprint, seconds, publish_seconds, progress) -> None:
        self.upstream, self.manifest, self.path, self.fingerprint = upstream, manifest, path, fingerprint
        self.seconds, self.publish_seconds, self.progress = seconds, publish_seconds, progress
        self.shards = path / "shards"
        self.ids: list[str] = manifest.table["id"].tolist()
        self.row_of = {id: row for row, id in enumerate(self.ids)}
        self.seen: set[str] = set()  # names of shards
        self.newest: dict[int, float] = {}  # row -> when the version that the store reads was written
        self.done: set[int] = set()
        self.writer = Writer(self.shards, fingerprint.hash(), fingerprint.dtype, fingerprint.kind == "mean")
        self.loader = ThreadPoolExecutor(1)  # decodes the next batch while the model runs

    def plan(self) -> Plan:
        self.scan()
        todo = tuple(row for row in range(len(self.ids)) if row not in self.done)
        probe = self.path
        while not probe.exists():
            probe = probe.parent
        size = sum(self.row_bytes(self.seconds[row]) for row in todo)
        return Plan(len(self.ids), todo, size, shutil.disk_usage(probe).free)

    def row_bytes(self, seconds: float) -> int:
        """Bytes that an utterance takes in the store."""
        states = len(self.fingerprint.layers) * self.upstream.dim
        pooled = states * 8  # mean and deviation, float32
        if self.fingerprint.kind == "mean":
            return pooled
        return pooled + int(seconds * self.upstream.frame_rate) * states * np.dtype(self.fingerprint.dtype).itemsize

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
        path, table = self.manifest.audio_path(row), self.manifest.table
        start, end = (float(table[name].iat[row]) if name in table else np.nan for name in ("start", "end"))
        try:
            stat = os.stat(path)
            return AudioStamp(audio_hash(path) if hashed else "", stat.st_size, stat.st_mtime_ns, start, end)
        except OSError:
            return AudioStamp("", -1, 0, start, end)

    def load(self, rows: Sequence[int]) -> list[tuple[int, np.ndarray | str, AudioStamp]]:
        """Each row's samples, or the reason why there are none."""
        loaded = []
        for row in rows:
            stamp = self._stamp(row)
            try:
                samples = load_audio(self.manifest.audio_path(row), stamp.start, stamp.end)
                if len(samples) < self.upstream.min_samples:
                    need = 1000 * self.upstream.min_samples / SAMPLE_RATE
                    raise AudioError(f"it is shorter than one frame of {self.upstream.name} ({need:g} ms)")
                if self.upstream.max_samples and len(samples) > self.upstream.max_samples:
                    most = self.upstream.max_samples / SAMPLE_RATE
                    raise AudioError(f"it is longer than the {most:g} s that {self.upstream.name} sees; cut it")
                loaded.append((row, samples, stamp))
            except AudioError as error:
                loaded.append((row, str(error), stamp))
        return loaded

    def compute(self, loaded: Sequence[tuple[int, np.ndarray | str, AudioStamp]]) -> None:
        """Features of a batch into the writer, of the rows that the store lacks."""
        sound = [(row, samples, stamp) for row, samples, stamp in loaded if not isinstance(samples, str)]
        for row, reason, stamp in loaded:
            if isinstance(reason, str) and row not in self.done:
                self.writer.reject(self.ids[row], reason, stamp)
                self.done.add(row)
        if not sound:
            return
        lengths = torch.tensor([len(samples) for _, samples, _ in sound])
        waveforms = torch.zeros(len(sound), int(lengths.max()))
        for place, (_, samples, _) in enumerate(sound):
            waveforms[place, : len(samples)] = torch.from_numpy(samples)
        features = self.upstream(waveforms, lengths)
        layers = list(self.fingerprint.layers)
        for place, (row, _, stamp) in enumerate(sound):
            if row in self.done:
                continue
            states = features.states[place, layers, : int(features.lengths[place])].numpy()
            check_states(states, self.fingerprint.dtype, self.fingerprint.layers, self.ids[row])
            self.writer.add(row, self.ids[row], states, stamp)
            self.done.add(row)


def _work(job: _Job, plan: list[list[list[int]]]) -> None:
    """Take free blocks until all are published, waiting for those that other workers hold."""
    keys = [f"{number:05d}-{_key([job.ids[row] for batch in b for row in batch])}" for number, b in enumerate(plan)]
    while True:
        waiting = took = False
        for key, block in zip(keys, plan, strict=True):
            if all(row in job.done for batch in block for row in batch):
                continue
            claim = claims.take(job.path / "claims", key)
            if claim is None:
                waiting = True
                continue
            with claim:
                took = True
                job.scan()  # another worker may have published since
                _work_block(job, key, block, claim)
        if not waiting:
            return
        if not took:
            time.sleep(POLL_SECONDS)
            job.scan()
            job.report()


def _work_block(job: _Job, key: str, block: list[list[int]], claim: claims.Claim) -> None:
    todo = [batch for batch in block if any(row not in job.done for row in batch)]
    started = time.monotonic()
    ahead = job.loader.submit(job.load, todo[0]) if todo else None
    for number in range(len(todo)):
        loaded = ahead.result()
        if number + 1 < len(todo):
            ahead = job.loader.submit(job.load, todo[number + 1])
        job.compute(loaded)
        claim.touch()
        job.report()
        if time.monotonic() - started > job.publish_seconds:
            job.writer.publish(key, time.monotonic() - started)
            started = time.monotonic()
    job.writer.publish(key, time.monotonic() - started)


def _key(ids: list[str]) -> str:
    return hashlib.blake2b("\0".join(ids).encode(), digest_size=6).hexdigest()
