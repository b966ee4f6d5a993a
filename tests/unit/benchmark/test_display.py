"""What is said while work goes on."""

import pytest

from wavbench.benchmark import display
from wavbench.benchmark.display import Display, duration


class Clock:
    """A clock that tests set."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def test_where_the_output_is_no_terminal_there_are_plain_lines_with_what_is_left(
    clock: Clock, capsys: pytest.CaptureFixture
) -> None:
    with Display() as shown:
        shown.progress("extracting", 0, 100)
        for done in (10, 20, 30, 40):
            clock.now += 6
            shown.progress("extracting", done, 100)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["extracting: 20 of 100 (20 %), 48 s left", "extracting: 40 of 100 (40 %), 36 s left"]


def test_the_time_left_counts_from_where_this_run_began(clock: Clock, capsys: pytest.CaptureFixture) -> None:
    with Display() as shown:
        shown.progress("extracting", 900, 1_000)  # resumed
        clock.now += 20
        shown.progress("extracting", 950, 1_000)
    assert "20 s left" in capsys.readouterr().out


def test_nothing_is_divided_by_zero(clock: Clock, capsys: pytest.CaptureFixture) -> None:
    with Display() as shown:
        shown.progress("a", 0, 0)
        shown.progress("b", 0, 10)
        clock.now += 60
        shown.progress("b", 0, 10)  # nothing done yet: no time can be promised
        shown.progress("c", 5, 5)
        shown.progress("d", 0, 0)
        clock.now += 60
        shown.progress("b", 10, 10)
        shown.progress("b", 10, 10)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["b: 0 of 10 (0 %)", "b: 10 of 10 in 2 min"]


def test_short_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture) -> None:
    with Display() as shown:
        for done in range(11):
            shown.progress("quick", done, 10)
            clock.now += 0.5
    assert capsys.readouterr().out == ""


def test_every_line_has_its_workers_prefix(capsys: pytest.CaptureFixture) -> None:
    with Display(prefix="[1] ") as shown:
        shown.say("one\ntwo")
    assert capsys.readouterr().out == "[1] one\n[1] two\n"


def test_a_terminal_gets_a_bar_and_brackets_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Display() as shown:
        assert shown.rich is not None
        shown.say("value [40, 60] [bold]x[/bold]")
        shown.progress("extracting", 0, 0)
        shown.progress("extracting", 1, 2)
        shown.progress("extracting", 2, 2)
        shown.progress("extracting", 0, 2)  # the same thing again, for another store
        shown.progress("training er on c[/x] with [red]y", 1, 2)
    assert "value [40, 60] [bold]x[/bold]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "60 s"), (120, "2 min"), (5_000, "83 min"), (7_200, "2.0 h")]
)
def test_times_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
