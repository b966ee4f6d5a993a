"""Claims on blocks of work: identical workers share a store with nothing but files in one folder.

A claim is a file created with O_EXCL, so on any POSIX or NFSv3+ file system exactly one worker gets it. It expires
when its owner stops touching it, or at once when the owner was a process of this host that is gone; a block computed
twice by accident changes nothing, because results are published by rename and an utterance is indexed once.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from wavbench.upstream.errors import UserError

FIRST_SPACE = "4026531836"  # of process numbers: that of a Linux machine itself
EXPIRY = 600.0  # seconds without a sign of life; one batch on the slowest machine takes less


class Claim:
    """A block that this process works on. Use as a context manager; leaving it gives the block back."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token

    def touch(self) -> None:
        """Say that the owner is alive; called after every batch."""
        with contextlib.suppress(OSError):  # it is not there, or the file system is away for a while
            os.utime(self.path)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def held(self) -> bool:
        """Whether the block is still this process's: one that was stopped for longer than the expiry has lost it."""
        return (_read(self.path) or {}).get("token") == self.token

    def release(self) -> None:
        """Give the block back; a second time does nothing."""
        if self.held():  # an expired claim may be another worker's by now
            self.path.unlink(missing_ok=True)


def take(folder: Path, key: str, expiry: float = EXPIRY) -> Claim | None:
    """Claim a block, or return None when a living worker has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, token = folder / f"{key}.claim", uuid.uuid4().hex
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if not _drop_dead(path, expiry):
                return None
            continue
        with os.fdopen(descriptor, "w") as file:
            json.dump({"token": token, **owner(), "expires_after_s": expiry}, file)
        return Claim(path, token)
    return None


def holder(folder: Path, key: str, expiry: float = EXPIRY) -> dict | None:
    """Who holds a claim: host, pid and when its process was born; None where nobody living does."""
    path = folder / f"{key}.claim"
    record = _read(path)
    try:
        silent = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    told = (record or {}).get("expires_after_s")
    lapsed = silent > (told if isinstance(told, int | float) else expiry)
    return None if record is None or lapsed or is_dead(record) else record


@contextlib.contextmanager
def alone(folder: Path, key: str, expiry: float = 120.0) -> Iterator[None]:
    """Take a claim and hold it for as long as the block takes; see `kept`.

    Raises:
        UserError: a living process has it.
    """
    claim = take(folder, key, expiry)
    if claim is None:
        record = _read(folder / f"{key}.claim") or {}
        raise UserError(
            f"another process is at work in this folder ({key})",
            where=folder,
            why=f"process {record.get('pid', '?')} on {record.get('host', '?')} holds {key}.claim",
            remedy=f"wait for it, or give another folder; if it is gone, its claim lapses after {expiry:g} s",
        )
    with kept(claim, expiry):
        yield


@contextlib.contextmanager
def kept(claim: Claim, expiry: float) -> Iterator[None]:
    """Hold a claim that was taken for as long as the block takes, with a sign of life every few seconds.

    Args:
        claim: given back at the end.
        expiry: that it was taken with.
    """
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(expiry / 8):
            claim.touch()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        with claim:
            yield
    finally:
        ended.set()
        thread.join()


def owner() -> dict:
    """Who this process is, in a form that a process on the same host can check."""
    return {"host": _host(), "pid": os.getpid(), "born": _born(os.getpid())}


def temporary_in(folder: Path, suffix: str = "") -> Path:
    """A new name for a file in the making, from which `remove_orphans` sees whose it is."""
    me = owner()
    return folder / f".tmp-{me['host']}-{me['pid']}-{me['born']}-{uuid.uuid4().hex}{suffix}"


def remove_orphans(folder: Path, expiry: float = EXPIRY) -> None:
    """Delete the temporary files and the claims of workers that are gone."""
    for path in folder.glob(".tmp-*"):
        name = path.name.removeprefix(".tmp-").rpartition("-")[0]  # host-pid-born; a host may hold dashes
        name, _, born = name.rpartition("-")
        host, _, pid = name.rpartition("-")
        known = pid.isdigit() and host == _host()
        with contextlib.suppress(FileNotFoundError):
            # the file of a long recording is not touched for as long as that takes
            gone = is_dead({"host": host, "pid": int(pid), "born": born}) if known else _age(path) > expiry
            if gone:
                path.unlink()
    for path in folder.glob("*.claim"):
        _drop_dead(path, expiry)


def is_dead(record: dict) -> bool:
    """Whether the record names a process of this host that no longer runs (False when it cannot be known)."""
    pid = record.get("pid")
    if record.get("host") != _host() or type(pid) is not int or not 0 < pid < 1 << 31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return record.get("born") != _born(pid)  # the number was given to another process since


def _host() -> str:
    """Where process numbers mean what they mean here: containers may share a host's name and not its processes."""
    try:
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        space = FIRST_SPACE
    return socket.gethostname() if space == FIRST_SPACE else f"{socket.gethostname()}.{space}"


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _born(pid: int) -> str:
    """Start time of a process in clock ticks since boot, "" where the system does not say or the process has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended, though its parent has not looked yet
    except (OSError, IndexError):
        return ""


def _read(path: Path) -> dict | None:
    """What a claim says; None where it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _drop_dead(path: Path, expiry: float) -> bool:
    """Remove a claim whose owner is dead or silent; True when the claim can be tried again."""
    try:
        silent = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    record = _read(path)
    # an unreadable claim is one being written, or one whose writer died in the act
    if not (silent > expiry or (record is not None and is_dead(record)) or (record is None and silent > 10)):
        return False
    aside = temporary_in(path.parent)
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if _read(aside) != record:  # between the look and the rename another worker took the block: give it back
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink(missing_ok=True)
    return True
