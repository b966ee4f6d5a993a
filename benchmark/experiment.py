"""`wavbench sweep`: an experiment's file to cells, the corpora that it names to manifests, and the cells to records."""

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from wavbench.benchmark import launchers, schemas
from wavbench.benchmark.baselines import baseline_names, find_baseline
from wavbench.benchmark.display import Display, duration
from wavbench.benchmark.loading import check_device, check_seed, load_upstream
from wavbench.benchmark.sources import Source, ready, rooted, source_of, with_lexicons
from wavbench.upstream.errors import UserError, closest

LOOKED_UP = 100e6  # parameters up to which an upstream is loaded to see what is done


def sweep(config: schemas.Sweep) -> int:
    """All cells of an experiment, or with dry=true what they would take."""
    from wavbench.benchmark.cell import Paths
    from wavbench.benchmark.plan import forecast, print_plan
    from wavbench.benchmark.sweep import sweep as run_sweep
    from wavbench.upstream.listener import Listener

    config, sources, jobs = _prepared(config)
    if config.dry:
        _look_up(config, jobs)
        return print_plan(config, sources, jobs)
    rank = int(os.environ.get(launchers.RANK, "0"))
    with Display() as display:
        found = {source: ready(source, config, display) for source in dict.fromkeys(sources)}
    jobs = jobs_of(config, [found[source] for source in sources])
    paths, since = Paths(Path(config.results), Path(config.stores)), time.time()
    if config.launcher != "local" and rank == 0:
        return _launched(config, jobs, paths.results, since, forecast(config, list(found.values()), jobs))
    helpers = _start_helpers(config, since) if rank == 0 else None
    retry_since = float(os.environ.get(launchers.SINCE, since)) if config.retry_failed else None
    try:
        with Display(prefix=f"[{rank}] " if rank or helpers else "") as display:
            if rank == 0:
                display.say(f"{len(jobs)} cells: {len(config.cells)} tasks, {len(config.upstreams)} upstreams")
                display.say(forecast(config, list(found.values()), jobs))
            ahead = jobs if rank % 2 == 0 else jobs[::-1]  # two workers start from both ends and rarely wait
            listener = Listener(display.say, display.progress)
            outcomes = run_sweep(ahead, paths, listener, wait=rank == 0, retry_since=retry_since)
    except BaseException:
        if helpers:
            helpers.stop()
        raise
    if helpers:
        launchers.wait(helpers, lambda: None)
    failed = [(outcome.job.name, outcome.error) for outcome in outcomes if not outcome.records]
    return _ended(len(jobs), len(outcomes) - len(failed), failed, paths.results) if rank == 0 else int(bool(failed))


def status(config: schemas.Sweep) -> int:
    """How far the cells of an experiment are; 0 where all are done."""
    from wavbench.benchmark.states import ALL, DONE, FAILED, RUNNING, standing

    config, _, jobs = _prepared(config)
    _look_up(config, jobs)
    found = [(job, *standing(Path(config.results), job)) for job in jobs]
    counted = {state: sum(own == state for _, own, _ in found) for state in ALL}
    print(f"{config.experiment}: {len(jobs)} cells, {', '.join(f'{n} {state}' for state, n in counted.items())}")
    for job, state, note in found:
        if state != DONE:
            since = f" for {duration(time.time() - note.at)}" if note and state == RUNNING else ""
            print(f"{state + since:12}  {job.name}")
            if state == FAILED:
                print("".join(f"              {line}\n" for line in note.error.splitlines()[:4]), end="")
    if counted[FAILED]:
        print("retry_failed=true tries those again that failed")
    return 0 if counted[DONE] == len(jobs) else 1


