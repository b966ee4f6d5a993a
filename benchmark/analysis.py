"""`wavbench analyse`: what the layers of upstreams hold and how alike they are, from a sample of a corpus.

Nothing is computed twice: an analysis is a file whose name holds a hash of all that determines it. States come from the
stores that are there; where one has to be made, it is of the sample alone, so that an hour of audio is enough of a
corpus of a thousand.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from wavbench.benchmark import analysis_measures as measures
from wavbench.benchmark import record as records
from wavbench.benchmark import schemas
from wavbench.benchmark.analysis_plan import (
    Member,
    Work,
    asked_for,
    check,
    check_layer,
    labels_of,
    member_of,
    possible,
    works_of,
)
from wavbench.benchmark.analysis_record import (
    CCA,
    CKA,
    KINDS,
    NORMS,
    Analysis,
    analysis_path,
    read_analyses,
    read_analysis,
    write_analysis,
)
from wavbench.benchmark.analysis_sample import TIMED, Reader, common, drawn, timed_segments
from wavbench.benchmark.collect import collect
from wavbench.benchmark.display import Display
from wavbench.benchmark.loading import check_device, load, load_upstream
from wavbench.benchmark.record import key_of
from wavbench.upstream.audio_index import audio_hashes
from wavbench.upstream.description import built_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract
from wavbench.upstream.manifest import Manifest, read_manifest
from wavbench.upstream.store import open_store

VERSIONS = dict.fromkeys(KINDS, 1)  # of how each is computed; another number is another analysis
PRIVATE = ("speaker",)  # columns that name people: their values are hashed


def analyse(config: schemas.Analyse) -> int:
    """All analyses of some upstreams on a corpus that are not done, then the figures of all that are.

    Raises:
        UserError: bad words or data, or analyses that could not be made, after all others and the figures were.
    """
    from wavbench.benchmark.layer_plots import analysis_figures

    check(config)
    asked = [asked_for(name) for name in dict.fromkeys(config.upstreams)]
    manifest = read_manifest(config.manifest, config.root)
    sample = drawn(manifest, config.utterances, config.seed)
    labels = labels_of(config, manifest, sample)
    kinds = config.kinds or [kind for kind in KINDS if possible(kind, labels, sample)]
    of_frames = bool({CKA, NORMS} & set(kinds)) or (CCA in kinds and bool(labels.timed))
    members = []
    for one in asked:
        given = {"device": config.device, "precision": config.precision, "checkpoints": config.checkpoints}
        member = member_of(one, load_upstream(one.name, one, **given), config, manifest, sample, of_frames)
        if member.path not in [other.path for other in members]:
            members.append(member)
    check_layer(config.layer, members)
    found = collect(Path(config.results)).records
    works = list(works_of(kinds, members, labels, sample, config.layer, found))
    if not works:
        raise UserError(
            f"there is nothing to compare for {', '.join(kinds)}",
            why=f"{members[0].name} has a single layer",
            remedy="name a second upstream",
        )
    paths, failed = _make(works, config, sample)
    analyses, damaged = read_analyses(Path(config.results))
    for error in damaged:
        print(f"note: {error.where} is left out of figures: {error.why}")
    own = [analysis for analysis in analyses if analysis.corpus == sample.name]
    made = [one.key for one in own if analysis_path(Path(config.results), one.kind, one.key) in paths]
    figures = analysis_figures(own, Path(config.results) / "figures", made)
    for path in paths:
        print(f"analysis: {path}")
    for figure in figures.values():
        print(f"figure: {figure.with_suffix('.png')}")
    if len(failed) == len(works) == 1:
        raise next(iter(failed.values()))
    if failed:
        raise UserError(
            f"{len(failed)} of {len(works)} analyses could not be made; the others are there",
            where=config.manifest,
            why="; ".join(dict.fromkeys(f"{works[number].name}: {error.what}" for number, error in failed.items())),
            remedy=next((error.remedy for error in failed.values() if error.remedy), ""),
        )
    return 0


def _make(works: Sequence[Work], config: schemas.Analyse, sample: Manifest) -> tuple[list[Path], dict[int, UserError]]:
    """What is not done, one analysis after the other; the file of each, and by number what could not be made."""
    results, folder = Path(config.results), works[0].members[0].path.parent
    audio = audio_hashes(sample, folder / "analysis-audio.json")
    hashes = {label: _corpus_hash(sample, label, audio) for label in {work.label for work in works}}
    keys = [_key(work, config, hashes[work.label]) for work in works]
    paths = [analysis_path(results, work.kind, key) for work, key in zip(works, keys, strict=True)]
    failed: dict[int, UserError] = {}
    with Display() as display:
        todo = [number for number, path in enumerate(paths) if not _is_done(path)]
        if len(todo) < len(works):
            display.say(f"done already: {len(works) - len(todo)} of {len(works)} analyses")
        wanted = dict.fromkeys(member.path for number in todo for member in works[number].members)
        of_path = {member.path: member for work in works for member in work.members}
        readers = {path: _reader(of_path[path], config, sample, display) for path in wanted}
        own = [[readers[member.path] for member in works[number].members] for number in todo]
        # what cannot be compared is said before anything is computed
        shared = [_shared(works[number], each, sample) for number, each in zip(todo, own, strict=True)]
        for number, reading, ids in zip(todo, own, shared, strict=True):
            work, started, clock = works[number], datetime.now(UTC), time.monotonic()
            try:
                values, counts = _values(work, reading, ids, config, sample, display)
            except UserError as error:  # of this one alone: too few of its labels are left, or states are all the same
                failed[number] = error
                display.say(f"failed: {work.name}: {error.what}")
                continue
            cost = {"seconds": round(time.monotonic() - clock, 2)}
            analysis = Analysis(
                key=keys[number],
                kind=work.kind,
                corpus=sample.name,
                corpus_hash=hashes[work.label],
                synthetic=bool(built_in(sample)),
                label=work.label,
                upstreams=[member.name for member in work.members],
                checkpoint_hashes=[member.frames.weights for member in work.members],
                store_fingerprints=work.fingerprints,
                layers=[list(member.frames.layers) for member in work.members],
                dims=[member.dim for member in work.members],
                frame_rates=[member.frame_rate for member in work.members],
                sample={name: int(count) for name, count in counts.items()} | {"seed": config.seed},
                values=values,
                cost=cost,
                versions=records.versions(),
                commit=records.commit(),
                started=started.isoformat(timespec="seconds"),
            )
            write_analysis(results, analysis)
            display.say(f"finished: {work.name} ({cost['seconds']:.0f} s)")
    return [path for number, path in enumerate(paths) if number not in failed], failed


def _values(
    work: Work, readers: list[Reader], ids: list[str], config: schemas.Analyse, sample: Manifest, display: Display
) -> tuple[dict, dict[str, int]]:
    """An analysis' values, and what they are of."""
    layers = [list(member.frames.layers) for member in work.members]
    reader, own, table = readers[0], layers[0], sample.table
    draw = (ids, config.frames, config.seed)

    def tell(done: int, total: int) -> None:
        display.progress(work.name, done, total)

    if work.kind == CKA:
        values, frames = measures.cka_of(readers, layers, *draw, tell)
        return values, {"utterances": len(ids), "frames": frames}
    if work.kind == NORMS:
        values, frames = measures.norms_of(reader, own, *draw, tell)
        return values, {"utterances": len(ids), "frames": frames}
    if work.label in TIMED:
        segments = timed_segments(table, work.label, *draw)
        values = measures.timed_cca(reader, own, segments, config.seed, tell)
        return values, {"utterances": segments["id"].nunique(), "segments": values["rows"]}
    named = table[table["id"].isin(ids)][["id", work.label]].set_axis(["id", "label"], axis=1).reset_index(drop=True)
    if work.kind == CCA:
        values = measures.pooled_cca(reader, own, named, config.seed, tell)
        return values, {"utterances": values["rows"]}
    values = measures.tsne_of(reader, work.layer, named, sample.name, work.label in PRIVATE, config.seed)
    return values | {"chosen": work.chosen}, {"utterances": len(values["x"])}


