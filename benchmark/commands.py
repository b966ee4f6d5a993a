"""What each command does with its filled-in schema; returns the exit code."""

import os
import subprocess
import sys
from pathlib import Path

from wavbench.benchmark import config as configuration
from wavbench.benchmark import schemas
from wavbench.benchmark.display import Display, duration
from wavbench.benchmark.loading import check_seed, load_upstream
from wavbench.upstream.errors import UserError


def extract(config: schemas.Extract) -> int:
    """Features of a corpus to a store."""
    from wavbench.upstream.extract import extract as run
    from wavbench.upstream.extract import fingerprint_of, store_path
    from wavbench.upstream.manifest import read_manifest

    if config.pool not in ("none", "mean"):
        raise UserError(f"pool={config.pool} is not known", remedy="pool=none for frames, pool=mean for statistics")
    manifest = read_manifest(config.manifest, config.root)
    upstream = load_upstream(config.upstream, config, device=config.device, precision=config.precision)
    layers = None if config.layers == "all" else numbers(config.layers, upstream.num_states)
    pooled = config.pool == "mean"
    fingerprint = fingerprint_of(upstream, layers, pooled, config.dtype)
    path = Path(config.store) if config.store else store_path(Path(config.stores), manifest, upstream, fingerprint)
    with Display() as display:
        for warning in manifest.warnings:
            display.say(f"note: {warning}")

        def announce(plan) -> None:
            display.say(
                f"{len(plan.todo)} of {plan.rows} utterances to extract, about {plan.todo_bytes / 1e6:.1f} MB "
                f"({plan.free_bytes / 1e9:.0f} GB free)"
            )

        store = run(
            upstream,
            manifest,
            path,
            layers=layers,
            pooled=pooled,
            dtype=config.dtype,
            announce=announce,
            progress=lambda done, total: display.progress(f"extracting {upstream.name}", done, total),
        )
    _say_rejected(store)
    print(f"store: {path}")
    return 0


def run(config: schemas.Run) -> int:
    """One cell."""
    from wavbench.benchmark.record import read_record
    from wavbench.benchmark.run import ALL, MIX, Cell, Listener, Paths, plan_cell, run_cell
    from wavbench.downstream.spec import load_task
    from wavbench.upstream.manifest import read_manifest

    load_task(config.task)  # a misspelt task is said before anything slow
    manifest = read_manifest(config.manifest, config.root)
    upstream = load_upstream(config.upstream, config, device=config.device, precision=config.precision)
    layers = config.layers if config.layers in (MIX, ALL) else numbers(config.layers, upstream.num_states)
    cell = Cell(
        task=config.task,
        layers=layers,
        seed=check_seed("head_seed", config.head_seed),
        budget_share=_share(config.budget),
        trials=Path(config.trials) if config.trials else None,
    )
    paths = Paths(Path(config.results), Path(config.stores))
    with Display() as display:
        listener = Listener(display.say, display.progress)
        written = run_cell(plan_cell(cell, upstream, manifest, paths), paths, listener)
    for path in written:
        record = read_record(path)
        layer = "mix" if record.layers == MIX else f"layer {record.layers}"
        low, high = record.ci95
        print(f"{record.task} {layer}: {record.metric} {record.value:.2f} {record.unit} [{low:.2f}, {high:.2f}]")
    for path in written:
        print(f"record: {path}")
    return 0


