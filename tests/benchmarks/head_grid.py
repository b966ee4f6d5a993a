"""How long a whole grid of heads takes: every layer and the mix x every learning rate, as one stack.

    python tests/benchmarks/head_grid.py STORE MANIFEST

STORE is a pooled store of the manifest (`wavbench extract ... pool=mean`). Prints seconds for the stack over the
corpus' own split, and the ratio to training some of its heads one by one with torch.optim.Adam.
"""

import argparse
import time
from dataclasses import replace
from statistics import median

import torch
from torch import nn

from wavbench.downstream.batches import PooledBatches
from wavbench.downstream.fit import HeadStack, batch_order, fit
from wavbench.downstream.heads import mean_linear
from wavbench.downstream.objectives import Classify
from wavbench.downstream.probe import usable_rows
from wavbench.downstream.spec import load_task
from wavbench.downstream.splits import splits_of
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.store import open_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("manifest")
    parser.add_argument("--updates", type=int, default=2_000)
    parser.add_argument("--alone", type=int, default=3, help="heads trained one by one for the ratio")
    arguments = parser.parse_args()
    task, store = replace(load_task("er"), folds=False), open_store(arguments.store)
    table = usable_rows(read_manifest(arguments.manifest), task, store)
    (split,) = splits_of(table, task)
    objective = Classify(table["emotion"].tolist(), split.train)
    layers, rates = list(range(len(store.layers))), task.budget.learning_rates
    batches = PooledBatches(store, table["id"].tolist(), store.layers, ("mean",), split.train)
    budget = replace(task.budget, updates=arguments.updates)

    torch.manual_seed(0)
    single, stack_rates = layers * len(rates), list(rates) + [rate for rate in rates for _ in layers]
    model = HeadStack(
        len(rates), single, len(layers), lambda heads: mean_linear.build(heads, batches.dim, objective.outputs)
    )
    started = time.perf_counter()
    done = fit(model, objective, batches, split.train, split.dev, stack_rates, budget, True, 0)
    stack = time.perf_counter() - started
    alone = median(
        one_by_one(batches, objective, split, rates[2], layer, budget) for layer in layers[: arguments.alone]
    )
    heads = len(stack_rates)
    print(f"{heads} heads ({len(layers)} layers and the mix x {len(rates)} rates), {budget.updates} updates each")
    print(f"as one stack: {stack:.1f} s on one thread; best dev accuracy {done.dev.max():.1f} %")
    one_by_one_s = heads * alone
    print(f"one head alone: {alone:.1f} s; one by one {one_by_one_s:.0f} s, {one_by_one_s / stack:.1f} x the stack")


def one_by_one(batches, objective, split, rate: float, layer: int, budget) -> float:
    """Seconds of a plain training loop for one head on one layer."""
    head = nn.Sequential(nn.Linear(batches.dim, mean_linear.HIDDEN), nn.Linear(mean_linear.HIDDEN, objective.outputs))
    optimiser, order = torch.optim.Adam(head.parameters(), lr=rate), batch_order(split.train, budget.batch, 0)
    started = time.perf_counter()
    for _ in range(budget.updates):
        rows = torch.from_numpy(next(order))
        loss = nn.functional.cross_entropy(head(batches.states[rows, layer]), objective.classes[rows])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
