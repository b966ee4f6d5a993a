"""What an experiment would take: corpora, upstreams, disk and time, before anything is done.

Disk is arithmetic and exact to a few percent. Time of extraction is operations by what this machine multiplies in a
second, at the share of that which extraction was measured to reach; time of heads is that of one update of each, taken
here and now. Together right to a factor of two, which is what it is for.
"""

import functools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wavbench.benchmark import schemas
from wavbench.benchmark.baselines import Baseline, find_baseline, place_of
from wavbench.benchmark.cell import Job
from wavbench.benchmark.display import duration
from wavbench.benchmark.experiment import jobs_of, layers_of, share, upstream_name
from wavbench.benchmark.sources import Source
from wavbench.benchmark.states import ALL, DONE, counts, standing
from wavbench.downstream.fold import statistics_of
from wavbench.downstream.spec import Task
from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import corpus_name

EXTRACTION_SHARE = 0.8  # of the machine's products, that a forward pass reaches with decoding and storing
TIMED_FRAMES = 800  # that an update is timed with; longer ones take as many times more
OUTPUTS = 40  # classes of a head that is timed
MEAN_SECONDS = 10.0  # of an utterance whose length nobody knows
STATISTICS = 1.02  # a store of float16 frames holds means and deviations beside them
VALUE_BYTES = {"int8": 1, "float16": 2, "float32": 4}  # of a stored frame
WAYS = ("dtype=int8", "features=streamed")  # out of a disk that is too small


@dataclass(frozen=True)
class Size:
    """A corpus in numbers.

    Args:
        utterances: 0 where nobody knows.
        hours: 0 where nobody knows.
        status: where it is, or how to get it.
        there: whether it can be used now.
    """

    utterances: int
    hours: float
    status: str
    there: bool


@dataclass(frozen=True)
class Shape:
    """An upstream in numbers.

    Args:
        states: layers and one.
        dim: width of each.
        frame_rate: Hz.
        parameters: of the encoder.
        flops: per second of audio.
        remark: licence and pretraining, where they are known.
    """

    states: int
    dim: int
    frame_rate: float
    parameters: int
    flops: float
    remark: str


def print_plan(config: schemas.Sweep, sources: Sequence[Source], jobs: Sequence[Job]) -> int:
    """Print it, with what cells that are not done will take; the exit code is 0 whether or not everything is there."""
    from wavbench.benchmark.cell import STORED
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
    rows, disk, total, smaller = [], 0.0, 0.0, dict.fromkeys(WAYS, 0.0)
    for source, name, dtype in _stores(sources, list(shapes), left):
        size, shape, frames = sizes[source], shapes[name], bool(dtype)
        here = store_bytes(shape, size, frames, dtype)
        smaller["dtype=int8"] += min(here, store_bytes(shape, size, frames, "int8"))
        known = bool(size.hours if frames else size.hours or size.utterances)
        seconds = size.hours * 3600 * shape.flops / (rate * EXTRACTION_SHARE)
        disk, total = disk + here, total + seconds
        rows.append(
            [
                corpus_name(source.manifest),
                name,
                "frames" if frames else "pooled",
                _bytes(here) if known else "unknown",
                duration(seconds) if size.hours else "unknown",
            ]
        )
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
    """One line before the work: cells by how far they are, and the disk that the stores of those to do take.

    Upstreams whose shape only their weights tell are left out of the sum.
    """
    sizes = {source: size_of(source) for source in dict.fromkeys(sources)}
    shapes = {
        upstream_name(u): shape_of(u, config)
        for u in config.upstreams
        if find_baseline(u.name) or catalog.find_preset(u.name)
    }
    stores = [
        (sizes[source], shapes[name], dtype)
        for source, name, dtype in _stores(sources, list(shapes), _left(config, jobs))
    ]
    disk = sum(store_bytes(shape, size, bool(dtype), dtype) for size, shape, dtype in stores)
    free = shutil.disk_usage(_existing(Path(config.stores))).free
    found = counts(Path(config.results), jobs)
    known = ", ".join(f"{found[state]} {state}" for state in ALL if found[state])
    return f"{known}; stores to make take {_bytes(disk)} ({_bytes(free)} free); --dry says more"


