from pathlib import Path

from corpus_trees import Tree, write_audio

ACTORS = {"train": (1, 16), "dev": (17, 20), "test": (21, 24)}


def build(root: Path) -> Tree:
    """Six actors, each with two emotions spoken and one sung, at the archives' 48 kHz."""
    for actors in ACTORS.values():
        for actor in actors:
            for k, codes in enumerate(("01-01-01-01-01", "01-06-02-02-01", "02-04-01-01-02")):
                path = root / "RAVDESS" / f"Actor_{actor:02d}" / f"03-{codes}-{actor:02d}.wav"
                write_audio(path, seed=actor * 10 + k, rate=48_000)
    return Tree(
        root=root,
        audio=root / "RAVDESS/Actor_24/03-01-01-01-01-01-24.wav",
        index=root / "RAVDESS",
        splits={"train": 4, "dev": 4, "test": 4},
    )
