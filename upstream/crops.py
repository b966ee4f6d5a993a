"""From a planned batch to tensors: crops of speech and what they are to predict."""

import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wavbench.upstream import batch_plan
from wavbench.upstream.batch_plan import Batch
from wavbench.upstream.decoded import SCALE, Speech
from wavbench.upstream.lengths import Conv, frames_from_samples, samples_from_frames, total_stride
from wavbench.upstream.objective import Packed, Targets

MakeTargets = Callable[[int, np.ndarray | None, np.random.Generator], dict[str, np.ndarray]]
# Of a crop (row of `Speech`, first sample in it, samples): where in it other sound begins, and that sound.
MakeOverlay = Callable[[int, int, int, np.random.Generator], tuple[int, np.ndarray] | None]


class Overlay(NamedTuple):
    """Sound that is added to some crops of a batch.

    Args:
        crop: in the batch, of each piece of sound.
        first: sample of the crop that the piece begins at.
        count: samples of the piece.
        sound: all pieces, one after the other.
    """

    crop: list[int]
    first: list[int]
    count: list[int]
    sound: Float[Tensor, " total_samples"]

    def lay(self, waveforms: Float[Tensor, "batch samples"]) -> None:
        """Add the sound to the crops, in place."""
        pieces = self.sound.to(waveforms.device, non_blocking=True).split(self.count)
        for crop, first, piece in zip(self.crop, self.first, pieces, strict=True):
            waveforms[crop, first : first + len(piece)] += piece


@dataclass(frozen=True)
class CropBatch:
    """Crops of equal length, or whole utterances, with their targets.

    Args:
        ids: of the utterances.
        starts: first sample of each crop in `Speech.samples`.
        lengths: samples of each crop.
        targets: packed over all crops.
        hidden: what the loss is a mean over: the frames that are hidden, in all, the predictions, or the symbols to
            recognise.
        position: epoch and index of the batch.
        waveforms: the samples; None while they lie on the device that trains.
        overlay: what is still to be added to them.
    """

    ids: tuple[str, ...]
    starts: Int[Tensor, " batch"]
    lengths: Int[Tensor, " batch"]
    targets: Packed
    hidden: int
    position: tuple[int, int]
    waveforms: Float[Tensor, "batch samples"] | None
    overlay: Overlay | None = None

    @property
    def seconds(self) -> float:
        return float(self.lengths.sum()) / 16_000

    def to(self, device: torch.device, samples: Tensor | None = None) -> "CropBatch":
        """The batch on a device, cut out of `samples` where all of the corpus lies there as 16-bit numbers."""
        if self.waveforms is not None:
            waveforms = self.waveforms.to(device, non_blocking=True)
        else:
            places = self.starts.to(device)[:, None] + torch.arange(int(self.lengths[0]), device=device)
            waveforms = samples[places].float() / SCALE
        if self.overlay is not None:
            self.overlay.lay(waveforms)
        return replace(
            self,
            waveforms=waveforms,
            overlay=None,
            lengths=self.lengths.to(device, non_blocking=True),
            targets=self.targets.to(device),
        )


class Crops(Dataset):
    """Batches of one split by their plan. What a crop is depends on seed, epoch and utterance alone.

    Args:
        speech: decoded corpora.
        rows: utterances of `speech` to train on.
        conv: (kernel, stride) of the encoder's convolutions: crops begin and end with a frame.
        targets: makes the targets of one crop from its frames, its units and its own randomness.
        units: cluster numbers by utterance id, where the objective has them.
        seed: of the run.
        overlay: makes the sound that is added to one crop, where the objective mixes crops.
        with_waveforms: load the samples; False where they lie on the device already.
        hears: False where the objective reads units alone: waveforms are empty then.
    """

    def __init__(
        self,
        speech: Speech,
        rows: np.ndarray,
        conv: Conv,
        targets: MakeTargets,
        units=None,
        *,
        seed: int,
        overlay: MakeOverlay | None = None,
        with_waveforms: bool = True,
        hears: bool = True,
    ) -> None:
        self.hears = hears
        self.speech, self.rows, self.conv, self.targets, self.units = speech, rows, conv, targets, units
        self.seed, self.overlay, self.with_waveforms = seed, overlay, with_waveforms

    def __getitem__(self, batches: Sequence[Batch]) -> list[CropBatch]:
        return [self._make(batch) for batch in batches]

    def _make(self, batch: Batch) -> CropBatch:
        stride = total_stride(self.conv)
        frames = frames_from_samples(batch.samples, self.conv)
        size = samples_from_frames(frames, self.conv)
        ids, starts, made, added = [], [], [], []
        for place, repeat in zip(batch.rows, batch.repeats, strict=True):
            row = int(self.rows[place])
            id = self.speech.ids[row]
            generator = batch_plan.generator_of(self.seed, batch.epoch, id, repeat)
            first = int(generator.integers(0, (int(self.speech.lengths[row]) - size) // stride + 1))  # a frame
            units = None if self.units is None else self.units[id][first : first + frames]
            ids.append(id)
            starts.append(int(self.speech.offsets[row]) + first * stride)
            made.append(self.targets(frames, units, generator))
            if self.overlay is not None:  # drawn last, so that masks are those of a run without
                laid = self.overlay(row, first * stride, size, generator)
                made[-1]["overlapped"] = self._overlapped(frames, laid)
                if laid is not None:
                    added.append((len(made) - 1, *laid))
        overlay, waveforms = _overlay(added) if added else None, None
        if not self.hears:
            waveforms = torch.zeros(len(ids), 0)
        elif self.with_waveforms:
            samples = np.stack([self.speech.samples[start : start + size] for start in starts])
            waveforms = torch.from_numpy(samples.astype(np.float32) / np.float32(SCALE))
            if overlay is not None:
                overlay.lay(waveforms)
                overlay = None
        targets = Targets(**{name: torch.from_numpy(np.concatenate([one[name] for one in made])) for name in made[0]})
        parts = targets.masked if targets.counts is None else targets.counts
        return CropBatch(
            tuple(ids), torch.tensor(starts), torch.full((len(ids),), size), targets, int(parts.sum()),
            (batch.epoch, batch.index), waveforms, overlay,
        )  # fmt: skip

    def _overlapped(self, frames: int, laid: tuple[int, np.ndarray] | None) -> Bool[np.ndarray, " frames"]:
        """The frames of a crop that see added sound."""
        overlapped = np.zeros(frames, bool)
        if laid is not None:
            first, sound = laid
            stride, width = total_stride(self.conv), samples_from_frames(1, self.conv)
            overlapped[max((first - width) // stride + 1, 0) : (first + len(sound) - 1) // stride + 1] = True
        return overlapped


def _overlay(added: Sequence[tuple[int, int, np.ndarray]]) -> Overlay:
    crop, first, sound = zip(*added, strict=True)
    return Overlay([*crop], [*first], [len(piece) for piece in sound], torch.from_numpy(np.concatenate(sound)))


def loader(crops: Dataset, steps: Iterator[tuple[Batch, ...]], workers: int) -> Iterator[list[CropBatch]]:
    """The batches of each step, made by `workers` processes ahead of time, in order (0: here and now)."""
    if workers:  # each tensor of each batch ahead is an open file until it has come over
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return iter(
        DataLoader(
            crops,
            batch_size=None,
            sampler=_Endless(steps),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
    )


class _Endless(torch.utils.data.Sampler):
    """Planned steps in the place where DataLoader expects row numbers."""

    def __init__(self, steps: Iterator[tuple[Batch, ...]]) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        return self.steps
