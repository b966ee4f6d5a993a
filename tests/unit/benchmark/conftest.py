"""Records made by hand, for everything that reads records."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark.record import Record, key_of, write_record


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
                "peak_memory_mb": 300.0,
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
    """A function that writes records, with scores of one row each, into a results folder."""

    def write(results: Path, *records: Record) -> None:
        for record in records:
            write_record(results, record, pd.DataFrame({"utterance": ["0a"], "errors": [0], "tokens": [1]}), None)

    return write
