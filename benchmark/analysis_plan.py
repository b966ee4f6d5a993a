"""What `wavbench analyse` is to compute: upstreams, labels and layers, seen to be possible before any work."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from wavbench.benchmark import schemas
from wavbench.benchmark.analysis_measures import LEAST_POINTS, enough_classes
from wavbench.benchmark.analysis_record import CCA, CKA, KINDS, NORMS, TSNE
from wavbench.benchmark.analysis_sample import TIMED, first_centre, timed_segments
from wavbench.benchmark.cca import PARTS
from wavbench.benchmark.loading import check_seed
from wavbench.benchmark.record import Record
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError, closest, refuse_below
from wavbench.upstream.extract import fingerprint_of, lacks, store_path
from wavbench.upstream.manifest import Manifest
from wavbench.upstream.store import Fingerprint

LABELS = ("speaker", "language", "emotion")  # columns that are looked for where nobody names any
TASKS = {"speaker": ("asv", "sid"), "language": ("lid",), "emotion": ("er",)}  # whose records tell of a label
TWIN = re.compile(r"random(\d*)")
LEAST_UTTERANCES = 8


@dataclass(frozen=True)
class Member:
    """One upstream of an analysis, known without its weights in memory.

    Args:
        asked: how it was asked for.
        name: its checkpoint, for people.
        states: layers and one.
        dim: width of each.
        frame_rate: Hz.
        first: centre of its first frame, seconds.
        frames: fingerprint of a store of its frames.
        pooled: fingerprint of a store of means.
        source: utterances that its store is made of: the sample, or the corpus where that is no larger.
        path: of that store.
        holds_means: whether it is one of means.
        lacking: utterances of `source` that are not in it.
    """

    asked: schemas.SweepUpstream
    name: str
    states: int
    dim: int
    frame_rate: float
    first: float
    frames: Fingerprint
    pooled: Fingerprint
    source: Manifest
    path: Path
    holds_means: bool
    lacking: int


@dataclass(frozen=True)
class Work:
    """One analysis to be made.

    Args:
        kind: one of KINDS.
        members: two for CKA, else one.
        label: phones, words, a column, or "".
        layer: of t-SNE, else -1.
        chosen: why that layer.
    """

    kind: str
    members: tuple[Member, ...]
    label: str = ""
    layer: int = -1
    chosen: str = ""

    @property
    def of_frames(self) -> bool:
        return self.kind in (CKA, NORMS) or self.label in TIMED

    @property
    def fingerprints(self) -> list[str]:
        return [(member.frames if self.of_frames else member.pooled).hash() for member in self.members]

    @property
    def name(self) -> str:
        label = f" with {self.label}" if self.label else ""
        return f"{self.kind} of {' and '.join(dict.fromkeys(member.name for member in self.members))}{label}"


@dataclass(frozen=True)
class Labels:
    """What states can be compared with.

    Args:
        timed: phones, words: one for each segment.
        whole: columns with one for each utterance.
    """

    timed: tuple[str, ...]
    whole: tuple[str, ...]


def check(config: schemas.Analyse) -> None:
    """Raise a UserError for words that mean nothing, before anything slow."""
    if not config.upstreams:
        raise UserError("upstreams is missing", remedy="upstreams=hubert_tiny,wav2vec2_tiny@random0,fbank")
    for kind in config.kinds:
        if kind not in KINDS:
            raise UserError(f"there is no kind of analysis {kind!r}", where="kinds=", remedy=closest(kind, list(KINDS)))
    if config.layer and not config.layer.isdecimal():
        raise UserError(f"layer={config.layer} is no number", remedy="layer=6, or leave it out for the best on dev")
    check_seed("seed", config.seed)
    refuse_below(config, {"frames": 100, "utterances": LEAST_UTTERANCES})


def asked_for(name: str) -> schemas.SweepUpstream:
    """An upstream from NAME, NAME@random1 (a random twin and its seed) or ORG/NAME@REVISION."""
    place, at, rest = name.rpartition("@")
    if not at or Path(name).exists():
        return schemas.SweepUpstream(name=name)
    if twin := TWIN.fullmatch(rest):
        return schemas.SweepUpstream(name=place, weights="random", seed=check_seed("seed", int(twin[1] or 0)))
    return schemas.SweepUpstream(name=place, revision=rest)


def labels_of(config: schemas.Analyse, manifest: Manifest, sample: Manifest) -> Labels:
    """Timed labels that the sample has, and columns: those that were asked for, or those that people are used to.

    Raises:
        UserError: a column that was asked for is not there or says nothing, or kinds that need labels have none.
    """
    table = sample.table
    timed = [
        name
        for name, ends in TIMED.items()
        if name in table and ends in table and (table[ends] != "").any()
        # of a few sentences no two words may come often enough, which is no reason to leave out their phones
        if _enough(timed_segments(table, name, list(table["id"]), config.frames, config.seed))
    ]
    manifest.need(config.labels)
    for name in config.labels:
        if name not in table or table[name].map(str)[table[name] != ""].nunique() < 2:
            raise UserError(f"labels={name}: every utterance of the sample has the same", remedy="another column")
    varied = [name for name in LABELS if name in table and table[name][table[name] != ""].nunique() > 1]
    found = Labels(tuple(timed), tuple(dict.fromkeys(config.labels or varied)))
    if TSNE in config.kinds and len(sample) < LEAST_POINTS:
        raise UserError(f"{len(sample)} utterances are too few for a t-SNE", where=manifest.path)
    for kind in config.kinds:
        if not possible(kind, found, sample):
            need = "phones with phone_ends, words with word_ends, or " if kind == CCA else ""
            raise UserError(
                f"the manifest has no labels for {kind}",
                where=manifest.path,
                why=f"it takes {need}a column such as {', '.join(LABELS)} with two values or more",
                remedy="fill in such a column, name another with labels=, or leave kinds= out",
            )
    return found


def possible(kind: str, labels: Labels, sample: Manifest) -> bool:
    """Whether a sample has what a kind of analysis needs."""
    if kind == CCA:
        return bool(labels.timed) or any(enough_classes(sample.table[name]) for name in labels.whole)
    return kind != TSNE or (bool(labels.whole) and len(sample) >= LEAST_POINTS)


def _enough(segments: pd.DataFrame) -> bool:
    """Classes for a CCA, and utterances for each of its parts: all of an utterance is in one."""
    return enough_classes(segments["label"]) and segments["id"].nunique() >= PARTS


def member_of(
    asked: schemas.SweepUpstream, upstream: Upstream, config: schemas.Analyse, manifest: Manifest, sample: Manifest,
    of_frames: bool,
) -> Member:  # fmt: skip
    """What is to be known of an upstream, and the store that is read.

    A store of the corpus is used where it holds the whole sample; else there is one of the sample beside it, so that
    nothing but that is extracted. Frames serve where means are wanted, too.
    """
    frames, pooled = (fingerprint_of(upstream, None, means, config.dtype) for means in (False, True))
    whole = len(sample) == len(manifest)
    places = {}
    for fingerprint in (frames,) if of_frames else (frames, pooled):
        path = store_path(Path(config.stores), manifest, upstream, fingerprint)
        places |= {path: fingerprint, path.with_name(f"{path.name}-sample"): fingerprint}
    left = {path: lacks(path, own, sample, upstream) for path, own in places.items() if _is_store(path)}
    made = list(places)[-2 if whole else -1]
    path = next((path for path, count in left.items() if not count), made)
    return Member(
        asked=asked,
        name=upstream.checkpoint,
        states=upstream.num_states,
        dim=upstream.dim,
        frame_rate=float(upstream.frame_rate),
        first=first_centre(upstream.min_samples),
        frames=frames,
        pooled=pooled,
        source=manifest if whole else sample,
        path=path,
        holds_means=places[path] is pooled,
        lacking=left.get(path, len(sample)),
    )


def _is_store(path: Path) -> bool:
    return (path / "store.json").is_file()


def check_layer(layer: str, members: Sequence[Member]) -> None:
    """Raise a UserError where an upstream of several layers does not have the one that was asked for."""
    for member in members:
        if layer and int(layer) >= member.states > 1:
            raise UserError(
                f"layer={layer}: {member.name} has no such layer", remedy=f"layers go from 0 to {member.states - 1}"
            )


def works_of(
    kinds: Sequence[str], members: Sequence[Member], labels: Labels, sample: Manifest, layer: str, found: list[Record]
) -> Iterator[Work]:
    """Every analysis, quick ones first.

    Args:
        kinds: of KINDS.
        members: upstreams.
        labels: of the sample.
        sample: utterances.
        layer: of t-SNE; "" for the best on dev where records say so, else the middle one.
        found: records that may say so.
    """
    if NORMS in kinds:
        yield from (Work(NORMS, (member,)) for member in members)
    if TSNE in kinds:
        for member in members:
            for label in labels.whole:
                yield Work(TSNE, (member,), label, *_layer(member, sample.name, label, layer, found))
    if CCA in kinds:
        usable = [name for name in labels.whole if enough_classes(sample.table[name])]
        yield from (Work(CCA, (member,), label) for label in (*labels.timed, *usable) for member in members)
    if CKA in kinds:
        for place, member in enumerate(members):
            # a single layer is like itself: that is no news
            for other in members[: place + (member.states > 1)]:
                pair = sorted((other, member), key=lambda one: (one.name, one.frames.hash()))
                yield Work(CKA, tuple(pair))  # the same analysis in whatever order they are named


def best_layer(found: Sequence[Record], member: Member, corpus: str, label: str) -> int | None:
    """The single layer that did best on dev in tasks of a label, None where no records of several layers say so."""
    tasks = (*TASKS.get(label, ()), f"classify-{label}")
    scores: dict[int, list[float]] = {}
    for record in found:
        same = (record.checkpoint, record.checkpoint_hash) == (member.name, member.frames.weights)
        if same and record.corpus == corpus and record.task in tasks and isinstance(record.layers, int):
            sign = 1 if record.higher_is_better else -1
            folds = [max(sign * value for value in fold["dev"].values()) for fold in record.learning_rate_curve]
            if folds and record.layers < member.states:
                scores.setdefault(record.layers, []).append(sum(folds) / len(folds))
    means = {layer: sum(values) / len(values) for layer, values in scores.items()}
    return max(means, key=means.__getitem__) if len(means) > 1 else None


def _layer(member: Member, corpus: str, label: str, layer: str, found: list[Record]) -> tuple[int, str]:
    """A layer, and why that one."""
    if member.states == 1:
        return 0, "its only one"
    if layer:
        return int(layer), "as asked for"
    best = best_layer(found, member, corpus, label)
    return (member.states // 2, "the middle one") if best is None else (best, "best on dev")
