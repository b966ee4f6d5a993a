"""Label budgets: what is drawn is nested, balanced over speakers, and no more than asked for."""

import numpy as np
import pytest

from wavbench.downstream.label_budget import draw, minutes_of
from wavbench.upstream.errors import UserError

SPEAKERS = ["a"] * 12 + ["b"] * 5 + ["c"] * 3
SECONDS = np.linspace(2.0, 8.0, len(SPEAKERS))


def test_amounts_of_speech_are_read_as_minutes() -> None:
    wanted = {"10min": 10.0, "1h": 60.0, "10h": 600.0, "100h": 6_000.0, "2.5h": 150.0, "0.5min": 0.5}
    assert {text: minutes_of(text) for text in wanted} == wanted
    assert minutes_of("all") is None


@pytest.mark.parametrize("text", ["", "10", "ten", "0min", "-1h", "1e9h", "10 min", "nanmin", "1h30min"])
def test_what_is_no_amount_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"is no amount of speech(.|\n)*way out: labels=10min"):
        minutes_of(text)


def test_a_budget_is_the_fewest_drawn_utterances_that_hold_it() -> None:
    for minutes in (0.05, 0.5, 1.0, 1.5):
        drawn = draw(SECONDS, SPEAKERS, minutes, seed=3)
        assert len(set(drawn.tolist())) == len(drawn)
        assert SECONDS[drawn].sum() >= 60 * minutes > SECONDS[drawn[:-1]].sum()


def test_a_smaller_budget_is_the_beginning_of_a_larger_one() -> None:
    whole = draw(SECONDS, SPEAKERS, None, seed=1)
    assert sorted(whole.tolist()) == list(range(20))
    for minutes in (0.1, 0.4, 1.2):
        part = draw(SECONDS, SPEAKERS, minutes, seed=1)
        assert 0 < len(part) < 20
        assert part.tolist() == whole[: len(part)].tolist()


def test_speakers_take_turns_for_as_long_as_they_have_something() -> None:
    drawn = [SPEAKERS[row] for row in draw(SECONDS, SPEAKERS, None, seed=5)]
    for turn in range(3):
        assert sorted(drawn[3 * turn : 3 * turn + 3]) == ["a", "b", "c"]
    assert [sorted(drawn[9:11]), sorted(drawn[11:13])] == [["a", "b"], ["a", "b"]]  # c has none left
    assert drawn[13:] == ["a"] * 7
    assert len({tuple(draw(SECONDS, SPEAKERS, None, seed).tolist()) for seed in range(5)}) == 5


def test_without_speakers_utterances_are_drawn_at_random() -> None:
    first = [draw(SECONDS, [""] * 20, 0.05, seed)[0] for seed in range(200)]
    assert len(set(first)) == 20


def test_a_budget_larger_than_the_data_is_refused_with_a_way_out() -> None:
    total = SECONDS.sum() / 60
    assert len(draw(SECONDS, SPEAKERS, total - 1e-9, seed=0)) == 20
    with pytest.raises(UserError, match=r"more than there is(.|\n)*1\.7 minutes(.|\n)*labels=all"):
        draw(SECONDS, SPEAKERS, total + 0.001, seed=0)
    with pytest.raises(UserError, match=r"0\.0 minutes"):
        draw(np.zeros(0), [], 1.0, seed=0)
