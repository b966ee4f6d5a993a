"""IEMOCAP: ten actors in five sessions of two, scripted and improvised English dialogues, for ER.

The name of a dialogue tells which of the two wore the motion sensors, not who speaks: `Ses01F_impro01_M003` is said by
the man of session 1. Recipes that take the first six letters as the speaker mix the two up.
"""

import re
from pathlib import Path

from wavbench.upstream.corpus import Corpus, Reading, find_root, need_folder, read_lines, refuse_row
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="IEMOCAP",
    folder="IEMOCAP_full_release",
    tasks=("er",),
    licence="IEMOCAP release agreement (research, on request)",
    source="https://sail.usc.edu/iemocap/",
    obtain="sign the release form at https://sail.usc.edu/iemocap/iemocap_release.htm; a link comes by mail",
    citation="Busso et al. 2008, IEMOCAP: interactive emotional dyadic motion capture database",
    size="1.4 GB for sentences/wav, which suffices with dialog/EmoEvaluation and dialog/transcriptions",
    hours=7.0,
    separates=("speaker", "session"),
)

LABELS = {
    "ang": "angry", "hap": "happy", "sad": "sad", "neu": "neutral", "exc": "excited", "fru": "frustrated",
    "fea": "fearful", "sur": "surprised", "dis": "disgusted", "oth": "other", "xxx": "",
}  # fmt: skip
FOUR = {"ang": "angry", "hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral"}
SESSIONS = {"1": "train", "2": "train", "3": "train", "4": "dev", "5": "test"}
COUNTS = {"4": {"train": 3_259, "dev": 1_031, "test": 1_241}, "all": {"all": 10_039}}  # 1,085 + 1,023 + 1,151 to train

_LABEL = re.compile(r"\[[\d.]+ - [\d.]+\]\t(Ses0[1-5][FM]_\w+)\t(\w{3})\t\[.+\]$")
_UTTERANCE = re.compile(r"Ses0([1-5])[FM]_((?:impro|script)\w+)_([FM])\w*$")
_SAID = re.compile(r"(Ses0[1-5]\w+) \[[\d.]+-[\d.]+\]: ?(.*)")


def read(root: Path, *, classes: str = "4") -> Reading:
    """Utterances of all sessions; the field runs five folds over `session`.

    For those who do not fold: sessions 1 to 3 are train, 4 is dev, 5 is test.

    Args:
        root: folder with `Session1` to `Session5`, or its parent.
        classes: "4" as in SUPERB (neutral, sad, angry, and happy with excited): 5,531 utterances; or "all": ten
            labels, and none where the annotators did not agree.
    """
    if classes not in COUNTS:
        raise UserError(f"classes={classes} is not known", remedy=f"one of: {', '.join(COUNTS)}")
    root = find_root(root, corpus, "Session[1-5]")
    labels = FOUR if classes == "4" else LABELS
    rows = [row for session, split in SESSIONS.items() for row in _session(root, session, split, labels)]
    return Reading(root=root, rows=rows, expected=COUNTS[classes])


def _session(root: Path, session: str, split: str, labels: dict[str, str]) -> list[dict]:
    top = need_folder(root / f"Session{session}", f"session {session} of IEMOCAP")
    folder = need_folder(top / "dialog" / "EmoEvaluation", f"the labels of session {session}")
    rows = []
    for path in _dialogues(folder):
        said = _texts(top / "dialog" / "transcriptions" / path.name)
        for number, line in read_lines(path, f"the labels of {path.stem}"):
            if not line.startswith("["):
                continue  # the header, and below each label what every annotator chose
            found = _LABEL.match(line.rstrip())
            utterance = found and _UTTERANCE.match(found[1])
            if not found or not utterance or utterance[1] != session or found[2] not in LABELS:
                refuse_row(path, number, f"{line[:80]!r} is no time, utterance, label and ratings")
            id, label = found.groups()
            if label in labels:
                rows.append(
                    {
                        "id": id,
                        "audio": f"Session{session}/sentences/wav/{path.stem}/{id}.wav",
                        "split": split,
                        "speaker": f"Ses0{session}{utterance[3]}",
                        "language": "en",
                        "text": said.get(id, ""),
                        "emotion": labels[label],
                        "session": session,
                        "gender": {"F": "female", "M": "male"}[utterance[3]],
                        "act": "improvised" if utterance[2].startswith("impro") else "scripted",
                    }
                )
    return rows


def _dialogues(folder: Path) -> list[Path]:
    """The files of labels, without the resource forks that the release was packed with (`._Ses01F_impro01.txt`)."""
    return sorted(path for path in folder.glob("Ses*.txt") if path.is_file())


def _texts(path: Path) -> dict[str, str]:
    """What is said in a dialogue by utterance; {} where the transcriptions were not copied. Notes have no utterance."""
    if not path.is_file():
        return {}
    lines = (_SAID.search(line) for _, line in read_lines(path, "the transcription", encoding="latin-1"))
    return {found[1]: found[2] for found in lines if found}