def _prepared(config: schemas.Sweep) -> tuple[schemas.Sweep, list[Source], list]:
    """The experiment seen to be one, where each of its cells finds its utterances, and the cells."""
    config = _chosen(config)
    found, wrong = [], []
    for cell in config.cells:
        try:
            found.append(source_of(cell, config))
        except UserError as error:
            wrong.append(error)
    _refuse(wrong, config)
    sources = with_lexicons(found)
    return config, sources, jobs_of(config, [rooted(source) for source in sources])


def _look_up(config: schemas.Sweep, jobs: list) -> None:
    """See which cells have records though no sweep was run here, for upstreams that are here and small.

    Only where there is a record of such a task and corpus: the key of a cell takes all of the corpus' audio.
    """
    from wavbench.benchmark.cell import Paths
    from wavbench.benchmark.estimates import shape_of
    from wavbench.benchmark.sweep import look_up
    from wavbench.upstream import catalog
    from wavbench.upstream.manifest import corpus_name

    done = _recorded(Path(config.results))
    jobs = [job for job in jobs if (job.cell.task, corpus_name(job.manifest)) in done]
    if not jobs:
        return
    here = [u for u in config.upstreams if catalog.find_preset(u.name) and (u.weights or not find_baseline(u.name))]
    small = {upstream_name(u) for u in here if shape_of(u, config).parameters <= LOOKED_UP}
    with Display() as display:
        look_up(
            [job for job in jobs if job.upstream_name in small],
            Paths(Path(config.results), Path(config.stores)),
            lambda done, total: display.progress("looking for records", done, total),
        )


def _recorded(results: Path) -> set[tuple[str, str]]:
    """Tasks and corpora of the records that can be read."""
    from wavbench.benchmark.record import read_record

    found = set()
    for path in (results / "runs").glob("*.json"):
        with contextlib.suppress(UserError):
            record = read_record(path)
            found.add((record.task, record.corpus))
    return found


def _launched(config: schemas.Sweep, jobs: list, results: Path, since: float, told: str) -> int:
    """Workers on another engine do it; this process only waits, and says what came of it."""
    from wavbench.benchmark.states import DONE, FAILED, counts, standing

    workers = launchers.start(config, config.workers, since)
    with Display() as display:
        display.say(f"{len(jobs)} cells, {config.workers} workers by {config.launcher}")
        display.say(told)

        def look() -> None:
            found = counts(results, jobs)
            display.progress("cells", found[DONE] + found[FAILED], len(jobs))

        codes = launchers.wait(workers, look)
    for code in codes:
        if isinstance(code, str):
            print(f"a worker was lost: {code}", file=sys.stderr)
        elif code not in (0, 1):  # 1 is of cells that failed, which are named below
            why = "the same command with launcher=local workers=1, where the worker ran, says why"
            print(f"a worker ended with exit code {code}: {why}", file=sys.stderr)
    states = [(job, *standing(results, job)) for job in jobs]
    failed = [(job.name, note.error) for job, state, note in states if state == FAILED]
    return _ended(len(jobs), sum(state == DONE for _, state, _ in states), failed, results)


def _ended(cells: int, done: int, failed: list[tuple[str, str]], results: Path) -> int:
    print(f"{done} of {cells} cells done, {len(failed)} failed")
    for name, error in failed:
        print(f"failed: {name}: {(error.splitlines() or ['no reason was noted'])[0]}", file=sys.stderr)
    if failed:
        print("the same command leaves them; with retry_failed=true it tries them again", file=sys.stderr)
    print(f"results: {results}")
    return 0 if done == cells else 1


