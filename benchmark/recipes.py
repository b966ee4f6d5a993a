"""What tells two records of one upstream on one board apart beside their seeds: the recipe of their heads."""

import re
from collections.abc import Iterable
from dataclasses import fields

from wavbench.benchmark import schemas
from wavbench.benchmark.record import Record

Recipe = tuple[tuple[str, str], ...]  # settings that are not the usual ones, by name
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(min|h)")
SEEDS = ("head_seed", "labels_seed")
ON_BOARD = ("task", "steps", "batch_seconds")  # of a fine-tuning's recipe, what its board has in common
ADAPTATION = ("blocks", "rank", "alpha")
STORES = ("dtype", "features")
LM = "lm"  # settings of a second decoding, which changes no value, begin so


def recipe_of(record: Record) -> Recipe:
    """Settings under the names that commands have for them; what has its usual value is left out."""
    config = record.config
    kind, given = schemas.Run, {name: config[name] for name in STORES if name in config}
    if isinstance(tuned := config.get("recipe"), dict):
        kind = schemas.Finetune
        given = {name: value for name, value in tuned.items() if name not in (*SEEDS, *ON_BOARD)}
        given |= {name: config[name] for name in ADAPTATION if name in config}
    elif (decoding := config.get("lm")) and isinstance(decoding, list) and isinstance(decoding[0], dict):
        told = dict(decoding[0])
        given[LM] = told.pop("ngrams", "")
        names = ("order", "unit", "neural", "closed") if given[LM] == "train" else ("unit", "neural", "closed")
        given |= {f"{LM}_{name}": told[name] for name in names if name in told}
    usual = {item.name: item.default for item in fields(kind)}
    return tuple((name, _text(value)) for name, value in sorted(given.items()) if value != usual.get(name))


def without_lm(recipe: Recipe) -> Recipe:
    """A recipe without what only its second decoding depends on: two of the same have the same value."""
    return tuple((name, value) for name, value in recipe if name != LM and not name.startswith(f"{LM}_"))


def names_of(recipes: Iterable[Recipe]) -> dict[Recipe, str]:
    """What follows the name of an upstream that has several recipes on a board: those settings that differ."""
    told = {recipe: dict(recipe) for recipe in recipes}
    names = sorted({name for settings in told.values() for name in settings})
    differ = [name for name in names if len({settings.get(name) for settings in told.values()}) > 1]
    return {
        recipe: "".join(f", {name}={settings[name]}" for name in differ if name in settings)
        for recipe, settings in told.items()
    }


def one_per_seed(records: Iterable[Record]) -> list[Record]:
    """Of records of one recipe and one seed a single one, as it would count twice among others.

    They differ in something that no record says (how many processes trained, say). A fine-tuning is chosen by dev, else
    the latest counts.
    """
    records = list(records)
    best: dict[tuple, Record] = {}
    latest = sorted(records, key=lambda record: (record.started, record.key), reverse=True)
    for record in sorted(latest, key=lambda record: dev_of(record) if labels_of(record) else 0.0):
        best.setdefault(_seed(record), record)
    return [record for record in records if best[_seed(record)] is record]


def dev_of(record: Record) -> float:
    """Best look at dev of a fine-tuning, the lower the better."""
    values = [value for fold in record.learning_rate_curve for value in fold["dev"].values()]
    return min(values, default=float("inf"))


def labels_of(record: Record) -> str:
    """How much labelled speech a fine-tuning learned from, in one spelling; "" for a head on a store."""
    return canonical_labels(record.config.get("budget", {}).get("labels", ""))


def canonical_labels(text: str) -> str:
    """An amount of labels in the one spelling of all that mean the same: 60min is 1h, and 1.5h is 90min."""
    found = AMOUNT.fullmatch(text)
    if not found:
        return text
    minutes = float(found[1]) * (60 if found[2] == "h" else 1)
    return f"{minutes / 60:.10g}h" if minutes % 60 == 0 else f"{minutes:.10g}min"


def _seed(record: Record) -> tuple:
    """What is averaged over: seeds of weights, heads and draws of labels."""
    return record.checkpoint_hash, record.seed, str(record.config.get("labels_hash", ""))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
