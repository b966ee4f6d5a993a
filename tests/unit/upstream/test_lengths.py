"""Samples to frames and back, against values worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wavbench.upstream.lengths import frames_from_samples, mask_from_lengths, samples_from_frames, total_stride

WAV2VEC2 = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
FBANK = ((400, 160),)

# 25 ms windows every 20 ms: one frame at 400 samples, one more every 320.
BY_HAND = [(0, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49), (160_000, 499)]


@pytest.mark.parametrize(("samples", "frames"), BY_HAND)
def test_frames_of_wav2vec2(samples: int, frames: int) -> None:
    assert frames_from_samples(samples, WAV2VEC2) == frames


def test_a_tensor_of_lengths_gives_what_single_lengths_give() -> None:
    samples, frames = zip(*BY_HAND, strict=True)
    assert frames_from_samples(torch.tensor(samples), WAV2VEC2).tolist() == list(frames)


def test_one_second_has_98_windows_of_25_ms_every_10_ms() -> None:
    assert frames_from_samples(16_000, FBANK) == 98


def test_the_receptive_field_is_400_samples_and_grows_by_the_stride() -> None:
    assert [samples_from_frames(frames, WAV2VEC2) for frames in (1, 2, 3)] == [400, 720, 1_040]
    assert total_stride(WAV2VEC2) == 320


convolutions = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=5)


@given(conv=convolutions, frames=st.integers(1, 500))
def test_the_fewest_samples_for_some_frames_give_them_and_one_less_does_not(conv: list, frames: int) -> None:
    samples = samples_from_frames(frames, conv)
    assert frames_from_samples(samples, conv) == frames
    assert frames_from_samples(samples - 1, conv) == frames - 1


@given(conv=convolutions, samples=st.integers(0, 3_000))
def test_frames_are_those_of_a_real_convolution(conv: list, samples: int) -> None:
    signal = torch.zeros(1, 1, samples)
    for kernel, stride in conv:
        signal = signal.unfold(2, kernel, stride)[..., 0] if signal.shape[2] >= kernel else signal[:, :, :0]
    assert frames_from_samples(samples, conv) == signal.shape[2]


def test_the_mask_is_true_where_a_frame_is_valid() -> None:
    assert mask_from_lengths(torch.tensor([0, 2]), 3).tolist() == [[False] * 3, [True, True, False]]
    assert mask_from_lengths(torch.tensor([1, 2])).tolist() == [[True, False], [True, True]]
