"""Claims: one living owner per block, and none that a dead process keeps."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wavbench.upstream import claims
from wavbench.upstream.errors import UserError


def leave_claim(folder: Path, key: str, **record: object) -> Path:
    """A claim as another process would have written it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{key}.claim"
    path.write_text(json.dumps({"token": "other", "expires_after_s": 600, **claims.owner(), **record}))
    return path


def gone_pid() -> int:
    """The number of a process that ended and was waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_claim_is_a_file_while_it_is_held(tmp_path: Path) -> None:
    with claims.take(tmp_path, "block") as claim:
        record = json.loads((tmp_path / "block.claim").read_text())
        assert record["pid"] == os.getpid()
        assert record["host"].startswith(socket.gethostname())
        assert claim.token == record["token"]
    assert list(tmp_path.iterdir()) == []


def test_a_held_block_is_not_given_twice(tmp_path: Path) -> None:
    with claims.take(tmp_path, "block"):
        assert claims.take(tmp_path, "block") is None
        with claims.take(tmp_path, "other") as other:
            assert other is not None
    assert claims.take(tmp_path, "block") is not None


def _take_all(folder: Path, count: int, start, taken) -> None:
    start.wait()
    for key in range(count):
        if claims.take(folder, f"{key:03d}"):
            taken.put((os.getpid(), key))
    taken.put(None)
    time.sleep(30)  # its claims are respected as long as it lives; the test ends it


def test_of_many_processes_exactly_one_gets_each_block(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, taken, workers, blocks = context.Event(), context.Queue(), 8, 60
    crowd = [context.Process(target=_take_all, args=(tmp_path, blocks, start, taken)) for _ in range(workers)]
    try:
        for process in crowd:
            process.start()
        start.set()
        got, ended = [], 0
        while ended < workers:
            item = taken.get(timeout=30)
            ended, got = (ended + 1, got) if item is None else (ended, [*got, item])
    finally:
        for process in crowd:
            process.kill()
            process.join()
    assert sorted(key for _, key in got) == list(range(blocks))


def test_a_dead_owners_claim_is_taken_at_once(tmp_path: Path) -> None:
    leave_claim(tmp_path, "block", pid=gone_pid())
    with claims.take(tmp_path, "block") as claim:
        assert json.loads((tmp_path / "block.claim").read_text())["token"] == claim.token


def test_a_killed_owners_claim_is_taken_at_once(tmp_path: Path) -> None:
    code = (
        f"from wavbench.upstream import claims; import pathlib, time; claims.take(pathlib.Path({str(tmp_path)!r}), 'b')"
    )
    child = subprocess.Popen([sys.executable, "-c", f"{code}; print('held', flush=True); time.sleep(60)"], stdout=-1)
    assert child.stdout.readline() == b"held\n"
    assert claims.take(tmp_path, "b") is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert claims.take(tmp_path, "b") is not None


def test_a_number_given_to_another_process_is_no_owner(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not say when a process was born")
    assert claims.owner()["born"]
    leave_claim(tmp_path, "block", born="1")  # this process's number, of an earlier life
    assert claims.take(tmp_path, "block") is not None


def test_an_expired_claim_is_taken(tmp_path: Path) -> None:
    path = leave_claim(tmp_path, "block", host="another-machine")
    assert claims.take(tmp_path, "block", expiry=600) is None
    os.utime(path, (time.time() - 601,) * 2)
    assert claims.take(tmp_path, "block", expiry=600) is not None


def test_a_touched_claim_does_not_expire(tmp_path: Path) -> None:
    with claims.take(tmp_path, "block") as claim:
        os.utime(claim.path, (time.time() - 601,) * 2)
        claim.touch()
        assert claims.take(tmp_path, "block", expiry=600) is None


def test_an_owner_on_another_machine_is_left_alone(tmp_path: Path) -> None:
    leave_claim(tmp_path, "block", host="another-machine", pid=gone_pid())
    assert claims.take(tmp_path, "block") is None


def test_a_claim_cut_short_is_respected_while_it_may_be_written_and_taken_later(tmp_path: Path) -> None:
    path = tmp_path / "block.claim"
    path.write_text('{"token": "ab')
    assert claims.take(tmp_path, "block") is None
    os.utime(path, (time.time() - 11,) * 2)
    assert claims.take(tmp_path, "block") is not None


def test_leaving_does_not_remove_the_claim_of_a_successor(tmp_path: Path) -> None:
    with claims.take(tmp_path, "block") as first:
        os.utime(first.path, (time.time() - 601,) * 2)
        second = claims.take(tmp_path, "block", expiry=600)
        assert second is not None
    assert json.loads((tmp_path / "block.claim").read_text())["token"] == second.token


def test_a_claim_is_given_back_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with claims.take(tmp_path, "block"):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_beside_a_claim_that_changed_hands(tmp_path: Path) -> None:
    leave_claim(tmp_path, "block", pid=gone_pid())
    claims.take(tmp_path, "block")
    assert [path.name for path in tmp_path.iterdir()] == ["block.claim"]


def test_a_process_that_ended_but_was_not_waited_for_owns_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        born = claims._born(child.pid)
        if not born:
            pytest.skip("this system does not say when a process was born")
        leave_claim(tmp_path, "block", pid=child.pid, born=born)
        assert claims.take(tmp_path, "block") is None
        child.kill()
        until = time.monotonic() + 10
        while claims.take(tmp_path, "block") is None:
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()


def test_what_dead_workers_left_is_removed_and_what_living_ones_hold_stays(tmp_path: Path) -> None:
    me, gone = claims.owner(), gone_pid()
    mine = claims.temporary_in(tmp_path, ".h5")
    dead = tmp_path / f".tmp-{me['host']}-{gone}-123-abc.h5"
    reborn = tmp_path / f".tmp-{me['host']}-{me['pid']}-1-abc"
    elsewhere, old = tmp_path / ".tmp-far-away-host-1-2-abc", tmp_path / ".tmp-far-away-host-1-2-def"
    for path in (mine, dead, reborn, elsewhere, old):
        path.touch()
    for path in (mine, old):  # a long recording is written at its end
        os.utime(path, (time.time() - 601,) * 2)
    leave_claim(tmp_path, "dead", pid=gone)
    with claims.take(tmp_path, "held"):
        claims.remove_orphans(tmp_path, expiry=600)
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, elsewhere.name, "held.claim"}


def test_a_folder_is_one_process_alone_and_gives_signs_of_life(tmp_path: Path) -> None:
    with claims.alone(tmp_path, "training", expiry=0.4):
        path = tmp_path / "training.claim"
        os.utime(path, (0, 0))
        with pytest.raises(UserError, match="another process") as error, claims.alone(tmp_path / ".", "training", 1e12):
            pass
        assert str(os.getpid()) in error.value.why
        until = time.monotonic() + 20
        while path.stat().st_mtime < 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1
    assert not list(tmp_path.iterdir())


def test_a_folder_is_given_back_when_its_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claims.alone(tmp_path, "training"):
        raise ZeroDivisionError
    with claims.alone(tmp_path, "training"):
        assert (tmp_path / "training.claim").is_file()


NESTED = "[" * 100_000


@pytest.mark.parametrize("text", ["[1]", "3", "null", NESTED, '{"a":' + NESTED, "\udcff"])
def test_a_claim_that_says_nothing_sensible_is_one_cut_short(tmp_path: Path, text: str) -> None:
    path = tmp_path / "block.claim"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert claims.holder(tmp_path, "block") is None
    assert claims.take(tmp_path, "block") is None
    with pytest.raises(UserError, match="another process"), claims.alone(tmp_path, "block"):
        pass
    claims.remove_orphans(tmp_path)
    os.utime(path, (time.time() - 11,) * 2)
    with claims.take(tmp_path, "block") as claim:
        assert claim.held()


@pytest.mark.parametrize(
    "odd",
    [{"expires_after_s": "x"}, {"expires_after_s": None}, {"pid": -1}, {"pid": 10**30}, {"pid": True}, {"pid": []}],
)
def test_a_claim_with_odd_values_is_held_for_as_long_as_any(tmp_path: Path, odd: dict) -> None:
    path = leave_claim(tmp_path, "block", **odd)
    assert claims.holder(tmp_path, "block") == json.loads(path.read_text())
    assert claims.take(tmp_path, "block") is None
    os.utime(path, (time.time() - 601,) * 2)
    assert claims.holder(tmp_path, "block") is None
    assert claims.take(tmp_path, "block") is not None
