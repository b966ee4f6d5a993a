"""Pretraining of an upstream: corpora in, a checkpoint that `load` reads out."""

import dataclasses
import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from wavbench.upstream import catalog, codes, kept, units
from wavbench.upstream.batch_plan import Batch, plan_epoch
from wavbench.upstream.checkpoints import write_checkpoint
from wavbench.upstream.crops import Crops
from wavbench.upstream.decoded import Speech, decode
from wavbench.upstream.description import names_of
from wavbench.upstream.errors import UserError, closest, refuse_below
from wavbench.upstream.flops import peak_flops, training_flops
from wavbench.upstream.lengths import samples_from_frames
from wavbench.upstream.machine import cores
from wavbench.upstream.manifest import Manifest
from wavbench.upstream.starting_encoder import begin_with, regularised
from wavbench.upstream.training import Settings, Status, Training
from wavbench.upstream.unit_source import UnitSource, check_codes, make_units

OBJECTIVES = Path(__file__).parent / "pretrain"
DEV_SHARE = 0.02  # of the train utterances, held out where a corpus has no dev split
SAMPLE_RATE = 16_000  # Hz


@dataclass(frozen=True, kw_only=True)
class Data:
    """How speech is cut into batches.

    Args:
        batch_seconds: of audio per process and batch, at most.
        crop_seconds: longest crop.
        min_seconds: shorter utterances are left out.
        language_exponent: a language's share is proportional to its hours to this power.
        dev_seconds: of dev audio that the dev loss is taken on, at most.
    """

    batch_seconds: float
    crop_seconds: float
    min_seconds: float = 1.0
    language_exponent: float = 0.5
    dev_seconds: float = 1_200.0

    def __post_init__(self) -> None:
        refuse_below(self, {item.name: 0 for item in dataclasses.fields(self)})


def objectives() -> list[str]:
    """The objective files, by name; nothing is imported."""
    return sorted(path.stem for path in OBJECTIVES.glob("*.py") if not path.stem.startswith("_"))


def find_objective(name: str) -> ModuleType:
    """The module of one objective: `Config`, `build`, `targets` and `NEEDS_UNITS`; `mixer`, where it mixes crops;
    `NEEDS_CODES`, where its units are codes of a vq-wav2vec.

    Raises:
        UserError: there is none of that name.
    """
    if name not in objectives():
        raise UserError(f"there is no objective {name!r}", remedy=closest(name, objectives()))
    return importlib.import_module(f"wavbench.upstream.pretrain.{name}")


def find_shape(upstream: str) -> tuple[str, object]:
    """Family and config of the preset that is to be trained.

    Raises:
        UserError: there is none of that name.
    """
    found = catalog.find_preset(upstream)
    if found is None:
        raise UserError(f"there is no preset {upstream!r} to train", remedy=closest(upstream, catalog.names()))
    return found


