from pathlib import Path

from corpus_trees import Tree, write_audio

CLASSES = ("calm", "loud")
SUFFIXES = (".wav", ".flac", ".ogg", ".WAV")


def build(root: Path) -> Tree:
    """Two classes of ten files in several formats, no folders of splits: one of each class is dev, one test."""
    for c, name in enumerate(CLASSES):
        for k in range(10):
            write_audio(root / "sounds" / name / f"part{k % 2}/s{k}_take{SUFFIXES[k % 4]}", seed=c * 10 + k)
    (root / "sounds/notes.txt").write_text("no audio\n")
    return Tree(root=root / "sounds", audio=None, index=None, splits={"train": 16, "dev": 2, "test": 2})
