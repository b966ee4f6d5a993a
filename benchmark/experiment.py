"""`wavbench sweep`: an experiment's file to cells, the corpora that it names to manifests, and the cells to records."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from wavbench.benchmark import schemas
from wavbench.benchmark.display import Display
from wavbench.benchmark.loading import check_device, check_seed, load_upstream
from wavbench.upstream.errors import UserError

BUILT = Path("corpora")  # folder of corpora that wavbench makes itself


@dataclass(frozen=True)
class Source:
    """Where a cell's utterances come from.

    Args:
        manifest: its path.
        root: folder that its audio is relative to; None for the manifest's own.
        corpus: reader that makes it, "" where somebody wrote the manifest.
        options: of the reader, all of them.
        lexicon: file that pronounces its text, None where there is none.
        place: folder that the corpus is looked for in.
    """

    manifest: Path
    root: Path | None = None
    corpus: str = ""
    options: tuple[tuple[str, object], ...] = ()
    lexicon: Path | None = None
    place: Path | None = None


def sweep(config: schemas.Sweep) -> int:
    """All cells of an experiment, or with dry=true what they would take."""
    from wavbench.benchmark.cell import Paths
    from wavbench.benchmark.sweep import sweep as run_sweep
    from wavbench.upstream.listener import Listener

    config = _chosen(config)
    sources = _with_lexicons([source_of(cell, config) for cell in config.cells])
    if config.dry:
        from wavbench.benchmark.plan import print_plan

        return print_plan(config, sources)
    rank = int(os.environ.get("WAVBENCH_WORKER", "0"))
    with Display() as display:
        ready = {source: _ready(source, config, display) for source in dict.fromkeys(sources)}
    jobs = jobs_of(config, [ready[source] for source in sources])
    paths = Paths(Path(config.results), Path(config.stores))
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


def source_of(cell: schemas.SweepCell, config: schemas.Sweep) -> Source:
    """Where a cell's utterances come from.

    Raises:
        UserError: it names both a manifest and a corpus, or neither, or an option that its reader lacks.
    """
    from wavbench.upstream.corpus import load_corpus

    corpora = Path(config.corpora)
    if bool(cell.manifest) == bool(cell.corpus):
        raise UserError(
            f"the cell {cell.task} names {'both a manifest and a corpus' if cell.corpus else 'no corpus'}",
            where=f"experiment {config.experiment}",
            remedy="give manifest: FILE.csv, or corpus: NAME of a reader (`wavbench corpus list`)",
        )
    if cell.manifest:
        return Source(corpora / cell.manifest)
    module = load_corpus(cell.corpus)
    if not hasattr(module, "read"):  # one that is built, where `wavbench corpus build` builds it
        if cell.options:
            raise UserError(f"{cell.corpus} has no options", where=f"experiment {config.experiment}")
        return Source(BUILT / cell.corpus / "manifest.csv", corpus=cell.corpus)
    reader = inspect.signature(module.read).parameters
    known = {o.name: o.default for o in list(reader.values())[1:] if o.name != "into"}
    unknown = [name for name in cell.options if name not in known]
    if unknown:
        raise UserError(
            f"{cell.corpus} has no option {unknown[0]!r}",
            where=f"experiment {config.experiment}",
            remedy=f"known options: {', '.join(known) or 'none'}",
        )
    options = {name: _fitted(name, value, known[name], config) for name, value in cell.options.items()}
    root = Path(config.root or ".")
    stem = cell.name or "-".join([cell.corpus, *map(str, options.values())])
    stem = re.sub(r"[/\\]", "_", stem)  # names of the Hub and folders hold slashes
    place = root / cell.corpus if (root / cell.corpus).is_dir() else root
    return Source(
        manifest=corpora / f"{stem}.csv",
        corpus=cell.corpus,
        options=tuple((known | options).items()),
        lexicon=(place if (place / cell.lexicon).is_file() else root) / cell.lexicon if cell.lexicon else None,
        place=place,
    )


def _fitted(name: str, value: object, default: object, config: schemas.Sweep) -> object:
    """An option as its reader takes it: `classes: 4` and `version: 0.01` are numbers to YAML and texts to readers."""
    kinds = bool if isinstance(default, bool) else str | int | float
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise UserError(
            f"the option {name} cannot be {str(value)[:80]!r}",
            where=f"experiment {config.experiment}",
            remedy=f"{name}: true, or false" if isinstance(default, bool) else "one text, of several values a,b",
        )
    return value if isinstance(value, bool) else str(value)


def _with_lexicons(sources: list[Source]) -> list[Source]:
    """One manifest serves the tasks that read phones and those that do not."""
    lexicons: dict[Path, Path] = {}
    for source in sources:
        if source.lexicon and lexicons.setdefault(source.manifest, source.lexicon) != source.lexicon:
            raise UserError(
                f"two lexicons are to pronounce {source.manifest.name}",
                where=f"{lexicons[source.manifest]}, {source.lexicon}",
                remedy="give one of the cells a manifest of its own: name: NAME",
            )
    return [replace(source, lexicon=lexicons.get(source.manifest)) for source in sources]


def jobs_of(config: schemas.Sweep, sources: list[Source]) -> list:
    """The cells of an experiment with what they run on, those of one upstream together: it is loaded once."""
    from wavbench.benchmark.cell import STORED, Cell
    from wavbench.benchmark.sweep import Job
    from wavbench.downstream.fold import statistics_of
    from wavbench.downstream.language.with_lm import Model
    from wavbench.downstream.spec import find_protocol, load_task

    pairs = list(zip(config.cells, sources, strict=True))
    framed = {
        source.manifest
        for cell, source in pairs
        for protocol in cell.protocols
        if cell.features == STORED
        and statistics_of(load_task(cell.task).chosen(find_protocol(protocol), cell.head)) is None
    }
    return [
        Job(
            upstream=loader_of(u, config),
            upstream_name=upstream_name(u),
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
                keep_frames=source.manifest in framed,
            ),
        )
        for u in config.upstreams
        for cell, source in pairs
        for protocol in cell.protocols
        for seed in config.head_seeds[: cell.seeds or None]
    ]


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
    from wavbench.benchmark.cell import check_features
    from wavbench.downstream.spec import find_protocol, load_task

    absent = [name for name in ("upstreams", "cells", "head_seeds") if not getattr(config, name)]
    if absent:
        raise UserError(
            f"the experiment has no {' and no '.join(absent)}",
            where=config.experiment,
            remedy="give it lists as configs/experiment/demo.yaml has them",
        )
    for kind, asked, known in (
        ("task", config.tasks, list(dict.fromkeys(cell.task for cell in config.cells))),
        ("upstream", config.only, list(dict.fromkeys(u.name for u in config.upstreams))),
    ):
        for name in asked:
            if name not in known:
                raise UserError(f"the experiment has no {kind} {name!r}", remedy=f"one of: {', '.join(known)}")
    if config.workers < 1:
        raise UserError(f"workers={config.workers} cannot work", remedy="workers=1 or more")
    for seed in config.head_seeds:
        check_seed("head_seeds", seed)
    config.cells = [cell for cell in config.cells if not config.tasks or cell.task in config.tasks]
    config.upstreams = [u for u in config.upstreams if not config.only or u.name in config.only]
    for cell in config.cells:
        if not 0 <= cell.seeds <= len(config.head_seeds):
            raise UserError(
                f"seeds={cell.seeds} of the cell {cell.task} is not possible",
                where=f"experiment {config.experiment}",
                why=f"head_seeds has {len(config.head_seeds)}",
                remedy=f"seeds: 1 to {len(config.head_seeds)}, or 0 for all; or more head_seeds",
            )
        check_features(cell.features, cell.dtype)
        for protocol in cell.protocols:
            # what there is not is said before anything slow
            load_task(cell.task).chosen(find_protocol(protocol), cell.head)
        if not cell.protocols:
            raise UserError(f"the cell {cell.task} has no protocols", remedy="protocols: [clean]")
    return config


def _trials(cell: schemas.SweepCell, source: Source, corpora: Path) -> Path | None:
    if not cell.trials:
        return None
    if source.corpus and not cell.trials.endswith((".csv", ".txt")):  # a list of the corpus, by its name
        return source.manifest.with_name(f"{source.manifest.stem}.{cell.trials}.csv")
    return corpora / cell.trials


def _ready(source: Source, config: schemas.Sweep, display: Display) -> Source:
    """A source whose manifest is there: imported now where it was not before."""
    from wavbench.upstream.description import description_of
    from wavbench.upstream.importing import import_corpus
    from wavbench.upstream.lexicon import read_lexicon

    if not source.corpus:
        if not source.manifest.is_file():
            raise UserError(
                f"a manifest of the experiment is missing: {source.manifest}",
                where=f"experiment {config.experiment}",
                remedy="give corpora=FOLDER, the folder that they lie in",
            )
        return source
    if source.place is None:
        return _built(source, display)
    if source.manifest.is_file():
        found = description_of(source.manifest)
        same = found.get("corpus") == source.corpus and found.get("options") == _texts(source.options)
        root = Path(found["root"]) if found.get("root") else None
        place = Path(os.path.realpath(source.place or "."))
        inside = root is None or root == place or root.is_relative_to(place)
        whole = config.partial or not found.get("partial")
        if not (same and inside and whole and _same_lexicon(source.lexicon, found.get("lexicon") or {})):
            raise UserError(
                "the manifest was imported with other options, from another folder, or is not described",
                why="" if whole else "it was made with partial=true",
                where=source.manifest,
                remedy="delete it to have it imported again, or give another corpora= folder",
            )
        return replace(source, root=root)
    what = f"looking into {source.corpus}"
    display.say(f"importing {source.corpus} from {source.place}")
    try:
        made = import_corpus(
            source.corpus,
            source.place,
            source.manifest,
            options=dict(source.options),
            lexicon=read_lexicon(source.lexicon) if source.lexicon else None,
            partial=config.partial,
            progress=lambda done, total: display.progress(what, done, total),
        )
    except UserError as error:
        way_out = "; ".join(
            filter(None, [error.remedy, "--dry lists what is there, tasks=NAME runs some of the tasks"])
        )
        raise UserError(error.what, where=error.where, why=error.why, remedy=way_out) from None
    for note in made.notes:
        display.say(f"note: {note}")
    return replace(source, root=made.root)


def _built(source: Source, display: Display) -> Source:
    """A corpus that wavbench makes itself, made now where it is not there."""
    from wavbench.upstream.corpus import load_corpus

    if not source.manifest.is_file():
        display.say(f"building {source.corpus} in {source.manifest.parent}")
        load_corpus(source.corpus).manifest(
            source.manifest.parent,
            progress=lambda done, total: display.progress(f"building {source.corpus}", done, total),
        )
    return source


def _same_lexicon(path: Path | None, found: dict) -> bool:
    """Whether a manifest's phones are what this lexicon would give; where it has gone since, its name has to do."""
    from wavbench.upstream.lexicon import read_lexicon

    if path is None:
        return True
    facts = read_lexicon(path).facts() if path.is_file() else {"name": path.name}
    return all(found.get(name) == value for name, value in facts.items())


def _texts(options: tuple[tuple[str, object], ...]) -> dict[str, str]:
    return {name: str(value) for name, value in options}


def _start_helpers(config: schemas.Sweep) -> list[subprocess.Popen]:
    """The same sweep as further processes, each with its share of the cores."""
    import torch

    if config.workers == 1:
        return []
    threads = max((os.cpu_count() or 1) // config.workers, 1)
    torch.set_num_threads(threads)
    plain = (
        "experiment",
        "corpora",
        "root",
        "checkpoints",
        "device",
        "head_device",
        "workers",
        "partial",
        "budget",
        "stores",
        "results",
    )
    words = {key: getattr(config, key) for key in plain}
    words["head_seeds"] = ",".join(map(str, config.head_seeds))
    if config.tasks:
        words["tasks"] = ",".join(config.tasks)
    if config.only:
        words["only"] = ",".join(config.only)
    command = [sys.executable, "-m", "wavbench.benchmark.cli", "sweep", *(f"{k}={v}" for k, v in words.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ranks = range(1, config.workers)
    return [subprocess.Popen(command, env={**environment, "WAVBENCH_WORKER": str(rank)}) for rank in ranks]
