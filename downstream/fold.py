"""One split of a corpus: heads trained on its features, chosen on dev, scored on test."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavbench.downstream import objectives
from wavbench.downstream.batches import FrameBatches, PooledBatches, Readable
from wavbench.downstream.fit import Fit, HeadStack, decode_rows, fit, like_lengths
from wavbench.downstream.language.with_lm import MOST_DEV, Model, decode_again, open_models, search_with
from wavbench.downstream.mix import MIX
from wavbench.downstream.spec import Budget, Protocol, Task
from wavbench.downstream.splits import Split
from wavbench.downstream.trials import draw_trials
from wavbench.upstream.errors import UserError

HEADS = Path(__file__).parent / "heads"
SAMPLED_BATCHES = 50  # that the mean size of batches of like length is taken over
COHORT = 2_000  # train utterances whose speakers scores of trials are normalised by


@dataclass(frozen=True)
class Recipe:
    """How heads are trained and chosen.

    Args:
        task: what to learn.
        protocol: how features, learning rates and dev are chosen.
        budget: how long heads train.
        choices: "mix" and numbers of layers, the mix first.
        seed: of initial weights, batches and drawn trials.
        trials: verification trials of the test split, drawn where None.
        lm: language model that transcripts are decoded with once more; None for none.
        units: pieces of words that translations are written in; 0 for characters.
        device: where heads are trained; they are scored on the CPU.
        decoding: called with utterances decoded with the language model and in all.
    """

    task: Task
    protocol: Protocol
    budget: Budget
    choices: tuple[str | int, ...]
    seed: int
    trials: pd.DataFrame | None
    lm: Model | None = None
    units: int = 0
    device: str = "cpu"
    decoding: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Head:
    """One trained head with all that it needs to be used elsewhere.

    Args:
        model: a stack of this head alone.
        layers: states that it is fed with: those of a mix, or a single one.
        symbols: of its outputs, in their order; CTC's blank and the end of what is written come before them.
        shift: what is taken off its features, (layers, 1, dim); None for nothing.
        scale: what they are multiplied by then.
        rate: learning rate that it was trained with.
    """

    model: HeadStack
    layers: tuple[int, ...]
    symbols: tuple[str, ...]
    shift: Float[Tensor, "layers 1 dim"] | None
    scale: Float[Tensor, "layers 1 dim"] | None
    rate: float


@dataclass(frozen=True)
class Trained:
    """What came of one split.

    Args:
        model: the chosen head of each layer choice.
        rates: learning rate of each.
        curves: of each, dev value by learning rate, and the update that was best.
        tables: scores of each on test.
        layers: states that were read.
        symbols: of the outputs.
        standard: shift and scale of features.
        skipped: train rows without a path for CTC.
        decoding: how each was decoded with a language model; empty without one.
        batch: what an update saw on average: `utterances` and `audio_seconds`.
    """

    model: HeadStack
    rates: tuple[float, ...]
    curves: tuple[dict, ...]
    tables: tuple[pd.DataFrame, ...]
    layers: tuple[int, ...]
    symbols: tuple[str, ...]
    standard: tuple[Tensor | None, Tensor | None]
    skipped: tuple[int, ...]
    decoding: tuple[dict, ...]
    batch: dict[str, float]

    def head(self, place: int) -> Head:
        """The head of one layer choice; a single layer's reads nothing but that layer."""
        model, layers, (shift, scale) = self.model.only([place]), self.layers, self.standard
        if model.mix is None:
            layer = int(model.layer[0])
            model.layer, layers = torch.zeros_like(model.layer), (layers[layer],)
            shift, scale = (None if part is None else part[layer : layer + 1] for part in (shift, scale))
        return Head(model, layers, self.symbols, shift, scale, self.rates[place])


def head_of(name: str) -> ModuleType:
    """A file of heads/."""
    return importlib.import_module(f"wavbench.downstream.heads.{name}")


def statistics_of(task: Task) -> tuple[str, ...] | None:
    """What a task's head pools, None where it needs frames."""
    return getattr(head_of(task.head), "STATISTICS", None)


