"""Units: every frame of a corpus as the number of its k-means cluster, in one HDF5 file with a fingerprint."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Float, UInt16

from wavbench.upstream.claims import temporary_in
from wavbench.upstream.decoded import Speech
from wavbench.upstream.errors import UserError
from wavbench.upstream.store import Store

FORMAT = "wavbench-units-1"
WINDOW, HOP = 400, 160  # samples: 25 ms and 10 ms
MOST_CLUSTERS = 65_536  # that a 16-bit unit can name
SAMPLE_FRAMES = 1_000_000  # frames that k-means is fitted on, at most
_STRING = h5py.string_dtype("utf-8")

Frames = Iterator[tuple[str, Float[np.ndarray, "frames dim"]]]  # id and frames of each utterance


@dataclass(frozen=True)
class Units:
    """Cluster numbers of all utterances.

    Args:
        path: the file.
        fingerprint: where the units come from: `source`, `clusters` and `seed` of a k-means, `speech` (hash of the
            decoded corpus), `centroids` (hash).
        centroids: of the k-means, or what else a unit stands for.
        rows: utterance id to its slice of `units`.
        units: of all utterances, one after the other.
    """

    path: Path
    fingerprint: dict
    centroids: Float[np.ndarray, "units dim"]
    rows: Mapping[str, slice]
    units: UInt16[np.ndarray, " total_frames"]

    def __getitem__(self, id: str) -> UInt16[np.ndarray, " frames"]:
        return self.units[self.rows[id]]


def mfcc(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "frames 39"]:
    """13 mel cepstra with slopes and slopes of slopes, 25 ms every 20 ms: as many frames as wav2vec 2.0 has.

    Slopes are taken over frames every 10 ms, of which every second is kept.

    Source: Hsu et al. 2021, HuBERT, section IV-B; fairseq's `dump_mfcc_feature.py`.
    """
    from torchaudio.compliance import kaldi
    from torchaudio.functional import compute_deltas

    static = kaldi.mfcc(torch.from_numpy(waveform)[None], sample_frequency=16_000.0, use_energy=False).T
    slopes = compute_deltas(static)
    return torch.cat([static, slopes, compute_deltas(slopes)]).T[::2].contiguous().numpy()


def mfcc_frames(speech: Speech) -> Frames:
    """MFCC of all utterances."""
    for row, id in enumerate(speech.ids):
        yield id, mfcc(speech.crop(row, 0, int(speech.lengths[row])))


def store_frames(stores: Mapping[str, Store], layer: int) -> Frames:
    """States of one layer from feature stores, by the name of their corpus."""
    for corpus, store in stores.items():
        for id in store:
            yield f"{corpus}/{id}", np.asarray(store[id][layer], np.float32)


def fit_kmeans(frames: Frames, clusters: int, seed: int, sample_frames: int = SAMPLE_FRAMES):
    """Centroids of a mini-batch k-means over a random sample of frames.

    Args:
        frames: of all utterances; of each a random share is kept.
        clusters: how many.
        seed: of the sample and of k-means.
        sample_frames: about how many frames are fitted on.

    Raises:
        UserError: there are fewer frames than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(seed)
    kept, held, share = [], 0, 1.0
    for _, values in frames:
        kept.append(values[random.random(len(values)) < share])
        held += len(kept[-1])
        if held > 2 * sample_frames:  # too many: halve what is kept, and keep half as many from here on
            kept = [part[random.random(len(part)) < 0.5] for part in kept]
            held, share = sum(map(len, kept)), share / 2
    sample = np.concatenate(kept) if kept else np.zeros((0, 1), np.float32)
    if len(sample) < clusters:
        raise UserError(
            f"{clusters} clusters need as many frames, and there are {len(sample)}",
            remedy="fewer clusters, or a larger corpus",
        )
    # HuBERT's settings (fairseq's `learn_kmeans.py`).
    model = MiniBatchKMeans(
        clusters, batch_size=10_000, max_iter=100, n_init=5, max_no_improvement=100, reassignment_ratio=0.0,
        random_state=seed,
    )  # fmt: skip
    with threadpool_limits(torch.get_num_threads()):  # its own threads, beside other work, are many times slower
        return model.fit(sample.astype(np.float32)).cluster_centers_.astype(np.float32)


def assign(
    frames: Float[np.ndarray, "frames dim"], centroids: Float[np.ndarray, "units dim"]
) -> UInt16[np.ndarray, " frames"]:
    """The nearest centroid of each frame."""
    x, centres = torch.from_numpy(frames), torch.from_numpy(centroids)
    distances = centres.square().sum(dim=1) - 2 * x @ centres.T  # without the frame's own norm, the same for all
    return distances.argmin(dim=1).numpy().astype(np.uint16)


