from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEAKERS = {"train-clean-5": ("1088", "163"), "dev-clean-2": ("84",)}
TEXTS = ("SO IT IS SAID ANYWAY", "DON'T")


def build(root: Path, speakers: dict[str, tuple[str, ...]] = SPEAKERS) -> Tree:
    """Two training speakers, of whom the one with the higher number is dev, and one of test."""
    top = root / "LibriSpeech"
    for part, names in speakers.items():
        for speaker in names:
            folder = top / part / speaker / "134315"
            lines = [f"{speaker}-134315-{k:04d} {text}\n" for k, text in enumerate(TEXTS)]
            write_text(folder / f"{speaker}-134315.trans.txt", "".join(lines))
            for k in range(len(TEXTS)):
                write_audio(folder / f"{speaker}-134315-{k:04d}.flac", seed=int(speaker) * 10 + k)
    return Tree(
        root=root,
        audio=top / "dev-clean-2/84/134315/84-134315-0001.flac",
        index=top / "dev-clean-2/84/134315/84-134315.trans.txt",
        splits={"train": 2, "dev": 2, "test": 2},
    )