def trials_of(table: pd.DataFrame, split: Split, given: pd.DataFrame | None, seed: int) -> dict[str, pd.DataFrame]:
    """Verification trials of dev and test: drawn, or for test the ones given; for dev, too, where that is test.

    Raises:
        UserError: given trials name utterances that the test split does not have.
    """
    drawn = {}
    for part, rows in (("dev", split.dev), ("test", split.test)):
        here = table.iloc[rows]
        if given is not None and np.array_equal(rows, split.test):
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


def train_fold(
    recipe: Recipe,
    store: Readable,
    table: pd.DataFrame,
    split: Split,
    layers: Sequence[int],
    step: Callable[[int, int], None],
) -> Trained:
    """Train a head for every layer choice and learning rate, choose on dev, score test with the chosen heads only.

    Args:
        recipe: what and how.
        store: features.
        table: usable rows.
        split: which of them are train, dev and test.
        layers: states to read.
        step: called with (updates done, updates).

    Raises:
        UserError: a class of test unseen in train, a store that the head cannot use, no row to train on.
    """
    task, protocol, budget, seed = recipe.task, recipe.protocol, recipe.budget, recipe.seed
    ids, statistics = table["id"].tolist(), statistics_of(task)
    if statistics is None:
        batches = FrameBatches(store, ids, layers, split.train, protocol.standardise)
    else:
        batches = PooledBatches(store, ids, layers, statistics, split.train, protocol.standardise)
    lengths = store.lengths[[store.row(id) for id in ids]]
    targets = [task.target(row) for row in table.to_dict("records")]
    objective = getattr(objectives, task.objective)(targets, split.train, lengths, store.frame_rate)
    train, dev, test = split.train, split.dev, split.test
    if protocol.name == "superb" and hasattr(objective, "as_superb"):
        objective.as_superb()
    if recipe.units:
        objective.in_pieces(split.train, lengths, recipe.units)
    if task.objective == "Verify":
        row = {id: k for k, id in enumerate(ids)}
        pairs = trials_of(table, split, recipe.trials, seed)
        objective.trials = {
            part: (t["enroll"].map(row).to_numpy(), t["test"].map(row).to_numpy(), t["target"].to_numpy())
            for part, t in pairs.items()
        }
        dev, test = (np.unique(np.concatenate(objective.trials[part][:2])) for part in ("dev", "test"))
    objective.check(dev, "dev")
    objective.check(test, "test")

    def stack_of(heads: Sequence[tuple[str | int, float]]) -> HeadStack:
        mixed = [choice for choice, _ in heads if choice == MIX]
        single = [list(layers).index(choice) for choice, _ in heads[len(mixed) :]]
        build = head_of(task.head).build
        torch.manual_seed(seed)
        return HeadStack(
            len(mixed), single, len(layers), lambda n: build(n, batches.dim, objective.outputs), batches.dim
        )

    sign = task.metric.higher_is_better

    def train_heads(heads: Sequence[tuple[str | int, float]], budget: Budget, step) -> Fit:
        rates = [rate for _, rate in heads]
        with torch.random.fork_rng(devices=[]):
            stack = stack_of(heads).to(recipe.device)
            return fit(
                stack,
                objective,
                batches,
                train,
                dev,
                rates,
                budget,
                sign,
                seed,
                step,
                protocol.decay,
            )

    skipped: tuple[int, ...] = ()
    if hasattr(objective, "impossible"):
        left_out = objective.impossible(train, -(-lengths[train] // getattr(head_of(task.head), "STRIDE", 1)))
        skipped, train = tuple(left_out.tolist()), np.setdiff1d(train, left_out)
        if not len(train):
            raise UserError(
                f"no utterance of train has as many frames as symbols ({len(left_out)} are too short)",
                remedy="look at start, end and the texts of the manifest, or take a head that joins fewer frames",
            )
    models = None
    if recipe.lm is not None:  # before hours go into training
        models = open_models(recipe.lm, ["".join(objective.targets[row]) for row in train])
        search_with(recipe.lm, models[0], objective.vocabulary.symbols)
    # mixes, then single layers; among each, heads of one learning rate next to each other
    single = [choice for choice in recipe.choices if choice != MIX]
    parts = ([choice for choice in recipe.choices if choice == MIX], single)
    stack = [(choice, rate) for part in parts for rate in budget.learning_rates for choice in part]
    total = budget.search + budget.updates
    searched = budget if not budget.search else _short(budget)
    done = train_heads(stack, searched, lambda n, _: step(n, total))
    order = done.dev if sign else -done.dev
    by_loss = budget.search and getattr(objective, "searched_by_loss", False)
    order = -done.loss if by_loss else order
    own = [[head for head, (c, _) in enumerate(stack) if c == choice] for choice in recipe.choices]
    best = [max(heads, key=lambda head: order[head]) for heads in own]
    dev_values = [{str(stack[head][1]): float(done.dev[head]) for head in heads} for heads in own]
    losses = done.loss.tolist()
    chosen, updates = [stack[head] for head in best], [int(done.updates[head]) for head in best]
    if budget.search and budget.updates:
        done = train_heads(chosen, replace(budget, search=0), lambda n, _: step(budget.search + n, total))
        updates, best = done.updates.tolist(), list(range(len(chosen)))
    curves = [{"fold": split.name, "dev": values, "updates": n} for values, n in zip(dev_values, updates, strict=True)]
    if by_loss:
        for curve, heads in zip(curves, own, strict=True):
            curve["dev_loss"] = {str(stack[head][1]): losses[head] for head in heads}
    if budget.search:
        for curve, value in zip(curves, done.dev.tolist(), strict=True):
            curve |= {"searched_with": budget.search, "dev_in_full": value}
    model = done.model.only(best).cpu()
    heads = range(len(best))
    if task.objective == "Verify":
        some = np.random.default_rng(seed).permutation(split.train)[:COHORT]
        objective.keep_cohort(*decode_rows(model, batches, np.sort(some), heads, objective.test_look), _speakers(table))
    decoded, rows = decode_rows(model, batches, test, heads, objective.test_look)
    tables, decoding = [objective.scores(decoded, rows, k) for k in heads], []
    if models is not None:
        some = dev[:: -(-len(dev) // MOST_DEV)]  # evenly: speakers stand together in a manifest
        emitted = [decode_rows(model, batches, part, heads, objective.emissions)[0] for part in (some, test)]
        references = ["".join(objective.targets[row]) for row in some]
        for k in heads:
            on_dev, on_test = ([own for batch in part for own in batch[k]] for part in emitted)
            own = (on_dev, references)
            tables[k], about = decode_again(
                tables[k], recipe.lm, models, objective.vocabulary.symbols, own, on_test, recipe.decoding
            )
            decoding.append(about)
    return Trained(
        model=model,
        rates=tuple(rate for _, rate in chosen),
        curves=tuple(curves),
        tables=tuple(tables),
        layers=tuple(layers),
        symbols=objective.vocabulary.symbols,
        standard=(batches.shift, batches.scale),
        skipped=skipped,
        decoding=tuple(decoding),
        batch=effective_batch(budget, lengths[train], store.frame_rate),
    )


def effective_batch(budget: Budget, frames: Int[np.ndarray, " train"], frame_rate: float) -> dict[str, float]:
    """Utterances and seconds of audio that an update sees on average.

    Args:
        budget: of the head.
        frames: of each train utterance.
        frame_rate: frames per second.
    """
    if budget.seconds:
        batches = like_lengths(np.arange(len(frames)), frames, round(budget.seconds * frame_rate), seed=0)
        sizes = [len(next(batches)) for _ in range(SAMPLED_BATCHES)]
        utterances = float(np.mean(sizes))
    else:
        whole, rest = divmod(len(frames), budget.batch)
        utterances = len(frames) / (whole + bool(rest))
    seconds = frames / frame_rate
    seconds = np.full(len(frames), budget.crop) if budget.crop else seconds
    return {"utterances": round(utterances, 2), "audio_seconds": round(float(utterances * seconds.mean()), 2)}


def _short(budget: Budget) -> Budget:
    """The runs that choose a learning rate: schedules as in a full one, two looks at dev."""
    return replace(budget, updates=budget.search, evaluate_every=-(-budget.search // 2), search=0)


def _speakers(table: pd.DataFrame) -> list[str]:
    return table["speaker"].tolist()
