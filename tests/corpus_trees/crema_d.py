from pathlib import Path

from corpus_trees import Tree, write_audio

ACTORS = {"train": (1001, 1002), "dev": (1062,), "test": (1077, 1091)}


def build(root: Path) -> Tree:
    """Five actors on both sides of the borders between splits, one sentence in two emotions each."""
    folder = root / "CREMA-D" / "AudioWAV"
    for actors in ACTORS.values():
        for actor in actors:
            for k, emotion in enumerate(("ANG", "SAD")):
                write_audio(folder / f"{actor}_IEO_{emotion}_HI.wav", seed=actor * 2 + k)
    return Tree(root=root, audio=folder / "1001_IEO_ANG_HI.wav", index=folder, splits={"train": 4, "dev": 2, "test": 4})
