from pathlib import Path

from corpus_trees import Tree
from corpus_trees.librispeech import write_chapter

SPEAKERS = {"train-clean-5": ("1088", "163"), "dev-clean-2": ("84",)}
TEXTS = ("SO IT IS SAID ANYWAY", "DON'T")


def build(root: Path, speakers: dict[str, tuple[str, ...]] = SPEAKERS) -> Tree:
    """Two training speakers, of whom the one with the higher number is dev, and one of test."""
    top = root / "LibriSpeech"
    for part, names in speakers.items():
        for speaker in names:
            write_chapter(top / part, speaker, "134315", TEXTS)
    return Tree(
        root=root,
        audio=top / "dev-clean-2/84/134315/84-134315-0001.flac",
        index=top / "dev-clean-2/84/134315/84-134315.trans.txt",
        splits={"train": 2, "dev": 2, "test": 2},
    )
