"""CREMA-D: twelve English sentences acted by 91 people in six emotions, for ER."""

from pathlib import Path

from wavbench.upstream.corpus import Corpus, Reading, find_root
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
