"""What a process may use: a job's or a container's limit counts, not what the machine has."""

import time
from pathlib import Path

import numpy as np
import pytest

from wavbench.upstream import machine

MIB = 1 << 20


def group(folder: Path, names: tuple, most: str, used: int, idle: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(
        f"anon {used - idle}\n{names[2][0]} {idle // 2}\n{names[2][1]} {idle - idle // 2}\n"
    )


@pytest.mark.parametrize(("names", "line"), [(machine.NEW, "0::"), (machine.OLD, "4:memory:")])
def test_the_smallest_limit_around_a_process_counts(tmp_path: Path, names: tuple, line: str) -> None:
    root = tmp_path / "groups" / line.split(":")[1]
    group(root / "jobs/one", names, "max" if names == machine.NEW else str(1 << 62), 3 * MIB, 0)
    group(root / "jobs", names, str(32 * MIB), 10 * MIB, 2 * MIB)
    group(root / "other", names, str(MIB), MIB, 0)
    own = tmp_path / "cgroup"
    own.write_text(f"1:cpu:/jobs/one\n{line}/jobs/one\nodd\n")
    left = machine._of_groups(tmp_path / "groups", own)
    assert min(left) == 24 * MIB  # copies of files can be had


def test_a_machine_without_control_groups_has_what_it_has(tmp_path: Path) -> None:
    assert machine._of_groups(tmp_path, tmp_path / "none") == []
    (tmp_path / "cgroup").write_text("0::/gone\n")
    assert machine._of_groups(tmp_path, tmp_path / "cgroup") == []
    assert 0 < machine.free_memory() <= machine._of_the_machine() * 1.5


def test_a_peak_is_that_of_the_part_and_not_of_the_process() -> None:
    np.ones(25_000_000).sum()  # 200 MB, given back
    before = machine.PeakMemory()
    if not before._since:
        pytest.skip("this system does not tell the peak of a part")
    small = before.megabytes
    np.ones(12_500_000).sum()
    assert 80 < before.megabytes - small < 150


def test_a_stopwatch_counts_work_and_not_waiting() -> None:
    watch = machine.Stopwatch()
    time.sleep(0.2)
    waited = watch.cpu_seconds
    while watch.cpu_seconds < waited + 0.1:
        sum(range(1_000))
    assert waited < 0.15
    assert watch.seconds >= 0.3
