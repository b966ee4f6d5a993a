"""What an experiment would take: corpora, upstreams, disk and time, before anything is done.

Disk is arithmetic and exact to a few percent. Time of extraction is operations by what this machine multiplies in a
second, at the share of that which extraction was measured to reach; time of heads is that of one update of each, taken
here and now. Together right to a factor of two, which is what it is for.
"""

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wavbench.benchmark import schemas
from wavbench.benchmark.baselines import find_baseline
from wavbench.benchmark.cell import STORED, Job
from wavbench.benchmark.display import duration
from wavbench.benchmark.estimates import (
    Shape,
    Size,
    head_seconds,
    machine_rate,
    shape_of,
    size_of,
    store_bytes,
    streamed_seconds,
)
from wavbench.benchmark.experiment import jobs_of, share, upstream_name
from wavbench.benchmark.sources import Source, rooted
from wavbench.benchmark.states import ALL, DONE, counts, standing
from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import corpus_folder
from wavbench.upstream.manifest import corpus_name
from wavbench.upstream.store import open_store, read_header

EXTRACTION_SHARE = 0.8  # of the machine's products, that a forward pass reaches with decoding and storing
MOST_NAMED = 12  # stores that are named before the work
WAYS = ("dtype=int8", "features=streamed")  # out of a disk that is too small


def print_plan(config: schemas.Sweep, sources: Sequence[Source], jobs: Sequence[Job]) -> int:
    """Print it, with what cells that are not done will take; the exit code is 0 whether or not everything is there."""
    from wavbench.downstream.spec import find_protocol, load_task

    sizes = {source: size_of(source) for source in dict.fromkeys(sources)}
    rate = machine_rate(config.device)
    shapes = {upstream_name(u): shape_of(u, config) for u in config.upstreams}
    left = _left(config, jobs)
    found = counts(Path(config.results), jobs)
    known = ", ".join(f"{found[state]} {state}" for state in ALL if found[state])
    print(f"plan of {config.experiment}: {len(jobs)} cells, {len(config.upstreams)} upstreams, {len(sizes)} corpora")
    print(f"cells as earlier sweeps left them: {known}\n")
    _print(
        ["corpus", "utterances", "hours", "status"],
        [[corpus_name(s.manifest), _count(z.utterances), _hours(z.hours), z.status] for s, z in sizes.items()],
    )
    rows = [
        [name, f"{x.parameters / 1e6:.1f} M", f"{x.states} x {x.dim}", f"{x.frame_rate:g} Hz",
         f"{x.flops / 1e9:.1f} GFLOP", x.remark]
        for name, x in shapes.items()
    ]  # fmt: skip
    _print(["upstream", "parameters", "states", "frames", "per second", "licence; pretrained on"], rows)
    stores = stores_to_make(config, sources, shapes, left, rate)
    disk, total = _sum(store.bytes for store in stores), _sum(store.seconds for store in stores)
    smaller = {WAYS[0]: _sum(store.as_int8 for store in stores), WAYS[1]: 0.0}
    rows = [
        [store.corpus, store.upstream, store.holds, "unknown" if store.bytes is None else _bytes(store.bytes),
         "unknown" if store.seconds is None else duration(store.seconds)]
        for store in stores
    ]  # fmt: skip
    if rows:
        _print(["store of", "upstream", "holds", "disk", "extraction"], rows)
    rows = []
    for cell, source in zip(config.cells, sources, strict=True):
        for protocol in cell.protocols:
            task = load_task(cell.task).chosen(find_protocol(protocol), cell.head)
            budget, part = task.budget, share(cell.budget * config.budget)
            own = [job for job in jobs_of(replace(config, cells=[cell]), [source]) if job.cell.protocol == protocol]
            names = [job.upstream_name for job in _left(config, own)]
            took = {name: part * head_seconds(task, sizes[source], shapes[name], cell.layers) for name in set(names)}
            if cell.features != STORED:
                passed = streamed_seconds(task, sizes[source])
                for name in took:
                    took[name] += part * passed * shapes[name].flops / (rate * EXTRACTION_SHARE)
            seconds = sum(took[name] for name in names)
            total += seconds
            rates = f"{len(budget.learning_rates)} rates x "
            rates += f"{int(part * budget.search):,} + " if budget.search else ""
            rates += f"{int(part * budget.updates):,} updates of {budget.batch}"
            name = f"{cell.task} {task.head}"
            to_do = f"{len(names)} of {len(own)}"
            rows.append([name, corpus_name(source.manifest), protocol, cell.layers, rates, to_do, duration(seconds)])
    _print(["task, head", "corpus", "protocol", "layers", "heads of one cell", "cells to do", "in all"], rows)
    free = shutil.disk_usage(_existing(Path(config.stores))).free
    print(f"to do: {_bytes(disk)} of disk ({_bytes(free)} free), about {duration(total)} on {config.device} here")
    if disk > free:
        print("too large for the disk: stores=FOLDER elsewhere, only=NAME for one upstream after another, tasks=NAME,")
        print("or in its cells " + " or ".join(f"{way} ({_bytes(smaller[way])})" for way in WAYS))
    absent = [corpus_name(source.manifest) for source, size in sizes.items() if not size.there]
    if absent:
        print(f"missing: {', '.join(absent)}; the same command without --dry runs once they are there")
    return 0


