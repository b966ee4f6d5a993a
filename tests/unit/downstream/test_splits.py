"""Splits, folds and trials."""

import itertools

import numpy as np
import pandas as pd
import pytest

from wavbench.downstream.spec import load_task
from wavbench.downstream.splits import shared, splits_of
from wavbench.downstream.trials import draw_trials, read_trials, write_trials
from wavbench.upstream.errors import UserError


def table(speakers: int, each: int = 4) -> pd.DataFrame:
    rows = [
        {"id": f"u{s}-{k}", "speaker": f"s{s:02d}", "emotion": "ab"[k % 2]}
        for s in range(speakers)
        for k in range(each)
    ]
    parts = ["train"] * (speakers - 2) + ["dev", "test"]
    return pd.DataFrame(rows).assign(split=np.repeat(parts, each))


def test_a_corpus_of_few_speakers_leaves_each_out_with_another_as_dev() -> None:
    rows = table(6)
    folds = splits_of(rows, load_task("er"))
    assert len(folds) == 6
    for fold in folds:
        parts = [set(rows["speaker"].iloc[part]) for part in (fold.train, fold.dev, fold.test)]
        assert [len(part) for part in parts] == [4, 1, 1]
        assert all(a.isdisjoint(b) for a, b in itertools.combinations(parts, 2))
        assert parts[2] == {fold.name}
        assert shared(rows, fold, "speaker") == 0
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(rows)))


def test_sessions_that_a_speaker_comes_back_to_are_not_left_out_in_turn() -> None:
    rows = table(6)
    apart = rows.assign(session=rows["speaker"].map(lambda name: f"day {int(name[1:]) // 2}"))
    assert [fold.name for fold in splits_of(apart, load_task("er"))] == ["day 0", "day 1", "day 2"]
    again = rows.assign(session=[f"day {k % 4}" for k in range(len(rows))])  # everybody comes every day
    folds = splits_of(again, load_task("er"))
    assert [fold.name for fold in folds] == sorted(rows["speaker"].unique())
    assert all(shared(again, fold, "speaker") == 0 for fold in folds)


def test_a_corpus_of_many_speakers_keeps_its_own_split() -> None:
    rows = table(12)
    (split,) = splits_of(rows, load_task("er"))
    assert set(rows["split"].iloc[split.dev]) == {"dev"}
    assert len(split.train) == 40


def test_an_empty_part_is_named_with_the_counts() -> None:
    rows = table(12)
    rows.loc[rows["split"] == "dev", "split"] = "train"
    with pytest.raises(UserError, match="no row in the dev split") as error:
        splits_of(rows, load_task("lid"))
    assert "train 44, dev 0, test 4" in error.value.why


def test_speakers_that_a_split_shares_are_counted() -> None:
    rows = table(12)
    rows.loc[rows.index[-1], "speaker"] = "s00"
    (split,) = splits_of(rows, load_task("lid"))
    assert shared(rows, split, "speaker") == 1


def test_trials_are_drawn_from_ids_and_seed_alone() -> None:
    ids, speakers = [f"u{k}" for k in range(30)], [f"s{k % 5}" for k in range(30)]
    drawn = draw_trials(ids, speakers, 0)
    order = np.random.default_rng(0).permutation(30)
    again = draw_trials([ids[k] for k in order], [speakers[k] for k in order], 0)
    pd.testing.assert_frame_equal(drawn, again)
    speaker = dict(zip(ids, speakers, strict=True))
    assert (drawn["enroll"].map(speaker).eq(drawn["test"].map(speaker)) == drawn["target"]).all()
    assert (drawn["enroll"] != drawn["test"]).all()
    assert not drawn.duplicated(["enroll", "test"]).any()


def test_another_seed_draws_other_trials_where_there_are_too_many() -> None:
    ids, speakers = [f"u{k:04d}" for k in range(400)], [f"s{k % 5}" for k in range(400)]
    first, second = draw_trials(ids, speakers, 0), draw_trials(ids, speakers, 1)
    assert not first.equals(second)
    assert len(first) == len(second)


def test_trials_of_a_large_split_are_drawn_from_some_of_its_utterances() -> None:
    drawn = draw_trials([f"u{k:05d}" for k in range(50_000)], [f"s{k % 300}" for k in range(50_000)], 0)
    assert (len(drawn), int(drawn["target"].sum())) == (25_000, 5_000)


def test_one_speaker_gives_no_trials() -> None:
    with pytest.raises(UserError, match="no trials can be drawn"):
        draw_trials(["a", "b"], ["s", "s"], 0)


def test_trials_are_read_as_csv_and_as_voxceleb_lists(tmp_path) -> None:
    trials = draw_trials(["a", "b", "c", "d"], ["x", "x", "y", "y"], 0)
    write_trials(trials, tmp_path / "trials.csv")
    pd.testing.assert_frame_equal(read_trials(tmp_path / "trials.csv"), trials)
    lines = [f"{int(t.target)} {t.enroll} {t.test}" for t in trials.itertuples()]
    (tmp_path / "veri_test.txt").write_text("\n".join(lines))
    pd.testing.assert_frame_equal(read_trials(tmp_path / "veri_test.txt")[["enroll", "test", "target"]], trials)


@pytest.mark.parametrize("text", ["", "enroll,test\na,b\n", "enroll,test,target\na,b,maybe\n"])
def test_a_trials_file_of_something_else_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "trials.csv").write_text(text)
    with pytest.raises(UserError, match="trials"):
        read_trials(tmp_path / "trials.csv")


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.csv", "enroll,test,target\r\na,b,1\r\na,c,0\r\n"), ("t.txt", "1 a b\r\n0 a c\r\n")],
)
def test_trials_of_other_tools_may_have_a_byte_order_mark_and_windows_line_ends(tmp_path, name, text) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    trials = read_trials(tmp_path / name)
    assert trials["enroll"].tolist() == ["a", "a"]
    assert trials["test"].tolist() == ["b", "c"]
    assert trials["target"].tolist() == [True, False]
