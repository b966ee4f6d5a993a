"""The rows that figures show."""

from collections.abc import Callable

from wavbench.benchmark.foremost import MOST, foremost, records_of
from wavbench.benchmark.leaderboard import boards_of


def many(make_record: Callable, count: int) -> list:
    records = [make_record(upstream=f"u{k:02d}", value=90.0 - k) for k in range(count - 1)]
    records += [make_record(upstream=f"u{k:02d}", value=90.0 - k, layers=1) for k in range(count - 1)]
    return [*records, make_record(upstream="fbank", value=1.0)]


def test_figures_show_the_best_rows_and_filterbanks(make_record: Callable) -> None:
    records = many(make_record, MOST + 5)
    boards = boards_of(records)
    (few,) = foremost(boards)
    names = [row.upstream for row in few.rows]
    assert names == [f"u{k:02d}" for k in range(MOST)] + ["fbank"]
    assert set(few.layers["upstream"]) == set(names) - {"fbank"}
    assert few.rows[-1].rank == MOST + 5
    kept = records_of(boards, [few], records)
    assert {record.upstream for record in kept} == set(names)
    assert len(kept) == 2 * MOST + 1


def test_short_boards_stay_as_they_are(make_record: Callable) -> None:
    records = many(make_record, MOST)
    boards = boards_of(records)
    assert foremost(boards) == boards
    assert records_of(boards, foremost(boards), records) == records
    alone = [make_record(layers=1)]
    assert records_of(boards_of(alone), foremost(boards_of(alone)), alone) == alone


def test_a_random_twin_keeps_its_worse_seeds_or_loses_all(make_record: Callable) -> None:
    def twin(seed: int, value: float):
        return make_record(checkpoint=f"u random seed {seed}", checkpoint_hash=f"{seed:040x}", value=value)

    records = [*many(make_record, MOST - 1), *(twin(seed, 95.0 - 30 * seed) for seed in range(3))]
    boards = boards_of(records)
    assert len(boards[0].rows) > MOST
    assert foremost(boards) == boards  # twelve lines
    assert records_of(boards, foremost(boards), records) == records
    records = [*many(make_record, MOST + 3), *(twin(seed, 5.0 - seed) for seed in range(3))]
    boards = boards_of(records)
    kept = records_of(boards, foremost(boards), records)
    assert not [record for record in kept if "random" in record.checkpoint]


def test_upstreams_of_which_single_layers_alone_were_scored_stay(make_record: Callable) -> None:
    single = [make_record(upstream="single", layers=layer) for layer in (0, 1)]
    records = [*many(make_record, MOST + 5), *single]
    boards = boards_of(records)
    few = foremost(boards)
    assert [r for r in records_of(boards, few, records) if r.upstream == "single"] == single
    assert "single" in set(few[0].layers["upstream"])


def test_encoders_kept_along_one_training_take_one_place(make_record: Callable) -> None:
    config = make_record().config
    moments = [
        make_record(
            upstream=f"run_step{k}",
            value=95.0 - k,
            config={**config, "pretraining": {"run": "run", "id": "a", "hours": k}},
        )
        for k in range(MOST)
    ]
    boards = boards_of([*moments, *many(make_record, MOST - 1)])
    assert len(boards[0].rows) > MOST
    assert foremost(boards) == boards
