"""The typed schema of every command, and how `key=value` arguments become one.

A name that does not exist, or a value of the wrong type, fails here with the names that do exist. Values are plain
data: nothing in them is interpolated, imported or called.
"""

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from wavbench.upstream.errors import UserError


@dataclass
class Extract:
    """Dump layer-wise features of a corpus to a store."""

    upstream: str = "???"  # preset, folder, .safetensors or .pt file, or hub id
    manifest: str = "???"  # .csv, .jsonl or .parquet
    root: str = ""  # folder that `audio` is relative to; the manifest's own where empty
    weights: str = ""  # "random" for a random twin
    seed: int = 0  # of random weights
    revision: str = ""  # of a hub id
    language: str = ""  # whose adapters a multilingual checkpoint (MMS) is used with
    precision: str = "fp32"  # bf16: twice as fast where the hardware has it, states differ by about a percent
    layers: str = "all"  # or numbers: 4,8
    pool: str = "none"  # none: frames; mean: mean and deviation over frames
    dtype: str = "float16"  # float32, int8
    device: str = "cpu"  # cuda, cuda:1
    store: str = ""  # folder; under `stores` where empty
    stores: str = "features"
    results: str = "results"


@dataclass
class Run:
    """One cell: a task on a corpus with an upstream."""

    task: str = "???"
    upstream: str = "???"
    manifest: str = "???"
    root: str = ""  # folder that `audio` is relative to; the manifest's own where empty
    weights: str = ""
    seed: int = 0  # of random weights
    revision: str = ""
    language: str = ""  # of adapters (MMS)
    precision: str = "fp32"  # bf16
    layers: str = "mix"  # mix, all, or numbers: 4,8
    head_seed: int = 0  # of head, batches and drawn trials
    budget: float = 1.0  # share of the protocol's updates
    trials: str = ""  # verification trials; drawn where empty
    device: str = "cpu"
    stores: str = "features"
    results: str = "results"


@dataclass
class SweepUpstream:
    """One upstream of a sweep."""

    name: str = "???"
    weights: str = ""
    seed: int = 0
    revision: str = ""
    language: str = ""
    precision: str = "fp32"


@dataclass
class SweepCell:
    """One task of a sweep, run with every upstream."""

    task: str = "???"
    manifest: str = "???"  # relative to `corpora`
    layers: str = "mix"
    budget: float = 1.0
    trials: str = ""


@dataclass
class Sweep:
    """Many cells: every upstream x every task x every seed of an experiment."""

    experiment: str = "???"  # a file of configs/experiment, or a .yaml file
    corpora: str = "."  # folder that the cells' manifests lie in
    upstreams: list[SweepUpstream] = field(default_factory=list)
    cells: list[SweepCell] = field(default_factory=list)
    head_seeds: list[int] = field(default_factory=lambda: [0])
    device: str = "cpu"
    workers: int = 1  # processes on this machine
    stores: str = "features"
    results: str = "results"


@dataclass
class Demo:
    """Every task on the built-in corpus, then the page."""

    corpus: str = "demo/synthetic"
    stores: str = "demo/features"
    results: str = "demo/results"
    workers: int = 2


@dataclass
class Pretrain:
    """Train an upstream on speech without labels; the same command goes on where a run was stopped."""

    objective: str = "???"  # wav2vec2, hubert
    manifest: str = "???"  # one or several, with commas between
    root: str = ""  # folder that their `audio` is relative to; each manifest's own where empty
    preset: str = "tiny"  # a recipe of configs/pretrain, or a .yaml file
    out: str = ""  # folder of the run; pretrained/OBJECTIVE_PRESET where empty
    init: str = ""  # preset, folder or file of a trained encoder of the same shape to begin with
    decoded: str = ""  # folder for decoded audio, which runs may share; beside the run where empty
    units: str = ""  # hubert: a unit file; made from units_from, or from MFCC, where empty
    units_from: str = ""  # hubert: a folder or checkpoint whose states are clustered
    units_layer: int = 6  # of units_from
    clusters: int = 100  # hubert: units
    dropout: float = 0.0  # of attention's and feed-forward's outputs
    attention_dropout: float = 0.0
    inner_dropout: float = 0.0  # between the linear layers of feed-forward
    projection_dropout: float = 0.0  # of the frames that the transformer begins with
    layerdrop: float = 0.0  # share of blocks skipped
    probe_manifest: str = ""  # corpus with phones and phone_ends for the phones probe
    probe_utterances: int = 300  # of it that are used
    workers: int = 1  # processes that make batches
    device: str = "cpu"
    devices: int = 1  # processes per node
    nodes: int = 1
    threads: int = 0  # per process; 0 leaves it to torch
    audio_on_device: bool = False  # keep all decoded audio in the device's memory
    stores: str = "features"  # for the states that are clustered
    results: str = "results"