def write_units(
    path: Path,
    speech: Speech,
    frames: Callable[[], Frames],
    *,
    source: str,
    clusters: int,
    seed: int = 0,
    frame_counts: Callable[[int], int],
    progress: Callable[[int, int], None] | None = None,
) -> Units:
    """Fit k-means, assign every frame, and write the file whole or not at all.

    Args:
        path: `.h5`; replaced if it exists.
        speech: what the units are of.
        frames: called twice, once to fit and once to assign; must give every utterance of `speech`.
        source: what the frames are, in words that tell two sources apart.
        clusters: at most 65,536.
        seed: of k-means.
        frame_counts: frames that the upstream to be trained makes of so many samples.
        progress: called with utterances assigned and in all.

    Raises:
        UserError: an utterance has no frames or another number of them.
    """
    if not 1 <= clusters <= MOST_CLUSTERS:
        raise UserError(f"clusters={clusters} is not possible", remedy=f"from 1 to {MOST_CLUSTERS:,}")
    centroids = fit_kmeans(frames(), clusters, seed)
    wanted = {id: frame_counts(int(length)) for id, length in zip(speech.ids, speech.lengths, strict=True)}
    ids, parts = [], []
    for id, values in frames():
        if id in wanted:
            if len(values) != wanted[id]:
                raise UserError(
                    f"{id} has {len(values)} frames, and its {wanted[id]} are needed",
                    why="the features were made of other audio, or at another frame rate",
                    remedy="extract them again from the same manifest",
                )
            ids.append(id)
            parts.append(assign(values, centroids))
            if progress:
                progress(len(ids), len(wanted))
    if missing := sorted(set(wanted) - set(ids)):
        raise UserError(
            f"{len(missing)} utterances have no features, {missing[0]} first",
            remedy="extract them from the same manifests, all of them",
        )
    made = {"source": source, "clusters": clusters, "seed": seed}
    return write_file(path, speech, made, dict(zip(ids, parts, strict=True)), centroids)


def write_file(
    path: Path,
    speech: Speech,
    made: dict,
    units: Mapping[str, UInt16[np.ndarray, " _"]],
    centroids: Float[np.ndarray, "units dim"],
) -> Units:
    """Write a unit file whole or not at all.

    Args:
        path: `.h5`; replaced if it exists.
        speech: what the units are of.
        made: how; a part of the fingerprint.
        units: of each utterance.
        centroids: what each unit stands for.
    """
    fingerprint = {
        "format": FORMAT, **made, "speech": speech.hash,
        "centroids": _hash_of(centroids),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_in(path.parent, ".h5")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["fingerprint"] = json.dumps(fingerprint)
            file["ids"] = np.array([*units], dtype=_STRING)
            file["lengths"] = np.array([len(own) for own in units.values()], np.int64)
            file["centroids"] = centroids
            file.create_dataset("units", data=np.concatenate([*units.values()]), fletcher32=True, chunks=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return read_units(path, speech)


def read_units(path: Path, speech: Speech) -> Units:
    """Units of a corpus; see `refuse_other_frames`, too.

    Raises:
        UserError: the file is missing or damaged, or was made of another corpus.
    """
    if not path.is_file():
        raise UserError("there is no such unit file", where=path, remedy="leave units= out to make units here")
    try:
        with h5py.File(path) as file:
            fingerprint = json.loads(file.attrs["fingerprint"])
            ids = [id.decode() for id in file["ids"][:]]
            lengths, centroids, units = file["lengths"][:], file["centroids"][:], file["units"][:]
        _refuse_damage(fingerprint, ids, lengths, centroids, units)
    except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if fingerprint["speech"] != speech.hash:
        raise UserError(
            "these units were made of other audio",
            where=path,
            why=f"of a corpus with hash {fingerprint['speech']}; the manifests given have {speech.hash}",
            remedy="give the manifests that the units were made of, in the same order, or make units of these",
        )
    if sorted(ids) != sorted(speech.ids):
        raise _damaged(path, "its utterances are not those of the corpus that it says it was made of")
    ends = np.cumsum(lengths, dtype=np.int64)
    rows = {id: slice(end - length, end) for id, end, length in zip(ids, ends.tolist(), lengths.tolist(), strict=True)}
    return Units(path, fingerprint, centroids, rows, units)


def refuse_other_frames(found: Units, speech: Speech, frame_counts: Callable[[int], int]) -> None:
    """Raise a UserError unless every utterance has a unit for each of its frames.

    Args:
        found: units of the corpus.
        speech: the corpus.
        frame_counts: frames that the upstream to be trained makes of so many samples.
    """
    for id, samples in zip(speech.ids, speech.lengths.tolist(), strict=True):
        if (count := len(found[id])) != (wanted := frame_counts(samples)):
            raise UserError(
                "these units are not one for each frame",
                where=found.path,
                why=f"{id} has {count} units, and {wanted} frames",
                remedy="make them again: the file was changed, or made for another frame rate",
            )


def _refuse_damage(fingerprint: dict, ids: list[str], lengths: np.ndarray, centroids: np.ndarray, units: np.ndarray):
    """Raise a ValueError where the parts of a file are not what is written, or contradict each other."""
    if not isinstance(fingerprint, dict) or fingerprint.get("format") != FORMAT:
        raise ValueError("its fingerprint is none")
    if absent := [name for name in ("source", "speech", "centroids") if not isinstance(fingerprint.get(name), str)]:
        raise ValueError(f"its fingerprint has no {absent[0]}")
    if centroids.ndim != 2 or centroids.dtype.kind != "f" or not np.isfinite(centroids).all():
        raise ValueError("its centroids are no table of numbers")
    if _hash_of(centroids) != fingerprint["centroids"]:
        raise ValueError("its centroids are others than it was written with")
    if lengths.dtype.kind != "i" or units.dtype != np.uint16 or units.ndim != 1 or lengths.shape != (len(ids),):
        raise ValueError("its parts have other shapes or kinds of numbers than it was written with")
    if lengths.min() < 0 or lengths.sum() != len(units) or units.max() >= len(centroids):
        raise ValueError("its parts contradict each other")


def _damaged(path: Path, why: str) -> UserError:
    return UserError("the unit file is damaged or is none", where=path, why=why, remedy="make it again")


def _hash_of(centroids: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(centroids), digest_size=16).hexdigest()
