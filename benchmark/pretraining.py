"""`wavbench pretrain`: recipe and arguments to a run, with the phones probe looking in."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np

from wavbench.benchmark import config, schemas
from wavbench.benchmark.config import refuse_idle
from wavbench.benchmark.display import Display
from wavbench.upstream.errors import UserError

DROPOUTS = ("dropout", "attention_dropout", "inner_dropout", "projection_dropout", "layerdrop")


def compose(arguments: list[str]) -> schemas.Pretrain:
    """The schema of the objective that is asked for, filled with its recipe and the arguments.

    Raises:
        UserError: an unknown objective, recipe or key, or a value of the wrong type.
    """
    words = dict(word.split("=", 1) for word in arguments if "=" in word)
    name = words.get("objective", "")
    recipe = config.read_yaml(words.get("preset", schemas.Pretrain.preset), "pretrain")
    sections = [key for key in recipe if key in _objectives() and not hasattr(recipe[key], "keys")]
    if sections:
        raise UserError(
            f"the section {sections[0]} of the recipe is no mapping of keys to values",
            where=words.get("preset", schemas.Pretrain.preset),
            remedy="write its keys below it, indented, or leave it out",
        )
    own = {key: value for key, value in recipe.items() if key not in _objectives()}
    return config.compose(schema(name), arguments, recipe={**own, **recipe.get(name, {})} if name else None)


def schema(objective: str) -> type:
    """`Pretrain` with the keys of optimisation, data and objective beside its own."""
    from wavbench.upstream.pretraining import Data, find_objective
    from wavbench.upstream.training import Settings

    sources = [Settings, Data]
    if objective:
        sources.append(find_objective(objective).Config)
    added = [
        (item.name, item.type, dataclasses.field(default="???" if item.default is MISSING else item.default))
        for source in sources
        for item in fields(source)
    ]
    kind = dataclasses.make_dataclass("Pretrain", added, bases=(schemas.Pretrain,))
    kind.__doc__ = schemas.Pretrain.__doc__
    return kind


def pretrain(config: schemas.Pretrain) -> int:
    """Train, or go on where the same command was stopped."""
    import torch

    from wavbench.benchmark.loading import check_processes, load_upstream
    from wavbench.upstream import pretraining
    from wavbench.upstream.claims import alone
    from wavbench.upstream.manifest import read_manifest
    from wavbench.upstream.processes import PRECISIONS, make_fabric
    from wavbench.upstream.starting_encoder import regularised
    from wavbench.upstream.trackers import check_trackers
    from wavbench.upstream.training import Settings
    from wavbench.upstream.unit_source import check_codes

    check_processes(config)
    check_trackers(config.trackers)
    objective = pretraining.find_objective(config.objective)
    check_codes(objective, bool(config.codes))
    if config.codes:
        refuse_idle(config, ("units_from", "units_layer", "clusters"), "objective=hubert or wavlm")
    if not objective.NEEDS_UNITS:
        refuse_idle(config, ("units", "units_from", "units_layer", "clusters"), "objective=hubert or wavlm")
    if config.precision not in PRECISIONS:
        raise UserError(f"precision={config.precision} is not known", remedy=f"one of: {', '.join(PRECISIONS)}")
    if config.units and config.units_from:
        raise UserError("units and units_from are both given", remedy="give one of them")
    manifests = [read_manifest(path, config.root) for path in config.manifest.split(",") if path]
    if len({manifest.name for manifest in manifests}) < len(manifests):
        raise UserError("two manifests have the same name", where=config.manifest, remedy="rename one of the files")
    preset = Path(config.preset).stem
    upstream = f"{config.objective}_{preset}"
    dropouts = {name: getattr(config, name) for name in DROPOUTS}
    regularised(*pretraining.find_shape(upstream), dropouts)
    folder = Path(config.out or f"pretrained/{upstream}")
    probe = make_probe(config.probe_manifest, config.probe_utterances) if config.probe_every else None
    if config.threads:
        torch.set_num_threads(config.threads)
    picked = {  # refused, where they are, before other processes are started
        "objective_config": _pick(objective.Config, config),
        "settings": _pick(Settings, config),
        "data": _pick(pretraining.Data, config),
    }
    fabric = make_fabric(config.device, config.devices, config.nodes, config.precision, unused=config.layerdrop > 0)
    fabric.launch()
    quiet = not fabric.is_global_zero
    with Display() as display, contextlib.nullcontext() if quiet else alone(folder, "training"):

        def report(status) -> None:
            if quiet:
                return
            v = status.values
            names = [name for name in ("accuracy", "explained_variance") if name in v]
            score = "".join(f", {name.replace('_', ' ')} {v[name]:.3f}" for name in names)
            display.say(
                f"step {status.step}: loss {v['loss']:.4f}{score}, {status.hours:.1f} h of audio, "
                f"{v['audio_seconds_per_second']:.0f} s/s"
            )
            display.progress("training", status.step, status.steps)

        path = pretraining.pretrain(
            manifests,
            objective=config.objective,
            **picked,
            upstream=upstream,
            folder=folder,
            decoded=Path(config.decoded or folder.parent / "decoded"),
            fabric=fabric,
            unit_source=_unit_source(config, manifests, display) if objective.NEEDS_UNITS else None,
            init=load_upstream(config.init) if config.init else None,
            regularisation=dropouts,
            workers=config.workers,
            audio_on_device=config.audio_on_device,
            probe=probe,
            report=report,
            tell=None if quiet else display.progress,
            say=None if quiet else display.say,
            trackers=config.trackers,
        )
    if not quiet:
        print(f"checkpoint: {path}")
    return 0


def _pick(kind: type, config):
    """A dataclass from the fields of the same names."""
    return kind(**{item.name: getattr(config, item.name) for item in fields(kind)})


def _objectives() -> list[str]:
    from wavbench.upstream.pretraining import objectives

    return objectives()


def _unit_source(config: schemas.Pretrain, manifests: list, display: Display):
    from wavbench.benchmark.loading import load_upstream
    from wavbench.upstream.pretraining import UnitSource

    @functools.cache
    def states_of():
        from wavbench.upstream.extract import fingerprint_of

        upstream = load_upstream(config.units_from, device=config.device)
        if not 0 <= config.units_layer < upstream.num_states:
            raise UserError(
                f"units_layer={config.units_layer} is not there",
                where=config.units_from,
                remedy=f"0 to {upstream.num_states - 1}",
            )
        return upstream, fingerprint_of(upstream, (config.units_layer,), False, "float16")

    def described() -> str:
        _, fingerprint = states_of()
        return ", ".join(f"{manifest.name} {fingerprint.hash()} layer {config.units_layer}" for manifest in manifests)

    def stores() -> dict:
        from wavbench.upstream.extract import extract, store_path

        upstream, fingerprint = states_of()
        return {
            manifest.name: extract(
                upstream,
                manifest,
                store_path(Path(config.stores), manifest, upstream, fingerprint),
                layers=(config.units_layer,),
                progress=lambda done, total, name=manifest.name: display.progress(f"states of {name}", done, total),
            )
            for manifest in manifests
        }

    return UnitSource(
        file=Path(config.units) if config.units else None,
        stores=stores if config.units_from else None,
        described=described if config.units_from else None,
        layer=config.units_layer,
        clusters=config.clusters,
        codes=load_upstream(config.codes) if config.codes else None,
    )


def make_probe(path: str, utterances: int) -> Callable:
    """The phones probe on a part of a labelled corpus, at a third of its updates: the frame accuracy of every layer.

    Args:
        path: a manifest with `phones` and `phone_ends`.
        utterances: of it that are used: 60 % from train, 15 % from dev, 25 % from test.

    Returns:
        A function from an encoder, which it leaves as it is, to scores in %.

    Raises:
        UserError: there is no such manifest, or it lacks the columns.
    """
    from wavbench.downstream.probe import probe, quick, usable_rows
    from wavbench.downstream.spec import load_task
    from wavbench.upstream.catalog import Upstream
    from wavbench.upstream.extract import extract
    from wavbench.upstream.manifest import Manifest, read_manifest

    if not path:
        raise UserError(
            "probe_every needs a corpus to probe on", remedy="probe_manifest=FILE with columns phones and phone_ends"
        )
    whole, task = read_manifest(path), load_task("phones")
    whole.need(task.needs)
    rows = []
    for split, share in (("train", 0.6), ("dev", 0.15), ("test", 0.25)):
        own = np.flatnonzero(whole.table["split"] == split)
        rows.append(own[:: max(len(own) // max(round(share * utterances), 1), 1)])
    table = whole.table.iloc[np.sort(np.concatenate(rows))].reset_index(drop=True)
    manifest = Manifest(whole.path, table, audio_root=whole.audio_root)

    def score(encoder) -> dict[str, float]:
        import copy

        with tempfile.TemporaryDirectory() as folder:
            upstream = Upstream("probe", copy.deepcopy(encoder), config={}, checkpoint="in training")
            store = extract(upstream, manifest, Path(folder) / "store")
            results = probe(
                task, store, usable_rows(manifest, task, store), list(store.layers), budget=quick(task.budget, 0.3)
            )
        accuracy = [result.value for result in results]
        return {
            "phones_best": max(accuracy),
            "phones_best_layer": int(np.argmax(accuracy)),
            **{f"phones_layer_{layer}": value for layer, value in enumerate(accuracy)},
        }

    return score