def _left(config: schemas.Sweep, jobs: Sequence[Job]) -> list[Job]:
    """The cells that have no records yet."""
    return [job for job in jobs if standing(Path(config.results), job)[0] != DONE]


def _stores(sources: Sequence[Source], names: list[str], jobs: Sequence[Job]) -> list[tuple[Source, str, str]]:
    """Stores that jobs read, corpus by corpus: with the upstream, and the type of its frames ("" for means alone)."""
    from wavbench.benchmark.cell import STORED

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


def size_of(source: Source) -> Size:
    """A corpus from its manifest where there is one, else from its own lists, else as published."""
    from wavbench.upstream.corpus import load_corpus
    from wavbench.upstream.extraction_plan import durations
    from wavbench.upstream.manifest import read_manifest

    if source.manifest.is_file():
        manifest = read_manifest(source.manifest, source.root)
        known = "duration" in manifest.table or "end" in manifest.table
        hours = float(durations(manifest).sum()) / 3600 if known or not source.corpus else 0.0
        return Size(len(manifest), hours, f"ready: {source.manifest}", True)
    if not source.corpus:
        return Size(0, 0.0, f"missing: {source.manifest}", False)
    module = load_corpus(source.corpus)
    corpus = module.corpus
    if source.place is None:
        return Size(0, corpus.hours, f"to be built in {source.manifest.parent}", True)
    try:
        reading = module.read(source.place, **dict(source.options))
    except UserError as error:
        folder = source.place if source.place.name == source.corpus else source.place / source.corpus
        get = f"wavbench corpus fetch {source.corpus} {folder}"
        get = get if getattr(module, "archives", ()) else corpus.obtain
        return Size(0, corpus.hours, f"missing: {error.what} ({error.where}); {get or corpus.source}", False)
    found = len(reading.rows)
    published = reading.expected.get("all") or sum(reading.expected.values())
    hours = corpus.hours * min(found / published, 1.0) if published else corpus.hours
    lengths = [row.get("duration") or row.get("end", "") for row in reading.rows if not row.get("start")]
    if len(lengths) == found and all(isinstance(length, float | int) for length in lengths):
        hours = sum(lengths) / 3600  # as its own lists have them
    if source.lexicon and not source.lexicon.is_file():
        return Size(found, hours, f"the lexicon is missing: {source.lexicon}", False)
    return Size(found, hours, f"to be imported from {reading.root}", True)


def shape_of(u: schemas.SweepUpstream, config: schemas.Sweep) -> Shape:
    """An upstream from its preset or its folder's settings, without weights; loaded only where there is neither."""
    import torch

    from wavbench.upstream.hugging_face import native_config

    baseline = find_baseline(u.name) if u.weights != "random" else None
    found, absent = None, ""
    if baseline and config.checkpoints:
        try:
            place = Path(place_of(u.name, baseline, config.checkpoints)[0])
            found = native_config(place) if (place / "config.json").is_file() else None
        except UserError:
            absent = f"; missing in {config.checkpoints}"
    if found is None:
        found = catalog.find_preset(baseline.preset if baseline and baseline.preset else u.name)
    if found is not None:
        family, shape = catalog.family(found[0]), found[1]
        try:
            with torch.device("meta"):
                model = family.build(shape)
        except NotImplementedError:  # it computes with what it builds: filterbanks, and models that are measured
            model = family.build(shape)
        parameters = sum(parameter.numel() for parameter in model.parameters())
    elif baseline and baseline.model_type:
        model, parameters = _published(baseline), baseline.parameters
    else:
        from wavbench.benchmark.experiment import loader_of

        loaded = loader_of(u, config)()
        model, parameters = loaded.model, loaded.num_parameters
    remark = f"{baseline.licence}; {', '.join(baseline.pretraining)} ({baseline.hours:,} h)" if baseline else ""
    remark += absent
    flops = _flops(model, parameters)
    return Shape(model.num_states, model.dim, model.frame_rate, parameters, flops, remark)


