"""What corpora, upstreams and heads are in numbers, and what these take: arithmetic, and one update of each head."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path

from wavbench.benchmark import schemas
from wavbench.benchmark.baselines import Baseline, find_baseline, place_of
from wavbench.benchmark.experiment import layers_of
from wavbench.benchmark.sources import Source
from wavbench.downstream.fold import statistics_of
from wavbench.downstream.spec import Task
from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError

TIMED_FRAMES = 800  # that an update is timed with; longer ones take as many times more
OUTPUTS = 40  # classes of a head that is timed
MEAN_SECONDS = 10.0  # of an utterance whose length nobody knows
STATISTICS = 1.02  # a store of float16 frames holds means and deviations beside them
VALUE_BYTES = {"int8": 1, "float16": 2, "float32": 4}  # of a stored frame


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
