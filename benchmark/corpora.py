"""`wavbench corpus ...`: list, fetch, import, build and check data sets."""

import dataclasses
import inspect
import os
import re
from pathlib import Path
from types import ModuleType

from wavbench.benchmark import corpus_schemas
from wavbench.benchmark.display import Display
from wavbench.upstream.errors import UserError

SHOWN = 12  # parts of a corpus that a list names

_INTO = re.compile(r"\n +into: .*(\n {8,}.*)*")  # of a reader's text: the import fills it


def import_schema(name: str) -> type:
    """`CorpusImport` with the options of a corpus' reader beside its own keys."""
    from wavbench.upstream.corpus import load_corpus

    if not name:
        kind = dataclasses.make_dataclass("CorpusImport", [], bases=(corpus_schemas.CorpusImport,))
        more = "`wavbench corpus list` names the corpora, `wavbench corpus import NAME --help` the options of one."
        kind.__doc__ = f"{corpus_schemas.CorpusImport.__doc__} {more}"
        return kind
    module = load_corpus(name)
    if not hasattr(module, "read"):
        return corpus_schemas.CorpusImport
    options = list(inspect.signature(module.read).parameters.values())[1:]
    added = [(o.name, type(o.default), dataclasses.field(default=o.default)) for o in options if o.name != "into"]
    kind = dataclasses.make_dataclass("CorpusImport", added, bases=(corpus_schemas.CorpusImport,))
    reader = _INTO.sub("", inspect.getdoc(module.read) or "")
    kind.__doc__ = f"{corpus_schemas.CorpusImport.__doc__}\n\n{module.corpus.title}: {reader}"
    return kind


def corpus_import(config: corpus_schemas.CorpusImport) -> int:
    """A data set on disk to a manifest."""
    from wavbench.upstream.description import statistics
    from wavbench.upstream.importing import import_corpus
    from wavbench.upstream.lexicon import read_lexicon

    own = {item.name for item in dataclasses.fields(corpus_schemas.CorpusImport)}
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in own}
    with Display() as display:
        made = import_corpus(
            config.name,
            _named(Path(config.root)),
            Path(config.out) if config.out else None,
            options=options,
            lexicon=read_lexicon(config.lexicon, stress=config.stress) if config.lexicon else None,
            partial=config.partial,
            progress=lambda done, total: display.progress(f"looking into {config.name}", done, total),
        )
    for note in made.notes:
        print(f"note: {note}")
    print("\n".join(statistics(made.table)))
    _say_licence(config.name)
    for path in made.trials:
        print(f"trials: {path}")
    if made.root:
        print(f"audio lies elsewhere: give root={made.root} to the commands that read this manifest")
    print(f"manifest: {made.manifest}")
    return 0


def _named(root: Path) -> Path:
    """A folder by its name: readers look at that, and beside it, and `.` has neither."""
    return Path(os.path.abspath(root)) if root.name in ("", "..") else root


def corpus_fetch(config: corpus_schemas.CorpusFetch) -> int:
    """Download a data set."""
    from wavbench.upstream.corpus import load_corpus
    from wavbench.upstream.fetch import Listener, fetch, fetch_files

    module = load_corpus(config.name)
    archives = getattr(module, "archives", ())
    if not archives:
        raise UserError(
            f"{module.corpus.title} is not downloaded by wavbench",
            why=_how(config.name, module),
            remedy=f"see {module.corpus.source}; then: wavbench corpus import {config.name} FOLDER"
            if hasattr(module, "read")
            else f"wavbench corpus build {config.name}",
        )
    root = Path(config.root or f"corpora/{config.name}")
    chosen = _parts(config, archives, getattr(module, "default_parts", ()))
    _say_licence(config.name)
    with Display() as display:
        listener = Listener(display.say, display.progress)
        fetch(chosen, root, listener, keep=config.keep)
        if hasattr(module, "more"):
            fetch_files(module.more(root), root, listener, spare=getattr(module, "may_be_absent", ()))
    if module.corpus.obtain:
        print(f"note: {module.corpus.obtain}")
    print(f"to import it: wavbench corpus import {config.name} {root}")
    print(f"corpus: {root}")
    return 0


