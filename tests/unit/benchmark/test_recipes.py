"""Several recipes of one upstream on one board: rows of their own, of which each averages nothing but seeds."""

from collections.abc import Callable

import pandas as pd
import pytest

from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.plots import label_table
from wavbench.benchmark.recipes import canonical_labels
from wavbench.benchmark.tables import markdown

BUDGET = {"updates": 100, "batch_seconds": 8.0, "labels": "1h"}
RECIPE = {"task": "pr", "peak_rate": 1e-3, "head_seed": 0, "labels_seed": 0, "steps": 100, "batch_seconds": 8.0}


def tuned(make_record: Callable, value: float, dev: float = 50.0, seed: int = 0, budget=BUDGET, own=(), **recipe):
    """A record of fine-tuning; `own` is what its configuration holds beside the recipe."""
    config = {"budget": budget, "labels": 60.0, "labels_hash": "drawn", "recipe": RECIPE | {"head_seed": seed} | recipe}
    curve = [{"fold": "", "dev": {"0.001": dev}, "updates": 100}]
    return make_record(
        **{"task": "pr", "metric": "PER", "higher_is_better": False, "adaptation": "partial", "head": "linear"},
        **{"value": value, "ci95": [value, value], "seed": seed, "learning_rate_curve": curve, "secondary": {}},
        config=config | dict(own),
    )


def named(records: list) -> dict[str, tuple[float, int]]:
    (board,) = boards_of(records)
    return {row.upstream: (row.value, row.seeds) for row in board.rows}


def test_recipes_of_a_fine_tuning_are_rows_that_say_in_what_they_differ(make_record: Callable) -> None:
    rows = [
        tuned(make_record, 60.0, own={"blocks": 1}),
        tuned(make_record, 50.0, own={"blocks": 3}),
        tuned(make_record, 40.0, own={"blocks": 3}, seed=1),
        tuned(make_record, 80.0, own={"blocks": 3}, peak_rate=5e-4),
    ]
    assert named(rows) == {
        "fbank, blocks=3": (45.0, 2),
        "fbank, blocks=1": (60.0, 1),
        "fbank, blocks=3, peak_rate=0.0005": (80.0, 1),
    }
    assert "fbank, blocks=1 | 60.00" in markdown(boards_of(rows))
    assert named(rows[1:3]) == {"fbank": (45.0, 2)}  # alone a recipe has nothing to be told from


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ({"dtype": "int8"}, "fbank, dtype=int8"),
        ({"features": "streamed"}, "fbank, features=streamed"),
        ({"lm": [{"ngrams": "train", "order": 3, "unit": "word", "neural": "", "closed": False}]}, "fbank, lm=train"),
        ({"lm": [{"ngrams": "train", "order": 2, "unit": "word"}]}, "fbank, lm=train, lm_order=2"),
        ({"lm": [{"ngrams": "a.arpa", "order": 2, "unit": "character", "closed": True}]},
         "fbank, lm=a.arpa, lm_closed=True, lm_unit=character"),
    ],
)  # fmt: skip
def test_other_features_and_language_models_are_other_rows(make_record: Callable, own: dict, name: str) -> None:
    plain = make_record(value=50.0)
    assert named([plain, make_record(value=70.0, config=plain.config | own)]) == {name: (70.0, 1), "fbank": (50.0, 1)}


def test_layers_stay_with_their_mix_whatever_it_was_decoded_with(make_record: Callable) -> None:
    config = make_record().config
    layers = [make_record(layers=k, value=10.0 + k) for k in (0, 1)]
    coarse = [make_record(layers=k, value=90.0, config=config | {"dtype": "int8"}) for k in (0,)]
    mixes = [make_record(config=config | {"lm": [{"ngrams": "train"}]}), make_record()]
    (board,) = boards_of([*layers, *coarse, *mixes])
    assert {row.upstream: row.best_layer for row in board.rows} == {
        "fbank": (1, 11.0),
        "fbank, lm=train": (1, 11.0),
    }
    assert board.layers["upstream"].tolist() == ["fbank", "fbank", "fbank, dtype=int8"]


def test_one_seed_never_counts_twice(make_record: Callable) -> None:
    """Such records differ in what nobody wrote down: the number of processes, or the store's format."""
    older, newer = make_record(value=10.0), make_record(value=30.0, started="2026-02-01T00:00:00+00:00")
    assert named([newer, older, make_record(value=50.0, seed=1)]) == {"fbank": (40.0, 2)}
    assert named([tuned(make_record, 30.0, dev=9.0), tuned(make_record, 20.0, dev=10.0)]) == {"fbank": (30.0, 1)}


def test_a_recipe_without_a_younger_setting_is_that_with_its_usual_value(make_record: Callable) -> None:
    assert named([tuned(make_record, 20.0), tuned(make_record, 40.0, seed=1, layerdrop=0.0)]) == {"fbank": (30.0, 2)}


def test_the_figure_of_labels_takes_the_recipe_that_is_best_on_dev_over_all_its_seeds(make_record: Callable) -> None:
    records = [
        tuned(make_record, 70.0, dev=30.0),  # the best look of all, and the worst recipe
        tuned(make_record, 90.0, dev=60.0, seed=1),
        tuned(make_record, 50.0, dev=40.0, peak_rate=5e-4),
        tuned(make_record, 60.0, dev=42.0, seed=1, peak_rate=5e-4),
    ]
    assert label_table(records)[["value", "runs"]].to_numpy().tolist() == [[55.0, 2]]
    assert label_table(records[:2])["value"].tolist() == [80.0]


def test_amounts_of_labels_that_are_the_same_share_a_board(make_record: Callable) -> None:
    records = [tuned(make_record, 20.0), tuned(make_record, 40.0, seed=1, budget=BUDGET | {"labels": "60min"})]
    (board,) = boards_of(records)
    assert (board.training, board.rows[0].value) == ("partial fine-tuning, labels=1h", 30.0)
    table = label_table(records)
    pd.testing.assert_series_equal(table["labels"], pd.Series(["1h"], name="labels"))
    assert [canonical_labels(text) for text in ("10min", "010min", "1.5h", "120.0min", "100h", "all", "")] == [
        "10min", "10min", "90min", "2h", "100h", "all", "",
    ]  # fmt: skip
