"""A finished cell on disk: its record, its scores and predictions, its trained head."""

import math
from datetime import datetime
from pathlib import Path

import pandas as pd

from wavbench.benchmark import record as records
from wavbench.benchmark.cell import STORED, Paths, Plan, with_targets
from wavbench.benchmark.loading import features_hash
from wavbench.benchmark.record import Record, hashed, key_of, write_record
from wavbench.benchmark.stats import interval
from wavbench.downstream.batches import Readable
from wavbench.downstream.metrics import METRICS, confusion, equal_error_threshold, signature
from wavbench.downstream.mix import MIX
from wavbench.downstream.probe import Result
from wavbench.downstream.saved import save_heads
from wavbench.downstream.splits import fold_column
from wavbench.upstream.description import built_in, description_of
from wavbench.upstream.kept import plain
from wavbench.upstream.machine import PeakMemory
from wavbench.upstream.manifest import Manifest

MOST_CLASSES = 200  # of a confusion matrix that is written
TEXT_COLUMNS = ("reference", "hypothesis", "hypothesis_lm")  # of a scores table; these go to the predictions file


def _left_out(plan: Plan, store: Readable, folds: bool) -> int:
    """Utterances that should have been judged and have no features: those of other rows were."""
    table = with_targets(plan.manifest, plan.task)
    judged = table if folds else table[table["split"] == "test"]
    return int(judged["id"].isin(store.rejected).sum())


def write_result(
    plan: Plan,
    paths: Paths,
    store: Readable,
    table: pd.DataFrame,
    result: Result,
    started: datetime,
    fit_seconds: float,
    memory: PeakMemory,
) -> Path:
    """One result as a record, its public scores and its private predictions.

    Args:
        plan: of the cell.
        paths: where records go.
        store: that was read.
        table: usable rows.
        result: of one layer choice.
        started: when the cell's heads began to train.
        fit_seconds: that they took, per layer choice.
        memory: since then.
    """
    scores, predictions = _tables(plan, table, result.scores)
    metric = plan.task.metric
    low, high, unit = interval(metric.name, scores)
    folds = plan.task.folds and len(result.learning_rates) > 1
    secondary = {name: round(value, 4) for name, value in result.secondary.items()}
    if left_out := _left_out(plan, store, folds):
        secondary["left_out"] = float(left_out)
    record = Record(
        key=plan.key(result.layers),
        task=plan.cell.task,
        corpus=plan.manifest.name,
        corpus_hash=plan.corpus_hash,
        synthetic=bool(built_in(plan.manifest)),
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
        secondary=secondary,
        cost={
            "extract_s": round(store.extract_seconds, 2),
            **({"extract_cpu_s": round(cpu, 2)} if math.isfinite(cpu := store.extract_cpu_seconds) else {}),
            "audio_s": round(float(store.lengths.sum()) / store.frame_rate, 1),  # that were extracted, in whole frames
            "fit_s": round(fit_seconds, 2),
            "fit_memory_mb": round(memory.megabytes, 1),
            "store_mb": round(store.size_bytes / 1e6, 2),
            "parameters": float(result.parameters),
            "upstream_parameters": float(plan.upstream.num_parameters),
        },
        versions=records.versions(),
        commit=records.commit(),
        started=started.isoformat(timespec="seconds"),
        config={
            "budget": plan.budget.described(),
            "effective_batch": result.batch,
            "upstream": plan.upstream.config,
            **({"signature": signature(metric.name)} if signature(metric.name) else {}),
            **({"lm": list(result.decoding)} if result.decoding else {}),
            **({"units": plan.cell.units} if plan.cell.units else {}),
            **({"features": plan.cell.features} if plan.cell.features != STORED else {}),
            **({"dtype": plan.fingerprint.dtype} if plan.cell.dtype != "float16" else {}),
            **({"pretraining": plain(plan.upstream.trained)} if plan.upstream.trained else {}),
            **_licence(plan.manifest),
            "heard": list(plan.heard),  # corpora of this cell that the upstream was pretrained on
            "trials": False
            if plan.trials is None
            else key_of({"trials": plan.given_trials}),  # boards keep lists apart
        },
    )
    left_out = table.iloc[list(result.skipped)][["id"]].assign(reason="more symbols than frames")
    return write_record(
        paths.results,
        record,
        scores,
        predictions,
        confusion=_confusion(metric.name, scores),
        skipped=left_out if len(left_out) else None,
    )


def _confusion(metric: str, scores: pd.DataFrame) -> pd.DataFrame | None:
    """Which class was taken for which, None for other scores; of many classes, the scores tell it shorter."""
    if metric != "accuracy":
        return None
    counts = confusion(scores)
    return counts if len(counts) <= MOST_CLASSES else None


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
    if "label" in public and plan.task.needs == ("speaker",):  # who speaks is nobody's to publish
        public = public.assign(**{name: hashed(public[name].to_numpy(), salt) for name in ("label", "prediction")})
    if "score" in public:
        public["score"] = public["score"].astype(float).round(5)
        public["target"] = public["target"].astype(int)
        if "score_snorm" in public:
            public["score_snorm"] = public["score_snorm"].astype(float).round(4)
        return public, None
    names = ("label", "prediction") if "label" in scores else TEXT_COLUMNS
    if names[0] not in scores:
        return public, None
    ids = table["id"].to_numpy()[scores["row"].to_numpy()]
    said = {called: scores[name] for called, name in zip(TEXT_COLUMNS, names, strict=False) if name in scores}
    return public, pd.DataFrame({"id": ids, **said})


def write_heads(plan: Plan, result: Result) -> None:
    """The trained head of a cell, with how its upstream was loaded."""
    upstream = plan.upstream
    scores = {"metric": plan.task.metric.name, "value": round(result.value, 4), "record": plan.key(result.layers)}
    about = {"corpus": plan.manifest.name, "protocol": plan.protocol.name, **scores}
    if plan.cell.units:
        about["units"] = plan.cell.units
    if result.decoding:
        about["lm"] = result.decoding[0]
    if plan.task.objective == "Verify":
        about["threshold"] = equal_error_threshold(result.scores)
    given = dict(plan.cell.loaded) | {"name": upstream.name, "weights_hash": upstream.weights_hash}
    save_heads(
        plan.cell.save,
        result.heads,
        task=plan.cell.task,
        objective=plan.task.objective,
        name=plan.task.head,
        upstream=given
        | {"precision": upstream.precision, "language": upstream.language, "features": features_hash(upstream)},
        about=about,
    )


def _licence(manifest: Manifest) -> dict[str, str]:
    """The licence of the recordings, where the import of the manifest wrote it down."""
    licence = description_of(manifest.path).get("licence")
    return {"licence": licence} if licence and isinstance(licence, str) else {}