def jobs_of(config: schemas.Sweep, sources: list[Source]) -> list:
    """The cells of an experiment with what they run on, those of one upstream together: it is loaded once."""
    from wavbench.benchmark.cell import Cell, Job, told_apart
    from wavbench.downstream.language.with_lm import Model

    pairs = list(zip(config.cells, sources, strict=True))
    framed = {
        (upstream_name(u), source.manifest)
        for u in config.upstreams
        for cell, source in pairs
        for protocol in cell.protocols
        if takes(u, cell) and reads_frames(cell, protocol)
    }
    jobs = [
        Job(
            upstream=loader_of(u, config),
            upstream_name=upstream_name(u),
            weights=_weights_of(u),
            manifest=source.manifest,
            root=source.root,
            cell=Cell(
                task=cell.task,
                layers=layers_of(cell.layers),
                seed=check_seed("head_seeds", seed),
                budget_share=share(cell.budget * config.budget),
                trials=_trials(cell, source, Path(config.corpora)),
                protocol=protocol,
                head=cell.head,
                units=cell.units,
                head_device=str(check_device(config.head_device)),
                lm=Model(ngrams=lm_of(cell, config)) if cell.lm else None,
                features=cell.features,
                dtype=cell.dtype,
                keep_frames=(upstream_name(u), source.manifest) in framed,
            ),
        )
        for u in config.upstreams
        for cell, source in pairs
        if takes(u, cell)
        for protocol in cell.protocols
        for seed in config.head_seeds[: cell.seeds or None]
    ]
    return told_apart(jobs)


def _weights_of(u: schemas.SweepUpstream) -> Path | None:
    """The file that an upstream's weights lie in: named, a run's, or shipped."""
    from wavbench.upstream import catalog

    named, shipped = Path(u.name), catalog.WEIGHTS / f"{u.name}.safetensors"
    if named.is_file():
        return named
    if named.is_dir():
        return named / "checkpoint.safetensors"
    return shipped if u.weights != "random" and catalog.find_preset(u.name) and shipped.is_file() else None


def takes(u: schemas.SweepUpstream, cell: schemas.SweepCell) -> bool:
    """Whether an upstream of an experiment runs a cell."""
    return not u.tasks or cell.task in u.tasks


def reads_frames(cell: schemas.SweepCell, protocol: str) -> bool:
    """Whether a cell needs stored frames, and not means of them alone."""
    from wavbench.benchmark.cell import STORED
    from wavbench.downstream.fold import statistics_of
    from wavbench.downstream.spec import find_protocol, load_task

    task = load_task(cell.task).chosen(find_protocol(protocol), cell.head)
    return cell.features == STORED and statistics_of(task) is None


def lm_of(cell: schemas.SweepCell, config: schemas.Sweep) -> str:
    """The language model of a cell: a file relative to `corpora`, or the word for the train transcripts."""
    from wavbench.downstream.language.with_lm import TRAIN

    return TRAIN if cell.lm == TRAIN else str(Path(config.corpora) / cell.lm)


def loader_of(u: schemas.SweepUpstream, config: schemas.Sweep) -> Callable:
    """A function that loads an upstream of an experiment."""
    return lambda: load_upstream(u.name, u, device=config.device, precision=u.precision, checkpoints=config.checkpoints)


def upstream_name(u: schemas.SweepUpstream) -> str:
    """An upstream of an experiment, for people."""
    words = [u.name, *([u.weights, f"seed {u.seed}"] if u.weights else [])]
    words += filter(None, [u.revision, u.language and f"language {u.language}"])
    return " ".join([*words, *([u.precision] if u.precision != "fp32" else [])])


def layers_of(text: str) -> str | tuple[int, ...]:
    """mix, all, or numbers, from an experiment or a command."""
    from wavbench.benchmark.cell import ALL, MIX
    from wavbench.benchmark.commands import numbers

    return text if text in (MIX, ALL) else numbers(text, None)


def share(budget: float) -> float:
    """A share of a protocol's updates.

    Raises:
        UserError: it is none.
    """
    if not 0 < budget <= 100:
        raise UserError(
            f"budget={budget:g} is not a share of the protocol's updates", remedy="1 is the protocol, 0.1 a look"
        )
    return budget


