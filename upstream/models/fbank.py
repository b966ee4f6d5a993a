"""Log mel filterbank with deltas and per-utterance normalisation: SUPERB's baseline, with nothing to train.

Source: Yang et al. 2021, SUPERB, FBANK; s3prl's `upstream/baseline/fbank.yaml`; Kaldi's `compute-fbank-feats`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.features import Features
from wavbench.upstream.layers.packing import pad_packed, segment_of
from wavbench.upstream.lengths import frames_from_samples, mask_from_lengths

SAMPLE_RATE = 16_000  # Hz
LOG_FLOOR = torch.finfo(torch.float32).eps  # Kaldi's floor below the logarithm
NEEDS_NO_WEIGHTS = True  # has no parameters, so a preset is ready as it is
BLOCK = 1_024  # frames transformed at once: 1.6 MB, which stays in the cache


@dataclass(frozen=True, kw_only=True)
class Config:
    num_mels: int = 80  # filters; a state has (1 + delta_order) times as many channels
    window: int = 400  # samples: 25 ms
    hop: int = 160  # samples: 10 ms
    low_frequency: float = 20.0  # Hz, lower edge of the first filter; the last one ends at 8 kHz
    preemphasis: float = 0.97  # share of the previous sample taken away
    delta_order: int = 2  # 1: slopes, 2: slopes of slopes too
    delta_reach: int = 2  # frames looked at on either side of a slope
    normalise: bool = True  # per-utterance mean and variance; without, the mean over frames still tells speakers apart
    epsilon: float = 1e-10  # added to the standard deviation


class Fbank(nn.Module):
    """Filterbank features of every utterance from its valid samples only.

    Frames of all utterances are transformed as one packed table, so that padding costs nothing. The mean and
    the standard deviation are taken in float64: a silent utterance is constant, and the rounding noise of a
    float32 mean would be blown up to full scale by the division.
    """

    num_states = 1
    normalisation = "none"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.dim = config.num_mels * (1 + config.delta_order)
        self.frame_rate = SAMPLE_RATE / config.hop
        self.min_samples = config.window
        self.fft_size = 1 << (config.window - 1).bit_length()
        window = torch.hann_window(config.window, periodic=False).pow(0.85)  # Kaldi's "povey" window
        self.register_buffer("window", window, persistent=False)
        filters = mel_filters(config.num_mels, self.fft_size, config.low_frequency, SAMPLE_RATE / 2)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        config = self.config
        frame_lengths = frames_from_samples(lengths, ((config.window, config.hop),))
        if int(frame_lengths.max()) == 0:
            states = waveforms.new_zeros(len(waveforms), 1, 0, self.dim)
            return Features(states, frame_lengths, self.frame_rate)
        windows = waveforms.unfold(1, config.window, config.hop)[:, : int(frame_lengths.max())]
        mask = mask_from_lengths(frame_lengths, windows.shape[1])
        rows, columns = mask.nonzero(as_tuple=True)
        blocks = zip(rows.split(BLOCK), columns.split(BLOCK), strict=True)
        static = torch.cat([self._log_mel(windows[row, column]) for row, column in blocks])  # (total_frames, mels)

        orders = [static]
        for _ in range(config.delta_order):
            orders.append(packed_slopes(orders[-1], frame_lengths, config.delta_reach))
        packed = torch.cat(orders, dim=1)
        if config.normalise:
            packed = normalise_variance(packed, frame_lengths, config.epsilon)
        return Features(pad_packed(packed, frame_lengths.tolist())[:, None], frame_lengths, self.frame_rate)

    def _log_mel(self, frames: Float[Tensor, "frames window"]) -> Float[Tensor, "frames mels"]:
        frames = frames - frames.mean(dim=1, keepdim=True)
        previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        frames = (frames - self.config.preemphasis * previous) * self.window
        spectrum = torch.fft.rfft(frames, n=self.fft_size)  # (frames, bins)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.filters.T).clamp(min=LOG_FLOOR).log()


def mel_filters(num_mels: int, fft_size: int, low: float, high: float) -> Float[Tensor, "mels bins"]:
    """Kaldi's triangular filters, straight on the mel scale; edges in Hz."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * (1.0 + hertz / 700.0).log()

    low, high = mel(torch.tensor([low, high], dtype=torch.float64)).tolist()
    step = (high - low) / (num_mels + 1)
    left = low + torch.arange(num_mels)[:, None] * step
    centre, right = left + step, left + 2 * step
    bins = mel(SAMPLE_RATE / fft_size * torch.arange(fft_size // 2 + 1))
    filters = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    filters[:, -1] = 0  # Kaldi leaves the bin at the Nyquist frequency out
    return filters.float()


def packed_slopes(
    packed: Float[Tensor, "total_frames dim"], lengths: Int[Tensor, " batch"], reach: int
) -> Float[Tensor, "total_frames dim"]:
    """Least-squares slope over `reach` frames on either side, the first and last frame of an utterance repeated."""
    # Every utterance with its edges repeated: then neighbours are slices of one table.
    wide = lengths + 2 * reach * (lengths > 0)
    utterance = segment_of(wide)
    first = lengths.cumsum(0) - lengths
    place = torch.arange(len(utterance), device=packed.device) - (wide.cumsum(0) - wide)[utterance] - reach
    inside = (place >= 0) & (place < lengths[utterance])
    place = torch.minimum(place.clamp(min=0), lengths[utterance] - 1) + first[utterance]
    table = packed.index_select(0, place)
    size = len(table)
    slopes = torch.zeros_like(table[: size - 2 * reach])
    for distance in range(1, reach + 1):
        after, before = (table[reach + step : size - reach + step] for step in (distance, -distance))
        slopes.add_(after, alpha=distance).sub_(before, alpha=distance)
    slopes = slopes.index_select(0, inside.nonzero()[:, 0] - reach)
    return slopes / (2 * sum(distance**2 for distance in range(1, reach + 1)))


def normalise_variance(
    packed: Float[Tensor, "total_frames dim"], lengths: Int[Tensor, " batch"], epsilon: float
) -> Float[Tensor, "total_frames dim"]:
    """Zero mean and unit (unbiased) variance of every channel of every utterance; a single frame becomes zero."""
    parts = []
    for part in packed.split(lengths.tolist()):
        mean = part.mean(dim=0, dtype=torch.float64)
        centred = part - mean.to(part.dtype)
        deviation = (centred.square().sum(dim=0, dtype=torch.float64) / max(len(part) - 1, 1)).sqrt()
        parts.append(centred / (deviation + epsilon).to(part.dtype))
    return torch.cat(parts)


build, presets = Fbank, {"": Config(), "raw": Config(normalise=False)}
