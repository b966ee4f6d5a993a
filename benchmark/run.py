"""One cell: task x upstream x corpus x layers x seed -> records."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from wavbench.benchmark import record as records
from wavbench.benchmark.cell import STREAMED, Paths, Plan, with_targets
from wavbench.benchmark.results import write_heads, write_result
from wavbench.downstream.batches import Readable
from wavbench.downstream.fold import trials_of
from wavbench.downstream.language.with_lm import TRAIN, open_models
from wavbench.downstream.mix import MIX
from wavbench.downstream.probe import check_labels, probe, usable_rows
from wavbench.downstream.saved import record_of
from wavbench.downstream.splits import splits_of
from wavbench.downstream.streamed import Streamed
from wavbench.downstream.trials import write_trials
from wavbench.upstream.extract import extract, fingerprint_of, fits, store_path
from wavbench.upstream.listener import Listener
from wavbench.upstream.machine import PeakMemory


def missing(plan: Plan, paths: Paths) -> list[str | int]:
    """Layer choices whose records do not exist yet, or whose head is wanted and was not kept."""

    def kept(choice: str | int) -> bool:
        return plan.cell.save is None or record_of(plan.cell.save) == plan.key(choice)

    return [c for c in plan.choices if not (kept(c) and records.exists(paths.results, plan.key(c)))]


def run_cell(plan: Plan, paths: Paths, listener: Listener) -> list[Path]:
    """Extract what is missing, train what is missing, write the records.

    Returns:
        The record of each layer choice, those that existed included.
    """
    todo = missing(plan, paths)
    if todo:
        labelled = with_targets(plan.manifest, plan.task)
        if len(labelled) < len(plan.manifest):
            count, columns = len(plan.manifest) - len(labelled), " or ".join(plan.task.needs)
            listener.say(f"left out: {count} of {len(plan.manifest)} utterances without {columns}")
        check_labels(plan.task, labelled, plan.trials, plan.protocol)
        _check_model(plan, labelled)
        store = store_for(plan, paths, listener)
        table = usable_rows(plan.manifest, plan.task, store)
        _say_left_out(labelled, store, listener)
        if plan.task.objective == "Verify" and plan.trials is None:
            _keep_trials(plan, table, store)
        started, clock, memory = datetime.now(UTC), time.monotonic(), PeakMemory()
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
            lm=plan.cell.lm,
            units=plan.cell.units,
            device=plan.cell.head_device,
            progress=lambda done, total: listener.progress(f"training {name}", done, total),
            decoding=lambda done, total: listener.progress(f"decoding {name}", done, total),
        )
        seconds = (time.monotonic() - clock) / len(results)
        for result in results:
            if result.skipped:
                first = table["id"].iloc[result.skipped[0]]
                count = len(result.skipped)
                file = f"{plan.key(result.layers)}.skipped.csv"
                listener.say(
                    f"left out of training: {count} utterances with more symbols than frames (first: {first}; "
                    f"all: {paths.results / 'runs' / file})"
                )
            if not records.exists(paths.results, plan.key(result.layers)):  # another sweep may hold the same cell
                write_result(plan, paths, store, table, result, started, seconds, memory)
            if plan.cell.save is not None:
                write_heads(plan, result)
    return [paths.results / "runs" / f"{plan.key(choice)}.json" for choice in plan.choices]


def _say_left_out(table: pd.DataFrame, store: Readable, listener: Listener) -> None:
    """Utterances that have labels and no features, by split: the test set is then smaller than that of other rows."""
    left = table[table["id"].isin(store.rejected)]
    if len(left):
        counts = ", ".join(f"{count} of {split or 'no split'}" for split, count in left.groupby("split").size().items())
        first = left["id"].iloc[0]
        listener.say(f"left out: {counts} that could not be used (first: {first}: {store.rejected[first]})")


def _check_model(plan: Plan, table: pd.DataFrame) -> None:
    """Find a language model that does not fit the transcripts before hours go into features and training."""
    model = plan.cell.lm
    if model is None or (model.ngrams == TRAIN and not model.neural):
        return
    train = splits_of(table, plan.task, plan.protocol)[0].train
    open_models(model, ["".join(plan.task.target(row)) for row in table.iloc[train].to_dict("records")])


def store_for(plan: Plan, paths: Paths, listener: Listener) -> Readable:
    """What a cell reads: an up-to-date store, or with features=streamed the upstream at work.

    The store is one of frames where there is or will be one, since it holds means, too. Where all layers do not fit on
    the disk and the cell wants some of them only, it holds those.
    """
    if plan.cell.features == STREAMED:
        return _streamed(plan, paths, listener)
    frames = fingerprint_of(plan.upstream, None, False, plan.cell.dtype)
    path = store_path(paths.stores, plan.manifest, plan.upstream, frames)
    pooled = plan.fingerprint.kind == "mean" and not plan.cell.keep_frames and not (path / "features.h5").is_file()
    if pooled:
        path = store_path(paths.stores, plan.manifest, plan.upstream, plan.fingerprint)
    layers = None
    single = not pooled and MIX not in plan.choices and not (path / "features.h5").is_file()
    if single and not fits(path, frames, plan.manifest, plan.upstream):
        layers = sorted(plan.choices)
        frames = fingerprint_of(plan.upstream, layers, False, plan.cell.dtype)
        path = store_path(paths.stores, plan.manifest, plan.upstream, frames)

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
        layers=layers,
        pooled=pooled,
        dtype=plan.cell.dtype,
        announce=announce,
        progress=lambda done, total: listener.progress(what, done, total),
    )


def _streamed(plan: Plan, paths: Paths, listener: Listener) -> Streamed:
    """The upstream at work on the utterances of a cell."""
    ids = with_targets(plan.manifest, plan.task)["id"].tolist()
    pooled = plan.fingerprint.kind == "mean"
    return Streamed(
        plan.upstream,
        plan.manifest,
        ids,
        store_path(paths.stores, plan.manifest, plan.upstream, plan.fingerprint),
        pooled=pooled,
        progress=lambda done, total: listener.progress(f"decoding {plan.manifest.name}", done, total),
        pooling=lambda done, total: listener.progress(f"computing means of {plan.manifest.name}", done, total),
    )


def _keep_trials(plan: Plan, table: pd.DataFrame, store: Readable) -> None:
    """Write the drawn trials beside the store, where anybody can take them for another toolkit."""
    store.path.mkdir(parents=True, exist_ok=True)
    for split in splits_of(table, plan.task, plan.protocol):
        for part, trials in trials_of(table, split, None, plan.cell.seed).items():
            write_trials(trials, store.path / f"trials-{part}-{plan.cell.seed}.csv")
