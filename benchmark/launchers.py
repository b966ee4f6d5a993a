"""Workers of a sweep on this machine or on others' queues: each runs the same command, and claims share the cells out.

Engines only start processes and wait for them: `local` and `joblib` on this machine, `submitit` on SLURM (or as plain
processes with engine=cluster:local), `ray` on a cluster that runs already (engine=address:auto) or one made here.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Protocol, runtime_checkable

from wavbench.benchmark import schemas
from wavbench.upstream import claims
from wavbench.upstream.errors import UserError, closest

RANK = "WAVBENCH_WORKER"  # environment of a worker: 0 is the process that a person started
SINCE = "WAVBENCH_RETRY_SINCE"  # and when the sweep began, so that no worker tries again what failed meanwhile
OWN = {"launcher", "engine", "workers", "dry", "upstreams", "cells"}  # keys that workers are not given
POLL_SECONDS = 1.0
STOP_SECONDS = 20.0  # that workers have to end by themselves
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # opened here: little may be done between fork and exec


@runtime_checkable
class Workers(Protocol):
    """Processes that were started somewhere."""

    def running(self) -> int:
        """How many have not ended."""

    def codes(self) -> list[int | str]:
        """Of those that ended: the exit code, or why there is none."""

    def stop(self) -> None:
        """End them all; what they had finished is kept."""


def words_of(config: schemas.Sweep) -> list[str]:
    """The sweep of a worker as a command line."""
    found = []
    for item in fields(schemas.Sweep):
        value = getattr(config, item.name)
        if item.name in OWN or value in ("", []):
            continue
        text = ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
        found.append(f"{item.name}={str(text).lower() if isinstance(value, bool) else text}")
    return found


def start(config: schemas.Sweep, count: int, since: float) -> Workers:
    """Start workers 1 to `count` on the engine that is asked for.

    Args:
        config: of the sweep.
        count: of workers.
        since: seconds since 1970 at which the sweep began.

    Raises:
        UserError: there is no such engine, or its package is missing.
    """
    known: dict[str, Callable] = {"local": Local, "joblib": Joblib, "submitit": Submitit, "ray": Ray}
    if config.launcher not in known:
        raise UserError(f"launcher={config.launcher} is not known", remedy=closest(config.launcher, list(known)))
    command = [sys.executable, "-m", "wavbench.benchmark.cli", "sweep", *words_of(config)]
    tasks = []
    for rank in range(1, count + 1):
        environment = {RANK: str(rank), SINCE: repr(since)}
        if config.launcher in ("local", "joblib"):  # they share this machine's cores, with this process or without
            here = config.workers if config.launcher == "local" else count
            environment["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // here, 1))
        tasks.append((command, environment, os.getcwd()))
    try:
        return known[config.launcher](tasks, options_of(config.engine), Path(config.results))
    except ImportError as error:
        raise UserError(
            f"launcher={config.launcher} needs the package {error.name}", remedy='pip install "wavbench[launchers]"'
        ) from None
    except (TypeError, ValueError, NameError) as error:  # what engines raise of options that they do not have
        raise UserError(
            f"launcher={config.launcher} refuses engine={','.join(config.engine)}",
            why=str(error)[:300],
            remedy="give what the engine's own documentation names, as name:value, with commas between",
        ) from None


def options_of(words: Sequence[str]) -> dict[str, object]:
    """`name:value` words, with numbers and truth values as what they are.

    Raises:
        UserError: a word is of another form.
    """
    found: dict[str, object] = {}
    for word in words:
        name, colon, value = word.partition(":")
        if not (colon and name.isidentifier()):
            raise UserError(f"engine={word} is not of the form name:value", remedy="engine=timeout_min:240")
        numbers = [kind(value) for kind, form in ((int, r"-?\d+"), (float, r"-?\d+\.\d*")) if re.fullmatch(form, value)]
        found[name] = {"true": True, "false": False}.get(value, numbers[0] if numbers else value)
    return found


def run(command: list[str], environment: dict[str, str], folder: str, leader: dict | None = None) -> int:
    """One worker, wherever an engine has put us; on Linux it ends with the process that waits for it.

    Engines end their own processes and know nothing of those that these started.

    Args:
        command: its words.
        environment: added to this process's.
        folder: that it runs in.
        leader: the process that asked for it and a file, `while`: where either is gone, so is the worker.
    """
    worker = _started(command, environment, folder)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return worker.wait(timeout=POLL_SECONDS / 2)
            here = leader is not None and leader["host"] == claims.owner()["host"]
            if here and (claims.is_dead(leader) or not Path(leader["while"]).is_file()):
                worker.terminate()
    finally:  # where an engine interrupts the waiting by an exception
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def _started(command: list[str], environment: dict[str, str], folder: str) -> subprocess.Popen:
    """A worker that, on Linux, ends with this process even where that is killed."""
    end_with_us = functools.partial(_end_with, os.getpid())
    return subprocess.Popen(command, env={**os.environ, **environment}, cwd=folder, preexec_fn=end_with_us)


def _end_with(parent: int) -> None:
    """Ask the kernel to end this process when the thread that started it ends; called before it is the command."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it had ended before the kernel was asked
            os._exit(128 + signal.SIGTERM)


