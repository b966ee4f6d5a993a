"""Which utterances, frames and segments an analysis looks at, and their states out of stores, block by block.

Upstreams make frames at different rates, so frames are chosen by their time, on one grid for all: a point every 20 ms,
the first in the middle of the first 25 ms. Each upstream gives the frame whose centre is nearest. The centre of frame k
is k / frame rate behind the middle of the samples that a first frame takes: for wav2vec 2.0 that is the grid itself,
for filterbanks every second frame; wav2vec's frames lie 2 ms beside it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int

from wavbench.downstream.batches import Readable
from wavbench.downstream.text import SILENCE, segments_of
from wavbench.upstream.audio import SAMPLE_RATE
from wavbench.upstream.manifest import Manifest

GRID_RATE = 50.0  # points per second
GRID_FIRST = 0.0125  # seconds
BLOCK = 1_024  # frames that are worked on at once
TIMED = {"phones": "phone_ends", "words": "word_ends"}  # labels of segments, and the column with their ends
LONGEST = {"phones": 0.5, "words": 3.0}  # seconds; what is longer is an error of forced alignment
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reader:
    """An upstream's store with what frames need to have a time.

    Args:
        store: of frames, or pooled where no frames are read.
        first: centre of the first frame, seconds.
    """

    store: Readable
    first: float

    def nearest(
        self, times: Float[np.ndarray, " points"], frames: int
    ) -> tuple[Int[np.ndarray, " points"], Bool[np.ndarray, " points"]]:
        """Number of the frame nearest to each time, and whether it is as near as frames or grid points lie."""
        place = np.rint((times - self.first) * self.store.frame_rate).astype(np.int64).clip(0, frames - 1)
        apart = np.abs(self.first + place / self.store.frame_rate - times)
        return place, apart <= 0.5 / min(self.store.frame_rate, GRID_RATE) + 1e-9

    def centres(self, frames: int) -> Float[np.ndarray, " frames"]:
        """Of an utterance's frames, seconds."""
        return self.first + np.arange(frames) / self.store.frame_rate


def first_centre(min_samples: int) -> float:
    """Centre of the first frame in seconds: the middle of the samples that it takes."""
    return min_samples / 2 / SAMPLE_RATE


