"""nEMO: ninety Polish sentences acted by nine people in six emotions, for ER."""

from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, read_table
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="nEMO",
    folder="nEMO*",  # the archive's folder carries the commit
    tasks=("er", "asr"),
    licence="CC BY-NC-SA 4.0",
    source="https://github.com/amu-cai/nEMO",
    citation="Christop 2024, nEMO: Dataset of Emotional Speech in Polish",
    size="0.5 GB",
    hours=3.0,
    separates=("speaker",),
    text="words",
)

_COMMIT = "06f1f83dde8f1a780443a57d53b2af3971af34ab"
archives = (Archive(part="all", url=f"https://github.com/amu-cai/nEMO/archive/{_COMMIT}.zip"),)

EMOTIONS = ("anger", "fear", "happiness", "neutral", "sadness", "surprised")
COLUMNS = ("file_id", "emotion", "raw_text", "speaker_id", "gender", "age")
SPLITS = {"KD0": "dev", "KS0": "dev", "MK0": "test", "WR0": "test"}  # a woman and a man each; the others are train
UTTERANCES = 4_481


def read(root: Path) -> Reading:
    """All recordings. With nine speakers, ER leaves each out in turn; the splits are for those who do not fold.

    The author gives no splits: speakers MK0 and WR0 are test, KD0 and KS0 dev.

    Args:
        root: folder with `data.tsv` and `samples/`, or its parent.
    """
    root = find_root(root, corpus, "data.tsv")
    rows = []
    for number, row in enumerate(read_table(root / "data.tsv", "the table of recordings", COLUMNS), start=2):
        row = {name: value.strip() for name, value in row.items()}  # speaker_id has blanks before it in the release
        if row["emotion"] not in EMOTIONS:
            raise UserError(
                f"{row['emotion'][:80]!r} is no emotion of nEMO",
                where=f"{root / 'data.tsv'}, line {number}",
                why=f"its emotions: {', '.join(EMOTIONS)}",
                remedy="the file was changed: copy it again",
            )
        rows.append(
            {
                "id": row["file_id"].removesuffix(".wav"),
                "audio": f"samples/{row['file_id']}",
                "split": SPLITS.get(row["speaker_id"], "train"),
                "speaker": row["speaker_id"],
                "language": "pl",
                "text": row["raw_text"],
                "emotion": row["emotion"],
                "gender": row["gender"],
                "age": row["age"],
            }
        )
    return Reading(root=root, rows=rows, expected={"all": UTTERANCES})
