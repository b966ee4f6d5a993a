"""Features computed whenever a head asks for them, where a store of them would not fit on the disk.

A head sees what it would see of a float32 store. What is lost is time: every look at an utterance is a pass through the
upstream, unless all features that a head reads fit into memory (`FrameBatches`) or are means (one pass).
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from wavbench.downstream.threads import threads
from wavbench.upstream.audio import SAMPLE_RATE, AudioError
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import batch_seconds, fingerprint_of
from wavbench.upstream.inference import WHOLE_SECONDS
from wavbench.upstream.machine import free_memory
from wavbench.upstream.manifest import Manifest
from wavbench.upstream.row_states import frames_of, samples_of, states_of
from wavbench.upstream.shards import Pooler, check_states

DECODERS = 8  # threads at most
HELD_SHARE = 0.25  # of free memory, for decoded audio: what does not fit is decoded again each time
AHEAD = 64  # utterances decoded before they are wanted
Progress = Callable[[int, int], None]


class Streamed:
    """An upstream at work, read as a store is read.

    Args:
        upstream: the frozen model.
        manifest: of the corpus.
        ids: utterances wanted, in the manifest's order.
        path: where a store of these features would lie, for messages.
        pooled: whether only means and deviations will be asked for.
        progress: called with (utterances decoded, utterances) while their lengths are found.
        pooling: called with (utterances pooled, utterances).
        budget: bytes of decoded audio that may be held in memory; a quarter of what is free where None.

    Attributes:
        ids: utterances that can be read.
        rejected: the others and why.
        lengths: frames of each.
        extract_seconds: spent in the upstream so far.
        extract_cpu_seconds: not told apart from those of the heads: NaN.
        size_bytes: on disk.
    """

    size_bytes = 0
    extract_cpu_seconds = math.nan

    def __init__(
        self,
        upstream: Upstream,
        manifest: Manifest,
        ids: Sequence[str],
        path: Path,
        *,
        pooled: bool = False,
        progress: Progress | None = None,
        pooling: Progress | None = None,
        budget: int | None = None,
    ) -> None:
        self.path, self.pooled = path, pooled
        self.fingerprint = fingerprint_of(upstream, None, pooled, "float32")
        self.layers, self.dim, self.frame_rate = self.fingerprint.layers, upstream.dim, upstream.frame_rate
        self.extract_seconds = 0.0
        self._upstream, self._manifest, self._pooling = upstream, manifest, pooling
        self._decoders = ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1))
        self._threads = torch.get_num_threads()
        self._means: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._sounds: dict[int, np.ndarray] = {}  # by row of the manifest
        place = {id: row for row, id in enumerate(manifest.table["id"])}
        room = int(free_memory() * HELD_SHARE) if budget is None else budget
        self.ids, self.rejected, places, samples = [], {}, [], []
        for done, (id, sound) in enumerate(zip(ids, self._load([place[id] for id in ids]), strict=True), start=1):
            if isinstance(sound, str):
                self.rejected[id] = sound
            else:
                self.ids.append(id)
                places.append(place[id])
                samples.append(len(sound))
                room -= sound.nbytes
                if room >= 0:
                    self._sounds[place[id]] = sound
            if progress:
                progress(done, len(ids))
        self._places, self._samples = np.array(places, np.int64), np.array(samples, np.int64)
        self.lengths = np.array([frames_of(upstream, count) for count in samples], np.int64)
        self.rows = {id: row for row, id in enumerate(self.ids)}

    def row(self, id: str) -> int:
        if id not in self.rows:
            why = f"its audio was rejected: {self.rejected[id]}" if id in self.rejected else ""
            raise UserError(f"there are no features of utterance {id!r}", why=why)
        return self.rows[id]

    def need_frames(self, purpose: str) -> None:
        """Raise a UserError when only means were to be computed."""
        if self.pooled:
            raise UserError(f"{purpose} needs frames, and only means are computed")

    def read_frames(
        self, rows: Sequence[int] | np.ndarray, layers: Sequence[int]
    ) -> tuple[Float32[np.ndarray, "layers frames dim"], Int[np.ndarray, " utterances"]]:
        """States of many utterances end to end, computed now.

        Args:
            rows: positions in `ids`, in the order wanted.
            layers: states wanted.

        Raises:
            UserError: states that are not finite, or an upstream whose frames cannot be counted beforehand.
        """
        rows = np.asarray(rows, np.int64)
        wanted = sorted(set(layers))
        own = [wanted.index(layer) for layer in layers]
        lengths = self.lengths[rows]
        starts = np.cumsum(lengths) - lengths
        out = np.empty((len(layers), int(lengths.sum()), self.dim), np.float32)
        with threads(self._threads):  # heads are trained with one, an upstream has work for all
            for batch in self._batches(rows):
                sounds = dict(zip(batch, self._load(self._places[rows[batch]]), strict=True))
                for place, parts in self._computed(rows, sounds, wanted):
                    for layer, first, states in parts:
                        for number in np.flatnonzero(np.equal(own, layer)):
                            out[number, starts[place] + first : starts[place] + first + len(states)] = states
        return out, lengths

    def read_pooled(
        self, rows: Sequence[int] | np.ndarray, layers: Sequence[int]
    ) -> tuple[Float[np.ndarray, "utterances layers dim"], Float[np.ndarray, "utterances layers dim"]]:
        """Mean and population standard deviation over frames; of all utterances in one pass, which is remembered."""
        if tuple(layers) not in self._means:
            self._means = {tuple(layers): self._pool_all(sorted(set(layers)), layers)}
        mean, std = self._means[tuple(layers)]
        return mean[np.asarray(rows, np.int64)], std[np.asarray(rows, np.int64)]

    def _pool_all(self, wanted: list[int], layers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        everything = np.arange(len(self.ids))
        mean, std = np.empty((2, len(everything), len(wanted), self.dim), np.float32)
        done = 0
        for batch in self._batches(everything):
            sounds = dict(zip(batch, self._load(self._places[batch]), strict=True))
            for row, parts in self._computed(everything, sounds, wanted):
                poolers = [Pooler() for _ in wanted]
                for layer, _, states in parts:
                    poolers[layer].add(states)
                for layer, pooler in enumerate(poolers):
                    mean[row, layer], std[row, layer] = pooler.result()
                done += 1
            if self._pooling:
                self._pooling(done, len(everything))
        own = [wanted.index(layer) for layer in layers]
        return mean[:, own], std[:, own]

    def _batches(self, rows: np.ndarray) -> Iterator[list[int]]:
        """Positions in `rows` of forward passes: of like length, as extraction has them."""
        limit, batch, size = batch_seconds(self._upstream) * SAMPLE_RATE, [], 0
        for place in np.argsort(self._samples[rows], kind="stable").tolist():
            samples = int(self._samples[rows[place]])
            if batch and size + samples > limit:
                yield batch
                batch, size = [], 0
            batch.append(place)
            size += samples
        if batch:
            yield batch

    def _load(self, places: Sequence[int] | np.ndarray) -> Iterator[np.ndarray | str]:
        """Samples of rows of the manifest, or why there are none; some are decoded ahead."""
        waiting: deque = deque()
        for place in np.asarray(places).tolist():
            waiting.append(self._decoders.submit(self._decode, place))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _decode(self, place: int) -> np.ndarray | str:
        if place in self._sounds:
            return self._sounds[place]
        try:
            return samples_of(self._upstream, self._manifest, place)
        except AudioError as error:
            return str(error)

    def _computed(
        self, rows: np.ndarray, sounds: dict[int, np.ndarray | str], wanted: list[int]
    ) -> Iterator[tuple[int, Iterator[tuple[int, int, np.ndarray]]]]:
        """States of a batch, utterance by utterance: its position, and parts as (position of layer, frame, states)."""
        for place, sound in sounds.items():
            if isinstance(sound, str) or len(sound) != self._samples[rows[place]]:
                raise UserError(
                    f"the audio of {self.ids[rows[place]]} has changed while heads were trained on it",
                    why=sound if isinstance(sound, str) else "",
                    remedy="run the same command again",
                )
        whole = [place for place, sound in sounds.items() if len(sound) <= WHOLE_SECONDS * SAMPLE_RATE]
        if whole:
            started = time.monotonic()
            pending = states_of(self._upstream, [torch.from_numpy(sounds[place]) for place in whole], wanted)
            found = [states.numpy() for part in pending for states in part.result()]
            self.extract_seconds += time.monotonic() - started
            for place, states in zip(whole, found, strict=True):
                self._check(rows[place], states.shape[1])
                check_states(states, "float32", tuple(wanted), self.ids[rows[place]])
                yield place, ((number, 0, own) for number, own in enumerate(states))
        for place in sounds.keys() - set(whole):
            yield place, self._recording(rows[place], sounds[place], wanted)

    def _recording(self, row: int, sound: np.ndarray, wanted: list[int]) -> Iterator[tuple[int, int, np.ndarray]]:
        """A long recording, in memory for one window of it."""
        found, started = 0, time.monotonic()
        for layer, first, states in self._upstream.recording(torch.from_numpy(sound), wanted):
            found += len(states)
            if found > len(wanted) * self.lengths[row]:
                self._check(row, -(-found // len(wanted)))
            own = states.numpy()
            check_states(own[None], "float32", (layer,), self.ids[row])
            yield wanted.index(layer), first, own
        self.extract_seconds += time.monotonic() - started
        self._check(row, found // len(wanted))

    def _check(self, row: int, frames: int) -> None:
        if frames != self.lengths[row]:
            raise UserError(
                f"{self._upstream.name} makes {frames} frames where {self.lengths[row]} were counted on",
                where=f"utterance {self.ids[row]}",
                why="batches are planned before anything is computed, and this model rounds in its own way",
                remedy="features=stored",
            )
