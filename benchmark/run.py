"""One cell: task x upstream x corpus x layers x seed -> records."""

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from wavbench.benchmark import record as records
from wavbench.benchmark.record import Record, hashed, key_of, write_record
from wavbench.benchmark.stats import interval
from wavbench.downstream.metrics import METRICS, signature
from wavbench.downstream.mix import MIX
from wavbench.downstream.probe import Result, check_labels, probe, quick, statistics_of, trials_of, usable_rows
from wavbench.downstream.spec import Budget, Protocol, Task, find_protocol, load_task
from wavbench.downstream.splits import fold_column, splits_of
from wavbench.downstream.trials import read_trials, write_trials
from wavbench.upstream.audio_index import audio_hashes
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.description import description_of
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract, fingerprint_of, store_path
from wavbench.upstream.listener import Listener
from wavbench.upstream.manifest import Manifest
from wavbench.upstream.store import Fingerprint, Store

ALL = "all"  # the mix and every layer
OPTIONAL = ("speaker", "start", "end")  # columns beyond a task's own that a result depends on
TEXT_COLUMNS = ("reference", "hypothesis")  # of a scores table; these go to the predictions file


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
        keep_frames: extract frames even where the task pools, because another cell will need them.
    """

    task: str
    layers: str | tuple[int, ...] = MIX
    seed: int = 0
    budget_share: float = 1.0
    trials: Path | None = None
    protocol: str = "clean"
    keep_frames: bool = False


@dataclass(frozen=True)
class Paths:
    """Where things go: records under `results`, feature stores under `stores`."""

    results: Path
    stores: Path


@dataclass(frozen=True)
class _Plan:
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

    @property
    def given_trials(self) -> str | None:
        return None if self.trials is None else self.trials.to_csv(index=False)

    def key(self, choice: str | int) -> str:
        return key_of(
            {
                "task": self.cell.task,
                "corpus": self.corpus_hash,
                "features": self.fingerprint.hash(),
                "protocol": [self.protocol.name, self.protocol.version],
                "adaptation": "frozen",
                "head": self.task.head,
                "layers": choice,
                "seed": self.cell.seed,
                "budget": asdict(self.budget),
                "trials": self.given_trials,
            }
        )


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


def plan_cell(cell: Cell, upstream: Upstream, manifest: Manifest, paths: Paths) -> _Plan:
    """Resolve a cell; raises a UserError for whatever is wrong with it before any work is done."""
    task = load_task(cell.task)
    manifest.need(task.needs)
    protocol = find_protocol(cell.protocol)
    budget = task.budget_of(protocol)
    budget = budget if cell.budget_share == 1 else quick(budget, cell.budget_share)
    if cell.trials is not None and task.objective != "Verify":
        raise UserError(f"task {cell.task} takes no trials", remedy="leave trials= out")
    trials = read_trials(cell.trials) if cell.trials is not None else None
    pooled = statistics_of(task) is not None
    fingerprint = fingerprint_of(upstream, None, pooled, "float16")
    usable = _with_targets(manifest, task)
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
    corpora = {manifest.name, described.get("corpus"), described.get("part_of")}
    heard = tuple(sorted(corpora & set(upstream.pretraining)))
    choices = layer_choices(cell.layers, upstream.num_states)
    return _Plan(cell, task, protocol, budget, upstream, manifest, fingerprint, trials, corpus_hash, heard, choices)


def missing(plan: _Plan, paths: Paths) -> list[str | int]:
    """Layer choices whose records do not exist yet."""
    return [choice for choice in plan.choices if not records.exists(paths.results, plan.key(choice))]


def run_cell(plan: _Plan, paths: Paths, listener: Listener) -> list[Path]:
    """Extract what is missing, train what is missing, write the records.

    Returns:
        The record of each layer choice, those that existed included.
    """
    todo = missing(plan, paths)
    if todo:
        check_labels(plan.task, _with_targets(plan.manifest, plan.task), plan.trials, plan.protocol)
        store = store_for(plan, paths, listener)
        table = usable_rows(plan.manifest, plan.task, store)
        if plan.task.objective == "Verify" and plan.trials is None:
            _keep_trials(plan, table, store)
        started, clock = datetime.now(UTC), time.monotonic()
        name = f"{plan.cell.task} on {plan.manifest.name} with {plan.upstream.name}"
        results = probe(
            plan.task,
            store,
            table,
            todo,
            seed=plan.cell.seed,
            budget=plan.budget,
            trials=plan.trials,
            protocol=plan.protocol,
            progress=lambda done, total: listener.progress(f"training {name}", done, total),
        )
        seconds = (time.monotonic() - clock) / len(results)
        for result in results:
            _write(plan, paths, store, table, result, started, seconds)
    return [paths.results / "runs" / f"{plan.key(choice)}.json" for choice in plan.choices]


def store_for(plan: _Plan, paths: Paths, listener: Listener) -> Store:
    """The up-to-date store that a cell reads: a frame store where there is or will be one, since it holds means too."""
    frames = fingerprint_of(plan.upstream, None, False, "float16")
    path = store_path(paths.stores, plan.manifest, plan.upstream, frames)
    pooled = plan.fingerprint.kind == "mean" and not plan.cell.keep_frames and not (path / "features.h5").is_file()
    if pooled:
        path = store_path(paths.stores, plan.manifest, plan.upstream, plan.fingerprint)

    def announce(work) -> None:
        if work.todo:
            listener.say(
                f"extracting {plan.upstream.name} over {plan.manifest.name}: {len(work.todo)} of {work.rows} "
                f"utterances, about {work.todo_bytes / 1e6:.0f} MB into {path}"
            )

    what = f"extracting {plan.upstream.name} over {plan.manifest.name}"
    return extract(
        plan.upstream,
        plan.manifest,
        path,
        pooled=pooled,
        dtype="float16",
        announce=announce,
        progress=lambda done, total: listener.progress(what, done, total),
    )


def _with_targets(manifest: Manifest, task: Task) -> pd.DataFrame:
    table = manifest.table
    for column in task.needs:
        table = table[table[column] != ""]
    return table.reset_index(drop=True)


def _keep_trials(plan: _Plan, table: pd.DataFrame, store: Store) -> None:
    """Write the drawn trials beside the store, where anybody can take them for another toolkit."""
    for split in splits_of(table, plan.task, plan.protocol):
        for part, trials in trials_of(table, split, None, plan.cell.seed).items():
            write_trials(trials, store.path / f"trials-{part}-{plan.cell.seed}.csv")


def _write(plan, paths, store: Store, table: pd.DataFrame, result: Result, started, fit_seconds: float) -> Path:
    scores, predictions = _tables(plan, table, result.scores)
    metric = plan.task.metric
    low, high, unit = interval(metric.name, scores)
    folds = plan.task.folds and len(result.learning_rates) > 1
    record = Record(
        key=plan.key(result.layers),
        task=plan.cell.task,
        corpus=plan.manifest.name,
        corpus_hash=plan.corpus_hash,
        synthetic=is_synthetic(plan.manifest),
        split=f"leave one {fold_column(table, plan.task)} out" if folds else "test",
        upstream=Path(plan.upstream.name).name if Path(plan.upstream.name).exists() else plan.upstream.name,
        checkpoint=plan.upstream.checkpoint,
        checkpoint_hash=plan.upstream.weights_hash,
        store_fingerprint=store.fingerprint.hash(),
        protocol=plan.protocol.name,
        protocol_version=plan.protocol.version,
        adaptation="frozen",
        head=plan.task.head,
        layers=result.layers,
        layer_numbers=list(store.layers) if result.layers == MIX else [int(result.layers)],
        layer_weights=list(result.layer_weights),
        seed=plan.cell.seed,
        learning_rate=list(result.learning_rates),
        learning_rate_curve=[{**fold, "fold": hashed([fold["fold"]], plan.manifest.name)[0]} for fold in result.curve],
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        value=round(float(METRICS[metric.name](scores)[0]), 4),  # from the scores as they are written
        ci95=[round(low, 4), round(high, 4)],
        ci_unit=unit,
        n=len(scores),
        secondary={name: round(value, 4) for name, value in result.secondary.items()},
        cost={
            "extract_s": round(store.extract_seconds, 2),
            "fit_s": round(fit_seconds, 2),
            "peak_memory_mb": round(_peak_memory_mb(), 1),
            "store_mb": round(store.size_bytes / 1e6, 2),
            "parameters": float(result.parameters),
            "upstream_parameters": float(plan.upstream.num_parameters),
        },
        versions=records.versions(),
        commit=records.commit(),
        started=started.isoformat(timespec="seconds"),
        config={
            "budget": asdict(plan.budget),
            "upstream": plan.upstream.config,
            **({"signature": signature(metric.name)} if signature(metric.name) else {}),
            "heard": list(plan.heard),  # corpora of this cell that the upstream was pretrained on
            "trials": False
            if plan.trials is None
            else key_of({"trials": plan.given_trials}),  # boards keep lists apart
        },
    )
    return write_record(paths.results, record, scores, predictions)


def _tables(plan, table: pd.DataFrame, scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """A result's rows as the public scores (hashed ids) and the private predictions."""
    salt = plan.manifest.name
    public = {}
    for suffix in ("", "_b"):
        if f"row{suffix}" in scores:
            rows = scores[f"row{suffix}"].to_numpy()
            public[f"utterance{suffix}"] = hashed(table["id"].to_numpy()[rows], salt)
            if "speaker" in table:
                public[f"speaker{suffix}"] = hashed(table["speaker"].to_numpy()[rows], salt)
    kept = [name for name in scores if not name.startswith(("row", "speaker")) and name not in TEXT_COLUMNS]
    public = pd.DataFrame(public | {name: scores[name].to_numpy() for name in kept})
    if "score" in public:
        public["score"] = public["score"].astype(float).round(5)
        public["target"] = public["target"].astype(int)
        return public, None
    names = ("label", "prediction") if "label" in scores else TEXT_COLUMNS
    if names[0] not in scores:
        return public, None
    ids = table["id"].to_numpy()[scores["row"].to_numpy()]
    return public, pd.DataFrame({"id": ids, "reference": scores[names[0]], "hypothesis": scores[names[1]]})


def is_synthetic(manifest: Manifest) -> bool:
    """Whether the folder says that a synthesiser made its speech (corpus.json of the built-in corpus)."""
    try:
        return json.loads((manifest.root / "corpus.json").read_text()).get("synthetic") is True
    except (OSError, ValueError, AttributeError):
        return False


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
