"""A task on a store: the mix, single layers, or all of them at once, each with its learning rate searched on dev."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from wavbench.downstream import objectives
from wavbench.downstream.batches import FrameBatches, PooledBatches
from wavbench.downstream.fit import Fit, HeadStack, decode_rows, fit
from wavbench.downstream.metrics import METRICS, secondary
from wavbench.downstream.mix import MIX
from wavbench.downstream.spec import CLEAN, Budget, Protocol, Task
from wavbench.downstream.splits import Split, shared, splits_of
from wavbench.downstream.trials import draw_trials
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import Manifest
from wavbench.upstream.store import Store

HEADS = Path(__file__).parent / "heads"


@dataclass(frozen=True)
class Result:
    """One layer choice of one task on one store.

    Args:
        layers: "mix" or the number of a layer.
        value: the metric on test, folds pooled.
        secondary: other numbers on test.
        scores: one row per test utterance or trial; `row` is the position in the usable table.
        learning_rates: the one chosen for each fold.
        curve: per fold, dev value by learning rate.
        layer_weights: of the mix, averaged over folds; empty for a single layer.
        parameters: trained per head.
    """

    layers: str | int
    value: float
    secondary: dict[str, float]
    scores: pd.DataFrame
    learning_rates: tuple[float, ...]
    curve: tuple[dict, ...]
    layer_weights: tuple[float, ...]
    parameters: int


def statistics_of(task: Task) -> tuple[str, ...] | None:
    """What a task's head pools, None where it needs frames."""
    return getattr(objectives, task.objective).statistics


def usable_rows(manifest: Manifest, task: Task, store: Store) -> pd.DataFrame:
    """Rows that have what the task needs and features in the store.

    Raises:
        UserError: a column is missing, or utterances are neither in the store nor rejected by it.
    """
    manifest.need(task.needs)
    table = manifest.table
    for column in task.needs:
        table = table[table[column] != ""]
    stored = table["id"].isin(store.rows)
    absent = table["id"][~stored & ~table["id"].isin(store.rejected)]
    if len(absent):
        raise UserError(
            f"the store lacks {len(absent)} of {len(table)} utterances (first: {absent.iloc[0]})",
            where=store.path,
            remedy="run `wavbench extract` again: it adds what is missing",
        )
    return table[stored].reset_index(drop=True)


def check_labels(
    task: Task, table: pd.DataFrame, trials: pd.DataFrame | None = None, protocol: Protocol = CLEAN
) -> None:
    """Find labels that no head could be trained or tested on before hours go into features.

    Args:
        table: rows that have what the task needs.
        trials: verification trials of the test split, if given.

    Raises:
        UserError: an empty split, a class of test unseen in train, trials of unknown utterances.
    """
    make = getattr(objectives, task.objective)
    targets = [task.target(row) for row in table.to_dict("records")]
    nothing = () if make.statistics is not None else ([0] * len(table), 1.0)  # frames of each row, their rate
    for split in splits_of(table, task, protocol):
        objective = make(targets, split.train, *nothing)
        objective.check(split.dev, "dev")
        objective.check(split.test, "test")
        if task.objective == "Verify":
            trials_of(table, split, trials, 0)


def trials_of(table: pd.DataFrame, split: Split, given: pd.DataFrame | None, seed: int) -> dict[str, pd.DataFrame]:
    """Verification trials of dev and test: drawn, or for test the ones given.

    Raises:
        UserError: given trials name utterances that the test split does not have.
    """
    drawn = {}
    for part, rows in (("dev", split.dev), ("test", split.test)):
        here = table.iloc[rows]
        if part == "test" and given is not None:
            known = set(here["id"])
            unknown = [id for id in pd.concat([given["enroll"], given["test"]]).unique() if id not in known]
            if unknown:
                raise UserError(
                    f"{len(unknown)} utterances of the trials are not in the test split (first: {unknown[0]})",
                    remedy="trials name utterance ids of the manifest, split test",
                )
            if given["target"].nunique() < 2:
                raise UserError(
                    "the trials are all of one kind", remedy="an equal error rate needs trials with and without target"
                )
            drawn[part] = given
        else:
            drawn[part] = draw_trials(here["id"].tolist(), here["speaker"].tolist(), seed)
    return drawn