def number_of(seed: int, *parts: str) -> int:
    """A number from a seed and texts: the same on every machine, and different for every text."""
    text = "\0".join([str(seed), *parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def drawn(manifest: Manifest, utterances: int, seed: int) -> Manifest:
    """Some utterances of a manifest, in its order: those with timed labels first, otherwise by lot.

    Whether an utterance is drawn depends on no other one's place, so a sample of twice the size holds the smaller one.
    """
    table = manifest.table
    timed = np.zeros(len(table), int)
    for column in TIMED.values():
        if column in table:
            timed += (table[column] != "").to_numpy()
    order = sorted(range(len(table)), key=lambda row: (-timed[row], number_of(seed, "utterance", table["id"].iat[row])))
    chosen = np.sort(order[:utterances])
    return Manifest(manifest.path, table.iloc[chosen].reset_index(drop=True), audio_root=manifest.audio_root)


def common(readers: Sequence[Reader], ids: Sequence[str]) -> list[str]:
    """Utterances of which all stores have frames."""

    def held(store: Readable, id: str) -> bool:
        return id in store.rows and bool(store.lengths[store.rows[id]])

    return [id for id in ids if all(held(reader.store, id) for reader in readers)]


def grid_times(readers: Sequence[Reader], id: str, most: int, seed: int) -> Float[np.ndarray, " points"]:
    """Times of an utterance, at most so many, at which every upstream has a frame; ascending, by lot."""
    frames = [int(reader.store.lengths[reader.store.rows[id]]) for reader in readers]
    last = max(reader.centres(count)[-1] for reader, count in zip(readers, frames, strict=True))
    times = GRID_FIRST + np.arange(int(last * GRID_RATE) + 1) / GRID_RATE
    for reader, count in zip(readers, frames, strict=True):
        times = times[reader.nearest(times, count)[1]]
    chosen = np.random.default_rng(number_of(seed, "frames", id)).permutation(len(times))[:most]
    return times[np.sort(chosen)]


def frame_blocks(
    readers: Sequence[Reader],
    layers: Sequence[Sequence[int]],
    ids: Sequence[str],
    frames: int,
    seed: int,
    progress: Progress,
) -> Iterator[list[Float32[np.ndarray, "block layers dim"]]]:
    """States of all upstreams at the same times, about so many frames in all, a block at a time.

    Args:
        readers: of the upstreams.
        layers: wanted of each.
        ids: utterances that all of them hold.
        frames: wanted in all; as many from each utterance as it has, at most an equal share.
        seed: of the choice.
        progress: called with (utterances read, utterances).
    """
    share, held, count = -(-frames // max(len(ids), 1)), [], 0
    for done, id in enumerate(ids):
        progress(done, len(ids))
        times = grid_times(readers, id, share, seed)
        if len(times):
            held.append([_at(reader, own, id, times) for reader, own in zip(readers, layers, strict=True)])
            count += len(times)
        if held and (count >= BLOCK or done + 1 == len(ids)):
            yield [np.concatenate(states) for states in zip(*held, strict=True)]
            held, count = [], 0
    if held:
        yield [np.concatenate(states) for states in zip(*held, strict=True)]
    progress(len(ids), len(ids))


def timed_segments(table: pd.DataFrame, label: str, ids: Sequence[str], most: int, seed: int) -> pd.DataFrame:
    """Segments of timed labels, silence left out: columns id, start, end (seconds), label, in the order of `ids`.

    Args:
        table: of a manifest.
        label: one of TIMED.
        ids: utterances wanted.
        most: segments; by lot where there are more.
        seed: of the lot.
    """
    rows, found = table.set_index("id"), []
    for id in ids:
        row = rows.loc[id]
        row = {"phones": str(row.get(label, "")), "phone_ends": row.get(TIMED[label], "")}
        segments = [s for s in segments_of(row, LONGEST[label]) if s.phone not in SILENCE]
        found += [(id, segment.start, segment.end, segment.phone) for segment in segments]
    chosen = np.random.default_rng(number_of(seed, "segments", label)).permutation(len(found))[:most]
    return pd.DataFrame([found[k] for k in np.sort(chosen)], columns=["id", "start", "end", "label"])


def segment_blocks(
    reader: Reader, layers: Sequence[int], segments: pd.DataFrame, progress: Progress
) -> Iterator[tuple[Float32[np.ndarray, "block layers dim"], Int[np.ndarray, " block"]]]:
    """Means of states over segments, with the numbers of these: frames whose centre lies in one, else the nearest."""
    groups = list(segments.groupby("id", sort=False).indices.items())
    held, places = [], []
    for done, (id, rows) in enumerate(groups):
        progress(done, len(groups))
        states = _states(reader, layers, id)
        centres = reader.centres(states.shape[1])
        for row in rows:
            start, end = segments["start"].iat[row], segments["end"].iat[row]
            first, last = np.searchsorted(centres, (start, end))
            if first >= last:
                first = int(np.abs(centres - (start + end) / 2).argmin())
                last = first + 1
            held.append(states[:, first:last].mean(axis=1))
            places.append(row)
        if len(held) >= BLOCK:
            yield np.stack(held), np.array(places)
            held, places = [], []
    if held:
        yield np.stack(held), np.array(places)
    progress(len(groups), len(groups))


def _at(reader: Reader, layers: Sequence[int], id: str, times: np.ndarray) -> Float32[np.ndarray, "points layers dim"]:
    states = _states(reader, layers, id)
    place, _ = reader.nearest(times, states.shape[1])
    return np.ascontiguousarray(states[:, place].transpose(1, 0, 2))


def _states(reader: Reader, layers: Sequence[int], id: str) -> Float32[np.ndarray, "layers frames dim"]:
    return reader.store.read_frames([reader.store.rows[id]], layers)[0].astype(np.float32, copy=False)