def forecast(config: schemas.Sweep, sources: Sequence[Source], jobs: Sequence[Job]) -> str:
    """What stands before the work: cells by how far they are, and the stores that those to do wait for.

    Upstreams whose shape only their weights tell are left out.
    """
    shapes = {
        upstream_name(u): shape_of(u, config)
        for u in config.upstreams
        if find_baseline(u.name) or catalog.find_preset(u.name)
    }
    left, rate = _left(config, jobs), None
    with contextlib.suppress(UserError):  # workers may have the device that this machine has not
        rate = machine_rate(config.device) if left else None
    stores = stores_to_make(config, sources, shapes, left, rate)
    free = shutil.disk_usage(_existing(Path(config.stores))).free
    found = counts(Path(config.results), jobs)
    lines = [", ".join(f"{found[state]} {state}" for state in ALL if found[state])]
    lines += [
        f"to extract: {store.upstream} over {store.corpus}, {store.holds}, "
        f"{'of unknown size' if store.bytes is None else _bytes(store.bytes)}"
        f"{'' if store.seconds is None else ', about ' + duration(store.seconds)}"
        for store in stores[:MOST_NAMED]
    ]
    lines += [f"and {len(stores) - MOST_NAMED} more stores"] if len(stores) > MOST_NAMED else []
    disk, seconds = _sum(store.bytes for store in stores), _sum(store.seconds for store in stores)
    time = f", about {duration(seconds)} of extraction on {config.device} here" if seconds else ""
    return "\n".join([*lines, f"stores to make take {_bytes(disk)} ({_bytes(free)} free){time}; --dry says more"])


@dataclass(frozen=True)
class StoreToMake:
    """What is missing of a store that cells wait for.

    Args:
        corpus: by its name.
        upstream: by its name.
        holds: "frames" or "pooled", and how much of it is there already.
        bytes: of what is missing; None where nobody knows.
        as_int8: if its frames were of that type: another store, which is begun anew.
        seconds: of extraction; None where nobody knows.
    """

    corpus: str
    upstream: str
    holds: str
    bytes: float | None
    as_int8: float | None
    seconds: float | None


def stores_to_make(
    config: schemas.Sweep, sources: Sequence[Source], shapes: dict[str, Shape], jobs: Sequence[Job], rate: float | None
) -> list[StoreToMake]:
    """Stores that jobs read and that are not there, or not whole, corpus by corpus.

    Args:
        config: of the sweep.
        sources: corpora, a source for each cell or each once.
        shapes: upstreams, by name; others are left out.
        jobs: that are to do.
        rate: operations per second of this machine; None where that is not known.
    """
    sizes = {source: size_of(source) for source in dict.fromkeys(sources)}
    found = []
    for source, name, dtype in _stores(sources, list(shapes), jobs):
        size, shape, frames = sizes[source], shapes[name], bool(dtype)
        held = _held(config, rooted(source), name, shape, size)
        share = held.get(dtype, 0.0) if frames else max(held.values(), default=0.0)  # frames hold means as well
        if share == 1:
            continue
        known = bool(size.hours if frames else size.hours or size.utterances)
        whole, as_int8 = (store_bytes(shape, size, frames, kind) for kind in (dtype, "int8"))
        found.append(
            StoreToMake(
                corpus=corpus_name(source.manifest),
                upstream=name,
                holds=("frames" if frames else "pooled") + (f", {share:.0%} there" if share else ""),
                bytes=(1 - share) * whole if known else None,
                as_int8=(1 - held.get("int8", 0.0) if frames else 1 - share) * as_int8 if known else None,
                seconds=(1 - share) * size.hours * 3600 * shape.flops / (rate * EXTRACTION_SHARE)
                if size.hours and rate
                else None,
            )
        )
    return found


def _held(config: schemas.Sweep, source: Source, name: str, shape: Shape, size: Size) -> dict[str, float]:
    """The share of a corpus that stores of all layers of an upstream have, by type of frames; "" for means alone.

    By what their headers tell: weights are not looked at. A store that is not found is planned once more.
    """
    folder = corpus_folder(Path(config.stores), source.manifest, source.root or source.manifest.parent)
    most: dict[str, float] = {}
    for path in folder.glob("*/store.json") if size.utterances else ():
        try:
            fingerprint, info = read_header(path.parent)
            known = name in (info.checkpoint, info.checkpoint.partition("@")[0]) or Path(name).name == info.checkpoint
            if known and fingerprint.layers == tuple(range(shape.states)):
                store = open_store(path.parent)
                share = min((len(store) + len(store.rejected)) / size.utterances, 1.0)
                kind = fingerprint.dtype if fingerprint.kind == "frames" else ""
                most[kind] = max(most.get(kind, 0.0), share)
        except UserError:  # what is damaged is made again
            continue
    return most


def _left(config: schemas.Sweep, jobs: Sequence[Job]) -> list[Job]:
    """The cells that have no records yet."""
    return [job for job in jobs if standing(Path(config.results), job)[0] != DONE]


def _stores(sources: Sequence[Source], names: list[str], jobs: Sequence[Job]) -> list[tuple[Source, str, str]]:
    """Stores that jobs read, corpus by corpus: with the upstream, and the type of its frames ("" for means alone)."""
    read = {
        (job.manifest, job.upstream_name, job.cell.dtype if job.cell.keep_frames else "")
        for job in jobs
        if job.cell.features == STORED
    }
    order = {source.manifest: source for source in sources}
    return [
        (source, name, dtype)
        for source in order.values()
        for name in names
        for dtype in sorted(own for manifest, upstream, own in read if (manifest, upstream) == (source.manifest, name))
    ]


def _sum(values: Iterable[float | None]) -> float:
    """Of those that are known."""
    return sum(value for value in values if value is not None)


def _existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path


def _print(header: list[str], rows: list[list[str]]) -> None:
    lines = [header, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print()


def _count(number: int) -> str:
    return f"{number:,}" if number else "unknown"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours else "unknown"


def _bytes(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