@dataclass
class Release:
    """A finished training to an fp16 checkpoint with its model card and curves."""

    run: str = "???"  # folder of `wavbench pretrain`
    name: str = "???"  # preset that the checkpoint is for
    licence: str = "???"  # of the weights, one line
    notes: str = ""  # a paragraph for the card
    out: str = "upstream/weights"


@dataclass
class Export:
    """An upstream to a folder that transformers opens, with a model card."""

    upstream: str = "???"  # preset, folder, file or hub id
    to: str = "???"  # hf:FOLDER; the folder must be new or empty
    licence: str = "unknown"  # of the weights, one line
    weights: str = ""
    seed: int = 0  # of random weights
    revision: str = ""
    language: str = ""  # of adapters (MMS)


@dataclass
class Speed:
    """Forward passes of wavbench and of other toolkits with the same weights, side by side."""

    upstream: str = "???"  # preset, folder, file or hub id, of the wav2vec 2.0 kind
    peers: str = "transformers,torchaudio,s3prl,speechbrain"
    weights: str = "random"  # "" for those of a checkpoint
    seed: int = 0  # of random weights, lengths and noise
    revision: str = ""  # of a hub id
    language: str = ""  # of adapters (MMS)
    manifest: str = ""  # of speech; noise of LibriSpeech-like lengths where empty
    seconds: float = 96.0  # of audio in a round
    rounds: int = 3
    batches: list[int] = field(default_factory=lambda: [1, 8])  # utterances that peers get at once, padded
    sort: bool = False  # peers get utterances by length
    precision: str = "both"  # fp32, bf16
    copy: bool = True  # states count once they are in the memory of the host
    threads: int = 1
    remark: str = ""  # a sentence for the page: what a reader ought to know of this run
    device: str = "cpu"
    results: str = "results"


@dataclass
class Report:
    """Records to leaderboard, figures and page."""

    results: str = "results"


@dataclass
class CorpusList:
    """Corpora that wavbench can build or import."""


@dataclass
class CorpusBuild:
    """Build a corpus."""

    name: str = "???"
    root: str = ""  # folder; corpora/NAME where empty
    seed: int = 0
    workers: int = 2


@dataclass
class CorpusCheck:
    """Print every bad row of a manifest."""

    manifest: str = "???"
    root: str = ""  # folder that `audio` is relative to; the manifest's own where empty
    mended: str = ""  # write what is left to this file


@dataclass
class CorpusFetch:
    """Download a data set whose licence lets anybody do so; the same command goes on where it stopped."""

    name: str = "???"
    root: str = ""  # folder; corpora/NAME where empty
    parts: str = ""  # some of the corpus, with commas between, or all; the parts that its task needs where empty
    keep: bool = False  # keep the archives


@dataclass
class CorpusImport:
    """A data set on disk, as its authors lay it out, to a manifest."""

    name: str = "???"
    root: str = "???"  # folder of the corpus, or its parent
    out: str = ""  # manifest; ROOT/NAME.csv where empty
    lexicon: str = ""  # words and their phones: fills the column `phones` from `text`
    stress: bool = True  # keep the stress of the lexicon's vowels (AH0, AH1)
    partial: bool = False  # import what is there of a corpus that is not complete


@dataclass
class StoreCommand:
    """Work on a feature store."""

    store: str = "???"


@dataclass
class Doctor:
    """Versions, device, disk and what is missing."""

    stores: str = "features"


CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def compose(schema: type, arguments: list[str], positional: tuple[str, ...] = (), recipe: dict | None = None) -> Any:
    """A filled-in schema from `key=value` words; words without `=` fill `positional` fields in order.

    Args:
        recipe: values that stand in for what the words leave out.

    Raises:
        UserError: an unknown key, a wrong type, a missing value; names what there is.
    """
    from omegaconf import OmegaConf

    words = _keyed(arguments, positional, schema)
    base = _base(schema, words.get("experiment", ""))
    if recipe:
        base = _merge(base, recipe, words.get("preset", "the recipe"))
    for key, value in words.items():
        base = _merge(base, _nested(schema, key, value), f"{key}={value}")
    missing = sorted(str(key) for key in OmegaConf.missing_keys(base))
    if missing:
        raise UserError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            why=(schema.__doc__ or "").strip(),
            remedy=f"give {' '.join(f'{key}=...' for key in missing)}; known keys: {', '.join(known_keys(schema))}",
        )
    return OmegaConf.to_object(base)


def known_keys(schema: type) -> list[str]:
    return [item.name for item in fields(schema)]


def _base(schema: type, experiment: str) -> Any:
    """The schema, typed, with an experiment of configs/experiment (or of a file) laid over it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node=schema)
    is_file = experiment.endswith((".yaml", ".yml"))
    loaded = read_yaml(experiment, "experiment") if experiment else None  # names what there is, refuses what is no data
    overrides = [f"+experiment={experiment}"] if experiment and not is_file else []
    try:
        with initialize_config_module("wavbench.configs", version_base="1.3"):
            base = hydra_compose("schema", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        cause = str(error.__cause__ or error).strip()
        raise UserError(
            "the experiment does not fit the schema of `wavbench sweep`",
            where=experiment,
            why=cause.splitlines()[0][:300] if cause else "",
            remedy=f"known keys: {', '.join(known_keys(schema))}",
        ) from None
    return _merge(base, loaded, experiment) if is_file else base


def read_yaml(name: str, group: str) -> Any:
    """A YAML file of a configuration group, or by path, as plain data.

    Raises:
        UserError: there is none, or it is no mapping.
    """
    from omegaconf import OmegaConf

    folder = CONFIGS / group
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise UserError(
            f"there is no {group} {name!r}", where=path, remedy=f"one of: {', '.join(known)}; or a path to a .yaml file"
        )
    try:
        loaded = OmegaConf.load(path)
        if not OmegaConf.is_dict(loaded):
            raise ValueError("it is no mapping of keys to values")
        _refuse_interpolation(OmegaConf.to_container(loaded, resolve=False), path)
    except UserError:
        raise
    except Exception as error:  # OmegaConf and PyYAML raise many kinds
        raise UserError(f"the {group} cannot be read", where=path, why=str(error)[:300]) from None
    return loaded


def _keyed(arguments: list[str], positional: tuple[str, ...], schema: type) -> dict[str, str]:
    words, places = {}, list(positional)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            if not places:
                raise UserError(
                    f"{argument!r} is not of the form key=value", remedy=f"known keys: {', '.join(known_keys(schema))}"
                )
            key, value = places.pop(0), argument
        elif key not in known_keys(schema):
            near = difflib.get_close_matches(key, known_keys(schema), n=1)
            raise UserError(
                f"there is no key {key!r}",
                where=argument,
                remedy=f"{f'did you mean {near[0]}? ' if near else ''}known keys: {', '.join(known_keys(schema))}",
            )
        if key in words:
            raise UserError(f"{key} is given twice", where=argument)
        _refuse_interpolation(value, argument)
        words[key] = value
    return words


def _nested(schema: type, key: str, value: str) -> dict:
    """A command-line value; lists are written 1,2,3."""
    kind = next(item.type for item in fields(schema) if item.name == key)
    if kind == list[int]:
        return {key: [part for part in value.strip("[]").split(",") if part]}
    if str(kind).startswith("list"):
        raise UserError(f"{key} cannot be given on the command line", remedy="write it into an experiment's YAML")
    return {key: value}


def _merge(base: Any, values: Any, where: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.merge(base, values)
    except OmegaConfBaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            "a configuration value does not fit",
            where=where,
            why=lines[0] if lines else "",
            remedy=f"known keys: {', '.join(str(key) for key in base)}",
        ) from None


def _refuse_interpolation(value: object, where: object) -> None:
    """Configuration is data: `${...}` would read the environment or other files."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in values:
        _refuse_interpolation(part, where)
    if isinstance(value, str) and "${" in value:
        raise UserError("interpolation is not allowed in configuration", where=where, remedy="write the value itself")
