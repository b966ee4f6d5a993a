"""Where the cells of an experiment find their utterances: manifests, corpora to import, corpora to build."""

import inspect
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from wavbench.benchmark import schemas
from wavbench.benchmark.display import Display
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


def with_lexicons(sources: list[Source]) -> list[Source]:
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


def rooted(source: Source) -> Source:
    """The same with the folder of its audio, where it was imported already."""
    from wavbench.upstream.description import description_of

    if not source.corpus or not source.manifest.is_file():
        return source
    root = description_of(source.manifest).get("root")
    return replace(source, root=Path(root)) if root else source


def ready(source: Source, config: schemas.Sweep, display: Display) -> Source:
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
