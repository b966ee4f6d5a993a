"""Multilingual LibriSpeech (MLS): audiobooks in eight languages, for ASR."""

import re
from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, read_lines, refuse_empty, refuse_row
from wavbench.upstream.errors import UserError, closest

corpus = Corpus(
    title="Multilingual LibriSpeech",
    folder="mls",
    tasks=("asr",),
    licence="CC BY 4.0",
    source="https://www.openslr.org/94",
    citation="Pratap et al. 2020, MLS: A Large-Scale Multilingual Dataset for Speech Research",
    size="2.5 GB of opus or 9.3 GB of flac for Portuguese, much more for the larger languages",
    separates=("speaker",),
    text="words",
)

LANGUAGES = {
    "dutch": "nl", "english": "en", "french": "fr", "german": "de", "italian": "it", "polish": "pl",
    "portuguese": "pt", "spanish": "es",
}  # fmt: skip
# utterances, as far as we found them published; "9h" and "1h" are the lists of limited supervision
COUNTS = {
    "dutch": {"train": 374_287, "9h": 2_153, "1h": 234, "dev": 3_095, "test": 3_075},
    "french": {"9h": 2_167, "1h": 241},
    "german": {"train": 469_942, "9h": 2_194, "test": 3_394},
    "polish": {"train": 25_043, "9h": 2_173, "1h": 238, "dev": 512, "test": 520},
}
LIMITED = ("9h", "1h", "10h")  # 10h is both
SPLITS = ("train", "dev", "test")
SUFFIXES = (".flac", ".opus")
archives = tuple(
    Archive(part=f"{name}{kind}", url=f"https://dl.fbaipublicfiles.com/mls/mls_{name}{kind}.tar.gz")
    for name in LANGUAGES
    for kind in ("", "_opus")
)


def read(root: Path, *, language: str = "", limited: str = "") -> Reading:
    """Utterances of one language.

    Args:
        root: `mls_LANGUAGE/` or `mls_LANGUAGE_opus/`, or the folder around it (where both are in it, flac is read).
        language: such as `german`; may be left out where only one is there.
        limited: train on the nine hours (`9h`) or the one hour (`1h`) of the limited supervision, or both (`10h`).
    """
    if limited and limited not in LIMITED:
        raise UserError(
            f"MLS has no training list {limited!r}", where="limited=", remedy=f"one of: {', '.join(LIMITED)}"
        )
    folder, language = _language_folder(root, language)
    genders = _genders(folder / "metainfo.txt")
    handles = _handles(folder, limited) if limited else None
    rows: list[dict] = []
    for split in SPLITS:
        path, suffix = folder / split / "transcripts.txt", ""
        number, what = 0, f"the {split} transcripts of MLS {language}"
        for number, line in read_lines(path, what):
            id, _, text = line.partition("\t")
            parts = id.split("_")
            if len(parts) != 3 or not all(part.isdecimal() for part in parts) or not text.strip():
                refuse_row(path, number, f"{line[:80]!r} is no SPEAKER_BOOK_NUMBER and text with a tab between")
            if split == "train" and handles is not None and id not in handles:
                continue
            speaker, book, _ = parts
            place = f"{split}/audio/{speaker}/{book}/{id}"
            suffix = suffix or _suffix(folder, place)
            rows.append(
                {
                    "id": id,
                    "audio": f"{place}{suffix}",
                    "split": split,
                    "speaker": speaker,
                    "language": LANGUAGES[language],
                    "text": text,
                    "gender": genders.get(speaker, ""),
                    "book": book,
                }
            )
        if not number:
            refuse_empty(path, what)
    return Reading(root=folder, rows=rows, expected=_expected(language, limited))


def _expected(language: str, limited: str) -> dict[str, int]:
    counts = COUNTS.get(language, {})
    lists = {"": ("train",), "10h": ("9h", "1h")}.get(limited, (limited,))
    expected = {split: counts[split] for split in ("dev", "test") if split in counts}
    if all(name in counts for name in lists):
        expected["train"] = sum(counts[name] for name in lists)
    return expected


def _language_folder(root: Path, language: str) -> tuple[Path, str]:
    """The folder of one language, and its name."""
    if language and language not in LANGUAGES:
        raise UserError(f"MLS has no language {language!r}", where="language=", remedy=closest(language, [*LANGUAGES]))
    name = re.compile(rf"mls_({'|'.join(LANGUAGES)})(_opus)?")
    root = find_root(root, corpus, *(f"mls_{each}*" for each in LANGUAGES), *(f"{s}/transcripts.txt" for s in SPLITS))
    if any((root / split / "transcripts.txt").is_file() for split in SPLITS):
        match = name.fullmatch(root.resolve().name)
        if not match and not language:
            raise UserError(
                "which language of MLS this is cannot be told from the folder's name",
                where=root,
                remedy=f"language= one of: {', '.join(LANGUAGES)}",
            )
        if not match or language in ("", match[1]):
            return root, language or match[1]
        root = root.resolve().parent
    found = {path: match[1] for path in sorted(root.iterdir()) if (match := name.fullmatch(path.name))}
    known = sorted(set(found.values()))
    if language and language not in known:
        raise UserError(f"MLS {language} is not here", where=root, remedy=closest(language, known))
    if not language and len(known) > 1:
        raise UserError(
            f"{len(known)} languages of MLS are here", where=root, remedy=f"language= one of: {', '.join(known)}"
        )
    language = language or known[0]
    return next(path for path, each in found.items() if each == language), language


def _suffix(folder: Path, place: str) -> str:
    """Of the release that this is a copy of, told by one file; by the folder's name where that is missing."""
    there = [suffix for suffix in SUFFIXES if (folder / f"{place}{suffix}").is_file()]
    return there[0] if there else ".opus" if folder.name.endswith("_opus") else ".flac"


def _handles(folder: Path, limited: str) -> set[str]:
    """Ids of the training utterances of a list; that of one hour comes in six parts of ten minutes."""
    top = folder / "train" / "limited_supervision"
    nine = [top / "9hr" / "handles.txt"]
    one = [top / "1hr" / str(part) / "handles.txt" for part in range(6)]
    paths = {"9h": nine, "1h": one, "10h": nine + one}[limited]
    return {line.strip() for path in paths for _, line in read_lines(path, "a list of limited supervision of MLS")}


def _genders(path: Path) -> dict[str, str]:
    """Speakers to `M` or `F`, from a table with bars; {} where it is missing."""
    if not path.is_file():
        return {}
    fields = [line.split("|") for _, line in read_lines(path, "the speakers of MLS")]
    return {row[0].strip(): {"M": "male", "F": "female"}.get(row[1].strip(), "") for row in fields if len(row) > 1}
