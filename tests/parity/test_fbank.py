"""The filterbank against torchaudio, put together as s3prl does for SUPERB's baseline."""

import pytest
import torch
from torch import Tensor

from wavbench.upstream import catalog
from wavbench.upstream.models import fbank


def by_torchaudio(waveform: Tensor) -> Tensor:
    """Filterbank, deltas and per-utterance normalisation of one waveform: (frames, 240)."""
    from torchaudio.compliance import kaldi
    from torchaudio.functional import compute_deltas

    static = kaldi.fbank(waveform[None], num_mel_bins=80, sample_frequency=16_000).T[None]  # (1, mels, frames)
    slopes = compute_deltas(static)
    stacked = torch.cat([static, slopes, compute_deltas(slopes)])  # (3, mels, frames)
    normal = (stacked - stacked.mean(-1, keepdim=True)) / (1e-10 + stacked.std(-1, keepdim=True))
    return normal.permute(2, 0, 1).flatten(1)


@pytest.mark.parametrize("samples", [560, 720, 16_000, 33_333, 160 * (fbank.BLOCK + 7) + 400])
def test_features_equal_those_of_torchaudio(samples: int) -> None:
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(0)).cumsum(0)  # louder at low pitch
    waveform = 0.5 * waveform / waveform.abs().max()
    reference = by_torchaudio(waveform)
    features = catalog.load("fbank")(waveform[None], torch.tensor([samples]))
    assert features.states.shape == (1, 1, *reference.shape)
    assert (features.states[0, 0] - reference).norm() <= 1e-5 * reference.norm()


def test_filters_equal_those_of_kaldi() -> None:
    from torchaudio.compliance import kaldi

    reference, _ = kaldi.get_mel_banks(80, 512, 16_000.0, 20.0, 0.0, 100.0, -500.0, 1.0)
    ours = fbank.mel_filters(80, 512, 20.0, 8_000.0)
    torch.testing.assert_close(ours[:, :-1], reference, rtol=0, atol=1e-4)
    assert not ours[:, -1].any()


def test_slopes_equal_those_of_torchaudio_up_to_the_edges() -> None:
    from torchaudio.functional import compute_deltas

    tables = [torch.randn(frames, 3) for frames in (1, 2, 9)]
    packed = fbank.packed_slopes(torch.cat(tables), torch.tensor([1, 2, 9]), reach=2)
    reference = torch.cat([compute_deltas(table.T[None], win_length=5)[0].T for table in tables])
    torch.testing.assert_close(packed, reference)


def test_a_single_frame_and_silence_become_zero() -> None:
    upstream = catalog.load("fbank")
    assert not upstream(torch.randn(1, 400), torch.tensor([400])).states.any()
    assert not upstream(torch.zeros(2, 9_000), torch.tensor([9_000, 5_000])).states.any()
