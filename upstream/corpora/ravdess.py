"""RAVDESS: two English sentences acted and sung by 24 people in up to eight emotions, for ER."""

import re
from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="RAVDESS",
    folder="RAVDESS",
    tasks=("er",),
    licence="CC BY-NC-SA 4.0",
    source="https://zenodo.org/records/1188976",
    citation="Livingstone and Russo 2018, The Ryerson Audio-Visual Database of Emotional Speech and Song",
    size="0.2 GB of speech, 0.2 GB of song",
    hours=1.5,
    separates=("speaker",),
)

_URL = "https://zenodo.org/records/1188976/files/Audio_{}_Actors_01-24.zip"
archives = (
    Archive(
        part="speech",
        url=_URL.format("Speech"),
        md5="bc696df654c87fed845eb13823edef8a",
        bytes=208_468_073,
        into="RAVDESS",
    ),
    Archive(
        part="song", url=_URL.format("Song"), md5="5411230427d67a21e18aa4d466e6d1b9", bytes=225_505_317, into="RAVDESS"
    ),
)

CHANNELS = {"01": "speech", "02": "song"}
EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful", "07": "disgust",
    "08": "surprised",
}  # fmt: skip
INTENSITIES = {"01": "normal", "02": "strong"}
SENTENCES = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
UTTERANCES = {"speech": 1_440, "song": 1_012}
FOLDERS = ("", "Audio_Speech_Actors_01-24", "Audio_Song_Actors_01-24")  # the archives have no folder of their own
DEV, TEST = range(17, 21), range(21, 25)  # odd actors are men, even ones women

_NAME = re.compile(r"03-(01|02)-(0[1-8])-(0[12])-(0[12])-(0[12])-([01]\d|2[0-4])")


def read(root: Path, *, song: bool = False) -> Reading:
    """All speech; the authors give no splits, so actors 21 to 24 are test, 17 to 20 dev: two men and two women each.

    Args:
        root: folder with `Actor_01` to `Actor_24`, or its parent.
        song: whether the song files are read too (six emotions; actor 18 did not sing).
    """
    actor = "Actor_[0-2][0-9]"
    root = find_root(root, corpus, *(f"{folder}/{actor}".lstrip("/") for folder in FOLDERS))
    paths = {path.name: path for folder in FOLDERS for path in sorted((root / folder).glob(f"{actor}/*.wav"))}
    rows = []
    for name, path in sorted(paths.items()):
        found = _NAME.fullmatch(path.stem)
        if not found or path.parent.name != f"Actor_{found[6]}":
            raise UserError(
                f"{name} is not named as RAVDESS names its files",
                where=path,
                why="MODALITY-CHANNEL-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR.wav in the folder of that actor",
                remedy="move other files out of the folders of actors",
            )
        channel, emotion, intensity, sentence, repetition, actor = found.groups()
        number = int(actor)
        if channel == "02" and not song:
            continue
        rows.append(
            {
                "id": path.stem,
                "audio": path.relative_to(root).as_posix(),
                "split": "test" if number in TEST else "dev" if number in DEV else "train",
                "speaker": actor,
                "language": "en",
                "text": SENTENCES[sentence],
                "emotion": EMOTIONS[emotion],
                "intensity": INTENSITIES[intensity],
                "repetition": repetition,
                "channel": CHANNELS[channel],
                "gender": "male" if number % 2 else "female",
            }
        )
    expected = UTTERANCES["speech"] + (UTTERANCES["song"] if song else 0)
    return Reading(root=root, rows=rows, expected={"all": expected})
