"""TIMIT: American English sentences with phones aligned by hand, for phone recognition and classification."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wavbench.upstream.corpus import Corpus, Reading, find_root, need_folder, read_lines, refuse_row
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="TIMIT",
    folder="TIMIT",
    tasks=("pr", "phones"),
    licence="LDC User Agreement for Non-Members",
    source="https://catalog.ldc.upenn.edu/LDC93S1",
    obtain="from the Linguistic Data Consortium, catalogue number LDC93S1, for a fee",
    citation="Garofolo et al. 1993, TIMIT Acoustic-Phonetic Continuous Speech Corpus, LDC93S1",
    size="0.4 GB",
    hours=3.6,
    separates=("speaker",),
    text="words",
)

RATE = 16_000  # PHN files count samples
UTTERANCES = {"train": 3_696, "dev": 400, "test": 192}
# the core test set of the corpus' own testset.doc
_CORE_TEST = """MDAB0 MWBT0 FELC0 MTAS1 MWEW0 FPAS0 MJMP0 MLNT0 FPKT0 MLLL0 MTLS0 FJLM0
    MBPM0 MKLT0 FNLP0 MCMJ0 MJDH0 FMGD0 MGRT0 MNJM0 FDHC0 MJLN0 MPAM0 FMLD0"""
CORE_TEST = frozenset(_CORE_TEST.split())
# development speakers of the complete test set, none of them in the core one: Halberstadt 1998, as in Kaldi's recipe
_DEV = """FAKS0 FDAC1 FJEM0 MGWT0 MJAR0 MMDB1 MMDM2 MPDF0 FCMH0 FKMS0 MBDG0 MBWM0 MCSH0 FADG0 FDMS0 FEDW0 MGJF0
    MGLB0 MRTK0 MTAA0 MTDT0 MTHC0 MWJG0 FNMR0 FREW0 FSEM0 MBNS0 MMJR0 MDLS0 MDLF0 MDVC0 MERS0 FMAH0 FDRW0
    MRCS0 MRJM4 FCAL1 MMWH0 FJSJ0 MAJC0 MJSW0 MREB0 FGJD0 FJMG0 MROA0 MTEB0 MJFC0 MRJR0 FMML0 MRWS1"""
DEV = frozenset(_DEV.split())

SILENCE = "sil"
STOP = "q"  # the glottal stop, which 48 and 39 phones do without
_PHONES = """aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv ih ix iy jh k
    kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh"""
PHONES = frozenset(_PHONES.split())
# Lee and Hon 1989, table 1: 61 phones to 48, and those to the 39 that are scored; what is not named stays as it is
TO_48 = {
    "h#": SILENCE, "pau": SILENCE, "ax-h": "ax", "axr": "er", "em": "m", "eng": "ng", "hv": "hh", "nx": "n", "ux": "uw",
    "bcl": "vcl", "dcl": "vcl", "gcl": "vcl", "pcl": "cl", "tcl": "cl", "kcl": "cl",
}  # fmt: skip
TO_39 = {
    "cl": SILENCE, "vcl": SILENCE, "epi": SILENCE, "ao": "aa", "ax": "ah", "el": "l", "en": "n", "ix": "ih", "zh": "sh",
}  # fmt: skip
FOLDS = ("39", "48", "61")


@dataclass(frozen=True)
class Stretch:
    """What a stretch of speech is, as the lines of PHN and WRD files say it.

    Args:
        symbol: of the 61 or of a folded set; or a word.
        end: last sample, not included.
    """

    symbol: str
    end: int


def read(root: Path, *, fold: str = "39") -> Reading:
    """Train, the 50 development speakers and the core test, without the two SA sentences that everybody reads.

    The other 94 speakers of the complete test set are left out, as in the literature. Names may be in upper or lower
    case; ids are in upper case always, so that both kinds of copies give the same ones. Audio may be NIST or RIFF,
    and where a mirror has only `SI1027.WAV.wav`, that.

    Args:
        root: the folder with `TRAIN/` and `TEST/`, or one above it.
        fold: phones, 39 as the field scores them, 48, or all 61 (of which only h# is renamed, to sil).
    """
    if str(fold) not in FOLDS:
        raise UserError(f"TIMIT is not folded to {fold!r} phones", where="fold=", remedy=f"one of: {', '.join(FOLDS)}")
    root = _top(root)
    rows = []
    for part in ("train", "test"):
        folder = need_folder(root / (_named(root, part) or part.upper()), f"the {part} part of TIMIT")
        for region in _folders(folder):
            for speaker in _folders(folder / region):
                split = "train" if part == "train" else _split(speaker.upper())
                if split:
                    rows += _utterances(root, f"{folder.name}/{region}/{speaker}", split, str(fold))
    return Reading(root=root, rows=rows, expected=UTTERANCES)


def folded(phones: list[Stretch], fold: str) -> list[Stretch]:
    """Phones of another set, each with its end; neighbouring silences and closures that both fold to sil are one.

    A glottal stop goes without replacement, and its time to the phone behind it, mostly the vowel that it begins:
    phone_ends have no gaps.
    """
    kept: list[Stretch] = []
    for phone in phones:
        if fold == "61":
            symbol = SILENCE if phone.symbol == "h#" else phone.symbol
        elif phone.symbol == STOP:
            continue
        else:
            symbol = TO_48.get(phone.symbol, phone.symbol)
            symbol = TO_39.get(symbol, symbol) if fold == "39" else symbol
        if kept and symbol == kept[-1].symbol == SILENCE:
            kept.pop()
        kept.append(Stretch(symbol, phone.end))
    return kept


def _split(speaker: str) -> str:
    return "test" if speaker in CORE_TEST else "dev" if speaker in DEV else ""


def _top(root: Path) -> Path:
    """The folder with both parts: mirrors nest it as timit/TIMIT or data."""
    if root.is_dir():
        for place in (root, *_inside(root), *(inner for outer in _inside(root) for inner in _inside(outer))):
            if _named(place, "train") and _named(place, "test"):
                return place
    return find_root(root, corpus, "TRAIN", "train")


def _inside(folder: Path) -> list[Path]:
    return [folder / name for name in _folders(folder) if name.lower() in ("timit", "data")]


def _named(folder: Path, name: str) -> str:
    """The folder of that name in any case, "" where there is none."""
    return next((entry for entry in _folders(folder) if entry.lower() == name), "")


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _utterances(root: Path, folder: str, split: str, fold: str) -> list[dict]:
    files = {entry.name.lower(): entry.name for entry in os.scandir(root / folder) if entry.is_file()}
    _, region, speaker = folder.split("/")
    stems = sorted({name.partition(".")[0] for name in files if name.endswith((".phn", ".wav"))})
    rows = []
    for stem in stems:
        if stem.startswith("sa"):
            continue
        upper = speaker.isupper()
        expected = {kind: f"{stem}.{kind}".upper() if upper else f"{stem}.{kind}" for kind in ("phn", "txt", "wav")}
        place = {kind: files.get(f"{stem}.{kind}", name) for kind, name in expected.items()}
        if f"{stem}.wav" not in files and f"{stem}.wav.wav" in files:
            place["wav"] = files[f"{stem}.wav.wav"]
        aligned = _phones(root / folder / place["phn"])
        phones = folded(aligned, fold)
        said = root / folder / files[f"{stem}.wrd"] if f"{stem}.wrd" in files else None
        words = _words(said, aligned[-1].end) if said else []
        rows.append(
            {
                "id": f"{speaker}_{stem}".upper(),
                "audio": f"{folder}/{place['wav']}",
                "split": split,
                "speaker": speaker.upper(),
                "language": "en",
                "text": _text(root / folder / place["txt"]),
                "phones": " ".join(phone.symbol for phone in phones),
                "phone_ends": _ends(phones),
                "words": " ".join(word.symbol for word in words),
                "word_ends": _ends(words),
                "gender": {"f": "female", "m": "male"}.get(speaker[0].lower(), ""),
                "dialect": region.upper(),
            }
        )
    return rows


def _ends(stretches: list[Stretch]) -> str:
    return " ".join(f"{stretch.end / RATE:.6f}" for stretch in stretches)


def _stretches(path: Path, what: str) -> Iterator[tuple[int, int, Stretch]]:
    """Number, first sample and stretch of every line."""
    for number, line in read_lines(path, f"the {what}s of an utterance of TIMIT"):
        fields = line.split()
        if len(fields) != 3 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            refuse_row(path, number, f"{line[:80]!r} is no first sample, last sample and {what}")
        yield number, int(fields[0]), Stretch(fields[2].lower(), int(fields[1]))


def _words(path: Path, last: int) -> list[Stretch]:
    """Words and the silence around them.

    Where two words share samples, as those that run into each other do, these are the first one's; a word that has no
    others is left out.
    """
    words: list[Stretch] = []
    for _, first, word in _stretches(path, "word"):
        before = words[-1].end if words else 0
        if word.end > before:
            words += [Stretch(SILENCE, first)] * (first > before) + [word]
    end = words[-1].end if words else 0
    return words + [Stretch(SILENCE, last)] * (last > end)


def _phones(path: Path) -> list[Stretch]:
    phones = []
    for number, _, phone in _stretches(path, "phone"):
        if phone.symbol not in PHONES:
            refuse_row(path, number, f"{phone.symbol[:20]!r} is none of TIMIT's 61 phones")
        phones.append(phone)
    if not phones:
        raise UserError("the phones of an utterance of TIMIT are empty", where=path, remedy="copy the corpus again")
    return phones


def _text(path: Path) -> str:
    """The sentence, behind its first and last sample."""
    for number, line in read_lines(path, "the transcript of an utterance of TIMIT"):
        fields = line.split(maxsplit=2)
        if len(fields) != 3 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            refuse_row(path, number, f"{line[:80]!r} is no first sample, last sample and sentence")
        return fields[2]
    raise UserError("the transcript of an utterance of TIMIT is empty", where=path, remedy="copy the corpus again")
