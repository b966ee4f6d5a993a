"""VoxCeleb1: celebrities in interviews on YouTube, for speaker verification and identification.

The lists of trials and of the identification splits are files of their own on the authors' page; put them
beside `wav/`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from wavbench.upstream.corpus import Corpus, Reading, find_root, read_lines, refuse_row
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="VoxCeleb1",
    folder="VoxCeleb1",
    tasks=("asv", "sid"),
    licence="CC BY 4.0; the copyright remains with the owners of the videos",
    source="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
    obtain="ask for vox1_dev_wav and vox1_test_wav at https://mm.kaist.ac.kr/datasets/voxceleb/, the authors' mirror",
    citation="Nagrani et al. 2017, VoxCeleb: a large-scale speaker identification dataset",
    size="40 GB unpacked",
    hours=351.6,
    separates=("speaker",),
)

USES = ("verification", "identification")
PLACES = ("wav", "dev/wav", "test/wav", "vox1_dev_wav", "vox1_dev_wav/wav", "vox1_test_wav", "vox1_test_wav/wav")
TEST = range(10_270, 10_310)  # the 40 speakers whose names start with E
DEV_EVERY = 30  # of the other speakers, those whose number divides by it make dev: 41 of 1,211
UTTERANCES, OF_TEST = 153_516, 4_874
SPLITS = {"1": "train", "2": "dev", "3": "test"}  # of iden_split.txt
IDENTIFICATION = {"train": 138_361, "dev": 6_904, "test": 8_251}
# trials: option, name of the list, names of its file; the second of each is what its authors corrected later
LISTS = {
    "o": {"o": ("veri_test.txt", "voxceleb1_test_v2.txt"), "o_clean": ("veri_test2.txt",)},
    "e": {"e": ("list_test_all.txt",), "e_clean": ("list_test_all2.txt",)},
    "h": {"h": ("list_test_hard.txt",), "h_clean": ("list_test_hard2.txt",)},
}


def read(root: Path, *, use: str = "verification", trials: str = "o") -> Reading:
    """All utterances, with splits for one of two uses.

    Verification: the authors' 40 test speakers are test, and of the other 1,211 those whose number divides by 30 are
    dev (the authors give no dev set), the rest train. Identification: the splits of `iden_split.txt`, in which every
    speaker is in every split.

    The trials E and H name 1,251 and 1,190 speakers, for systems that were trained on other recordings. With trials=e
    or h the utterances that the lists name are test, dev and train are made of speakers that they do not name (none
    for E), and the other utterances of speakers that they name are left out.

    Args:
        root: folder with `wav/`, or with `dev/wav/` and `test/wav/`, or with `vox1_dev_wav/` and `vox1_test_wav/`.
        use: "verification" or "identification".
        trials: "o", "e" or "h"; each list and its corrected version are read where their files are in the folder.
    """
    if use not in USES:
        raise UserError(f"use={use} is not known", remedy=f"one of: {', '.join(USES)}")
    if trials not in LISTS:
        raise UserError(f"trials={trials} is not known", remedy=f"one of: {', '.join(LISTS)}")
    root = find_root(root, corpus, "wav/id1*", *(f"{place}/id1*" for place in PLACES[1:]))
    rows = list(_utterances(root))
    if use == "identification":
        return _identification(root, rows)
    lists = {name: path for name, files in LISTS[trials].items() if (path := _there(root, files))}
    if trials == "o":
        for row in rows:
            row["split"] = _split(row["speaker"], int(row["speaker"][2:]) in TEST)
        tables = {name: _trials(path) for name, path in lists.items()}
        notes = () if lists else (_absent(root, trials, "trials will be drawn"),)
        return Reading(root=root, rows=rows, expected={"all": UTTERANCES, "test": OF_TEST}, trials=tables, notes=notes)
    if not lists:
        raise UserError(_absent(root, trials, "and they say what is test"), remedy="download one of them there")
    tables = {name: _trials(path) for name, path in lists.items()}
    named = {id for table in tables.values() for column in ("enroll", "test") for id in table[column]}
    speakers = {id.partition("-")[0] for id in named}
    for row in rows:
        row["split"] = "test" if row["id"] in named else "" if row["speaker"] in speakers else _split(row["speaker"])
    used = [row for row in rows if row["split"]]
    left, training = len(rows) - len(used), sum(row["split"] == "train" for row in rows)
    note = (
        f"the trials of trials={trials} name {len(speakers):,} speakers: {left:,} other utterances of theirs are left "
        f"out, and {training:,} utterances of other speakers are there to train on"
    )
    return Reading(root=root, rows=used, expected={"all": UTTERANCES - left}, trials=tables, notes=(note,))


def _utterances(root: Path) -> Iterator[dict]:
    """Rows without a split: PLACE/idSPEAKER/VIDEO/NUMBER.wav. Where a place is twice there, the first counts."""
    seen = set()
    for place in PLACES:
        for speaker in _folders(root / place):
            if not (speaker.startswith("id1") and speaker[2:].isdigit() and len(speaker) == 7):
                continue
            for video in _folders(root / place / speaker):
                for file in sorted(os.listdir(root / place / speaker / video)):
                    id = f"{speaker}-{video}-{file.removesuffix('.wav')}"
                    if file.endswith(".wav") and id not in seen:
                        seen.add(id)
                        audio = f"{place}/{speaker}/{video}/{file}"
                        yield {"id": id, "audio": audio, "split": "", "speaker": speaker, "session": video}


def _folders(place: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(place) if entry.is_dir()) if place.is_dir() else []


def _split(speaker: str, test: bool = False) -> str:
    return "test" if test else "dev" if int(speaker[2:]) % DEV_EVERY == 0 else "train"


def _there(root: Path, files: tuple[str, ...]) -> Path | None:
    """A list in the folder, or in its `meta/`."""
    return next((path for name in files for path in (root / name, root / "meta" / name) if path.is_file()), None)


def _absent(root: Path, trials: str, then: str) -> str:
    names = " or ".join(name for files in LISTS[trials].values() for name in files)
    return f"there is no {names} in {root}: {then} (lists: {corpus.source})"


def _id(path: Path, line: int, audio: str) -> str:
    parts = audio.split("/")
    if len(parts) < 3 or not audio.endswith(".wav"):
        refuse_row(path, line, f"{audio[:80]!r} is no SPEAKER/VIDEO/NUMBER.wav")
    return "-".join(parts[-3:]).removesuffix(".wav")


def _trials(path: Path) -> pd.DataFrame:
    """Lines `1 id10270/VIDEO/00001.wav id10270/VIDEO/00008.wav`, 1 where both are one speaker's."""
    found: dict[str, list] = {"enroll": [], "test": [], "target": []}
    for number, line in read_lines(path, f"the trials {path.name}"):
        fields = line.split()
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            refuse_row(path, number, f"{line[:80]!r} is no 0 or 1 and two files")
        found["enroll"].append(_id(path, number, fields[1]))
        found["test"].append(_id(path, number, fields[2]))
        found["target"].append(fields[0] == "1")
    return pd.DataFrame(found)


