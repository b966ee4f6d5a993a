from pathlib import Path

from corpus_trees import Tree, write_audio

NAMES = ("03a01Fa", "03a01Nc", "08b03Tb", "12a04Wb", "14b10Lb", "14a07Aa", "15a02Ec", "16b09Fd")


def build(root: Path) -> Tree:
    """Eight utterances of six speakers, as the archive unpacks."""
    for k, name in enumerate(NAMES):
        write_audio(root / "emodb/wav" / f"{name}.wav", seed=k)
    (root / "emodb/lablaut").mkdir()
    return Tree(
        root=root,
        audio=root / "emodb/wav/16b09Fd.wav",
        index=root / "emodb/wav",
        splits={"train": 3, "dev": 3, "test": 2},
    )
