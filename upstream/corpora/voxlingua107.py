"""VoxLingua107: speech found in videos in 107 languages, for LID."""

import hashlib
import os
import re
from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, need_folder
from wavbench.upstream.errors import UserError, closest

corpus = Corpus(
    title="VoxLingua107",
    folder="voxlingua107",
    tasks=("lid",),
    licence="CC BY 4.0; the recordings are their owners'",
    source="https://bark.phon.ioc.ee/voxlingua107/",
    citation="Valk and Alumäe 2021, VoxLingua107: a Dataset for Spoken Language Recognition",
    size="one archive per language, about 1 TB on disk in all",
    hours=6_628.0,
    separates=("video",),
)

_LANGUAGES = """ab af am ar as az ba be bg bn bo br bs ca ceb cs cy da de el en eo es et eu fa fi fo fr gl gn gu gv ha
    haw hi hr ht hu hy ia id is it iw ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc
    pa pl ps pt ro ru sa sco sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi war yi yo zh"""
LANGUAGES = tuple(_LANGUAGES.split())
BCP47 = {"iw": "he", "jw": "jv"}  # codes that were withdrawn
EVALUATION = 1_609  # segments of dev/, in 33 languages, each heard by two people
DEV_SHARE = 20  # one video in so many of the training part is dev
NAME = re.compile(
    r"(?P<video>.+?)(?:__U__.+)?---\d+\.\d+-\d+\.\d+\.wav"
)  # VIDEO---START-END.wav, or VIDEO__U__S1---...

_URL = "https://bark.phon.ioc.ee/voxlingua107"
archives = (
    Archive(part="dev", url=f"{_URL}/dev.zip", md5="07fbd4732c97f28c10ec8dcfed4f600e", into="dev"),
    *(Archive(part=code, url=f"{_URL}/{code}.zip") for code in LANGUAGES),
)


def read(root: Path, *, languages: str = "") -> Reading:
    """The authors' evaluation set `dev/` as test, and the training part, of which one video in twenty is dev.

    Which one is told by a hash of the video's name, so that it does not depend on what else is there. No video is in
    two splits: segments of videos of the evaluation set are left out of training.

    Args:
        root: holds a folder per language (of the training part, also in `train/`) and `dev/`.
        languages: codes with commas between, such as `de,et`; all that are there where empty.
    """
    root = find_root(root, corpus, "dev", "train", *LANGUAGES)
    top = "train/" if (root / "train").is_dir() else ""
    need_folder(root / "dev", "the evaluation set of VoxLingua107 (dev.zip)")
    dev = "dev/dev/" if (root / "dev" / "dev").is_dir() else "dev/"  # where dev.zip was unpacked in a folder dev
    parts = {code: [f"{top}{code}", f"{dev}{code}"] for code in LANGUAGES}
    there = [code for code, folders in parts.items() if any((root / folder).is_dir() for folder in folders)]
    wanted = [code.strip() for code in languages.split(",")] if languages else there
    for code in wanted:
        if code not in there:
            what = "is not here" if code in LANGUAGES else "is no language of VoxLingua107"
            raise UserError(f"{code!r} {what}", where=root, remedy=closest(code, there))
    wanted = list(dict.fromkeys(wanted))
    test = [row for code in wanted for row in _segments(root, f"{dev}{code}", code, "dev_")]
    taken = {row["video"] for row in test}
    rows, left_out = [], 0
    for code in wanted:
        for row in _segments(root, f"{top}{code}", code, ""):
            if row["video"] in taken:
                left_out += 1
            else:
                rows.append(row | {"split": "dev" if held_out(row["video"]) else "train"})
    notes = (f"{left_out:,} training segments of videos of the evaluation set are left out",) if left_out else ()
    return Reading(root=root, rows=rows + test, expected={} if languages else {"test": EVALUATION}, notes=notes)


def video_of(name: str) -> str:
    """The video that a file was cut from; "" where it is not named like one of the corpus."""
    match = NAME.fullmatch(name)
    return match["video"] if match else ""


def held_out(video: str) -> bool:
    """Whether a training video is dev."""
    return int.from_bytes(hashlib.blake2b(video.encode(), digest_size=8).digest(), "big") % DEV_SHARE == 0


def _segments(root: Path, folder: str, code: str, mark: str) -> list[dict]:
    if not (root / folder).is_dir():
        return []
    names = sorted(entry.name for entry in os.scandir(root / folder) if entry.name.endswith(".wav"))
    rows = []
    for name in names:
        video = video_of(name)
        if not video:
            raise UserError(
                f"{name} is not named as VoxLingua107 names its files",
                where=root / folder,
                why="VIDEO---START-END.wav, with seconds",
                remedy="move files of other corpora out of the folder",
            )
        rows.append(
            {
                "id": f"{mark}{code}_{name.removesuffix('.wav')}",
                "audio": f"{folder}/{name}",
                "split": "test",
                "language": BCP47.get(code, code),
                "video": video,
            }
        )
    return rows
