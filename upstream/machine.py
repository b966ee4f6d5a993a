"""What this process may use of the machine that it runs on."""

import os
import resource
import sys
import time
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
# of the second and the first version of control groups: limit, what is used, and which lines of memory.stat can be had
NEW = ("memory.max", "memory.current", ("inactive_file", "active_file"))
OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stopwatch:
    """Seconds since it was made, by the clock and of this process's cores."""

    def __init__(self) -> None:
        self._clock, self._cpu = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """By the clock."""
        return time.monotonic() - self._clock

    @property
    def cpu_seconds(self) -> float:
        """Of all threads of this process."""
        return time.process_time() - self._cpu


class PeakMemory:
    """The most memory that this process held since it was made; of several at once each forgets what was before it."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak until now
            self._since = True
        except OSError:  # no Linux, or a container that does not allow it
            self._since = False

    @property
    def megabytes(self) -> float:
        """Since the start of the process where the system cannot tell it of a part."""
        if self._since:
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def free_memory() -> int:
    """Bytes of memory that can be had without swapping, and without being killed for a limit of a job or container."""
    return min([_of_the_machine(), *_of_groups()])


def _of_the_machine() -> int:
    try:
        with open("/proc/meminfo") as file:
            line = next(line for line in file if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _of_groups(groups: Path = GROUPS, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What is left of the limits of the control groups that a process is in: of its own and of those around it.

    Args:
        groups: where they are mounted.
        own: which ones they are, as lines of number:controllers:path.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    left = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers not in ("", "memory"):
            continue
        root, names = (groups / controllers, OLD) if controllers else (groups, NEW)
        place = root / path.lstrip("/")
        for folder in (place, *place.parents):
            if (found := _left(folder, *names)) is not None:
                left.append(found)
            if folder == root:
                break
    return left


def _left(folder: Path, limit: str, used: str, cached: tuple[str, ...]) -> int | None:
    """Bytes below a limit; None where there is none. Copies of files count as free, as they do for a machine."""
    try:
        most, now = int((folder / limit).read_text()), int((folder / used).read_text())  # "max" is no number
        stat = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
        return max(most - now + sum(int(stat.get(name, 0)) for name in cached), 0)
    except (OSError, ValueError):
        return None
