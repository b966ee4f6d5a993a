"""Fluent Speech Commands: English orders to a smart home, for intent classification (IC).

An intent is what is to be done, to what, and where; SUPERB's 31 classes are the combinations that occur.
"""

from pathlib import Path

from wavbench.upstream.corpus import Corpus, Reading, find_root, read_table

corpus = Corpus(
    title="Fluent Speech Commands",
    folder="fluent_speech_commands_dataset",
    tasks=("ic", "asr"),
    licence="Fluent Speech Commands Public License (academic research, no redistribution)",
    source="https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/",
    obtain="the form on its page",
    citation="Lugosch et al. 2019, Speech Model Pre-training for End-to-End Spoken Language Understanding",
    size="1.6 GB",
    hours=19.0,
    separates=("speaker",),
    text="words",
)

COUNTS = {"train": 23_132, "dev": 3_118, "test": 3_793}
TABLES = {"train": "train_data.csv", "dev": "valid_data.csv", "test": "test_data.csv"}
SLOTS = ("action", "object", "location")


def read(root: Path) -> Reading:
    """All utterances; `intent` is ACTION/OBJECT/LOCATION, for example `increase/heat/kitchen`.

    Args:
        root: folder with `data/` and `wavs/`, or its parent.
    """
    root = find_root(root, corpus, "data/*_data.csv")
    rows = []
    for split, name in TABLES.items():
        needs = ("path", "speakerId", "transcription", *SLOTS)
        table = read_table(root / "data" / name, f"the table of {split}", needs, delimiter=",", quoted=True)
        for row in table:
            rows.append(
                {
                    "id": row["path"].rpartition("/")[2].removesuffix(".wav"),
                    "audio": row["path"],
                    "split": split,
                    "speaker": row["speakerId"],
                    "language": "en",
                    "text": row["transcription"],
                    "intent": "/".join(row[slot] for slot in SLOTS),
                    **{slot: row[slot] for slot in SLOTS},
                }
            )
    return Reading(root=root, rows=rows, expected=COUNTS)