def sweep(config: schemas.Sweep) -> int:
    """All cells of an experiment."""
    from wavbench.benchmark.run import ALL, MIX, Cell, Listener, Paths
    from wavbench.benchmark.sweep import Job
    from wavbench.benchmark.sweep import sweep as run_sweep
    from wavbench.downstream.probe import statistics_of
    from wavbench.downstream.spec import load_task

    absent = [name for name in ("upstreams", "cells", "head_seeds") if not getattr(config, name)]
    if absent:
        raise UserError(
            f"the experiment has no {' and no '.join(absent)}",
            where=config.experiment,
            remedy="give it lists as configs/experiment/demo.yaml has them",
        )
    corpora = Path(config.corpora)
    manifests = {cell.manifest: corpora / cell.manifest for cell in config.cells}
    absent = [str(path) for path in manifests.values() if not path.is_file()]
    if absent:
        raise UserError(
            f"{len(absent)} manifests of the experiment are missing (first: {absent[0]})",
            where=f"experiment {config.experiment}",
            remedy="give corpora=FOLDER, the folder that they lie in",
        )
    framed = {cell.manifest for cell in config.cells if statistics_of(load_task(cell.task)) is None}
    jobs = [
        Job(
            upstream=lambda u=u: load_upstream(u.name, u, device=config.device, precision=u.precision),
            upstream_name=" ".join(
                [
                    u.name,
                    *([u.weights, f"seed {u.seed}"] if u.weights else []),
                    *filter(None, [u.revision, u.language and f"language {u.language}"]),
                    *([u.precision] if u.precision != "fp32" else []),
                ]
            ),
            manifest=manifests[cell.manifest],
            cell=Cell(
                task=cell.task,
                layers=cell.layers if cell.layers in (MIX, ALL) else numbers(cell.layers, None),
                seed=check_seed("head_seeds", seed),
                budget_share=_share(cell.budget),
                trials=corpora / cell.trials if cell.trials else None,
                keep_frames=cell.manifest in framed,
            ),
        )
        for cell in config.cells
        for u in config.upstreams
        for seed in config.head_seeds
    ]
    paths = Paths(Path(config.results), Path(config.stores))
    rank = int(os.environ.get("WAVBENCH_WORKER", "0"))
    helpers = _start_helpers(config) if rank == 0 else []
    try:
        with Display(prefix=f"[{rank}] " if rank or helpers else "") as display:
            if rank == 0:
                display.say(f"{len(jobs)} cells: {len(config.cells)} tasks x {len(config.upstreams)} upstreams")
            ahead = jobs if rank % 2 == 0 else jobs[::-1]  # two workers start from both ends and rarely wait
            outcomes = run_sweep(ahead, paths, Listener(display.say, display.progress), wait=rank == 0)
    except BaseException:
        for helper in helpers:
            helper.terminate()
        raise
    for helper in helpers:
        helper.wait()
    failed = [outcome for outcome in outcomes if outcome.error]
    if rank == 0:
        print(f"{len(outcomes) - len(failed)} of {len(jobs)} cells done, {len(failed)} failed")
        for outcome in failed:
            print(f"failed: {outcome.job.name}: {outcome.error.splitlines()[0]}", file=sys.stderr)
        print(f"results: {paths.results}")
    return 1 if failed else 0


def pretrain(config: schemas.Pretrain) -> int:
    """Train an upstream."""
    from wavbench.benchmark.pretraining import pretrain

    return pretrain(config)


def release(config: schemas.Release) -> int:
    """Checkpoint, model card and curves of a run."""
    from wavbench.benchmark.release import release

    path = release(Path(config.run), config.name, Path(config.out), licence=config.licence, notes=config.notes)
    print(f"checkpoint: {path}")
    return 0


def export(config: schemas.Export) -> int:
    """An upstream in the layout of another program."""
    from wavbench.upstream.export import export_hugging_face, refuse_place

    kind, _, place = config.to.partition(":")
    if kind != "hf" or not place:
        raise UserError(f"to={config.to} is not known", remedy="to=hf:FOLDER, the layout of transformers")
    refuse_place(Path(place))  # before anything slow
    upstream = load_upstream(config.upstream, config)
    path = export_hugging_face(upstream, Path(place), licence=config.licence)
    print(f"checkpoint: {path}")
    return 0


def speed(config: schemas.Speed) -> int:
    """Rates of a forward pass, here and in other toolkits."""
    from wavbench.benchmark.speed import speed

    return speed(config)


def demo(config: schemas.Demo) -> int:
    """Build the corpus, sweep every task over it, report."""
    from wavbench.upstream.corpora import synthetic

    with Display() as display:
        path = synthetic.manifest(
            Path(config.corpus),
            workers=config.workers,
            progress=lambda done, total: display.progress("building the corpus", done, total),
        )
    print(f"corpus: {path}")
    words = ["experiment=demo", f"corpora={path.parent}", f"results={config.results}", f"stores={config.stores}"]
    code = sweep(configuration.compose(schemas.Sweep, [*words, f"workers={config.workers}"]))
    if code == 0:
        code = report(schemas.Report(results=config.results))
    return code


