"""Records made by hand, for everything that reads records."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark.analysis_record import Analysis
from wavbench.benchmark.record import Record, key_of, write_record

VALUES = {  # of analyses of two layers
    "cka": {"cka": [[1.0, 0.5], [0.4, 1.0]], "debiased": [[1.0, 0.45], [0.35, 1.0]]},
    "cca": {
        "weighted": [[0.2, 0.3, 0.25, 0.25], [0.6, 0.7, 0.65, 0.65]],
        "plain": [[0.1] * 4, [0.5] * 4],
        "fitted": [[0.4] * 4, [0.8] * 4],
        "ridge": [[0.01] * 4, [0.001] * 4],
        "permuted": [[0.01, -0.02, 0.0, 0.03], [0.02, -0.01, 0.0, 0.01]],
        "classes": 5,
        "rows": 400,
    },
    "norms": {"norm": [2.0, 8.0], "deviation": [0.5, 1.0]},
    "tsne": {
        "layer": 1,
        "chosen": "the middle one",
        "x": [0.0, 1.0, 5.0],
        "y": [0.0, 1.0, 6.0],
        "utterance": ["0a", "0b", "0c"],
        "label": ["joy", "joy", "fear"],
        "neighbour": 0.67,
        "chance": 0.56,
    },
}


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """A function from changed fields to a record; its key follows from them."""

    def make(**changes) -> Record:
        values = {
            "task": "er",
            "corpus": "emotions",
            "corpus_hash": "c0ffee",
            "synthetic": False,
            "split": "test",
            "upstream": "fbank",
            "checkpoint": changes.get("upstream", "fbank"),
            "checkpoint_hash": f"hash of {changes.get('upstream', 'fbank')}",
            "store_fingerprint": "f00d",
            "protocol": "clean",
            "protocol_version": 1,
            "adaptation": "frozen",
            "head": "mean_linear",
            "layers": "mix",
            "layer_numbers": [0, 1],
            "layer_weights": [0.5, 0.5],
            "seed": 0,
            "learning_rate": [0.001],
            "learning_rate_curve": [{"fold": "", "dev": {"0.001": 50.0}, "updates": 100}],
            "metric": "accuracy",
            "unit": "%",
            "higher_is_better": True,
            "value": 50.0,
            "ci95": [40.0, 60.0],
            "ci_unit": "speaker",
            "n": 100,
            "secondary": {"macro_recall": 45.0, "chance": 25.0},
            "cost": {
                "extract_s": 1.0,
                "fit_s": 2.0,
                "fit_memory_mb": 300.0,
                "store_mb": 4.0,
                "parameters": 1000.0,
                "upstream_parameters": 2e6,
            },
            "versions": {"python": "3.11.0", "torch": "2.11.0"},
            "commit": "0123456789ab",
            "started": "2026-01-01T00:00:00+00:00",
            "config": {"budget": {"updates": 2000, "batch": 32}, "upstream": {}, "trials": False},
        } | changes
        values.setdefault("key", key_of({k: v for k, v in values.items() if k not in ("cost", "commit", "started")}))
        return Record(**values)

    return make


@pytest.fixture(scope="session")
def write_records() -> Callable[..., None]:
    """A function that writes records, with scores of equal rows that give their value, into a results folder."""

    def write(results: Path, *records: Record) -> None:
        for record in records:
            errors = 100 - record.value if record.metric == "accuracy" else record.value
            names = [f"{row:04x}" for row in range(record.n)]
            write_record(results, record, pd.DataFrame({"utterance": names, "errors": errors, "tokens": 100}), None)

    return write


@pytest.fixture(scope="session")
def make_analysis() -> Callable[..., Analysis]:
    """A function from a kind and changed fields to an analysis of upstreams with two layers each."""

    def make(kind: str, *upstreams: str, **changes) -> Analysis:
        upstreams = list(upstreams or (("deep", "deep") if kind == "cka" else ("deep",)))
        fields = {
            "kind": kind,
            "corpus": "emotions",
            "corpus_hash": "c0ffee",
            "synthetic": False,
            "label": {"cca": "phones", "tsne": "emotion"}.get(kind, ""),
            "upstreams": upstreams,
            "checkpoint_hashes": [f"hash of {name}" for name in upstreams],
            "store_fingerprints": [f"store of {name}" for name in upstreams],
            "layers": [[0, 1] for _ in upstreams],
            "dims": [8 for _ in upstreams],
            "frame_rates": [50.0 for _ in upstreams],
            "sample": {"utterances": 20, "frames": 400, "seed": 0},
            "values": VALUES[kind],
            "cost": {"seconds": 1.0},
            "versions": {"python": "3.11.0", "torch": "2.11.0"},
            "commit": "0123456789ab",
            "started": "2026-01-01T00:00:00+00:00",
        } | changes
        fields.setdefault("key", key_of({name: fields[name] for name in fields if name != "cost"}))
        return Analysis(**fields)

    return make
