"""A task on a store: the mix, single layers, or all of them at once, each with its learning rate searched on dev."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch

from wavbench.downstream import objectives
from wavbench.downstream.batches import Readable
from wavbench.downstream.fold import Head, Recipe, Trained, train_fold, trials_of
from wavbench.downstream.language.with_lm import Model
from wavbench.downstream.metrics import METRICS, secondary
from wavbench.downstream.mix import MIX
from wavbench.downstream.spec import CLEAN, Budget, Protocol, Task
from wavbench.downstream.splits import fold_column, shared, splits_of
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import Manifest


@dataclass(frozen=True)
class Result:
    """One layer choice of one task on one store.

    Args:
        layers: "mix" or the number of a layer.
        value: the metric on test, folds pooled.
        secondary: other numbers on test.
        scores: one row per test utterance or trial; `row` is the position in the usable table.
        learning_rates: the one chosen for each fold.
        skipped: train rows that could not be learned from: more symbols than frames.
        curve: per fold, dev value by learning rate.
        layer_weights: of the mix, averaged over folds; empty for a single layer.
        parameters: trained per head.
        decoding: how each fold was decoded with a language model; empty without one.
        batch: `utterances` and `audio_seconds` that an update saw on average, in the first fold.
    """

    layers: str | int
    value: float
    secondary: dict[str, float]
    scores: pd.DataFrame
    learning_rates: tuple[float, ...]
    curve: tuple[dict, ...]
    layer_weights: tuple[float, ...]
    parameters: int
    skipped: tuple[int, ...]
    heads: tuple[Head, ...]
    decoding: tuple[dict, ...]
    batch: dict[str, float]


def usable_rows(manifest: Manifest, task: Task, store: Readable) -> pd.DataFrame:
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
    for split in splits_of(table, task, protocol):
        try:
            objective = make(targets, split.train, [0] * len(table), 1.0)  # no frames yet
            objective.check(split.dev, "dev")
            objective.check(split.test, "test")
            if task.objective == "Verify":
                trials_of(table, split, trials, 0)
        except UserError as error:
            if not split.name:
                raise
            where = f"the fold that leaves {fold_column(table, task)} {split.name} out"
            raise UserError(error.what, where=where, why=error.why, remedy=error.remedy) from None


def probe(
    task: Task,
    store: Readable,
    table: pd.DataFrame,
    choices: Sequence[str | int],
    *,
    seed: int = 0,
    budget: Budget | None = None,
    trials: pd.DataFrame | None = None,
    protocol: Protocol = CLEAN,
    lm: Model | None = None,
    units: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    decoding: Callable[[int, int], None] | None = None,
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
        lm: language model that transcripts are decoded with once more; None for none.
        units: pieces of words that translations are written in; 0 for characters.
        device: where heads are trained; they are scored on the CPU.
        progress: called with (updates done, updates) over all folds.
        decoding: called with utterances decoded with the language model and in all, for each head.

    Raises:
        UserError: an empty split, a class of test unseen in train, a store that the head cannot use.
    """
    budget = budget or task.budget
    splits = splits_of(table, task, protocol)
    single = [choice for choice in choices if choice != MIX]
    layers = list(store.layers) if MIX in choices else sorted(set(single))
    choices = sorted(choices, key=lambda choice: choice != MIX)  # a stack has its mixes first
    recipe = Recipe(task, protocol, budget, tuple(choices), seed, trials, lm, units, device, decoding)
    folds = []
    for number, split in enumerate(splits):

        def step(done: int, updates: int, number: int = number) -> None:
            if progress:
                progress(number * updates + done, len(splits) * updates)

        folds.append(train_fold(recipe, store, table, split, layers, step))
    results = []
    for k, choice in enumerate(choices):
        scores = pd.concat([fold.tables[k] for fold in folds], ignore_index=True)
        if "row_b" in scores:
            scores["speaker_b"] = table["speaker"].to_numpy()[scores["row_b"]]
        extra = secondary(task.metric.name, scores)
        extra["shared_speakers"] = float(sum(shared(table, s, "speaker") for s in splits) if not splits[0].name else 0)
        skipped = sorted({row for fold in folds for row in fold.skipped})
        if skipped:
            extra["train_skipped"] = float(len(skipped))
        model = folds[0].model
        results.append(
            Result(
                layers=choice,
                value=float(METRICS[task.metric.name](scores)[0]),
                secondary=extra,
                scores=scores,
                learning_rates=tuple(fold.rates[k] for fold in folds),
                curve=tuple(fold.curves[k] for fold in folds),
                layer_weights=_layer_weights(folds) if choice == MIX else (),
                parameters=sum(p[0].numel() for p in model.head_parameters()[0 if choice == MIX else -1]),
                skipped=tuple(skipped),
                heads=tuple(fold.head(k) for fold in folds),
                batch=folds[0].batch,
                decoding=tuple(fold.decoding[k] for fold in folds if fold.decoding),
            )
        )
    return results


def _layer_weights(folds: Sequence[Trained]) -> tuple[float, ...]:
    """Of the mix, averaged over folds."""
    with torch.inference_mode():
        weights = torch.stack([fold.model.mix.weights()[0] for fold in folds]).mean(dim=0)
    return tuple(round(float(weight), 6) for weight in weights)


def quick(budget: Budget, share: float) -> Budget:
    """A budget with a share of the updates, for demonstrations and tests."""
    counts = {name: getattr(budget, name) for name in ("updates", "evaluate_every", "search", "warmup")}
    return replace(budget, **{name: max(int(n * share), 1) for name, n in counts.items() if n})
