"""What a cell is, and all that its result depends on."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from wavbench.benchmark.record import key_of
from wavbench.downstream.fold import statistics_of
from wavbench.downstream.language.with_lm import Model, contents_of
from wavbench.downstream.mix import MIX
from wavbench.downstream.probe import quick
from wavbench.downstream.saved import refuse_place
from wavbench.downstream.spec import Budget, Protocol, Task, find_protocol, load_task
from wavbench.downstream.splits import fold_column, splits_of
from wavbench.downstream.trials import read_trials
from wavbench.upstream.audio_index import audio_hashes
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.description import description_of, names_of
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import fingerprint_of, store_path
from wavbench.upstream.manifest import Manifest, corpus_name
from wavbench.upstream.store import Fingerprint

ALL = "all"  # the mix and every layer
DTYPES = ("float16", "float32", "int8")  # of stored frames
STORED, STREAMED = "stored", "streamed"
OPTIONAL = ("speaker", "start", "end")  # columns beyond a task's own that a result depends on


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What to run.

    Args:
        task: its name.
        layers: "mix", "all" (the mix and every layer), or numbers of layers.
        seed: of head, batches and drawn trials.
        budget_share: share of the task's updates, 1 for results that are to be compared.
        trials: a verification trials file, drawn where None.
        protocol: "clean" or "superb".
        head: a file of downstream/heads; the task's own where empty.
        lm: language model that transcripts are decoded with once more; None for none.
        units: pieces of words that translations are written in; 0 for characters.
        features: "stored", or "streamed": computed whenever a head wants them, with nothing on disk.
        dtype: of stored frames: "float16", "float32" or "int8"; streamed ones are float32.
        head_device: where heads are trained.
        save: folder that the trained head is written to; None for nowhere.
        loaded: how the upstream was asked for besides its name, for those who load it again.
        keep_frames: extract frames even where the task pools, because another cell will need them.
    """

    task: str
    layers: str | tuple[int, ...] = MIX
    seed: int = 0
    budget_share: float = 1.0
    trials: Path | None = None
    protocol: str = "clean"
    head: str = ""
    lm: Model | None = None
    units: int = 0
    head_device: str = "cpu"
    features: str = STORED
    dtype: str = "float16"
    save: Path | None = None
    loaded: tuple[tuple[str, object], ...] = ()
    keep_frames: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """One cell with what it runs on, by name.

    Args:
        upstream: loads it.
        upstream_name: for people.
        manifest: its path.
        root: folder that its audio is relative to; None for the manifest's own.
        cell: task, layers, seed.
        apart: what its name ends with; see `told_apart`.
        weights: file that the upstream is loaded from, where that is known before.
    """

    upstream: Callable[[], Upstream]
    upstream_name: str
    manifest: Path
    root: Path | None = None
    cell: Cell
    apart: str = ""
    weights: Path | None = None

    @property
    def name(self) -> str:
        head = f" {self.cell.head}" if self.cell.head else ""
        protocol = "" if self.cell.protocol == "clean" else f" (protocol {self.cell.protocol})"
        return f"{self.cell.task}{head} on {corpus_name(self.manifest)} with {self.upstream_name}{protocol}{self.apart}"


# what names of cells leave out, and what it is called where several would have one name
DETAILS = {
    "seed": "seed", "layers": "layers", "budget_share": "budget", "trials": "trials", "lm": "lm", "units": "units",
    "features": "features", "dtype": "dtype",
}  # fmt: skip


