"""Workers that are stopped, or whose engine is: none of them works on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wavbench.benchmark import launchers
from wavbench.upstream import claims

# a worker that says for how long it is there: longer than anybody waits for its end
BEATS = "import sys, time\nfor _ in range(4000):\n open(sys.argv[1], 'a').write('x'); time.sleep(.05)"
LEADER = """
import sys
from pathlib import Path
from wavbench.benchmark import launchers
tasks = [([sys.executable, "-c", sys.argv[1], name], {}, ".") for name in sys.argv[2:]]
workers = launchers.ENGINE(tasks, {}, Path())
launchers.wait(workers, lambda: None)
"""


def tasks(*paths: Path) -> list[tuple]:
    return [([sys.executable, "-c", BEATS, str(path)], {}, ".") for path in paths]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def silent(paths: list[Path]) -> bool:
    before = [path.stat().st_size for path in paths]
    time.sleep(0.5)
    return [path.stat().st_size for path in paths] == before


@pytest.fixture
def paths(tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    return [tmp_path / str(k) for k in range(request.param)]


@pytest.mark.parametrize("paths", [1, 2], indirect=True)
def test_workers_of_joblib_end_when_the_waiting_is_interrupted(paths: list[Path]) -> None:
    pytest.importorskip("joblib")
    workers = launchers.Joblib(tasks(*paths), {}, Path())

    def interrupted() -> None:
        if all(path.is_file() for path in paths):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launchers.wait(workers, interrupted)
    assert silent(paths)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("engine", "paths"), [("Local", 2), ("Joblib", 1), ("Joblib", 2)], indirect=["paths"])
def test_workers_end_with_who_started_them(engine: str, paths: list[Path], number: int) -> None:
    pytest.importorskip("joblib")
    if sys.platform != "linux":
        pytest.skip("needs /proc and prctl")
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER.replace("ENGINE", engine), BEATS, *map(str, paths)], stderr=subprocess.DEVNULL
    )
    until(lambda: all(path.is_file() for path in paths))
    leader.send_signal(number)
    leader.wait()
    until(lambda: silent(paths))


def test_a_worker_ends_with_the_process_that_an_engine_started(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("needs prctl")
    path = tmp_path / "beats"
    code = f"from wavbench.benchmark.launchers import run; run({tasks(path)[0][0]!r}, {{}}, '.')"
    engine = subprocess.Popen([sys.executable, "-c", code])
    until(path.is_file)
    engine.kill()
    engine.wait()
    until(lambda: silent([path]))


def test_a_worker_gives_its_exit_code_and_its_leader_may_be_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, sys, time; time.sleep(1); sys.exit(int(os.environ['CODE']))"]
    assert launchers.run(command, {"CODE": "3"}, str(tmp_path)) == 3
    elsewhere = {**claims.owner(), "host": "another-machine", "while": str(tmp_path / "not here")}
    assert launchers.run(command, {"CODE": "4"}, str(tmp_path), elsewhere) == 4
    here = {**claims.owner(), "while": str(tmp_path / "not here")}
    assert launchers.run(command, {"CODE": "5"}, os.curdir, here) == -signal.SIGTERM
