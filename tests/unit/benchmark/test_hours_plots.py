"""Score against hours of audio: lines of trainings, which begin with their random twins."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest

from wavbench.benchmark.hours_plots import hours_seen
from wavbench.benchmark.record import read_record, write_record
from wavbench.upstream.errors import UserError

SHAPE = {"family": "hubert", "dim": 192}


def moment(make_record: Callable, hours: float, value: float, run: str = "hubert_tiny", id: str = "a1", **changes):
    config = make_record().config | {"upstream": SHAPE}
    trained = {"run": run, "id": id, "steps": int(100 * hours), "hours": hours} | changes.pop("trained", {})
    name = f"{run}_step{trained['steps']}_{hours:.2f}h {id}"
    changes = {"upstream": name, "value": value, "ci95": [value - 5, value + 5], "layers": "mix"} | changes
    return make_record(config=config | {"pretraining": trained}, **changes)


def twin(make_record: Callable, seed: int, value: float, **changes):
    config = make_record().config | {"upstream": changes.pop("shape", SHAPE)}
    return make_record(upstream=f"hubert_tiny random seed {seed}", value=value, config=config, **changes)


@pytest.fixture
def records(make_record: Callable) -> list:
    return [
        moment(make_record, 2.0, 45.0),
        moment(make_record, 1.0, 40.0),
        moment(make_record, 1.0, 42.0, seed=1),
        twin(make_record, 0, 20.0),
        twin(make_record, 1, 26.0, shape=SHAPE | {"family": "wav2vec2"}),  # before training they are the same
        twin(make_record, 2, 90.0, shape={"family": "wav2vec2"}),  # of another shape
        make_record(upstream="fbank", value=30.0),
    ]


def table(folder: Path, task: str = "er") -> pd.DataFrame:
    return pd.read_csv(folder / f"hours_{task}.csv")


def test_a_line_begins_with_its_twins_and_rises_with_the_hours(tmp_path: Path, records: list) -> None:
    assert hours_seen(records, tmp_path) == {"hours_er": tmp_path / "hours_er.svg"}
    assert matplotlib.image.imread(tmp_path / "hours_er.png").std() > 0.01
    found = table(tmp_path)
    assert found[["training", "hours", "value", "low", "high", "seeds"]].to_numpy().tolist() == [
        ["hubert_tiny", 0.0, 23.0, 20.0, 26.0, 2],
        ["hubert_tiny", 1.0, 41.0, 40.0, 42.0, 2],
        ["hubert_tiny", 2.0, 45.0, 40.0, 50.0, 1],
    ]
    assert found["band"].tolist() == ["range over seeds", "range over seeds", "95 % interval"]


def test_a_training_that_began_with_other_weights_does_not_begin_at_nothing(
    tmp_path: Path, make_record: Callable
) -> None:
    begun = {"trained": {"init": "b2"}}
    records = [moment(make_record, h, 40.0 + h, **begun) for h in (1.0, 2.0)] + [twin(make_record, 0, 20.0)]
    hours_seen(records, tmp_path)
    assert table(tmp_path)["hours"].tolist() == [1.0, 2.0]


def test_two_trainings_of_one_name_are_two_lines(tmp_path: Path, make_record: Callable) -> None:
    hours_seen([moment(make_record, h, 40.0, id=id) for id in ("a1", "b2") for h in (1.0, 2.0)], tmp_path)
    assert set(table(tmp_path)["training"]) == {"hubert_tiny #a1", "hubert_tiny #b2"}


def test_a_single_moment_single_layers_and_unknown_hours_are_no_line(tmp_path: Path, make_record: Callable) -> None:
    alone = [moment(make_record, 1.0, 40.0), make_record(upstream="base", value=50.0)]
    layers = [moment(make_record, h, 40.0, layers=3, task="lid") for h in (1.0, 2.0)]
    assert hours_seen(alone + layers, tmp_path) == {}
    assert hours_seen([alone[0], twin(make_record, 0, 20.0)], tmp_path) == {}  # two points of which one was trained


@pytest.mark.parametrize(
    "trained", [3, {"hours": "1", "run": "a", "id": "b"}, {"hours": 1.0}, {"hours": -1.0, "run": "a", "id": "b"}]
)
def test_a_record_with_hours_that_are_none_is_refused(tmp_path: Path, make_record: Callable, trained: object) -> None:
    scores = pd.DataFrame({"utterance": ["0a"], "errors": [0], "tokens": [1]})
    sound = write_record(tmp_path, moment(make_record, 1.0, 40.0), scores, None)
    assert read_record(sound).config["pretraining"]["hours"] == 1.0
    record = make_record(config=make_record().config | {"pretraining": trained})
    with pytest.raises(UserError, match="a record cannot be read"):
        read_record(write_record(tmp_path, record, scores, None))
