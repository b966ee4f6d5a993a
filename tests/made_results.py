"""Results folders full of records made up from a seed: boards of every metric, layers, seeds, scores that fit."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.benchmark.record import Record, key_of, write_record
from wavbench.downstream.metrics import BLEU_COUNTS, METRICS, confusion

RATES = ("0.0001", "0.00032", "0.001", "0.0032", "0.01")
TASKS = {  # metric, unit, whether higher is better, head
    "er": ("accuracy", "%", True, "mean_linear"),
    "asr": ("WER", "%", False, "blstm"),
    "asv": ("EER", "%", False, "projection"),
    "phones": ("frame accuracy", "%", True, "affine"),
    "pr": ("PER", "%", False, "linear"),
    "st": ("BLEU", "BLEU", True, "translator"),
    "lid": ("accuracy", "%", True, "mean_linear"),
    "ks": ("accuracy", "%", True, "mean_linear"),
}
CLASSES = ("anger", "fear", "happiness", "neutral", "sadness", "surprise")
UPSTREAM = {"family": "wav2vec2", "dim": 768, "num_layers": 12, "num_heads": 12, "inner_dim": 3072, "pre_norm": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """How many records a results folder holds.

    Args:
        upstreams: on every board, `fbank` the first of them.
        boards: of tasks in turn, each on a corpus of its own.
        layers: probed alone beside each mix, 0 for none.
        seeds: of every mix.
        utterances: of every test set.
        trials: of those of verification.
    """

    upstreams: int = 40
    boards: int = 25
    layers: int = 0
    seeds: int = 1
    utterances: int = 500
    trials: int = 5_000

    @property
    def records(self) -> int:
        return self.upstreams * self.boards * (self.layers + self.seeds)


def write_results(results: Path, shape: Shape, seed: int = 0) -> None:
    """Fill a results folder."""
    random = np.random.default_rng(seed)
    names = [f"upstream_{k:02d}_base" for k in range(shape.upstreams)]
    names[0] = "fbank"
    skills = np.sort(random.normal(0, 1, shape.upstreams))
    for board in range(shape.boards):
        task = list(TASKS)[board % len(TASKS)]
        items = _items(task, shape, np.random.default_rng([seed, board]))
        taste = random.normal(0, 0.4, shape.upstreams)
        for k, name in enumerate(names):
            depth = 1 if name == "fbank" else shape.layers
            best = random.uniform(0.3, 0.9) * depth
            for layer in range(depth if shape.layers else 0):
                skill = skills[k] + taste[k] - 0.2 - ((layer - best) / max(depth, 1)) ** 2
                _write(results, task, board, name, layer, 0, items, skill, depth, random)
            for head_seed in range(shape.seeds):
                skill = skills[k] + taste[k] + random.normal(0, 0.03)
                _write(results, task, board, name, "mix", head_seed, items, skill, max(depth, 13), random)


def _items(task: str, shape: Shape, random: np.random.Generator) -> pd.DataFrame:
    """The test items of a board, without what an upstream scores on them."""
    count = shape.trials if task == "asv" else shape.utterances
    speakers = [f"{k:08x}" for k in random.integers(0, 2**32, 20)]
    columns = {"utterance": [f"{k:08x}" for k in random.integers(0, 2**32, count)]}
    columns["speaker"] = [speakers[k] for k in random.integers(0, 20, count)]
    if task == "asv":
        columns["utterance_b"] = columns["utterance"][::-1]
        columns["speaker_b"] = [speakers[k] for k in random.integers(0, 20, count)]
        columns["target"] = (np.arange(count) % 5 == 0).astype(int)
    elif task in ("er", "lid", "ks"):
        columns["label"] = [CLASSES[k] for k in random.integers(0, len(CLASSES), count)]
    else:
        columns["length"] = random.integers(5, 60, count)
    return pd.DataFrame(columns)


def _scores(task: str, items: pd.DataFrame, skill: float, random: np.random.Generator) -> pd.DataFrame:
    """Columns of a scores file."""
    wrong, count = 1 / (1 + np.exp(0.8 * skill + 0.5)), len(items)
    if task == "asv":
        score = (random.normal(0, 1, count) + (1.5 + skill / 2) * items["target"]).round(5)
        return items.drop(columns="target").assign(score=score, target=items["target"])
    if "label" in items:
        errors = (random.random(count) < wrong).astype(int)
        other = random.integers(1, len(CLASSES), count)
        places = (items["label"].map(CLASSES.index) + other * errors) % len(CLASSES)
        predicted = [CLASSES[k] for k in places]
        named = items[["label"]].assign(prediction=predicted)
        return items.drop(columns="label").assign(errors=errors, tokens=1, **named)
    length = items["length"].to_numpy()
    kept = items.drop(columns="length")
    if task == "st":
        counts = {"sys_len": length, "ref_len": length}
        correct = length
        for n in range(1, 5):
            total = np.maximum(length - n + 1, 0)
            correct = random.binomial(np.minimum(correct, total), 1 - wrong)
            counts |= {f"correct_{n}": correct, f"total_{n}": total}
        return kept.assign(**{name: counts[name] for name in BLEU_COUNTS})
    return kept.assign(errors=random.binomial(length, wrong), tokens=length)


def _write(
    results: Path,
    task: str,
    board: int,
    name: str,
    layer: int | str,
    seed: int,
    items: pd.DataFrame,
    skill: float,
    depth: int,
    random: np.random.Generator,
) -> None:
    metric, unit, higher, head = TASKS[task]
    scores = _scores(task, items, skill, random)
    value = float(METRICS[metric](scores)[0])
    rates = _rates(value, higher, random)
    numbers = [0] if name == "fbank" else list(range(depth))
    weights = random.dirichlet(np.full(len(numbers), 30.0)).round(6).tolist()
    size = 0.0 if name == "fbank" else 95e6 * (1 + len(name) % 3)
    values = {
        "task": task,
        "corpus": f"corpus_{board // len(TASKS)}",
        "corpus_hash": f"{board:020x}",
        "synthetic": False,
        "split": "test",
        "upstream": name,
        "checkpoint": name,
        "checkpoint_hash": key_of({"weights": name}),
        "store_fingerprint": key_of({"store": name, "board": board}),
        "protocol": "clean",
        "protocol_version": 1,
        "adaptation": "frozen",
        "head": head,
        "layers": layer,
        "layer_numbers": numbers if layer == "mix" else [layer],
        "layer_weights": weights if layer == "mix" else [],
        "seed": seed,
        "learning_rate": [float(max(rates, key=lambda rate: rates[rate] * (1 if higher else -1)))],
        "learning_rate_curve": [{"fold": "", "dev": rates, "updates": 900}],
        "metric": metric,
        "unit": unit,
        "higher_is_better": higher,
        "value": round(value, 4),
        "ci95": [round(value - 2.3, 4), round(value + 2.1, 4)],
        "ci_unit": "speaker",
        "n": len(items),
        "secondary": {"chance": 16.7 if higher else 96.0},
        "cost": {
            "extract_s": round(random.uniform(20, 400) + size / 1e6, 2),
            "fit_s": round(random.uniform(4, 90), 2),
            "fit_memory_mb": round(random.uniform(900, 6000), 1),
            "store_mb": round(random.uniform(40, 4000), 2),
            "parameters": 50693.0,
            "upstream_parameters": size,
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "commit": "0123456789ab",
        "started": "2026-01-01T00:00:00+00:00",
        "config": {
            "budget": {"updates": 2000, "batch": 32, "evaluate_every": 100, "learning_rates": list(map(float, RATES))},
            "effective_batch": {"utterances": 31.76, "audio_seconds": 95.29},
            "upstream": {"family": "fbank", "num_mels": 80} if name == "fbank" else UPSTREAM,
            "heard": ["mini_librispeech"] if board % 9 == 3 and len(name) % 2 else [],
            "trials": False,
        },
    }
    record = Record(key=key_of({k: v for k, v in values.items() if k not in ("cost", "commit", "started")}), **values)
    write_record(results, record, scores, None, confusion=confusion(scores) if "label" in scores else None)


def _rates(value: float, higher: bool, random: np.random.Generator) -> dict[str, float]:
    """Scores on dev by learning rate, best somewhere in the middle."""
    best, sign = random.integers(1, len(RATES) - 1), 1 if higher else -1
    return {rate: value - sign * (2.0 * abs(k - best) + random.random()) for k, rate in enumerate(RATES)}


def write_many(folder: Path, shapes: Sequence[tuple[str, Shape]]) -> None:
    """A results folder for each shape, by name."""
    for name, shape in shapes:
        write_results(folder / name, shape)
