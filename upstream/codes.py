"""Codes: every frame of a corpus as the number of its pair of codes of a trained vq-wav2vec, in a unit file.

Pairs stand in a dictionary, the most frequent one first. The k-th of them, counted from 1, is unit k; unit 0 is every
pair that is not in it. A unit is so three less than its token, as <unk> is the last token before the first pair.
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.upstream import inference, units
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.claims import temporary_in
from wavbench.upstream.decoded import Speech
from wavbench.upstream.errors import UserError
from wavbench.upstream.lengths import frames_from_samples
from wavbench.upstream.models import vq_wav2vec
from wavbench.upstream.models.vq_wav2vec import VqWav2Vec
from wavbench.upstream.models.vq_wav2vec_bert import UNKNOWN, Config, VqWav2VecBert, codes_config, token_table
from wavbench.upstream.units import Units

FILE = "codes.h5"
PARTS, NOTE = ".codes-", ".rows"  # how names of what is not finished begin, and how that of its note ends
NUMBER = np.dtype(np.int32)
CHUNK = 1 << 24  # frames
SAVED_SECONDS = 30.0  # of work between two notes of what is whole
SOURCE = "vq_wav2vec"
MOST_PAIRS = np.iinfo(np.uint16).max  # that a unit file has numbers for
SAMPLE_RATE = 16_000  # Hz
ABSENT = -1.0  # in the place of both codes, for what is no pair
# What codes depend on; the context network comes after them.
FIELDS = (
    "groups", "conv_kernels", "conv_strides", "activation", "log_compression", "dim", "quantizer", "entries",
    "share_codebook", "logit_layers",
)  # fmt: skip

Pairs = dict[str, Int[np.ndarray, " _"]]  # of each utterance: first code x entries + second code, frame by frame


def shape_of(preset: Config, codes: Upstream, crop_seconds: float, init: Upstream | None = None) -> Config:
    """A preset of BERT for the codebook of a vq-wav2vec, with a position for every frame of a crop.

    Were there more positions, those beyond the longest crop would stay random, and longer utterances would be read
    with them. What a training goes on from keeps its own.

    Args:
        preset: of `vq_wav2vec_bert`.
        codes: a trained vq-wav2vec.
        crop_seconds: longest crop.
        init: what the training begins with.

    Raises:
        UserError: `codes` is of another family, or computes something else than what is built here; a crop is longer
            than the positions of `init`.
    """
    if codes.config["family"] != SOURCE:
        raise UserError(
            "codes= is no vq-wav2vec",
            where=codes.name,
            why=f"its family is {codes.config['family']}",
            remedy="a folder or file of `wavbench pretrain objective=vq_wav2vec`, or a vq-wav2vec of fairseq",
        )
    theirs, begun = codes.model.config, getattr(init and init.model, "config", None)
    frames = max(frames_from_samples(int(crop_seconds * SAMPLE_RATE), codes.model.encoder.sizes), 1)
    positions = getattr(begun, "positions", frames)
    if frames > positions:
        raise UserError(
            f"crop_seconds={crop_seconds:g} is too long for what the training begins with",
            where=init.name,
            why=f"a crop has {frames} frames, and there are {positions} positions",
            remedy=f"crop_seconds={positions / codes.frame_rate:g}",
        )
    usual = vq_wav2vec.presets[theirs.quantizer].share_codebook
    shape = dataclasses.replace(
        preset,
        code_dim=theirs.dim,
        quantizer=theirs.quantizer,
        entries=theirs.entries,
        share_codebook=None if theirs.share_codebook == usual else theirs.share_codebook,
        vocabulary=min(preset.vocabulary, theirs.entries**2, MOST_PAIRS),
        positions=positions,
        overlap=getattr(begun, "overlap", min(preset.overlap, positions // 4)),
    )
    ours = codes_config(shape)
    differ = [
        f"{name} is {getattr(theirs, name)} there, and {getattr(ours, name)} here"
        for name in FIELDS
        if getattr(theirs, name) != getattr(ours, name)
        and (name != "logit_layers" or theirs.quantizer == "gumbel")  # the only one that has them
    ]
    if differ:
        raise UserError(
            "these codes cannot be read",
            where=codes.name,
            why="; ".join(differ),
            remedy=f"a vq-wav2vec with {ours.groups} groups and the convolutions of its presets",
        )
    return shape


def give_codebook(encoder: VqWav2VecBert, codes: Upstream, init: Upstream | None = None) -> None:
    """Convolutions and quantizer of a vq-wav2vec for BERT, never to be trained.

    Args:
        encoder: made for them; has the weights of `init` where the training begins with it.
        codes: a trained vq-wav2vec.
        init: what the training begins with.

    Raises:
        UserError: `init` was trained on other codes.
    """
    own = encoder.codes.state_dict()
    given = {name: tensor for name, tensor in codes.model.state_dict().items() if name in own}
    if init is not None and not all(torch.equal(own[name], tensor) for name, tensor in given.items()):
        raise UserError(
            "codes from another codebook",
            where=init.name,
            why=f"what the training begins with was trained on codes of other weights than {codes.name} has",
            remedy="give codes= of the vq-wav2vec that it was trained on",
        )
    encoder.codes.load_state_dict(given)
    encoder.codes.requires_grad_(False)


def make_codes(
    file: Path | None,
    speech: Speech,
    folder: Path,
    encoder: VqWav2VecBert,
    codes: Upstream,
    *,
    begun: bool = False,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Units:
    """The codes of a corpus, made now over whole utterances, or found in the run's folder or in a file.

    The dictionary has the pairs that the corpus has most often; of equally frequent ones the lower number comes first.

    Args:
        file: made before; None to make it in the folder.
        speech: what the codes are of.
        folder: of the run.
        encoder: with the codebook of `codes`.
        codes: the vq-wav2vec, for its hash.
        begun: whether the encoder has a dictionary already, from what the training begins with; it is kept then.
        device: computes.
        progress: called with utterances done and in all.

    Raises:
        UserError: codes of another codebook, dictionary or corpus; a damaged file; no utterances.
    """
    source = f"{SOURCE} {codes.weights_hash}"
    known = dictionary_of(encoder.tokens) if begun else None
    path = file or folder / FILE
    if file is not None or path.is_file():
        found, sizes = units.read_units(path, speech), encoder.codes.encoder.sizes
        _refuse_other_codes(found, source, known, encoder.config)
        units.refuse_other_frames(found, speech, lambda samples: frames_from_samples(samples, sizes))
        _remove_parts(folder)
        return found
    if not speech.ids:
        raise UserError(
            "there is no audio to make codes of", remedy="check the column audio, and the files that it names"
        )
    key = hashlib.blake2b(f"{source} {speech.hash}".encode(), digest_size=8).hexdigest()
    pairs = pairs_of(encoder.codes, speech, device, folder / f"{PARTS}{key}.part", progress)
    entries = encoder.config.entries
    dictionary = counted_dictionary(pairs, entries, encoder.config.vocabulary) if known is None else known
    numbers = np.zeros(entries**2, np.uint16)
    here = np.flatnonzero(dictionary[:, 0] != ABSENT)
    numbers[(dictionary[here] @ (entries, 1)).astype(np.int64)] = here
    made = {"source": source, "pairs": len(here)}
    found = units.write_file(path, speech, made, {id: numbers[own] for id, own in pairs.items()}, dictionary)
    _remove_parts(folder)
    return found


def pairs_of(
    model: VqWav2Vec,
    speech: Speech,
    device: torch.device,
    part: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """Both codes of every frame of every utterance, as one number.

    Args:
        model: makes the codes, on whatever device it lies.
        speech: what they are of.
        device: computes.
        part: file for the numbers, where they stay until all are there. One beside it says of how many utterances they
            are whole: a kill costs what came after that.
        progress: called with utterances done and in all.
    """
    ends = np.cumsum([frames_from_samples(int(length), model.encoder.sizes) for length in speech.lengths])
    noted = part.with_suffix(NOTE)
    begun = _noted(noted, len(ends)) if part.is_file() else 0
    whole = int(ends[begun - 1]) * NUMBER.itemsize if begun else 0
    if begun and part.stat().st_size < whole:  # it is not what was noted
        begun, whole = 0, 0
    part.parent.mkdir(parents=True, exist_ok=True)
    model.to(device)
    with open(part, "r+b" if begun else "wb") as file, inference.computing(device, "fp32"):
        file.truncate(whole)
        file.seek(whole)
        saved = time.monotonic()
        for row in range(begun, len(speech.ids)):
            samples = int(speech.lengths[row])
            waveform = torch.from_numpy(speech.crop(row, 0, samples)).to(device)
            codes, _ = model.codes(waveform[None], torch.tensor([samples]))
            file.write((codes[0, :, 0] * model.config.entries + codes[0, :, 1]).cpu().numpy().astype(NUMBER))
            if time.monotonic() - saved > SAVED_SECONDS or row + 1 == len(speech.ids):
                file.flush()
                os.fsync(file.fileno())
                temporary = temporary_in(part.parent, NOTE)
                temporary.write_text(str(row + 1))  # after what it speaks of is there
                os.replace(temporary, noted)
                saved = time.monotonic()
            if progress:
                progress(row + 1, len(speech.ids))
    model.to("cpu")
    return dict(zip(speech.ids, np.split(np.fromfile(part, NUMBER), ends[:-1]), strict=True))


def _noted(path: Path, most: int) -> int:
    """Utterances that a note calls whole; 0 where it is none, or cannot be true."""
    try:
        found = int(path.read_text())
    except (OSError, ValueError):
        return 0
    return found if 0 <= found <= most else 0


def counted_dictionary(pairs: Pairs, entries: int, most: int) -> Float[np.ndarray, "units 2"]:
    """The pairs that occur, by how often they do, after a row for unit 0.

    Args:
        pairs: of a corpus.
        entries: of a codebook.
        most: pairs at most.
    """
    counts = np.zeros(entries**2, np.int64)
    for own in pairs.values():
        number, often = np.unique(own, return_counts=True)
        counts[number] += often
    order = np.argsort(-counts, kind="stable")[: min(most, np.count_nonzero(counts))]
    rows = np.stack([order // entries, order % entries], axis=1)
    return np.concatenate([[[ABSENT, ABSENT]], rows]).astype(np.float32)


def dictionary_of(tokens: Float[Tensor, "entries entries"]) -> Float[np.ndarray, "units 2"]:
    """The dictionary behind a table of tokens; a token without a pair has a row as unit 0 has.

    Raises:
        UserError: several pairs share a token, as in a model of random weights.
    """
    table = tokens.numpy().astype(np.int64) - UNKNOWN
    first, second = np.nonzero(table > 0)
    numbers = table[first, second]
    if len(np.unique(numbers)) < len(numbers):
        raise UserError(
            "the training cannot begin with these weights",
            why="they have no dictionary: several pairs of codes share a token",
            remedy="give a checkpoint that was trained, or leave init= out",
        )
    dictionary = np.full((numbers.max(initial=0) + 1, 2), ABSENT, np.float32)
    dictionary[numbers] = np.stack([first, second], axis=1)
    return dictionary


def fill_tokens(encoder: VqWav2VecBert, found: Units) -> None:
    """The table of the encoder from the dictionary of its codes.

    Raises:
        UserError: the dictionary does not fit the codebook.
    """
    words = (f"{a}-{b}" if a >= 0 else "madeupword" for a, b in found.centroids[1:].astype(np.int64).tolist())
    try:
        encoder.tokens.copy_(token_table(words, encoder.config.entries))
    except ValueError as error:
        raise UserError(
            "the dictionary does not fit the codebook", where=found.path, why=str(error), remedy="make it again"
        ) from None


def told(found: Units) -> str:
    """One line on what the codes are, with the loss of a model that knows their frequencies and nothing else."""
    counts = np.zeros(len(found.centroids), np.int64)
    for start in range(0, len(found.units), CHUNK):  # numpy counts a copy in 64 bits
        counts += np.bincount(found.units[start : start + CHUNK], minlength=len(counts))
    shares = counts / counts.sum()
    used = shares[shares > 0]
    return (
        f"codes: {np.count_nonzero(shares[1:]):,} pairs have tokens, {100 * shares[0]:.2f} % of the frames are <unk>; "
        f"the frequencies alone give a loss of {-(used * np.log(used)).sum() + 0.0:.3f}"
    )


def _refuse_other_codes(found: Units, source: str, known: np.ndarray | None, config: Config) -> None:
    made, most = found.fingerprint["source"], config.vocabulary
    if not is_codes(found):
        raise UserError(
            "these units are no codes",
            where=found.path,
            why=f"they are clusters of {made}",
            remedy="leave units= out to make codes, or give the codes.h5 of another run",
        )
    if made != source:
        raise UserError(
            "codes from another codebook",
            where=found.path,
            why=f"made by {made}, and codes= is {source}",
            remedy="give the vq-wav2vec that made them; or make others: leave units= out, another out= folder",
        )
    if not _is_dictionary(found.centroids, config.entries):
        raise UserError(
            "the dictionary does not fit the codebook",
            where=found.path,
            why=f"it is to have pairs of codes from 0 to {config.entries - 1}, each of them once, after {ABSENT:g}",
            remedy="make it again",
        )
    if known is not None and not np.array_equal(known, found.centroids):
        raise UserError(
            "codes with another dictionary",
            where=found.path,
            why="the tokens of what the training begins with stand for other pairs",
            remedy="make others: leave units= out, another out= folder",
        )
    if len(found.centroids) - 1 > most:
        raise UserError(
            f"{len(found.centroids) - 1} pairs of codes are more than the {most} tokens of the preset",
            where=found.path,
            remedy="make others: leave units= out, another out= folder",
        )


def _is_dictionary(table: Float[np.ndarray, "units columns"], entries: int) -> bool:
    if table.shape[1] != 2 or not len(table) or (table[0] != ABSENT).any():
        return False
    pairs = table[(table != ABSENT).any(axis=1)]
    sound = (pairs >= 0) & (pairs < entries) & (pairs == np.floor(pairs))
    return bool(sound.all()) and len(np.unique(pairs, axis=0)) == len(pairs)


def _remove_parts(folder: Path) -> None:
    for path in folder.glob(f"{PARTS}*"):
        path.unlink()


def is_codes(found: Units) -> bool:
    return found.fingerprint["source"].startswith(f"{SOURCE} ")
