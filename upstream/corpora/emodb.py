"""EmoDB, the Berlin Database of Emotional Speech: ten German sentences acted by ten people, for ER."""

import re
from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="EmoDB",
    folder="emodb",
    tasks=("er",),
    licence="free of charge; its republication by audEERING, with one of its authors, says CC0 1.0",
    source="http://emodb.bilderbar.info/docu/",
    citation="Burkhardt et al. 2005, A Database of German Emotional Speech",
    size="40 MB",
    hours=0.4,
    separates=("speaker",),
)

archives = (Archive(part="all", url="https://emodb.bilderbar.info/download/download.zip", into="emodb"),)

EMOTIONS = {  # first letters of Wut, Langeweile, Ekel, Angst, Freude, Trauer
    "W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral",
}  # fmt: skip
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
SPEAKERS = {  # gender and age
    "03": ("male", 31), "08": ("female", 34), "09": ("female", 21), "10": ("male", 32), "11": ("male", 26),
    "12": ("male", 30), "13": ("female", 32), "14": ("female", 35), "15": ("male", 25), "16": ("female", 31),
}  # fmt: skip
SPLITS = {"12": "dev", "14": "dev", "15": "test", "16": "test"}  # a man and a woman each; the others are train
UTTERANCES = 535

_NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z]?)")


def read(root: Path) -> Reading:
    """All utterances. With ten speakers, ER leaves each out in turn; the splits are for those who do not fold.

    The authors give no splits: speakers 15 and 16 are test, 12 and 14 dev.

    Args:
        root: folder with `wav/`, or its parent.
    """
    root = find_root(root, corpus, "wav/*.wav")
    rows = []
    for path in sorted((root / "wav").glob("*.wav")):
        found = _NAME.fullmatch(path.stem)
        if not found or found[1] not in SPEAKERS or found[2] not in SENTENCES:
            raise UserError(
                f"{path.name} is not named as EmoDB names its files",
                where=path,
                why="SPEAKER TEXT EMOTION VERSION.wav without blanks, such as 03a01Fa.wav",
                remedy="move files of other corpora out of wav",
            )
        speaker, sentence, emotion, version = found.groups()
        gender, age = SPEAKERS[speaker]
        rows.append(
            {
                "id": path.stem,
                "audio": f"wav/{path.name}",
                "split": SPLITS.get(speaker, "train"),
                "speaker": speaker,
                "language": "de",
                "text": SENTENCES[sentence],
                "emotion": EMOTIONS[emotion],
                "version": version,
                "gender": gender,
                "age": age,
            }
        )
    return Reading(root=root, rows=rows, expected={"all": UTTERANCES})
