from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEAKERS = {"train": ("6892", "1252"), "dev": ("8758",), "test": ("5764",)}
TEXTS = ("nie wiem co powiedzieć", "jest już późno")
HEADER = " SPEAKER   |   GENDER   | PARTITION  |  MINUTES   |  BOOK ID   |             TITLE              |  CHAPTER\n"


def build(root: Path, name: str = "mls_polish_opus", suffix: str = ".opus") -> Tree:
    """Two speakers of train, one of dev and test each, two utterances each, with the lists of limited supervision."""
    top = root / name
    info = [HEADER]
    for split, speakers in SPEAKERS.items():
        lines, segments = [], []
        for speaker in speakers:
            info.append(f"  {speaker}     |     F      |   {split}    |   1.000    |   10049    | Title | Chapter\n")
            for k, text in enumerate(TEXTS):
                id = f"{speaker}_10049_{k:06d}"
                lines.append(f"{id}\t{text}\n")
                segments.append(f"{id}\thttp://www.archive.org/download/x/y.mp3\t0.00\t0.40\n")
                write_audio(top / split / "audio" / speaker / "10049" / f"{id}{suffix}", seed=int(speaker) + k)
        write_text(top / split / "transcripts.txt", "".join(lines))
        write_text(top / split / "segments.txt", "".join(segments))
    write_text(top / "metainfo.txt", "".join(info))
    limited = top / "train" / "limited_supervision"
    write_text(limited / "9hr" / "handles.txt", "6892_10049_000000\n6892_10049_000001\n")
    for part in range(6):
        write_text(limited / "1hr" / str(part) / "handles.txt", "1252_10049_000000\n" if part == 3 else "")
    return Tree(
        root=root,
        audio=top / f"dev/audio/8758/10049/8758_10049_000001{suffix}",
        index=top / "test/transcripts.txt",
        splits={"train": 4, "dev": 2, "test": 2},
    )
