"""Plans, crops and masks: pure functions of seed, epoch and utterance, with shares computed by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavbench.upstream import batch_plan
from wavbench.upstream.batch_plan import Batch, generator_of, plan_epoch
from wavbench.upstream.errors import UserError
from wavbench.upstream.layers.masking import span_mask
from wavbench.upstream.pretrain import hubert, wav2vec2


def plan(lengths: np.ndarray, languages=None, **values) -> list[Batch]:
    how = {"seed": 0, "epoch": 0, "crop_samples": 8_000, "batch_samples": 40_000, **values}
    return plan_epoch(lengths, languages or [""] * len(lengths), **how)


LENGTHS = np.random.default_rng(0).integers(1_000, 20_000, 300)


def test_an_epoch_is_a_pure_function_of_seed_and_number() -> None:
    assert plan(LENGTHS, epoch=3) == plan(LENGTHS, epoch=3)
    np.random.seed(1)
    assert plan(LENGTHS, epoch=3) == plan(LENGTHS, epoch=3)
    assert plan(LENGTHS, epoch=3) != plan(LENGTHS, epoch=4)
    assert plan(LENGTHS, epoch=3) != plan(LENGTHS, epoch=3, seed=1)
    assert [batch.index for batch in plan(LENGTHS)] == list(range(len(plan(LENGTHS))))


@settings(max_examples=60)
@given(
    count=st.integers(1, 150),
    spread=st.sampled_from([1, 30, 500, 20_000]),
    batch=st.integers(1, 120_000),
    seed=st.integers(0, 1_000),
)
def test_batches_hold_all_utterances_once_and_no_more_than_their_samples(
    count: int, spread: int, batch: int, seed: int
) -> None:
    lengths = 1_000 + np.random.default_rng(seed).integers(0, spread, count)
    planned = plan(lengths, batch_samples=batch, seed=seed, language_exponent=1.0)
    rows = np.array([row for one in planned for row in one.rows])
    assert set(rows) == set(range(count))
    for one in planned:
        assert len(one.rows) == 1 or len(one.rows) * one.samples <= batch
        assert one.samples == min(8_000, *lengths[list(one.rows)])  # nothing is padded
    if lengths.max() <= 8_000:
        assert len(rows) == count
        assert {repeat for one in planned for repeat in one.repeats} == {0}


def test_a_batch_of_many_short_utterances_holds_no_more_than_its_samples() -> None:
    # a long batch reaches from a longer utterance to a shorter one, of which more would fit
    lengths = np.random.default_rng(1).integers(400, 480, 4_000)
    for seed in range(5):
        for one in plan(lengths, batch_samples=60_000, seed=seed):
            assert len(one.rows) * one.samples <= 60_000


def test_little_is_lost_to_the_shortest_of_a_batch() -> None:
    planned = plan(LENGTHS)
    taken = sum(len(one.rows) * one.samples for one in planned)
    assert taken > 0.95 * np.minimum(LENGTHS, 8_000).sum()


def test_languages_are_drawn_by_their_hours_to_a_power() -> None:
    # 90,000 samples of one, 10,000 of the other: the roots are as 3 to 1, so 75,000 and 25,000 of 100,000
    lengths, languages = np.full(100, 1_000), ["pl"] * 90 + ["de"] * 10
    planned = plan(lengths, languages, language_exponent=0.5)
    rows = np.array([row for one in planned for row in one.rows])
    repeats = np.array([repeat for one in planned for repeat in one.repeats])
    assert abs((rows < 90).sum() - 75) <= 1
    assert abs((rows >= 90).sum() - 25) <= 1
    assert len(np.unique(rows[rows < 90])) == (rows < 90).sum()  # none twice where there are enough
    assert (repeats[rows < 90] == 0).all()
    assert sorted(np.bincount(rows[rows >= 90] - 90)) in ([2] * 5 + [3] * 5, [2] * 6 + [3] * 4, [2] * 4 + [3] * 6)
    assert len({*zip(rows.tolist(), repeats.tolist(), strict=True)}) == len(rows)  # so that crops differ
    for exponent, share in ((1.0, 90), (0.0, 50)):
        rows = np.array([row for one in plan(lengths, languages, language_exponent=exponent) for row in one.rows])
        assert abs((rows < 90).sum() - share) <= 1


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_recordings_longer_than_a_crop_count_by_what_they_hold(exponent: float) -> None:
    """Ten long ones hold as much as 400 short ones: half of the audio each, whatever the exponent."""
    lengths, languages = np.array([80_000] * 10 + [2_000] * 400), ["pl"] * 10 + ["de"] * 400
    planned = plan(lengths, languages, language_exponent=exponent)
    crops = [(row, repeat, one.samples) for one in planned for row, repeat in zip(one.rows, one.repeats, strict=True)]
    heard = [sum(samples for row, _, samples in crops if (row < 10) == long) for long in (True, False)]
    assert heard == pytest.approx([800_000, 800_000], rel=0.02)
    taken = np.bincount([row for row, _, _ in crops])
    assert taken[:10].tolist() == [10] * 10  # crops of 8,000
    assert len({(row, repeat) for row, repeat, _ in crops}) == len(crops)  # each of them another one
    # within a language long ones count by what they hold too: one of ten crops, and ten of one
    planned = plan(np.array([80_000] + [8_000] * 10), language_exponent=exponent)
    taken = np.bincount([row for one in planned for row in one.rows])
    assert taken.tolist() == [10] + [1] * 10


def test_an_epoch_of_utterances_somewhat_longer_than_a_crop_is_as_long_as_they_are() -> None:
    planned = plan(np.full(100, 10_000), language_exponent=1.0)  # 125 crops of 8,000
    assert sum(len(one.rows) for one in planned) == 125


def test_processes_share_the_batches_of_an_epoch_and_leave_out_less_than_a_step() -> None:
    def planned(epoch: int) -> list[Batch]:
        return [Batch(epoch, index, (index,), (0,), 400) for index in range(11)]

    def taken(rank: int, steps: int, epoch: int = 0, index: int = 0) -> list[list[tuple[int, int]]]:
        made = batch_plan.batches(epoch, index, rank, 2, 2, planned)
        return [[(one.epoch, one.index) for one in next(made)] for _ in range(steps)]

    assert taken(0, 3) == [[(0, 0), (0, 2)], [(0, 4), (0, 6)], [(1, 0), (1, 2)]]
    assert taken(1, 3) == [[(0, 1), (0, 3)], [(0, 5), (0, 7)], [(1, 1), (1, 3)]]
    assert taken(0, 2, 0, 4) == taken(0, 3)[1:]
    assert taken(1, 1, 0, 8) == taken(1, 3)[2:]


def test_a_corpus_smaller_than_a_step_is_named() -> None:
    made = batch_plan.batches(0, 0, 0, 2, 3, lambda epoch: [Batch(epoch, 0, (0,), (0,), 400)])
    with pytest.raises(
        UserError, match=r"1 batches in an epoch, and a step takes 6(.|\n)*accumulate=3, and 2 processes"
    ):
        next(made)


def test_the_randomness_of_an_utterance_is_its_own() -> None:
    def draw(*key) -> list[int]:
        return generator_of(*key).integers(0, 1 << 30, 4).tolist()

    keys = [(0, 0, "a/1", 0), (1, 0, "a/1", 0), (0, 1, "a/1", 0), (0, 0, "a/2", 0), (0, 0, "a/1", 1)]
    assert draw(*keys[0]) == draw(*keys[0])
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def test_about_half_of_the_frames_are_hidden() -> None:
    random = np.random.default_rng(0)
    share = np.mean([span_mask(600, 0.065, 10, random).mean() for _ in range(400)])
    assert share == pytest.approx(0.49, abs=0.01)  # 1 - (1 - 0.065)^10, and nearly nothing at the ends


@settings(max_examples=100)
@given(
    frames=st.integers(0, 80), share=st.floats(0, 1), span=st.integers(1, 20), least=st.integers(1, 3),
    seed=st.integers(0, 100),
)  # fmt: skip
def test_hidden_spans_are_whole_and_lie_within_the_crop(
    frames: int, share: float, span: int, least: int, seed: int
) -> None:
    masked = span_mask(frames, share, span, np.random.default_rng(seed), least)
    assert masked.shape == (frames,)
    if frames < span:
        assert not masked.any()
        return
    edges = np.flatnonzero(np.diff(np.concatenate([[0], masked.astype(int), [0]])))
    assert (edges[1::2] - edges[::2] >= span).all()
    assert masked.any()


def test_the_number_of_spans_has_the_exact_mean() -> None:
    random = np.random.default_rng(0)
    counts = [span_mask(35, 0.1, 1, random).sum() for _ in range(2_000)]  # spans of one frame never overlap
    assert set(counts) == {3, 4}
    assert np.mean(counts) == pytest.approx(3.5, abs=0.05)


@settings(max_examples=60)
@given(frames=st.integers(0, 120), negatives=st.integers(1, 150), seed=st.integers(0, 100))
def test_negatives_are_other_hidden_frames_of_the_crop(frames: int, negatives: int, seed: int) -> None:
    config = wav2vec2.Config(num_negatives=negatives)
    made = wav2vec2.targets(config, frames, None, np.random.default_rng(seed))
    hidden = int(made["masked"].sum())
    assert made["counts"].tolist() == [hidden]
    assert hidden != 1
    assert made["negatives"].shape == (hidden, negatives)
    if hidden:
        assert made["negatives"].min() >= 0
        assert made["negatives"].max() < hidden
        assert (made["negatives"] != np.arange(hidden)[:, None]).all()


def test_every_other_hidden_frame_is_drawn_alike() -> None:
    config = wav2vec2.Config(num_negatives=4_000, mask_start_share=0.01)
    made = wav2vec2.targets(config, 30, None, np.random.default_rng(0))
    hidden = len(made["negatives"])
    for frame, row in enumerate(made["negatives"]):
        counts = np.bincount(row, minlength=hidden)
        assert counts[frame] == 0
        others = np.delete(counts, frame)
        assert (np.abs(others - 4_000 / (hidden - 1)) < 6 * np.sqrt(4_000 / (hidden - 1))).all()


def test_units_of_a_crop_are_those_of_its_frames() -> None:
    units = np.arange(40, dtype=np.uint16)
    made = hubert.targets(hubert.Config(), 30, units[5:35], np.random.default_rng(0))
    assert made["units"].dtype == np.int64
    np.testing.assert_array_equal(made["units"], np.arange(5, 35))