def _chosen(config: schemas.Sweep) -> schemas.Sweep:
    """The experiment with the tasks that were asked for, seen to be one."""
    absent = [name for name in ("upstreams", "cells", "head_seeds") if not getattr(config, name)]
    if absent:
        raise UserError(
            f"the experiment has no {' and no '.join(absent)}",
            where=config.experiment,
            remedy="give it lists as configs/experiment/demo.yaml has them",
        )
    tasks = list(dict.fromkeys(cell.task for cell in config.cells))
    wrong = [
        UserError(f"the experiment has no {kind} {name!r}", remedy=f"one of: {', '.join(known)}")
        for kind, asked, known in (
            ("task", config.tasks, tasks),
            *(("task", u.tasks, tasks) for u in config.upstreams),
            ("upstream", config.only, list(dict.fromkeys(u.name for u in config.upstreams))),
        )
        for name in asked
        if name not in known
    ]
    _refuse(wrong, config)
    if config.workers < 1:
        raise UserError(f"workers={config.workers} cannot work", remedy="workers=1 or more")
    for seed in config.head_seeds:
        check_seed("head_seeds", seed)
    config.cells = [cell for cell in config.cells if not config.tasks or cell.task in config.tasks]
    config.upstreams = [u for u in config.upstreams if not config.only or u.name in config.only]
    from wavbench.upstream import catalog  # not above: what is said before needs no torch

    wrong += [
        UserError(f"unknown upstream {u.name!r}", remedy=closest(u.name, [*catalog.names(), *baseline_names()]))
        for u in config.upstreams
        if not find_baseline(u.name) and not catalog.is_known(u.name)
    ]
    for cell in config.cells:  # what there is not is said before anything slow
        for check in (_check_cell, *(functools.partial(_check_recipe, protocol=name) for name in cell.protocols)):
            try:
                check(cell, config)
            except UserError as error:
                wrong.append(error)
    _refuse(wrong, config)
    return config


def _check_cell(cell: schemas.SweepCell, config: schemas.Sweep) -> None:
    from wavbench.benchmark.cell import check_features

    if not 0 <= cell.seeds <= len(config.head_seeds):
        raise UserError(
            f"seeds={cell.seeds} of the cell {cell.task} is not possible",
            where=f"experiment {config.experiment}",
            why=f"head_seeds has {len(config.head_seeds)}",
            remedy=f"seeds: 1 to {len(config.head_seeds)}, or 0 for all; or more head_seeds",
        )
    check_features(cell.features, cell.dtype)
    if not cell.protocols:
        raise UserError(f"the cell {cell.task} has no protocols", remedy="protocols: [clean]")


def _check_recipe(cell: schemas.SweepCell, config: schemas.Sweep, protocol: str) -> None:
    from wavbench.downstream.spec import find_protocol, load_task

    load_task(cell.task).chosen(find_protocol(protocol), cell.head)


def _refuse(wrong: list[UserError], config: schemas.Sweep) -> None:
    """Raise what is wrong with an experiment, all of it at once."""
    each = list({error.screen(): error for error in wrong}.values())
    if len(each) == 1:
        raise each[0]
    if each:
        told = "; ".join(error.what + (f" ({error.remedy})" if error.remedy else "") for error in each)
        raise UserError(f"the experiment asks for {len(each)} things that there are not", where=config.experiment,
                        why=told, remedy="correct all of them in its file, or in the command")  # fmt: skip


def _trials(cell: schemas.SweepCell, source: Source, corpora: Path) -> Path | None:
    if not cell.trials:
        return None
    if source.corpus and not cell.trials.endswith((".csv", ".txt")):  # a list of the corpus, by its name
        return source.manifest.with_name(f"{source.manifest.stem}.{cell.trials}.csv")
    return corpora / cell.trials


def _start_helpers(config: schemas.Sweep, since: float) -> launchers.Workers | None:
    """The same sweep as further processes, each with its share of the cores."""
    import torch

    if config.workers == 1:
        return None
    torch.set_num_threads(max((os.cpu_count() or 1) // config.workers, 1))
    return launchers.start(config, config.workers - 1, since)