def corpus_list(config: corpus_schemas.CorpusList) -> int:
    """Corpora by name: what for, how to get them, licence."""
    from wavbench.upstream.corpus import corpus_names, load_corpus

    for name in [config.name] if config.name else corpus_names():
        module = load_corpus(name)
        corpus = module.corpus
        parts = [archive.part for archive in getattr(module, "archives", ())]
        most = len(parts) if config.name else SHOWN
        shown = ", ".join(parts[:most]) + (f", ... ({len(parts)} in all)" if len(parts) > most else "")
        facts = {
            "tasks": ", ".join(corpus.tasks),
            "size": ", ".join(filter(None, [corpus.size, f"{corpus.hours:g} h" if corpus.hours else ""])),
            "get it": "; ".join(filter(None, [_how(name, module), corpus.source])),
            "parts": shown if len(parts) > 1 else "",
            "licence": corpus.licence,
        }
        print(f"{name}: {corpus.title}")
        print("\n".join(f"  {key}: {value}" for key, value in facts.items() if value))
    return 0


def corpus_build(config: corpus_schemas.CorpusBuild) -> int:
    """Build a corpus that wavbench makes itself."""
    from wavbench.upstream.corpora import synthetic

    if config.name != "synthetic":
        raise UserError(f"wavbench builds no corpus {config.name!r}", remedy="wavbench corpus build synthetic")
    root = Path(config.root or f"corpora/{config.name}")
    with Display() as display:
        path = synthetic.manifest(
            root,
            seed=config.seed,
            workers=config.workers,
            progress=lambda done, total: display.progress("building the corpus", done, total),
        )
    print(f"manifest: {path}")
    return 0


def corpus_check(config: corpus_schemas.CorpusCheck) -> int:
    """Every bad row, the warnings, and on request a manifest without them; exit code 2 where rows are bad."""
    from wavbench.upstream.manifest import check_manifest, write_manifest

    place = Path(config.mended).parent if config.mended and not config.root else None
    problems, warnings, mended = check_manifest(config.manifest, config.root or None, place)
    for problem in problems:
        print(problem)
    for warning in warnings:
        print(f"note: {warning}")
    if config.mended and mended.empty:
        raise UserError(
            "no row can be kept, so nothing was written", where=f"mended={config.mended}",
            why=f"{len(problems)} problems are listed above" if problems else "the table has no rows",
            remedy="absolute paths are kept where the audio lies in the folder of the mended table: put that above it",
        )  # fmt: skip
    if config.mended:
        write_manifest(mended, config.mended)
        print(f"manifest: {config.mended} ({_counted(len(mended), 'row')})")
    lines = len({problem.line for problem in problems})
    found = f"{_counted(len(problems), 'problem')} in {_counted(lines, 'row')}"
    print(found if problems else f"{_counted(len(mended), 'row')}, all well")
    return 2 if problems and not config.mended else 0


def _how(name: str, module: ModuleType) -> str:
    """How a corpus is had: a command where there is one, what its page asks for where there is not, or both."""
    command = f"wavbench corpus fetch {name}" if getattr(module, "archives", ()) else ""
    return "; ".join(filter(None, [command, module.corpus.obtain]))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _parts(config: corpus_schemas.CorpusFetch, archives: tuple, default: tuple[str, ...]) -> list:
    """The parts asked for, in the order of the corpus."""
    known = [archive.part for archive in archives]
    given = [part.strip() for part in config.parts.split(",") if part.strip()]
    wanted = known if given == ["all"] else given or list(default)
    if not wanted and len(known) > 3:
        raise UserError(
            f"{config.name} is fetched by part", where="parts=", remedy=f"parts=all, or some of: {', '.join(known)}"
        )
    unknown = [part for part in wanted if part not in known]
    if unknown:
        raise UserError(
            f"{config.name} has no part {unknown[0]!r}", where=f"parts={config.parts}",
            remedy=f"parts=all, or some of: {', '.join(known)}",
        )  # fmt: skip
    return [archive for archive in archives if archive.part in (wanted or known)]


def _say_licence(name: str) -> None:
    from wavbench.upstream.corpus import load_corpus

    corpus = load_corpus(name).corpus
    print(f"licence: {corpus.licence}")
    if corpus.citation:
        print(f"cite: {corpus.citation}")
