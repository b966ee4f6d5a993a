"""How long a fine-tuning took, whatever stopped it."""

from pathlib import Path

import pytest

from wavbench.benchmark.finetuning import training_seconds


def test_the_time_of_a_run_is_that_of_all_its_processes(tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    # 360 s of audio at 36 a second, 720 s at 72 before a stop, 180 s at 18 after it
    table.write_text("step,audio_hours,audio_seconds_per_second\n1,0.1,36\n2,0.3,72\n3,0.35,18\n")
    assert training_seconds(table) == pytest.approx(10 + 10 + 10)