def _shared(work: Work, readers: Sequence[Reader], sample: Manifest) -> list[str]:
    """Utterances that an analysis is of: those that all its upstreams could use."""
    ids = common(readers, sample.table["id"].tolist())
    if not ids:
        names = dict.fromkeys(member.name for member in work.members)
        reasons = [f"{r.store.info.checkpoint}: {next(iter(r.store.rejected.values()), '')}" for r in readers]
        raise UserError(
            f"no utterance of the sample can be used by {'both ' if len(names) > 1 else ''}{' and '.join(names)}",
            where=sample.path,
            why="; ".join(dict.fromkeys(reasons)),
            remedy="more utterances=, or analyse them apart" if len(names) > 1 else "more utterances=",
        )
    return ids


def _reader(member: Member, config: schemas.Analyse, sample: Manifest, display: Display) -> Reader:
    """An upstream's store, with what it lacks extracted now."""
    if member.lacking:
        what, asked = f"extracting {member.name} over {sample.name}", member.asked
        upstream = load(
            asked.name,
            weights=asked.weights or None,
            seed=asked.seed,
            revision=asked.revision or None,
            device=check_device(config.device),
            precision=config.precision,
            checkpoints=config.checkpoints,
        )

        def announce(plan) -> None:
            size = f"about {plan.todo_bytes / 1e6:.0f} MB into {member.path}"
            display.say(f"{what}: {len(plan.todo)} of {plan.rows} utterances, {size}")

        def tell(done: int, total: int) -> None:
            display.progress(what, done, total)

        given = {"pooled": member.holds_means, "dtype": config.dtype, "announce": announce, "progress": tell}
        extract(upstream, member.source, member.path, **given)
    store = open_store(member.path)
    refused = [id for id in sample.table["id"] if id in store.rejected]
    if refused:
        reason = store.rejected[refused[0]]
        display.say(f"left out: {len(refused)} utterances that {member.name} cannot use ({refused[0]}: {reason})")
    return Reader(store, member.first)


def _corpus_hash(sample: Manifest, label: str, audio: list[str]) -> str:
    columns = dict.fromkeys(["id", "start", "end", *filter(None, [label, TIMED.get(label)])])
    return key_of({"columns": sample.hash(columns), "audio": audio})


def _key(work: Work, config: schemas.Analyse, corpus_hash: str) -> str:
    """Of all that determines an analysis. Means do not depend on how many frames others are of."""
    draw = {"seed": config.seed} | ({"frames": config.frames} if work.of_frames else {})
    what = {"analysis": work.kind, "version": VERSIONS[work.kind], "label": work.label, "layer": work.layer}
    return key_of(what | draw | {"features": work.fingerprints, "corpus": corpus_hash})


def _is_done(path: Path) -> bool:
    """Whether an analysis is there; a damaged one is not."""
    try:
        return path.is_file() and bool(read_analysis(path))
    except UserError:
        return False
