"""What a page shows when a cell is opened: each record in few words, with its confusions and its errors.

All of it goes into the page as JSON, so it is kept short: a text that many records share (a config, a set of versions)
stands there once, scores are counted in bins, and a part whose file is missing is left out.
"""

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from wavbench.benchmark.forked import mapped, workers_for
from wavbench.benchmark.leaderboard import Board
from wavbench.benchmark.record import Record, read_scores
from wavbench.upstream.errors import UserError

MATRIX = 12  # classes up to which a confusion matrix is shown whole
FREQUENT = 12  # confusions that are named where there are more classes
BINS = 20  # of a histogram
PEOPLE = 3  # speakers from which on their spread is shown
DIGITS = 6  # of numbers in the page
SAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Reference:
    """What a page shows beside records.

    Args:
        published: rows of others' publications with SUPERB's scores made anew from their columns; None without any.
        overall: columns upstream, score, borda, boards: scores over several boards.
        counted: names of those boards.
        licences: of the recordings, by corpus.
        speeds: of extraction, one dict per measurement.
        problems: what could not be read.
    """

    published: pd.DataFrame | None = None
    overall: pd.DataFrame = field(default_factory=pd.DataFrame)
    counted: tuple[str, ...] = ()
    licences: dict[str, str] = field(default_factory=dict)
    speeds: tuple[dict, ...] = ()
    problems: tuple[UserError, ...] = ()


class Texts:
    """What many records share, each once; `place` is where something stands in `all`."""

    def __init__(self) -> None:
        self.all: list = []
        self._places: dict[str, int] = {}

    def place(self, value: object) -> int:
        place = self._places.setdefault(json.dumps(value), len(self.all))
        if place == len(self.all):
            self.all.append(value)
        return place


def cells_of(boards: list[Board], records: Iterable[Record], results: Path, licences: dict[str, str]) -> dict:
    """The records that a page opens.

    Args:
        boards: whose rows and layers are opened.
        records: all of them.
        results: folder that their scores are in.
        licences: of the recordings, by corpus.

    Returns:
        `cells`, one per record, and `texts` that they share, each at the place that a cell names.
    """
    known = {record.key: record for record in records}
    texts, cells = Texts(), {}
    for board in boards:
        for row in board.rows:
            for key in row.keys:
                cells[key] = {"key": key, "of": row.upstream} | ({"seeds": row.keys} if len(row.keys) > 1 else {})
        for layer in board.layers.itertuples():
            cells.setdefault(layer.key, {"key": layer.key, "of": layer.upstream})
    places = {key: place for place, key in enumerate(cells)}
    counts = mapped(partial(_counted_of, results), [known[key] for key in cells], workers_for(len(cells)))
    for (key, cell), counted in zip(cells.items(), counts, strict=True):
        if "seeds" in cell:
            cell["seeds"] = [places[other] for other in cell["seeds"]]
        cell |= _told(known[key], texts, licences)
        for name, (first, *rest) in counted.items():
            cell[name] = [texts.place(first) if isinstance(first, list) else first, *rest]
    return {"cells": list(cells.values()), "texts": texts.all}


