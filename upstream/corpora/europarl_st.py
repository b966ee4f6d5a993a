"""Europarl-ST: debates of the European Parliament with translations between nine languages, for ST."""

from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, need_folder, read_lines, refuse_row
from wavbench.upstream.errors import UserError, closest

corpus = Corpus(
    title="Europarl-ST",
    folder="v1.1",
    tasks=("st", "asr"),
    licence="CC BY-NC 4.0",
    source="https://www.mllp.upv.es/europarl-st/",
    citation="Iranzo-Sánchez et al. 2020, Europarl-ST: A Multilingual Corpus for Speech Translation of Parliamentary "
    "Debates",
    size="20 GB",
    separates=("speaker",),
    text="words",
)

LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "ro")
SPLITS = ("train", "dev", "test")
SUFFIXES = (".flac", ".wav", ".ogg", ".opus")
archives = (Archive(part="all", url="https://www.mllp.upv.es/europarl-st/v1.1.tar.gz"),)


def read(root: Path, *, pair: str = "en_de") -> Reading:
    """Segments of the speeches in one language, with transcript and translation.

    The audio is distributed as m4a, which nothing here reads; convert it in its folder first, once per language. The
    set `train-noisy` is left out.

    Args:
        root: `v1.1/` or its parent.
        pair: language spoken and language of the translation.
    """
    source, _, target = pair.partition("_")
    if source == target or not {source, target} <= set(LANGUAGES):
        pairs = [f"{a}_{b}" for a in LANGUAGES for b in LANGUAGES if a != b]
        raise UserError(f"Europarl-ST has no pair {pair!r}", where="pair=", remedy=closest(pair, pairs))
    root = find_root(root, corpus, *(f"{code}/audios" for code in LANGUAGES))
    suffix = _suffix(need_folder(root / source / "audios", f"the audio of Europarl-ST in {source}"))
    rows, empty = [], 0
    for split in SPLITS:
        folder = need_folder(root / source / target / split, f"the {split} part of {pair} of Europarl-ST")
        speakers = _speakers(folder)
        texts, translations = (_parallel(folder, "segments.lst", f"segments.{code}") for code in (source, target))
        numbers: dict[str, int] = {}
        for number, line in read_lines(folder / "segments.lst", "the segments of Europarl-ST"):
            fields = line.split()
            if len(fields) != 3 or not all(_is_seconds(field) for field in fields[1:]):
                refuse_row(folder / "segments.lst", number, f"{line[:80]!r} is no speech, start and end")
            speech, start, end = fields
            numbers[speech] = numbers.get(speech, -1) + 1
            text, translation = texts.get(number, ""), translations.get(number, "")
            if not text or not translation:
                empty += 1
                continue
            rows.append(
                {
                    "id": f"{speech}_{numbers[speech]:04d}",
                    "audio": f"{source}/audios/{speech}{suffix}",
                    "split": split,
                    "start": start,
                    "end": end,
                    "speaker": speakers.get(speech, ""),
                    "language": source,
                    "text": text,
                    "translation": translation,
                    "translation_language": target,
                    "session": speech,
                }
            )
    notes = (f"{empty:,} segments without transcript or translation are left out",) if empty else ()
    return Reading(root=root, rows=rows, notes=notes)


def _suffix(audios: Path) -> str:
    """Of the files that the audio was converted to.

    Raises:
        UserError: there is only what was distributed, or nothing.
    """
    for suffix in SUFFIXES:
        if next(audios.glob(f"*{suffix}"), None):
            return suffix
    if next(audios.glob("*.m4a"), None):
        raise UserError(
            "the audio of Europarl-ST is still m4a, which cannot be read here",
            where=audios,
            remedy='in that folder: for f in *.m4a; do ffmpeg -i "$f" -ac 1 -ar 16000 "${f%.m4a}.flac"; done',
        )
    raise UserError("there is no audio of Europarl-ST", where=audios, remedy="unpack the corpus again")


def _parallel(folder: Path, first: str, second: str) -> dict[int, str]:
    """Lines of a file by their numbers, where it has as many as the file that it is parallel to."""
    counts = [_count(folder / name) for name in (first, second)]
    lines = {number: line.strip() for number, line in read_lines(folder / second, f"{second} of Europarl-ST")}
    if counts[0] != counts[1]:
        raise UserError(
            f"{second} has {counts[1]} lines where {first} has {counts[0]}",
            where=folder,
            remedy="a file was cut or changed: unpack the corpus again",
        )
    return lines


def _count(path: Path) -> int:
    """Lines of a file, blank ones too; 0 where it is missing, which its reader says."""
    if not path.is_file():
        return 0
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def _speakers(folder: Path) -> dict[str, str]:
    """The speaker of each speech."""
    names = _parallel(folder, "speeches.lst", "speakers.lst")
    speeches = read_lines(folder / "speeches.lst", "the speeches of Europarl-ST")
    return {speech.strip(): "_".join(names.get(number, "").split()) for number, speech in speeches}


def _is_seconds(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