def probe(
    task: Task,
    store: Store,
    table: pd.DataFrame,
    choices: Sequence[str | int],
    *,
    seed: int = 0,
    budget: Budget | None = None,
    trials: pd.DataFrame | None = None,
    protocol: Protocol = CLEAN,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Train and test one head per layer choice, all of them and all learning rates as one stack.

    Args:
        task: what to learn.
        store: features; pooled where the task's head pools, else frames.
        table: usable rows (`usable_rows`).
        choices: "mix" and numbers of layers.
        seed: of initial weights, batches and drawn trials.
        budget: the task's own where None.
        trials: verification trials of the test split, drawn where None.
        protocol: how features, learning rates and dev are chosen.
        progress: called with (updates done, updates) over all folds.

    Raises:
        UserError: an empty split, a class of test unseen in train, a store that the head cannot use.
    """
    budget = budget or task.budget_of(protocol)
    splits = splits_of(table, task, protocol)
    single = [choice for choice in choices if choice != MIX]
    layers = list(store.layers) if MIX in choices else sorted(set(single))
    choices = sorted(choices, key=lambda choice: choice != MIX)  # a stack has its mixes first
    # mixes, then single layers; among each, heads of one learning rate next to each other
    parts = ([choice for choice in choices if choice == MIX], [choice for choice in choices if choice != MIX])
    stack = [(choice, rate) for part in parts for rate in budget.learning_rates for choice in part]
    folds: list[tuple[Fit, list[int], dict[int, pd.DataFrame]]] = []
    for number, split in enumerate(splits):

        def step(done: int, updates: int, number: int = number) -> None:
            if progress:
                progress(number * updates + done, len(splits) * updates)

        folds.append(_fold(task, store, table, split, layers, stack, seed, budget, trials, protocol, step))
    results = []
    for k, choice in enumerate(choices):
        own = [head for head, (c, _) in enumerate(stack) if c == choice]
        scores = pd.concat([tables[k] for _, _, tables in folds], ignore_index=True)
        if "row_b" in scores:
            scores["speaker_b"] = table["speaker"].to_numpy()[scores["row_b"]]
        extra = secondary(task.metric.name, scores)
        extra["shared_speakers"] = float(sum(shared(table, s, "speaker") for s in splits) if not splits[0].name else 0)
        model = folds[0][0].model
        results.append(
            Result(
                layers=choice,
                value=float(METRICS[task.metric.name](scores)[0]),
                secondary=extra,
                scores=scores,
                learning_rates=tuple(stack[best[k]][1] for _, best, _ in folds),
                curve=tuple(
                    {
                        "fold": split.name,
                        "dev": {str(stack[head][1]): float(done.dev[head]) for head in own},
                        "updates": int(done.updates[best[k]]),
                    }
                    for split, (done, best, _) in zip(splits, folds, strict=True)
                ),
                layer_weights=_layer_weights(choice, k, folds),
                parameters=sum(p[0].numel() for p in model.head_parameters()[0 if choice == MIX else -1]),
            )
        )
    return results


def _fold(task, store, table, split, layers, stack, seed, budget, given, protocol, step):
    """One split: train the stack, choose on dev, decode test with the chosen heads only."""
    make, ids = getattr(objectives, task.objective), table["id"].tolist()
    targets = [task.target(row) for row in table.to_dict("records")]
    if make.statistics is None:
        batches = FrameBatches(store, ids, layers, split.train, protocol.standardise)
        objective = make(targets, split.train, batches.lengths, store.frame_rate)
    else:
        batches = PooledBatches(store, ids, layers, make.statistics, split.train, protocol.standardise)
        objective = make(targets, split.train)
    dev, test = split.dev, split.test
    if task.objective == "Verify":
        row = {id: k for k, id in enumerate(ids)}
        pairs = trials_of(table, split, given, seed)
        objective.trials = {
            part: (t["enroll"].map(row).to_numpy(), t["test"].map(row).to_numpy(), t["target"].to_numpy())
            for part, t in pairs.items()
        }
        dev, test = (np.unique(np.concatenate(objective.trials[part][:2])) for part in ("dev", "test"))
    objective.check(dev, "dev")
    objective.check(test, "test")
    head = importlib.import_module(f"wavbench.downstream.heads.{task.head}")
    mixed = [choice for choice, _ in stack if choice == MIX]
    single = [layers.index(choice) for choice, _ in stack[len(mixed) :]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HeadStack(
            len(mixed), single, len(layers), lambda heads: head.build(heads, batches.dim, objective.outputs)
        )
    sign = task.metric.higher_is_better
    rates = [rate for _, rate in stack]
    done = fit(model, objective, batches, split.train, dev, rates, budget, sign, seed, step, protocol.decay)
    order = done.dev if sign else -done.dev
    choices = list(dict.fromkeys(choice for choice, _ in stack))
    best = [max((h for h, (c, _) in enumerate(stack) if c == choice), key=lambda h: order[h]) for choice in choices]
    decoded, rows = decode_rows(done.model, objective, batches, test, best)
    return done, best, {k: objective.scores(decoded, rows, k) for k in range(len(best))}


def _layer_weights(choice, k: int, folds) -> tuple[float, ...]:
    if choice != MIX:
        return ()
    with torch.inference_mode():
        weights = torch.stack([done.model.mix.weights()[best[k]] for done, best, _ in folds]).mean(dim=0)
    return tuple(round(float(weight), 6) for weight in weights)


def quick(budget: Budget, share: float) -> Budget:
    """A budget with a share of the updates, for demonstrations and tests."""
    updates = max(int(budget.updates * share), 1)
    return replace(budget, updates=updates, evaluate_every=max(int(budget.evaluate_every * share), 1))
