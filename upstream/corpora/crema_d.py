"""CREMA-D: twelve English sentences acted by 91 people in six emotions, for ER."""

import re
from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, read_table, refuse_row
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="CREMA-D",
    folder="CREMA-D",
    tasks=("er",),
    licence="Open Database License (ODbL) 1.0",
    source="https://github.com/CheyneyComputerScience/CREMA-D",
    citation="Cao et al. 2014, CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset",
    size="0.6 GB of wav",
    hours=5.3,
    separates=("speaker",),
)

LIST = "SentenceFilenames.csv"
# the recordings are no archive: git-lfs gives them one by one, and the list of them is a file of the repository
_PLACE = "CheyneyComputerScience/CREMA-D/master"
archives = (Archive(part="list", url=f"https://raw.githubusercontent.com/{_PLACE}/{LIST}", into="CREMA-D"),)
_AUDIO = f"https://media.githubusercontent.com/media/{_PLACE}/AudioWAV"
MISNAMED = {"1040_ITH_SAD_XX": "1040_ITH_SAD_X"}  # in the list, and as the file is called

EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
SENTENCES = {
    "IEO": "It's eleven o'clock", "TIE": "That is exactly what happened", "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about", "TAI": "The airplane is almost full", "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock", "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket", "ITS": "I think I've seen this before", "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}  # fmt: skip
UTTERANCES = 7_442
ACTORS = range(1001, 1092)
DEV, TEST = 15, 15  # last actors of the list: the authors give no splits

_NAME = re.compile(r"1\d{3}_[A-Z]{3}_[A-Z]{3}_[A-Z]{1,2}")


def more(root: Path) -> tuple[Archive, ...]:
    """What is to be downloaded after `archives`: every recording that the list names.

    Args:
        root: folder that the archives went to.

    Raises:
        UserError: the list is not there, or not that of CREMA-D.
    """
    path = find_root(root, corpus, LIST) / LIST
    found = []
    for number, row in enumerate(
        read_table(path, "the list of recordings", ("Filename",), delimiter=",", quoted=True), 2
    ):
        name = MISNAMED.get(row["Filename"], row["Filename"])
        if not _NAME.fullmatch(name):
            refuse_row(path, number, f"{name[:80]!r} is no ACTOR_SENTENCE_EMOTION_LEVEL", "download the list again")
        found.append(Archive(part=name, url=f"{_AUDIO}/{name}.wav", into="CREMA-D/AudioWAV"))
    return tuple(found)


def read(root: Path) -> Reading:
    """All utterances; the authors give no splits, so the last 15 actors are test and the 15 before them dev.

    Args:
        root: folder with `AudioWAV/`, or its parent.
    """
    root = find_root(root, corpus, "AudioWAV")
    rows = []
    for path in sorted((root / "AudioWAV").glob("*.wav")):
        parts = path.stem.split("_")
        if len(parts) != 4 or not parts[0].isdigit() or int(parts[0]) not in ACTORS or parts[2] not in EMOTIONS:
            raise UserError(
                f"{path.name} is not named as CREMA-D names its files",
                where=path,
                why="ACTOR_SENTENCE_EMOTION_LEVEL.wav, actors 1001 to 1091",
                remedy="move files of other corpora out of AudioWAV",
            )
        actor, sentence, emotion, level = parts
        number = int(actor) - ACTORS.start
        split = "test" if number >= len(ACTORS) - TEST else "dev" if number >= len(ACTORS) - TEST - DEV else "train"
        rows.append(
            {
                "id": path.stem,
                "audio": f"AudioWAV/{path.name}",
                "split": split,
                "speaker": actor,
                "language": "en",
                "text": SENTENCES.get(sentence, ""),
                "emotion": EMOTIONS[emotion],
                "level": level,
            }
        )
    return Reading(root=root, rows=rows, expected={"all": UTTERANCES})
