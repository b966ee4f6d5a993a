from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEAKERS = {"train-clean-100": ("19", "26"), "dev-clean": ("84",), "test-clean": ("61",)}
TEXTS = ("A MAN SAID TO THE UNIVERSE", "SIR I EXIST", "HOWEVER IT'S LATE")


def write_chapter(part: Path, speaker: str, chapter: str, texts: tuple[str, ...]) -> None:
    """One chapter of one speaker: transcripts, and an utterance for each of them."""
    folder, stem = part / speaker / chapter, f"{speaker}-{chapter}"
    lines = [f"{stem}-{k:04d} {text}\n" for k, text in enumerate(texts)]
    write_text(folder / f"{stem}.trans.txt", "".join(lines))
    for k in range(len(texts)):
        write_audio(folder / f"{stem}-{k:04d}.flac", seed=int(speaker) * 10 + k)


def build(root: Path) -> Tree:
    """Two training speakers and one each of dev and test, three utterances in one chapter each."""
    top = root / "LibriSpeech"
    write_text(top / "SPEAKERS.TXT", "; ID | SEX | SUBSET | MINUTES | NAME\n")
    for part, speakers in SPEAKERS.items():
        for speaker in speakers:
            write_chapter(top / part, speaker, "198", TEXTS)
    return Tree(
        root=root,
        audio=top / "train-clean-100/19/198/19-198-0001.flac",
        index=top / "dev-clean/84/198/84-198.trans.txt",
        splits={"train": 6, "dev": 3, "test": 3},
    )
