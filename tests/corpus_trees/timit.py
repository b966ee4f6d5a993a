from pathlib import Path

import numpy as np
import soundfile

from corpus_trees import Tree, write_text

SPEAKERS = {"TRAIN/DR1": ("FCJF0", "MDAC0"), "TEST/DR1": ("MDAB0", "FAKS0", "MREB0"), "TEST/DR4": ("MKCH0",)}
SENTENCES = {"SA1": "She had your dark suit in greasy wash water all year.", "SI1027": "Don't ask me!", "SX37": "Yes."}
PHONES = ((0, 2000, "h#"), (2000, 2400, "q"), (2400, 3200, "ix"), (3200, 4000, "tcl"), (4000, 6400, "pau"))


def build(root: Path) -> Tree:
    """Two speakers of train and core test and dev ones, one of neither; three sentences each, one of them SA1."""
    top = root / "TIMIT"
    for place, speakers in SPEAKERS.items():
        for speaker in speakers:
            write_speaker(top / place / speaker)
    return Tree(
        root=root,
        audio=top / "TRAIN/DR1/FCJF0/SI1027.WAV",
        index=top / "TEST/DR1/MDAB0/SX37.PHN",
        splits={"train": 4, "dev": 4, "test": 2},
    )


def write_speaker(folder: Path) -> None:
    for k, (sentence, text) in enumerate(SENTENCES.items()):
        path = folder / sentence
        write_text(path.with_suffix(".TXT"), f"0 6400 {text} \n")
        write_text(path.with_suffix(".WRD"), "2000 6400 yes\n")
        write_text(path.with_suffix(".PHN"), "".join(f"{a} {b} {phone}\n" for a, b, phone in PHONES))
        samples = 0.1 * np.random.default_rng([k, *folder.name.encode()]).standard_normal(6400).clip(-3, 3)
        soundfile.write(path.with_suffix(".WAV"), samples, 16_000, format="NIST", subtype="PCM_16")
