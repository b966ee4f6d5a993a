"""Which crops make up which batch of which epoch: a pure function of the seed and the epoch's number.

A run that is resumed therefore needs to remember nothing but where it was, and the number of loading workers
changes nothing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wavbench.upstream.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Crops of equal length, or whole utterances.

    Args:
        epoch: counted from 0.
        index: of the batch in its epoch.
        rows: utterances.
        repeats: how often the epoch has taken each of them before: languages are repeated, and long recordings.
        samples: of every crop, or of the longest utterance.
    """

    epoch: int
    index: int
    rows: tuple[int, ...]
    repeats: tuple[int, ...]
    samples: int


def plan_epoch(
    lengths: np.ndarray,
    languages: Sequence[str],
    *,
    seed: int,
    epoch: int,
    crop_samples: int,
    batch_samples: int,
    language_exponent: float = 0.5,
) -> list[Batch]:
    """All batches of an epoch, in the order they are taken.

    Utterances are drawn so that a language's share of the audio is proportional to its hours to the power of
    `language_exponent`, and the epoch is as long as all of them together; sorted by length, with ties and near ties
    broken at random; cut into batches; and each batch is cropped to the shortest of its utterances, so that nothing is
    padded.

    Args:
        lengths: samples of each utterance.
        languages: of each utterance.
        seed: of the whole run.
        epoch: counted from 0.
        crop_samples: longest crop.
        batch_samples: of all crops of a batch together, at most (one crop is always taken).
        language_exponent: 1 takes what there is, 0 takes all languages alike.

    Source: Conneau et al. 2020, XLSR, section 2.2 (sampling of languages); fairseq's cropping to the shortest.
    """
    random = np.random.default_rng([seed, epoch])
    rows, repeats = _draw(lengths, np.asarray(languages), language_exponent, crop_samples, random)
    sizes = np.minimum(lengths[rows], crop_samples)
    order = np.lexsort((random.random(len(rows)), np.log2(np.maximum(sizes, 1)) + random.uniform(0, 0.05, len(rows))))
    rows, repeats, sizes = rows[order], repeats[order], sizes[order]
    cuts, first = [], 0
    while first < len(rows):
        # The spread of the sort key lets a shorter utterance follow a longer one: the running minimum is the crop.
        shortest = np.minimum.accumulate(
            sizes[first : first + batch_samples // max(int(sizes[first]) * 9 // 10, 1) + 1]
        )
        fits = np.flatnonzero((np.arange(len(shortest)) + 1) * shortest <= batch_samples)
        count = int(fits[-1]) + 1 if len(fits) else 1  # one more utterance may bring the crop down, so that more fit
        cuts.append((first, first + count, int(shortest[count - 1])))
        first += count
    random.shuffle(cuts)
    return [
        Batch(epoch, i, tuple(rows[a:b].tolist()), tuple(repeats[a:b].tolist()), samples)
        for i, (a, b, samples) in enumerate(cuts)
    ]


def plan_utterances(lengths: np.ndarray, *, seed: int, epoch: int, batch_samples: int) -> list[Batch]:
    """All batches of an epoch over whole utterances, each taken once, neighbours in length together.

    Args:
        lengths: samples of each utterance.
        seed: of the whole run.
        epoch: counted from 0.
        batch_samples: of all utterances of a batch together, at most (one utterance is always taken).
    """
    random = np.random.default_rng([seed, epoch])
    order = np.argsort(np.log2(np.maximum(lengths, 1)) + random.uniform(0, 0.2, len(lengths)))
    cuts, total = [0], 0
    for place, row in enumerate(order):
        if total and total + lengths[row] > batch_samples:
            cuts.append(place)
            total = 0
        total += int(lengths[row])
    parts = [order[a:b] for a, b in zip(cuts, [*cuts[1:], len(order)], strict=True) if b > a]
    random.shuffle(parts)
    return [
        Batch(epoch, i, tuple(rows.tolist()), (0,) * len(rows), int(lengths[rows].max()))
        for i, rows in enumerate(parts)
    ]


def _draw(
    lengths: np.ndarray, languages: np.ndarray, exponent: float, crop_samples: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Utterances of an epoch as long as the corpus, and how often each was taken before.

    One that holds several crops is there as often, so that long recordings count by what they hold.
    """
    names, codes = np.unique(languages, return_inverse=True)
    hours = np.bincount(codes, weights=lengths, minlength=len(names))
    shares = hours**exponent
    wanted = shares / shares.sum() * hours.sum()
    crops = np.maximum(lengths // crop_samples, 1)
    sizes = np.minimum(lengths, crop_samples)
    rows, repeats = [], []
    for code in range(len(names)):
        own = np.flatnonzero(codes == code)
        pool = np.repeat(own, crops[own])
        before = np.concatenate([np.arange(count) for count in crops[own]])
        total = wanted[code] / sizes[pool].sum() * len(pool)  # crops; its fraction is rounded at random
        as_they_are = exponent == 1.0 and lengths[own].max() <= crop_samples
        count = len(pool) if as_they_are else int(total + random.random())
        rounds = -(-count // len(pool))
        order = np.concatenate([random.permutation(len(pool)) for _ in range(rounds)] or [pool[:0]])[:count]
        rows.append(pool[order])
        repeats.append(before[order] + np.arange(count) // len(pool) * crops[pool[order]])
    return np.concatenate(rows), np.concatenate(repeats)


def batches(epoch: int, index: int, rank: int, world: int, accumulate: int, plan) -> Iterator[tuple[Batch, ...]]:
    """For one process, without end: the batches of each step, beginning with batch `index` of `epoch`.

    Every step takes accumulate x world neighbours of the plan; what is left over at the end of an epoch is too
    little for a step and is dropped.

    Args:
        plan: from an epoch's number to its batches.

    Raises:
        UserError: an epoch is shorter than a step.
    """
    while True:
        planned = plan(epoch)
        size = world * accumulate
        if len(planned) < size:
            raise UserError(
                f"there is too little speech for a step: {len(planned)} batches in an epoch, and a step takes {size}",
                why=f"accumulate={accumulate}, and {world} process{'es' * (world > 1)}",
                remedy="smaller batch_seconds or accumulate, fewer processes, or a larger corpus",
            )
        for first in range(index, len(planned) - size + 1, size):
            yield tuple(planned[first + rank : first + size : world])
        epoch, index = epoch + 1, 0


def generator_of(seed: int, epoch: int, id: str, repeat: int) -> np.random.Generator:
    """Randomness of one utterance in one epoch: its crop, mask and negatives."""
    digest = hashlib.blake2b(f"{seed} {epoch} {repeat} {id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