def _identification(root: Path, rows: list[dict]) -> Reading:
    path = _there(root, ("iden_split.txt",)) or root / "iden_split.txt"
    splits = {}
    for number, line in read_lines(path, "the list of identification splits (iden_split.txt)"):
        split, _, audio = line.strip().partition(" ")
        if split not in SPLITS:
            refuse_row(path, number, f"{line[:80]!r} is no 1, 2 or 3 and a file")
        splits[_id(path, number, audio.strip())] = SPLITS[split]
    found = {row["id"]: row for row in rows}
    absent = [id for id in splits if id not in found]
    if absent:  # rows for these too, so that the importer counts and names what is missing
        rows = [*rows, *({"id": id, "audio": _place(root, id), "speaker": id[:7], "session": ""} for id in absent)]
    for row in rows:
        row["split"] = splits.get(row["id"], "")
    return Reading(root=root, rows=[row for row in rows if row["split"]], expected=IDENTIFICATION, separates=())


def _place(root: Path, id: str) -> str:
    place = next((place for place in PLACES if (root / place / id.partition("-")[0]).is_dir()), PLACES[0])
    speaker, _, rest = id.partition("-")
    video, _, number = rest.rpartition("-")  # the ids of videos may hold hyphens
    return f"{place}/{speaker}/{video}/{number}.wav"