def told_apart(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, each with a name of its own: those that would share one say in what they differ."""
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(job.name, []).append(job)

    def apart(job: Job) -> str:
        others = alike[job.name]
        told = [
            f"{word} {_said(getattr(job.cell, field))}"
            for field, word in DETAILS.items()
            if any(getattr(other.cell, field) != getattr(job.cell, field) for other in others)
        ]
        told += [str(job.manifest)] if any(other.manifest != job.manifest for other in others) else []
        return "".join(f", {words}" for words in told)

    return [replace(job, apart=apart(job)) for job in jobs]


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return str(value.ngrams if isinstance(value, Model) else value)


@dataclass(frozen=True)
class Paths:
    """Where things go: records under `results`, feature stores under `stores`."""

    results: Path
    stores: Path


@dataclass(frozen=True)
class Plan:
    """A cell with all that its keys are made of."""

    cell: Cell
    task: Task
    protocol: Protocol
    budget: Budget
    upstream: Upstream
    manifest: Manifest
    fingerprint: Fingerprint
    trials: pd.DataFrame | None
    corpus_hash: str
    heard: tuple[str, ...]
    choices: tuple[str | int, ...]
    lm_hash: str

    @property
    def given_trials(self) -> str | None:
        return None if self.trials is None else self.trials.to_csv(index=False)

    def key(self, choice: str | int) -> str:
        # what is younger than the first records is part of the key only where it is set
        young = {} if self.cell.lm is None else {"lm": self.lm_hash}
        young |= {"units": self.cell.units} if self.cell.units else {}
        young |= {"streamed": True} if self.cell.features == STREAMED else {}
        return key_of(
            young
            | {
                "task": self.cell.task,
                "corpus": self.corpus_hash,
                "features": self.fingerprint.hash(),
                "protocol": [self.protocol.name, self.protocol.version],
                "adaptation": "frozen",
                "head": self.task.head,
                "layers": choice,
                "seed": self.cell.seed,
                "budget": self.budget.described(),
                "trials": self.given_trials,
            }
        )


def check_features(features: str, dtype: str) -> None:
    """Raise a UserError unless features can come so."""
    if features not in (STORED, STREAMED):
        raise UserError(f"features={features} is not known", remedy="features=stored, or features=streamed")
    if dtype not in DTYPES:
        raise UserError(f"features cannot be stored as {dtype!r}", remedy="use dtype=float16, float32 or int8")
    if features == STREAMED and dtype == "int8":
        raise UserError("streamed features are float32", remedy="leave dtype= out, or features=stored")


def layer_choices(layers: str | Sequence[int], states: int) -> tuple[str | int, ...]:
    """What is trained: "mix", layer numbers, or for "all" both.

    Raises:
        UserError: a layer that there is not.
    """
    if layers == MIX:
        return (MIX,)
    if layers == ALL:
        return (MIX, *range(states))
    wrong = [layer for layer in layers if not (isinstance(layer, int) and 0 <= layer < states)]
    if wrong:
        raise UserError(
            f"the upstream has no layer {wrong[0]}", remedy=f"layers=mix, layers=all, or numbers from 0 to {states - 1}"
        )
    return tuple(dict.fromkeys(layers))


def plan_cell(cell: Cell, upstream: Upstream, manifest: Manifest, paths: Paths) -> Plan:
    """Resolve a cell; raises a UserError for whatever is wrong with it before any work is done."""
    protocol = find_protocol(cell.protocol)
    task = load_task(cell.task).chosen(protocol, cell.head)
    manifest.need(task.needs)
    budget = task.budget if cell.budget_share == 1 else quick(task.budget, cell.budget_share)
    if cell.trials is not None and task.objective != "Verify":
        raise UserError(f"task {cell.task} takes no trials", remedy="leave trials= out")
    trials = read_trials(cell.trials) if cell.trials is not None else None
    pooled = statistics_of(task) is not None
    check_features(cell.features, cell.dtype)
    dtype = "float32" if cell.features == STREAMED else cell.dtype
    fingerprint = fingerprint_of(upstream, None, pooled, dtype)
    usable = with_targets(manifest, task)
    splits_of(usable, task, protocol)
    folder = store_path(paths.stores, manifest, upstream, fingerprint).parent
    hashes = audio_hashes(manifest, folder / "audio.json")
    left_out = fold_column(usable, task)  # of sessions: their names decide which folds there are
    columns = dict.fromkeys(["id", "split", *task.needs, *OPTIONAL, *filter(None, [left_out])])
    described = description_of(manifest.path)
    made_of = {"columns": manifest.hash(columns), "audio": hashes}
    if {"text", "phones", "translation"} & set(task.needs) and (rule := described.get("text")):
        made_of["text"] = str(rule)  # how transcripts were normalised; manifests that nobody imported have no rule
    corpus_hash = key_of(made_of)
    heard = tuple(sorted(names_of(manifest) & set(upstream.pretraining)))
    choices = layer_choices(cell.layers, upstream.num_states)
    if cell.save is not None:
        if len(choices) != 1:
            raise UserError(
                f"save= takes one head, and {len(choices)} would be trained", remedy="layers=mix, or one number"
            )
        refuse_place(cell.save)
    if cell.units and task.objective != "Translate":
        raise UserError(f"task {cell.task} writes no pieces of words", remedy="leave units= out")
    if cell.lm is not None and task.objective != "Transcribe":
        raise UserError(f"task {cell.task} has no words to decode with a language model", remedy="leave lm= out")
    lm_hash = key_of(asdict(cell.lm) | contents_of(cell.lm)) if cell.lm else ""
    return Plan(
        cell, task, protocol, budget, upstream, manifest, fingerprint, trials, corpus_hash, heard, choices, lm_hash
    )


def with_targets(manifest: Manifest, task: Task) -> pd.DataFrame:
    """Rows that have what a task needs."""
    table = manifest.table
    for column in task.needs:
        table = table[table[column] != ""]
    return table.reset_index(drop=True)
