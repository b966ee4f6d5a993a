"""From a training that keeps its encoders to the figure of score against hours of audio."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from small_training import shrunk

from wavbench.benchmark.record import read_record


def test_kept_encoders_are_scored_by_the_hours_that_they_have_seen(
    wavbench: Callable, corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "hubert_tiny"
    places = (f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    with shrunk():
        done = wavbench(
            "pretrain", "objective=hubert", f"manifest={corpus}", f"out={run}", "workers=0", "threads=1", "clusters=5",
            "batch_seconds=2", "crop_seconds=0.5", "min_seconds=0.3", "steps=5", "log_every=1", "keep_every=2",
            "unit_dim=8", "precision=fp32",
        )  # fmt: skip
        assert done.code == 0, done
        table = pd.read_csv(run / "kept/kept.csv")
        assert table["steps"].tolist() == [2, 4, 5]
        begin = ("run", "task=er", f"manifest={corpus}", "budget=0.02", *places)
        for file in table["file"]:
            (path,) = wavbench(*begin, f"upstream={run / 'kept' / file}").made("record")
            told = read_record(path).config["pretraining"]
            assert (told["run"], told["hours"]) == (
                "hubert_tiny",
                table["hours"][table["file"] == file].item(),
            )
        (path,) = wavbench(*begin, "upstream=hubert_tiny", "weights=random").made("record")
        assert "pretraining" not in read_record(path).config
    assert wavbench("report", places[0]).code == 0
    found = pd.read_csv(tmp_path / "results/figures/hours_er.csv")
    assert found["hours"].tolist() == pytest.approx([0.0, *table["hours"]])
    assert (
        'aria-label="Score by hours of audio seen in pretraining: er"'
        in (tmp_path / "results/leaderboard.html").read_text()
    )