def store_bytes(shape: Shape, size: Size, frames: bool, dtype: str = "float16") -> float:
    """Of a store of frames of a type, or of float32 means and deviations."""
    if frames:
        values = size.hours * 3600 * shape.frame_rate * shape.states * shape.dim
        return values * 2 * STATISTICS + values * (VALUE_BYTES[dtype] - 2)
    utterances = size.utterances or size.hours * 3600 / MEAN_SECONDS
    return utterances * shape.states * shape.dim * 4 * 2


def machine_rate(device: str) -> float:
    """Operations per second of this machine's products in float32."""
    from wavbench.benchmark.loading import check_device
    from wavbench.upstream.flops import peak_flops

    return peak_flops(check_device(device), "fp32")


def _flops(model, parameters: int) -> float:
    """Per second of audio; two per parameter and frame where the shape is not one of the wav2vec family's."""
    from wavbench.upstream.flops import forward_flops

    config = getattr(model, "config", None)
    if all(hasattr(config, name) for name in ("conv_channels", "position_groups", "inner_dim")):
        return forward_flops(model, MEAN_SECONDS)
    return 2.0 * parameters * model.frame_rate


def _published(baseline: Baseline):
    from types import SimpleNamespace

    from transformers import AutoConfig

    config = AutoConfig.for_model(baseline.model_type)
    return SimpleNamespace(num_states=config.num_hidden_layers + 1, dim=config.hidden_size, frame_rate=50.0)


def head_seconds(task: Task, size: Size, shape: Shape, layers: str) -> float:
    """Of all heads of one upstream and seed: the searches for a learning rate, and the training."""
    chosen, budget = layers_of(layers), task.budget
    mixed = int(chosen in ("mix", "all"))
    single = shape.states if chosen == "all" else 0 if chosen == "mix" else len(chosen)
    seconds = size.hours * 3600 / size.utterances if size.utterances and size.hours else MEAN_SECONDS
    if budget.crop:
        seconds = min(seconds, budget.crop)
    audio = budget.seconds or budget.batch * seconds
    frames = budget.batch if statistics_of(task) else audio * shape.frame_rate
    each = frames * frame_seconds(task.head, shape.states, shape.dim, mixed, single)
    rates = len(budget.learning_rates)
    heads = rates * budget.search + budget.updates if budget.search else rates * budget.updates
    return heads * each


@functools.cache
def frame_seconds(head: str, states: int, dim: int, mixed: int, single: int) -> float:
    """One update of a head of each layer choice by the frames (or utterances) in it, timed here."""
    import numpy as np
    import torch

    from wavbench.downstream.fit import HeadStack, StackedAdam
    from wavbench.downstream.fold import head_of
    from wavbench.downstream.threads import threads

    module = head_of(head)
    pooled = getattr(module, "STATISTICS", None)
    rows = 64 if pooled else TIMED_FRAMES
    width = dim * len(pooled) if pooled else dim
    model = HeadStack(mixed, list(range(single)), states, lambda n: module.build(n, width, OUTPUTS), width)
    optimisers = [StackedAdam(own, [1e-4] * len(own[0])) for own in model.head_parameters()]
    lengths = np.array([rows // 4] * 4)

    def update() -> None:
        features = torch.randn(states, rows, width)
        if hasattr(model.one, "takes_symbols"):
            given = torch.zeros(4, rows // 8, dtype=torch.long)
            outputs = [part(seen, torch.from_numpy(lengths), given) for part, seen in model.parts(features)]
        else:
            outputs = [model.trained(model(features, lengths))]
            if hasattr(model.one, "speakers"):
                outputs.append(model.stacked("speakers"))
        sum(output.square().mean() for output in outputs).backward()
        for optimiser in optimisers:
            optimiser.step()

    with threads(1), torch.random.fork_rng(devices=[]):
        update()
        began = time.perf_counter()
        update()
        return (time.perf_counter() - began) / rows


def streamed_seconds(task, size: Size) -> float:
    """Seconds of audio that go through the upstream below a streamed head: all once for means, else every batch.

    Args:
        task: with its head and budget.
        size: of the corpus.
    """
    audio, budget = size.hours * 3600, task.budget
    if statistics_of(task):
        return audio
    each = audio / size.utterances if size.utterances and audio else MEAN_SECONDS
    return (budget.updates + budget.search) * budget.batch * each  # one pass serves all learning rates


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