class Local:
    """Processes of this machine."""

    def __init__(self, tasks: list[tuple], engine: dict, results: Path) -> None:
        _refuse_options("local", engine)
        self.processes = [_started(command, environment, folder) for command, environment, folder in tasks]

    def running(self) -> int:
        return sum(process.poll() is None for process in self.processes)

    def codes(self) -> list[int | str]:
        return [process.returncode for process in self.processes if process.poll() is not None]

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


class Joblib:
    """Processes of joblib's pool."""

    def __init__(self, tasks: list[tuple], engine: dict, results: Path) -> None:
        from joblib import Parallel, delayed

        self.ended: list[int | str] = []
        self.count = len(tasks)
        self.folder = tempfile.TemporaryDirectory()
        until_stopped = Path(self.folder.name) / "running"
        until_stopped.touch()
        leader = {**claims.owner(), "while": str(until_stopped)}
        parallel = Parallel(n_jobs=len(tasks), return_as="generator_unordered", **{"backend": "loky", **engine})

        def gather() -> None:
            for code in parallel(delayed(run)(*task, leader) for task in tasks):
                self.ended.append(code)

        self.pool = ThreadPoolExecutor(1)
        self.gathered = self.pool.submit(gather)

    def running(self) -> int:
        return 0 if self.gathered.done() else self.count - len(self.ended)

    def codes(self) -> list[int | str]:
        broken = self.gathered.exception() if self.gathered.done() else None
        return [*self.ended, *([f"{type(broken).__name__}: {broken}"] if broken else [])]

    def stop(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self.folder.cleanup()  # each process of the pool sees it, and ends the worker that it started
        concurrent.futures.wait([self.gathered], STOP_SECONDS)
        get_reusable_executor().shutdown(wait=True, kill_workers=True)
        self.pool.shutdown(wait=False)


class Submitit:
    """Jobs of SLURM, by submitit; engine= holds its parameters, and `cluster` where that is not to be found out."""

    def __init__(self, tasks: list[tuple], engine: dict, results: Path) -> None:
        import submitit

        executor = submitit.AutoExecutor(folder=results / "cells/submitit", cluster=engine.pop("cluster", None))
        executor.update_parameters(**engine)
        with executor.batch():  # one array of jobs
            self.jobs = [executor.submit(run, *task) for task in tasks]

    def running(self) -> int:
        return sum(not job.done() for job in self.jobs)

    def codes(self) -> list[int | str]:
        return [
            f"{job.job_id}: {error}" if (error := job.exception()) else job.result() for job in self.jobs if job.done()
        ]

    def stop(self) -> None:
        for job in self.jobs:
            job.cancel()


class Ray:
    """Tasks of ray; engine= holds `address`, and the resources of a task (num_cpus, num_gpus)."""

    def __init__(self, tasks: list[tuple], engine: dict, results: Path) -> None:
        import ray

        self.ray = ray
        address = engine.pop("address", None)
        here = {} if address else {"num_cpus": max(len(tasks), os.cpu_count() or 1), "include_dashboard": False}
        ray.init(address=address, **here)
        remote = ray.remote(max_retries=0, **engine)(run) if engine else ray.remote(max_retries=0)(run)
        self.tasks = [remote.remote(*task) for task in tasks]

    def _ended(self) -> list:
        return self.ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0)[0]

    def running(self) -> int:
        return len(self.tasks) - len(self._ended())

    def codes(self) -> list[int | str]:
        found: list[int | str] = []
        for task in self._ended():
            try:
                found.append(self.ray.get(task))
            except self.ray.exceptions.RayError as error:
                found.append(str(error).splitlines()[0])
        return found

    def stop(self) -> None:
        self.ray.shutdown()


def _refuse_options(launcher: str, engine: dict) -> None:
    if engine:
        raise UserError(
            f"launcher={launcher} has no options", where=f"engine={', '.join(engine)}", remedy="leave engine= out"
        )


def wait(workers: Workers, look: Callable[[], None]) -> list[int | str]:
    """Wait until all workers have ended; they are stopped where this process is interrupted.

    Args:
        workers: started.
        look: called every second.

    Returns:
        Their exit codes, or why there is none.
    """
    try:
        while workers.running():
            look()
            time.sleep(POLL_SECONDS)
    except BaseException:
        workers.stop()
        raise
    look()
    found = workers.codes()
    workers.stop()
    return found