def data_block(value: object) -> str:
    """JSON whose text can stand between script tags and closes none."""
    text = json.dumps(_short(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter, escaped in SAFE.items():
        text = text.replace(letter, escaped)
    return text


def _told(record: Record, texts: Texts, licences: dict[str, str]) -> dict:
    """The fields of a record that a page shows: those that a whole board shares together in one text."""
    config = {name: value for name, value in record.config.items() if name not in ("heard", "licence")}
    about = {
        "task": record.task,
        "corpus": record.corpus,
        "corpus hash": record.corpus_hash,
        "licence": licences.get(record.corpus, "not recorded"),
        "split": record.split,
        "protocol": f"{record.protocol} {record.protocol_version}",
        "head": record.head,
        "adaptation": record.adaptation,
        "metric": record.metric,
        "unit": record.unit,
        "higher": record.higher_is_better,
        "n": record.n,
        "over": record.ci_unit,
        "commit": record.commit,
        "versions": record.versions,
        "heard": record.config.get("heard", []),
    }
    weights = [round(weight, 4) for weight in record.layer_weights]
    return {
        "about": texts.place(about),
        "checkpoint": texts.place([record.checkpoint, record.checkpoint_hash]),
        "store": record.store_fingerprint,
        "config": texts.place(json.dumps(config, ensure_ascii=False, indent=1)),
        "layers": record.layers,
        "seed": record.seed,
        "value": [record.value, *record.ci95],
        "secondary": _pairs(record.secondary, texts),
        "cost": _pairs(record.cost, texts),
        "weights": [texts.place(record.layer_numbers), *weights] if weights else [],
        "rates": [
            [rate, *_pairs(fold.get("dev", {}), texts)]
            for fold, rate in zip(record.learning_rate_curve, record.learning_rate, strict=False)
        ],
        "started": record.started,
    }


def _pairs(values: dict[str, float], texts: Texts) -> list:
    """The place of the names, then the values."""
    return [texts.place(list(values)), *values.values()]


def _counted_of(results: Path, record: Record) -> dict[str, list]:
    """What is counted of one record, by name: first, where it has names, a list of these."""
    return _confusion(results, record) | _errors(results, record)


def _confusion(results: Path, record: Record) -> dict[str, list]:
    """Counts of classes (rows) that were taken for others (columns), or the most frequent ones of many classes."""
    try:
        with open(results / "runs" / f"{record.key}.confusion.csv", encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        classes = header[1:]
        counts = np.array([[int(count) for count in line[1:]] for line in lines])
        if counts.shape != (len(classes), len(classes)) or [line[0] for line in lines] != classes:
            return {}
    except (OSError, ValueError, IndexError, csv.Error):
        return {}
    if len(classes) <= MATRIX:
        return {"confusion": [classes, *counts.tolist()]}
    wrong = counts * (1 - np.eye(len(classes), dtype=int))
    places = np.argsort(-wrong, axis=None, kind="stable")[:FREQUENT]
    pairs = [divmod(int(place), len(classes)) for place in places]
    named = [[classes[a], classes[b], int(wrong[a, b])] for a, b in pairs if wrong[a, b]]
    return {"frequent": [len(classes), *named]}


def _errors(results: Path, record: Record) -> dict[str, list]:
    """How scores are spread over test items: counts in bins of equal width, and what they count."""
    wanted = {"EER": ("score", "target"), "BLEU": ("correct_1", "total_1")}.get(record.metric, ("errors", "tokens"))
    try:
        scores = read_scores(results, record.key, {*wanted, "speaker"})
        first, second = (scores[name].to_numpy(float) for name in wanted)
        found = _spread(record.metric, first, second, scores.get("speaker")) if len(first) else None
    except (UserError, KeyError, ValueError):  # bins as well: no computer divides some ranges
        return {}
    if not found:
        return {}
    what, edges, counts, names = found
    return {"errors": [[what, *names], edges[0], edges[-1], *counts]}


def _spread(
    metric: str, first: Float[np.ndarray, " rows"], second: Float[np.ndarray, " rows"], speakers: pd.Series | None
) -> tuple | None:
    """What is counted, the edges of bins, counts of each series, and the names of the series."""
    if metric == "EER":
        edges = np.linspace(first.min(), first.max() if first.max() > first.min() else first.min() + 1, BINS + 1)
        own = [np.histogram(first[chosen], edges)[0] for chosen in (second > 0, second <= 0)]
        return _counted("trials by score", edges, own, ["same speaker", "different speakers"])
    if metric == "BLEU":
        share = (100 * first / np.maximum(second, 1)).clip(0, 100)
        what, edges = "utterances by words that are in the reference (%)", np.linspace(0, 100, BINS + 1)
        return _counted(what, edges, [np.histogram(share, edges)[0]], [])
    what = "utterances by error rate (%)"
    if (second <= 1).all():  # right or wrong says nothing of one utterance, so people are counted
        if speakers is None or speakers.nunique() < PEOPLE:
            return None
        codes, _ = pd.factorize(speakers)
        first, second = (np.bincount(codes[codes >= 0], own[codes >= 0]) for own in (first, second))
        what = "speakers by error rate (%)"
    rates = 100 * first[second > 0] / second[second > 0]
    edges = np.linspace(0, 100 if rates.max(initial=0) <= 100 else 200, BINS + 1)
    return _counted(what, edges, [np.histogram(rates.clip(0, edges[-1]), edges)[0]], [])


def _counted(what: str, edges: Float[np.ndarray, " edges"], counts: list, names: list[str]) -> tuple:
    return what, edges.tolist(), [own.tolist() for own in counts], names


def _short(value: object) -> object:
    """The same with numbers of few digits, and nothing in the place of those that JSON does not have."""
    if isinstance(value, dict):
        return {name: _short(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_short(own) for own in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        rounded = float(f"{value:.{DIGITS}g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
    return value
