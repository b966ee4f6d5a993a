"""Common Voice: sentences read by volunteers in more than a hundred languages, for ASR."""

from collections.abc import Iterable
from pathlib import Path

from wavbench.upstream.corpus import Corpus, Reading, find_root, need_folder, read_table
from wavbench.upstream.errors import UserError, closest

corpus = Corpus(
    title="Common Voice",
    tasks=("asr", "lid"),
    licence="CC0 1.0",
    source="https://commonvoice.mozilla.org/datasets",
    obtain="one archive per language and release, from https://datacollective.mozillafoundation.org after signing in",
    citation="Ardila et al. 2020, Common Voice: A Massively-Multilingual Speech Corpus",
    size="from some MB to 90 GB, by language and release",
    separates=("speaker",),
    text="words",
)

SPLITS = ("train", "dev", "test")
NEEDS = ("client_id", "path", "sentence")
BCP47 = {"nan-tw": "nan-TW"}  # the other codes of Common Voice are tags already


def read(root: Path, *, language: str = "") -> Reading:
    """The train, dev and test lists of one language; clips that are in none (other.tsv, invalidated.tsv) are left out.

    Releases differ, so no counts are expected.

    Args:
        root: `cv-corpus-VERSION/`, its parent, or the folder of a language in it.
        language: code of Common Voice, as its folder is called; may be left out where only one is there.
    """
    found = find_root(root, corpus, *(f"{depth}{split}.tsv" for depth in ("", "*/", "*/*/") for split in SPLITS))
    folder = _language_folder(found, language)
    lengths = _lengths(folder / "clip_durations.tsv")
    rows = []
    for split in SPLITS:
        for row in clips_of(folder / f"{split}.tsv", f"the {split} list of Common Voice", NEEDS):
            code = row.get("locale") or language or folder.name
            clip = clip_name(row["path"])
            rows.append(
                {
                    "id": clip.removesuffix(".mp3"),
                    "audio": f"clips/{clip}",
                    "split": split,
                    "duration": lengths.get(clip, ""),
                    "speaker": row["client_id"],
                    "language": BCP47.get(code.lower(), code),
                    "text": row["sentence"],
                    "gender": row.get("gender", ""),
                    "age": row.get("age", ""),
                    "accent": row.get("accents", row.get("accent", "")),
                }
            )
    return Reading(root=folder, rows=rows)


def clips_of(path: Path, what: str, needs: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a TSV of Common Voice by column name; nothing in it is quoted, whatever quotation marks there are.

    A sentence may hold a tab, as some of early releases do.
    """
    return read_table(path, what, needs, spill="sentence")


def clip_name(path: str) -> str:
    """The file of a clip; releases of 2019 leave the suffix out."""
    return path if path.endswith(".mp3") else f"{path}.mp3"


def _language_folder(root: Path, language: str) -> Path:
    """The folder with the lists: `root` or its neighbour, or the only one or the one asked for inside."""
    if any((root / f"{split}.tsv").is_file() for split in SPLITS):
        return (
            root if language in ("", root.name) else need_folder(root.parent / language, f"Common Voice's {language}")
        )
    depths = [f"{depth}/{split}.tsv" for depth in ("*", "*/*") for split in SPLITS]
    folders = sorted({path.parent for depth in depths for path in root.glob(depth)})
    known = sorted({folder.name for folder in folders})
    if language and language not in known:
        raise UserError(f"Common Voice's {language!r} is not here", where=root, remedy=closest(language, known))
    if not language and len(known) > 1:
        said = f"{len(known)} languages of Common Voice are here"
        raise UserError(said, where=root, remedy=f"language= one of: {', '.join(known)}")
    folders = [folder for folder in folders if folder.name == (language or known[0])]
    if len(folders) > 1:
        raise UserError(
            f"{len(folders)} releases of {folders[0].name} are here",
            where=root,
            remedy=f"give the folder of one of them: {', '.join(folder.parent.name for folder in folders)}",
        )
    return folders[0]


def _lengths(path: Path) -> dict[str, float]:
    """Seconds of every clip, as releases since 2023 list them; {} of earlier ones, whose files then are opened."""
    if not path.is_file():
        return {}
    rows = read_table(path, "the durations of Common Voice", ("clip", "duration[ms]"))
    return {row["clip"]: int(row["duration[ms]"]) / 1000 for row in rows if row["duration[ms]"].isdecimal()}
