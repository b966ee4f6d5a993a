"""What an experiment would take: corpora, upstreams, disk and time, before anything is done.

Disk is arithmetic and exact to a few percent. Time is operations by what this machine multiplies in a second, at the
shares of that which extraction and heads were measured to reach: right to a factor of two, which is what it is for.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wavbench.benchmark import schemas
from wavbench.benchmark.baselines import Baseline, find_baseline, place_of
from wavbench.benchmark.display import duration
from wavbench.benchmark.experiment import Source, layers_of, share, upstream_name
from wavbench.upstream.errors import UserError

EXTRACTION_SHARE = 0.8  # of the machine's products, that a forward pass reaches with decoding and storing
HEAD_SHARE = 0.15  # of them, that small heads reach
HIDDEN = 256  # width of SUPERB's projector, which most heads have
MEAN_SECONDS = 10.0  # of an utterance whose length nobody knows
STATISTICS = 1.02  # a store of frames holds means and deviations beside them


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


def print_plan(config: schemas.Sweep, sources: Sequence[Source]) -> int:
    """Print it; the exit code is 0 whether or not everything is there."""
    from wavbench.downstream.fold import statistics_of
    from wavbench.downstream.spec import find_protocol, load_task

    sizes = {source: size_of(source) for source in dict.fromkeys(sources)}
    rate = machine_rate(config.device)
    shapes = {upstream_name(u): shape_of(u, config) for u in config.upstreams}
    framed = {
        s.manifest
        for c, s in zip(config.cells, sources, strict=True)
        for protocol in c.protocols
        if statistics_of(load_task(c.task).chosen(find_protocol(protocol), c.head)) is None
    }
    cells = sum(len(cell.protocols) for cell in config.cells) * len(config.upstreams) * len(config.head_seeds)
    print(f"plan of {config.experiment}: {cells} cells, {len(config.upstreams)} upstreams, {len(sizes)} corpora\n")
    _print(
        ["corpus", "utterances", "hours", "status"],
        [[s.manifest.stem, _count(z.utterances), _hours(z.hours), z.status] for s, z in sizes.items()],
    )
    rows = [
        [name, f"{x.parameters / 1e6:.1f} M", f"{x.states} x {x.dim}", f"{x.frame_rate:g} Hz",
         f"{x.flops / 1e9:.1f} GFLOP", x.remark]
        for name, x in shapes.items()
    ]  # fmt: skip
    _print(["upstream", "parameters", "states", "frames", "per second", "licence; pretrained on"], rows)
    rows, disk, time = [], 0.0, 0.0
    for source, size in sizes.items():
        for name, shape in shapes.items():
            frames = source.manifest in framed
            here = store_bytes(shape, size, frames)
            known = bool(size.hours if frames else size.hours or size.utterances)
            seconds = size.hours * 3600 * shape.flops / (rate * EXTRACTION_SHARE)
            disk, time = disk + here, time + seconds
            rows.append(
                [
                    source.manifest.stem,
                    name,
                    "frames" if frames else "pooled",
                    _bytes(here) if known else "unknown",
                    duration(seconds) if size.hours else "unknown",
                ]
            )
    _print(["store of", "upstream", "holds", "disk", "extraction"], rows)
    rows = []
    for cell, source in zip(config.cells, sources, strict=True):
        for protocol in cell.protocols:
            task = load_task(cell.task).chosen(find_protocol(protocol), cell.head)
            budget, part = task.budget, share(cell.budget * config.budget)
            seconds = len(config.head_seeds) * sum(
                part * _head_seconds(budget, sizes[source], shape, statistics_of(task), cell.layers, rate)
                for shape in shapes.values()
            )
            time += seconds
            rates = f"{len(budget.learning_rates)} rates x {int(part * budget.updates):,} updates of {budget.batch}"
            rows.append([cell.task, source.manifest.stem, protocol, cell.layers, rates, duration(seconds)])
    _print(["task", "corpus", "protocol", "layers", "heads of one upstream", "all upstreams"], rows)
    free = shutil.disk_usage(_existing(Path(config.stores))).free
    print(f"in all: {_bytes(disk)} of disk ({_bytes(free)} free), about {duration(time)} on {config.device} here")
    if disk > free:
        print("too large for the disk: stores=FOLDER elsewhere, only=NAME for one upstream after another, tasks=NAME")
    absent = [source.manifest.stem for source, size in sizes.items() if not size.there]
    if absent:
        print(f"missing: {', '.join(absent)}; the same command without --dry runs once they are there")
    return 0


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

    from wavbench.upstream import catalog
    from wavbench.upstream.checkpoints import native_config

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


def store_bytes(shape: Shape, size: Size, frames: bool) -> float:
    """Of a store of float16 frames, or of float32 means and deviations."""
    if frames:
        return size.hours * 3600 * shape.frame_rate * shape.states * shape.dim * 2 * STATISTICS
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


def _head_seconds(budget, size: Size, shape: Shape, statistics, layers: str, rate: float) -> float:
    """Of the heads of one upstream: the mix reads all layers, each single layer itself; training is three passes."""
    chosen = layers_of(layers)
    heads = 1 if chosen == "mix" else shape.states + 1 if chosen == "all" else len(chosen)
    seconds = size.hours * 3600 / size.utterances if size.utterances and size.hours else MEAN_SECONDS
    frames = budget.batch * (1 if statistics else seconds * shape.frame_rate)
    mix = shape.states * shape.dim if chosen in ("mix", "all") else 0
    per_update = 6 * frames * (mix + heads * shape.dim * HIDDEN)
    return len(budget.learning_rates) * budget.updates * per_update / (rate * HEAD_SHARE)


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