def report(config: schemas.Report) -> int:
    """Records to leaderboard, figures and page."""
    from wavbench.benchmark.leaderboard import write_report

    page, text = write_report(Path(config.results))
    print(text)
    print(f"results: {config.results}")
    print(f"page: {page}")
    return 0


def store_info(config: schemas.StoreCommand) -> int:
    """What a store holds."""
    from wavbench.upstream.store import open_store

    store = open_store(config.store)
    kind = "mean and deviation over frames" if store.pooled else f"frames, {store.fingerprint.dtype}"
    print(f"upstream: {store.info.checkpoint}")
    print(f"holds: {kind}; layers {', '.join(map(str, store.layers))}; {store.dim} wide, {store.frame_rate:g} Hz")
    print(f"utterances: {len(store)} of {store.info.manifest}, {len(store.rejected)} rejected")
    print(f"audio: {duration(store.lengths.sum() / store.frame_rate)}; disk: {store.size_bytes / 1e6:.1f} MB")
    print(f"made in: {duration(store.extract_seconds)}; fingerprint: {store.fingerprint.hash()}")
    print(f"store: {config.store}")
    return 0


def store_verify(config: schemas.StoreCommand) -> int:
    """Every byte of every shard; exit code 2 where any has changed."""
    from wavbench.upstream.verify import verify

    with Display() as display:
        damage = verify(config.store, lambda done, total: display.progress("verifying", done, total))
    for line in damage:
        print(f"damaged: {line}")
    if damage:
        print("way out: delete the damaged shards and extract again: only they are recomputed", file=sys.stderr)
    else:
        print(f"all well\nstore: {config.store}")
    return 2 if damage else 0


def store_seal(config: schemas.StoreCommand) -> int:
    """Write the index of a store."""
    from wavbench.upstream.store import seal

    store = seal(Path(config.store))
    print(f"{len(store)} utterances, {len(store.rejected)} rejected\nstore: {config.store}")
    return 0


def doctor(config: schemas.Doctor) -> int:
    """How this machine and installation are."""
    from wavbench.benchmark.doctor import examine

    lines, well = examine(Path(config.stores))
    print("\n".join(lines))
    return 0 if well else 1


def numbers(text: str, states: int | None) -> tuple[int, ...]:
    """Layer numbers from 4,8 (or [4,8])."""
    try:
        found = tuple(int(part) for part in text.strip("[]()").split(",") if part.strip())
        if not found:
            raise ValueError("no number in it")
        return found
    except ValueError:
        last = "" if states is None else f" from 0 to {states - 1}"
        raise UserError(f"layers={text} is not known", remedy=f"mix, all, or numbers{last}: layers=4,8") from None


def _share(budget: float) -> float:
    if not 0 < budget <= 100:
        raise UserError(
            f"budget={budget:g} is not a share of the protocol's updates", remedy="1 is the protocol, 0.1 a look"
        )
    return budget


def _say_rejected(store) -> None:
    if store.rejected:
        first, reason = next(iter(store.rejected.items()))
        print(f"{len(store.rejected)} utterances were rejected (first: {first}: {reason})")
        print(f"rejected: {store.path / 'rejected.jsonl'}")


def _start_helpers(config: schemas.Sweep) -> list[subprocess.Popen]:
    """The same sweep as further processes, each with its share of the cores."""
    import torch

    if config.workers < 1:
        raise UserError(f"workers={config.workers} cannot work", remedy="workers=1 or more")
    if config.workers == 1:
        return []
    threads = max((os.cpu_count() or 1) // config.workers, 1)
    torch.set_num_threads(threads)
    words = {key: getattr(config, key) for key in ("experiment", "corpora", "device", "workers", "stores", "results")}
    words["head_seeds"] = ",".join(map(str, config.head_seeds))
    command = [sys.executable, "-m", "wavbench.benchmark.cli", "sweep", *(f"{k}={v}" for k, v in words.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ranks = range(1, config.workers)
    return [subprocess.Popen(command, env={**environment, "WAVBENCH_WORKER": str(rank)}) for rank in ranks]