def split_rows(speech: Speech, min_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Utterances to train on and for the dev loss, without those that are too short.

    Where there is no dev split, every fiftieth train utterance is held out; a single one serves as both.

    Raises:
        UserError: nothing is left to train on.
    """
    train, dev = speech.rows("train"), speech.rows("dev")
    if not len(train):
        raise UserError(
            "there is no train split to pretrain on",
            why=f"the splits are {', '.join(sorted(set(speech.splits)))}" if speech.ids
            else f"no audio could be decoded; {_first(speech.rejected)}",
            remedy="set the column split to train for the utterances to learn from" if speech.ids
            else "check the column audio, and the files that it names",
        )  # fmt: skip
    train, dev = (rows[speech.lengths[rows] >= min_samples] for rows in (train, dev))
    if not len(train):
        raise UserError(
            f"no train utterance is at least {min_samples / SAMPLE_RATE:g} s long",
            why="a crop must hold more than one hidden span, or all steps that are predicted",
            remedy="lower min_seconds, or add longer recordings",
        )
    if not len(dev):
        held = np.arange(len(train)) % round(1 / DEV_SHARE) == 0
        train, dev = train[~held] if len(train) > 1 else train, train[held]
    return train, dev


def left_out(speech: Speech, min_samples: int) -> str:
    """One line on what is not learned from, "" where that is nothing."""
    parts = []
    if speech.rejected:
        parts.append(f"{len(speech.rejected)} utterances that cannot be decoded ({_first(speech.rejected)})")
    rows = np.flatnonzero((speech.lengths < min_samples) & np.isin(speech.splits, ("train", "dev")))
    if len(rows):
        parts.append(f"{len(rows)} shorter than {min_samples / SAMPLE_RATE:g} s (first: {speech.ids[rows[0]]})")
    return f"left out: {'; '.join(parts)}" if parts else ""


def _first(rejected: dict[str, str]) -> str:
    id, reason = next(iter(rejected.items()), ("", "there is none"))
    return f"first: {id}: {reason}"


def describe(speech: Speech, rows: np.ndarray) -> list[dict]:
    """Hours of some utterances by corpus and language."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        hours = speech.lengths[row] / SAMPLE_RATE / 3_600
        found.setdefault((speech.ids[row].split("/")[0], speech.languages[row]), []).append(hours)
    return [
        {"corpus": corpus, "language": language, "utterances": len(hours), "hours": round(sum(hours), 3)}
        for (corpus, language), hours in sorted(found.items())
    ]


def planner(speech: Speech, rows: np.ndarray, data: Data, seed: int) -> Callable[[int], list[Batch]]:
    """From an epoch's number to its batches over some utterances."""
    lengths, languages = speech.lengths[rows], [speech.languages[row] for row in rows]
    return lambda epoch: plan_epoch(
        lengths,
        languages,
        seed=seed,
        epoch=epoch,
        crop_samples=int(data.crop_seconds * SAMPLE_RATE),
        batch_samples=int(data.batch_seconds * SAMPLE_RATE),
        language_exponent=data.language_exponent,
    )


def dev_batches(speech: Speech, rows: np.ndarray, data: Data, seed: int) -> list[Batch]:
    """The batches of the dev loss: always the same, and no more than asked for."""
    planned, left = planner(speech, rows, dataclasses.replace(data, language_exponent=1.0), seed)(0), data.dev_seconds
    kept = []
    for batch in planned:
        left -= len(batch.rows) * batch.samples / SAMPLE_RATE
        if kept and left < 0:
            break
        kept.append(batch)
    return kept


def pretrain(
    manifests: Sequence[Manifest],
    *,
    objective: str,
    objective_config,
    upstream: str,
    settings: Settings,
    data: Data,
    folder: Path,
    decoded: Path,
    fabric,
    unit_source: UnitSource | None = None,
    init: catalog.Upstream | None = None,
    regularisation: dict[str, float] | None = None,
    workers: int = 0,
    audio_on_device: bool = False,
    probe: Callable[[nn.Module], dict[str, float]] | None = None,
    report: Callable[[Status], None] | None = None,
    tell: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    trackers: Sequence[str] = (),
) -> Path:
    """Train an upstream, or go on where a run in the same folder was stopped.

    Args:
        manifests: corpora; their train splits are learned from, their dev splits give the dev loss.
        objective: a file of `upstream/pretrain`.
        objective_config: its `Config`.
        upstream: a preset of the family that is trained.
        settings: of the optimisation.
        data: of the batches.
        folder: of the run: state, curves and checkpoints.
        decoded: folder for decoded audio; may be shared between runs.
        fabric: of Lightning, launched.
        unit_source: where the units come from, for objectives that predict them.
        init: a trained encoder of the same shape to begin with, in place of random weights.
        regularisation: dropouts of the encoder's config, by field.
        workers: processes that make batches.
        audio_on_device: keep the whole decoded corpus in the device's memory.
        probe: from the encoder to scores, taken every `settings.probe_every` steps.
        report: told where the training is.
        tell: told what is prepared, how much of it is done, and how much there is.
        say: told in a sentence what is left out.
        trackers: names of trackers beside CSV and TensorBoard.

    Returns:
        The last checkpoint; the one with the lowest dev loss lies beside it as `best.safetensors`.

    Raises:
        UserError: unusable data, other settings than the run began with, a loss that is not finite, a full disk.
    """
    module_file = find_objective(objective)
    stem, preset = find_shape(upstream)
    if hasattr(module_file, "shape"):
        preset = module_file.shape(objective_config, preset)
    source = unit_source or UnitSource()
    check_codes(module_file, source.codes is not None)
    if source.codes is not None:
        preset = codes.shape_of(preset, source.codes, data.crop_seconds, init)
    config = regularised(stem, preset, regularisation or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder = catalog.family(stem).build(config)
    conv = encoder.conv.sizes
    if init is not None:
        begin_with(encoder, init, (regularisation or {}).keys())
    if source.codes is not None:
        codes.give_codebook(encoder, source.codes, init)

    def prepare() -> tuple[Speech, units.Units | None]:
        speech = decode(manifests, decoded, workers=cores(), progress=_partial(tell, "decoding"))
        if not module_file.NEEDS_UNITS:
            return speech, None
        if source.codes is not None:
            how = {"begun": init is not None, "device": fabric.device, "progress": _partial(tell, "codes")}
            return speech, codes.make_codes(source.file, speech, folder, encoder, source.codes, **how)
        return speech, make_units(source, speech, folder, conv, settings.seed, _partial(tell, "units"))

    folder.mkdir(parents=True, exist_ok=True)
    if fabric.is_global_zero:
        prepare()  # the others find what the first has made
    fabric.barrier()
    speech, found = prepare()

    room, what, key = _room(module_file, objective_config)
    needed = samples_from_frames(room, conv)
    if data.crop_seconds * SAMPLE_RATE < needed:
        raise UserError(
            f"crop_seconds={data.crop_seconds:g} has no room for {what}",
            remedy=f"at least {needed / SAMPLE_RATE:g} s, or a smaller {key}",
        )
    shortest = max(int(data.min_seconds * SAMPLE_RATE), needed)
    train, dev = split_rows(speech, shortest)
    if say and (line := left_out(speech, shortest)):
        say(line)
    if say and source.codes is not None:
        say(codes.told(found))
    # Crops of the dev split get sound of the train split too: a single dev utterance is enough.
    overlay = module_file.mixer(objective_config, speech, train) if hasattr(module_file, "mixer") else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed + 1)
        module = module_file.build(encoder, objective_config, found)

    hears = getattr(module_file, "NEEDS_WAVEFORMS", True)

    begun_from = [one for one in (init, source.codes) if one is not None]
    heard = set().union(*(one.pretraining for one in begun_from), *map(names_of, manifests))

    def export(which: str) -> None:
        told = kept.Trained(run=upstream, id=run, steps=training.step, hours=training.hours, init=begun)
        place = {"last": Path("checkpoint.safetensors"), "best": Path("best.safetensors")}
        path = folder / place.get(which, Path(kept.FOLDER) / told.file)
        write_checkpoint(path, stem, preset, encoder.state_dict(), trained=kept.plain(told), heard=heard)
        if which == "kept":
            kept.write_table(path.parent, say)

    def crops(rows: np.ndarray) -> Crops:
        targets = functools.partial(module_file.targets, objective_config)
        given = {"with_waveforms": not audio_on_device, "hears": hears}
        return Crops(speech, rows, conv, targets, found, seed=settings.seed, overlay=overlay, **given)

    hyperparameters = {
        "objective": objective, "upstream": upstream, "processes": fabric.world_size,
        "speech": speech.hash, "splits": digest_of(speech), "units": found.fingerprint if found else None,
        "init": init.weights_hash if init else None,
        **(regularisation or {}),
        **dataclasses.asdict(objective_config), **dataclasses.asdict(data),
        **{name: value for name, value in dataclasses.asdict(settings).items() if not name.endswith("_every")},
    }  # fmt: skip
    begun = hyperparameters["init"] or ""
    run = hashlib.blake2b(json.dumps(hyperparameters, sort_keys=True).encode(), digest_size=6).hexdigest()
    on_device = audio_on_device and hears
    samples = torch.from_numpy(np.ascontiguousarray(speech.samples)).to(fabric.device) if on_device else None
    training = Training(
        fabric,
        module,
        crops(train),
        planner(speech, train, data, settings.seed),
        crops(dev),
        dev_batches(speech, dev, data, settings.seed),
        settings,
        hyperparameters=hyperparameters,
        data=describe(speech, train),
        folder=folder,
        export=export,
        probe=None if probe is None else lambda: probe(encoder),
        flops_per_second=training_flops(encoder, data.crop_seconds),
        peak_flops=fabric.world_size * peak_flops(fabric.device, settings.precision),
        samples=samples,
        workers=workers,
        report=report,
        trackers=trackers,
        share=getattr(module_file, "SHARE", "masked_share"),
    )
    training.run()
    return folder / "checkpoint.safetensors"


def digest_of(speech: Speech) -> str:
    """Hash of splits and languages, which decide what is drawn."""
    return hashlib.blake2b(json.dumps([speech.splits, speech.languages]).encode(), digest_size=16).hexdigest()


def _room(module_file: ModuleType, config) -> tuple[int, str, str]:
    """Fewest frames of a crop, what needs them, and the key that says so."""
    if hasattr(module_file, "fewest_frames"):
        what = f"predictions of {config.prediction_steps} steps"
        return module_file.fewest_frames(config), what, "prediction_steps"
    return config.mask_span + 1, f"hidden spans of {config.mask_span} frames", "mask_span"  # two places for a span


def _partial(tell, what: str):
    return None if tell is None else functools.partial(tell, what)
