"""WavLM: predict the unit of every hidden frame, also where other speech or noise lies over it.

Source: Chen et al. 2022, WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from torch import nn

from wavbench.upstream.decoded import Speech
from wavbench.upstream.errors import UserError, refuse_outside
from wavbench.upstream.pretrain import hubert
from wavbench.upstream.pretrain.hubert import Hubert, targets
from wavbench.upstream.units import Units

__all__ = ["NEEDS_UNITS", "Config", "Mixer", "build", "mixer", "noise", "targets"]

NEEDS_UNITS = True  # targets come from a unit store
SPEECH_RATIO = (-5.0, 5.0)  # dB of the crop's energy over that of added speech, and below of added noise
NOISE_RATIO = (-5.0, 20.0)
LONGEST = 0.5  # share of a crop that sound is added to
COLOURS = (0.0, 1.0, 2.0)  # noise whose power falls with this power of frequency: white, pink, brown
LOWEST = 50.0  # Hz: below it power falls no more, else brown noise were all rumble
SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True, kw_only=True)
class Config(hubert.Config):
    mixing_share: float = 0.2  # of the crops that other sound is added to; the paper's p
    noise_share: float = 0.1  # of these crops that get noise, not speech; the paper's p_n

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_outside(self, dict.fromkeys(("mixing_share", "noise_share"), (0, 1)))


@dataclass(frozen=True)
class Mixer:
    """Draws what is added to a crop.

    The other speech comes from the whole train split, not from the crop's batch: a crop is then a function of seed,
    epoch and utterance alone, whatever it is batched with and on however many processes, and one that is a batch of
    its own is mixed like any other. Decoded audio is mapped into memory, so that none of it is out of reach.

    Args:
        config: of the objective.
        speech: decoded corpora.
        others: rows of `speech` that added speech comes from, in ascending order.

    Source: Chen et al. 2022, section III-A and algorithm 1.
    """

    config: Config
    speech: Speech
    others: np.ndarray

    def __call__(
        self, row: int, start: int, count: int, generator: np.random.Generator
    ) -> tuple[int, Float32[np.ndarray, " samples"]] | None:
        """Sound for one crop and the sample of the crop that it begins at, or None where nothing is added.

        Args:
            row: of `speech`.
            start: first sample of the crop in its utterance.
            count: samples of the crop.
            generator: of this utterance and epoch alone.
        """
        if generator.random() >= self.config.mixing_share:
            return None
        is_noise = generator.random() < self.config.noise_share
        ratio = generator.uniform(*(NOISE_RATIO if is_noise else SPEECH_RATIO))
        length = int(generator.integers(1, max(int(LONGEST * count), 1), endpoint=True))
        sound = noise(count, generator) if is_noise else self._speech(row, count, generator)
        length = min(length, len(sound))
        first = int(generator.integers(0, len(sound) - length, endpoint=True))
        place = int(generator.integers(0, count - length, endpoint=True))
        # Energies are those of the whole crops, as in the paper: a pause in the added speech stays a pause.
        own, added = energy(self.speech.crop(row, start, count)), energy(sound)
        scale = np.sqrt(own / (added * 10 ** (ratio / 10))) if added > 0 else 0.0
        return place, sound[first : first + length] * np.float32(scale)

    def _speech(self, row: int, count: int, generator: np.random.Generator) -> Float32[np.ndarray, " samples"]:
        """A crop of another utterance, or all of it where it is shorter."""
        own = int(np.searchsorted(self.others, row))
        there = own < len(self.others) and self.others[own] == row
        drawn = int(generator.integers(len(self.others) - there))
        other = int(self.others[drawn + (there and drawn >= own)])
        left = max(int(self.speech.lengths[other]) - count, 0)
        first = int(generator.integers(0, left, endpoint=True))
        return self.speech.crop(other, first, min(count, int(self.speech.lengths[other])))


def energy(waveform: Float32[np.ndarray, " samples"]) -> float:
    """Mean square of the samples."""
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def noise(count: int, generator: np.random.Generator) -> Float32[np.ndarray, " samples"]:
    """White, pink or brown noise: it stands in for the recordings of noise that the paper adds."""
    colour = COLOURS[int(generator.integers(len(COLOURS)))]
    spectrum = np.fft.rfft(generator.standard_normal(count))
    frequencies = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), LOWEST)
    return np.fft.irfft(spectrum * (LOWEST / frequencies) ** (colour / 2), count).astype(np.float32)


def mixer(config: Config, speech: Speech, train: np.ndarray) -> Mixer:
    """What adds other sound to crops.

    Args:
        config: of the objective.
        speech: decoded corpora.
        train: rows of `speech` that are learned from.

    Raises:
        UserError: there is no other utterance to mix with.
    """
    if len(train) < 2 and config.mixing_share > 0 and config.noise_share < 1:
        raise UserError(
            "a single train utterance cannot be mixed with another",
            where=speech.ids[int(train[0])],
            why=f"mixing_share={config.mixing_share:g} of the crops get the speech of another utterance",
            remedy="a corpus of two or more train utterances, noise_share=1 to add noise alone, or mixing_share=0",
        )
    return Mixer(config, speech, np.sort(train))


def build(encoder: nn.Module, config: Config, units: Units) -> Hubert:
    return Hubert(encoder, config, len(units.centroids))
