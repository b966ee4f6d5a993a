"""What each command does with its filled-in schema; returns the exit code."""

import sys
from pathlib import Path

from wavbench.benchmark import config as configuration
from wavbench.benchmark import experiment, schemas
from wavbench.benchmark.display import Display, duration
from wavbench.benchmark.experiment import share
from wavbench.benchmark.loading import check_device, check_seed, load_upstream
from wavbench.upstream.errors import UserError


def extract(config: schemas.Extract) -> int:
    """Features of a corpus to a store."""
    from wavbench.upstream.extract import extract as run
    from wavbench.upstream.extract import fingerprint_of, store_path
    from wavbench.upstream.manifest import read_manifest

    if config.pool not in ("none", "mean"):
        raise UserError(f"pool={config.pool} is not known", remedy="pool=none for frames, pool=mean for statistics")
    manifest = read_manifest(config.manifest, config.root)
    upstream = load_upstream(
        config.upstream,
        config,
        device=config.device,
        precision=config.precision,
        checkpoints=config.checkpoints,
    )
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
    from wavbench.benchmark.cell import ALL, MIX, Cell, Paths, plan_cell
    from wavbench.benchmark.record import read_record
    from wavbench.benchmark.run import run_cell
    from wavbench.downstream.spec import find_protocol, load_task
    from wavbench.upstream.listener import Listener
    from wavbench.upstream.manifest import read_manifest

    # misspelt names and idle options are said before anything slow
    if config.lm != "train":
        names = ("lm_order",) if config.lm else ("lm_order", "lm_unit", "lm_neural", "lm_closed")
        configuration.refuse_idle(config, names, "lm=train" if config.lm else "lm=")
    task = load_task(config.task).chosen(find_protocol(config.protocol), config.head)
    if config.protocol == "superb" and task.superb.differs:
        print(f"note: not all is SUPERB's: {task.superb.differs}")
    manifest = read_manifest(config.manifest, config.root)
    upstream = load_upstream(
        config.upstream,
        config,
        device=config.device,
        precision=config.precision,
        checkpoints=config.checkpoints,
    )
    layers = config.layers if config.layers in (MIX, ALL) else numbers(config.layers, upstream.num_states)
    cell = Cell(
        task=config.task,
        layers=layers,
        seed=check_seed("head_seed", config.head_seed),
        budget_share=share(config.budget),
        trials=Path(config.trials) if config.trials else None,
        protocol=config.protocol,
        head=config.head,
        lm=language_model(config),
        units=config.units,
        head_device=str(check_device(config.head_device)),
        features=config.features,
        dtype=config.dtype,
        save=Path(config.save) if config.save else None,
        loaded=tuple((key, getattr(config, key)) for key in ("weights", "seed", "revision")),
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
    if config.save:
        print(f"head: {config.save}")
    return 0


def language_model(config: schemas.Run):
    """What a cell decodes with once more; None without lm=."""
    from wavbench.downstream.language.with_lm import Model

    if not config.lm:
        return None
    given = {name: getattr(config, f"lm_{name}") for name in ("order", "unit", "neural", "closed")}
    return Model(ngrams=config.lm, **given)


def pretrain(config: schemas.Pretrain) -> int:
    """Train an upstream."""
    from wavbench.benchmark.pretraining import pretrain

    return pretrain(config)


def finetune(config: schemas.Finetune) -> int:
    """Train a head and the upstream below it."""
    from wavbench.benchmark.finetuning import finetune

    return finetune(config)


def release(config: schemas.Release) -> int:
    """Checkpoint, model card and curves of a run."""
    from wavbench.benchmark.release import release

    told = {"licence": config.licence, "notes": config.notes, "heard": config.heard}
    path = release(Path(config.run), config.name, Path(config.out), **told)
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
    """Build the corpus, sweep five tasks over it, report."""
    from wavbench.upstream.corpora import synthetic

    with Display() as display:
        path = synthetic.manifest(
            Path(config.corpus),
            workers=config.workers,
            progress=lambda done, total: display.progress("building the corpus", done, total),
        )
    print(f"corpus: {path}")
    words = ["experiment=demo", f"corpora={path.parent}", f"results={config.results}", f"stores={config.stores}"]
    code = experiment.sweep(configuration.compose(schemas.Sweep, [*words, f"workers={config.workers}"]))
    if code == 0:
        code = report(schemas.Report(results=config.results))
    return code


def analyse(config: schemas.Analyse) -> int:
    """What layers hold, and how alike they are."""
    from wavbench.benchmark.analysis import analyse

    return analyse(config)


def report(config: schemas.Report) -> int:
    """Records to leaderboard, figures and page."""
    from wavbench.benchmark.report import write_report

    done = write_report(Path(config.results))
    print(done.text)
    print(f"results: {config.results}")
    print(f"page: {done.page}")
    if not done.problems:
        return 0
    for problem in done.problems:
        print(problem.screen(), file=sys.stderr)
    print(f"{len(done.problems)} files or figures were left out; the report is made of the others", file=sys.stderr)
    return 2


def card(config: schemas.Card) -> int:
    """The boards of a results folder to what a model's page on the Hub shows of one upstream."""
    from wavbench.benchmark.collect import collect
    from wavbench.benchmark.exports import card_table, eval_results
    from wavbench.benchmark.figures import safe
    from wavbench.benchmark.leaderboard import boards_of
    from wavbench.benchmark.ranking import ranked
    from wavbench.benchmark.record import write_text

    results = Path(config.results)
    pairs = [word.partition(":") for word in config.datasets]
    wrong = [corpus for corpus, colon, id in pairs if not (corpus and colon and id)]
    if wrong:
        raise UserError(f"datasets={wrong[0]} is no pair", remedy="datasets=CORPUS:ORGANISATION/NAME,...")
    collected = collect(results)
    boards = ranked(boards_of(collected.records), results)
    files = eval_results(boards, config.upstream, {corpus: id for corpus, _, id in pairs})
    out = Path(config.out or results / "cards" / safe(config.upstream))
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "evaluation.md", card_table(boards, config.upstream))
    print(f"card: {out / 'evaluation.md'}")
    (out / ".eval_results").mkdir(exist_ok=True)
    for name, text in files.items():
        write_text(out / ".eval_results" / name, text)
        print(f"result: {out / '.eval_results' / name}")
    known = {corpus.rpartition("/")[2] for corpus, _, _ in pairs}
    left = sorted({b.corpus for b in boards if any(row.upstream == config.upstream for row in b.rows)} - known)
    if left:
        print(f"without an id on the Hub, in the card alone: {', '.join(left)}; datasets=CORPUS:ORGANISATION/NAME")
    for problem in collected.problems:
        print(problem.screen(), file=sys.stderr)
    return 2 if collected.problems else 0


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


def _say_rejected(store) -> None:
    if store.rejected:
        first, reason = next(iter(store.rejected.items()))
        print(f"{len(store.rejected)} utterances were rejected (first: {first}: {reason})")
        print(f"rejected: {store.path / 'rejected.jsonl'}")
