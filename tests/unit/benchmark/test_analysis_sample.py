"""Frames of unequal rates meet at the same times, draws depend on nothing but the seed, segments are their frames."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark.analysis_sample import (
    BLOCK,
    Reader,
    common,
    drawn,
    first_centre,
    frame_blocks,
    grid_times,
    segment_blocks,
    timed_segments,
)
from wavbench.upstream.manifest import Manifest
from wavbench.upstream.store import Fingerprint


def quiet(done: int, total: int) -> None:
    pass


class Clock:
    """A store whose states say when they are: channel 0 is the centre of the frame, channel 1 its layer."""

    path, dim, rejected, extract_seconds, extract_cpu_seconds = Path("clock"), 2, {}, 0.0, 0.0
    fingerprint = Fingerprint(
        weights="", config={}, layers=(0, 1, 2), kind="frames", dtype="float16", resampler="", normalisation=""
    )

    def __init__(self, seconds: dict[str, float], rate: float, window: int) -> None:
        self.layers, self.frame_rate, self.first = (0, 1, 2), rate, first_centre(window)
        self.ids = list(seconds)
        self.rows = {id: row for row, id in enumerate(self.ids)}
        hop = 16_000 / rate
        self.lengths = np.array([int((16_000 * s - window) // hop) + 1 for s in seconds.values()])

    def row(self, id: str) -> int:
        return self.rows[id]

    def need_frames(self, purpose: str) -> None:
        pass

    def read_frames(self, rows, layers) -> tuple:
        centres = self.first + np.arange(self.lengths[rows[0]]) / self.frame_rate
        states = [np.stack([centres, np.full(len(centres), layer)], axis=1) for layer in layers]
        return np.stack(states), self.lengths[rows]

    def read_pooled(self, rows, layers) -> tuple:
        raise NotImplementedError


SECONDS = {f"u{k:02d}": 0.5 + 0.0371 * k for k in range(40)}
SHAPES = {"wav2vec2": (50.0, 400), "fbank": (100.0, 400), "wav2vec": (100.0, 465), "slow": (12.5, 1_280)}


def reader(kind: str, seconds: dict[str, float] = SECONDS) -> Reader:
    store = Clock(seconds, *SHAPES[kind])
    return Reader(store, store.first)


def blocks_of(*kinds: str, frames: int = 1_500, seed: int = 0) -> list[np.ndarray]:
    readers = [reader(kind) for kind in kinds]
    layers = [(0, 2)] * len(kinds)
    return [
        np.concatenate(b) for b in zip(*frame_blocks(readers, layers, list(SECONDS), frames, seed, quiet), strict=True)
    ]


def test_filterbanks_and_wav2vec2_meet_at_the_same_centres() -> None:
    slow, fast = blocks_of("wav2vec2", "fbank")
    np.testing.assert_allclose(slow[:, 0, 0], fast[:, 0, 0], atol=1e-6)
    assert (slow[:, :, 1] == [0, 2]).all()


@pytest.mark.parametrize(("kinds", "apart"), [(("wav2vec2", "wav2vec"), 0.0021), (("slow", "fbank"), 0.0401)])
def test_others_give_the_frame_that_is_nearest(kinds: tuple[str, str], apart: float) -> None:
    one, other = blocks_of(*kinds)
    gaps = np.abs(one[:, 0, 0] - other[:, 0, 0])
    assert np.quantile(gaps, 0.95) <= apart
    assert gaps.max() <= max(apart, 0.01)  # behind the last frame of one it is that one


def test_a_time_that_one_upstream_has_no_frame_near_is_left_out() -> None:
    readers = [reader("slow"), reader("fbank")]
    for id in SECONDS:
        times = grid_times(readers, id, 10_000, 0)
        for one in readers:
            last = one.centres(int(one.store.lengths[one.store.rows[id]]))[-1]
            assert times.max() <= last + 0.5 / min(one.store.frame_rate, 50.0) + 1e-6
    alone = grid_times(readers[1:], "u39", 10_000, 0)
    np.testing.assert_allclose(np.diff(alone), 0.02)


def test_utterances_give_equal_shares_and_short_ones_all_that_they_have() -> None:
    (states,) = blocks_of("wav2vec2", frames=40 * 30)
    assert len(states) == sum(min(int((s - 0.025) * 50 + 1e-6) + 1, 30) for s in SECONDS.values())


def test_blocks_are_bounded_and_hold_every_frame_once() -> None:
    store = Clock({f"u{k}": 20.0 for k in range(5)}, *SHAPES["wav2vec2"])
    found = [b[0] for b in frame_blocks([Reader(store, store.first)], [(1,)], store.ids, 10**6, 0, quiet)]
    assert [len(b) for b in found[:-1]] == [len(found[0])] * (len(found) - 1)
    assert len(found[0]) < BLOCK + 1_000
    assert sum(map(len, found)) == store.lengths.sum()


def test_the_same_seed_takes_the_same_frames_and_another_takes_others() -> None:
    first, again, other = (blocks_of("wav2vec2", frames=200, seed=s)[0][:, 0, 0] for s in (3, 3, 4))
    assert (first == again).all()
    assert len(first) == len(other)
    assert (first != other).any()


def manifest(count: int, **columns: list) -> Manifest:
    table = pd.DataFrame({"id": [f"u{k:03d}" for k in range(count)], "audio": "a.wav", "split": "test"} | columns)
    return Manifest(Path("corpus.csv"), table)


def test_a_draw_keeps_the_order_and_a_larger_one_holds_it() -> None:
    small, large = (drawn(manifest(300), n, 7).table["id"].tolist() for n in (50, 120))
    assert len(small) == 50
    assert small == sorted(small)
    assert set(small) < set(large)
    assert drawn(manifest(300), 50, 8).table["id"].tolist() != small
    assert len(drawn(manifest(30), 50, 7)) == 30


def test_utterances_with_timed_labels_are_drawn_first() -> None:
    ends = ["0.1 0.2" if k % 10 == 0 else "" for k in range(100)]
    chosen = drawn(manifest(100, phones=["a b"] * 100, phone_ends=ends), 20, 0).table
    assert (chosen["phone_ends"] != "").sum() == 10


def test_only_utterances_that_every_store_has_frames_of_are_common() -> None:
    some = reader("wav2vec2", {"a": 1.0, "b": 1.0})
    other = reader("fbank", {"b": 1.0, "c": 1.0})
    assert common([some, other], ["a", "b", "c"]) == ["b"]
    other.store.lengths[0] = 0
    assert common([some, other], ["a", "b", "c"]) == []


def table(**columns: list) -> pd.DataFrame:
    return manifest(2, **columns).table


def test_segments_are_those_of_speech_that_can_be_believed() -> None:
    rows = table(phones=["SIL a b", "c d"], phone_ends=["0.1 0.2 0.3", "0.6 0.7"])
    found = timed_segments(rows, "phones", ["u000", "u001"], 100, 0)
    # c lasts 0.6 s: an error of forced alignment
    assert found.to_numpy().tolist() == [["u000", 0.1, 0.2, "a"], ["u000", 0.2, 0.3, "b"], ["u001", 0.6, 0.7, "d"]]


def test_words_have_ends_too_and_few_are_by_lot() -> None:
    rows = table(words=["we call it", "bear"], word_ends=["0.3 0.7 0.9", "1.5"])
    assert timed_segments(rows, "words", ["u000", "u001"], 100, 0)["label"].tolist() == ["we", "call", "it", "bear"]
    assert len(timed_segments(rows, "words", ["u000", "u001"], 2, 0)) == 2
    assert timed_segments(rows, "phones", ["u000", "u001"], 100, 0).empty


def test_a_segment_is_the_mean_of_frames_whose_centre_it_holds() -> None:
    one = reader("wav2vec2", {"a": 1.0, "b": 1.0})  # centres at 12.5, 32.5, 52.5 ms and so on
    segments = pd.DataFrame(
        [("a", 0.0, 0.05, "x"), ("b", 0.03, 0.1, "y"), ("a", 0.033, 0.051, "z"), ("b", 0.98, 1.4, "end")],
        columns=["id", "start", "end", "label"],
    )
    found = {}
    for states, places in segment_blocks(one, (0, 1), segments, quiet):
        found |= dict(zip(places.tolist(), states, strict=True))
    means = [found[place][0, 0] for place in range(4)]
    # the third has no centre in it, and takes the nearest; the last lies behind the last frame
    assert means == pytest.approx([0.0225, (0.0325 + 0.0525 + 0.0725 + 0.0925) / 4, 0.0325, 0.9725], abs=1e-5)
    assert found[0][:, 1].tolist() == [0, 1]
