from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEAKERS = {"train_clean": ("s1", "s2"), "dev": ("s3",), "test_other": ("s4",)}


def build(root: Path) -> Tree:
    """Three data folders of a recipe: relative paths from the recipe, segments in training, whole files else."""
    for name, speakers in SPEAKERS.items():
        folder, scp, text, utt2spk, segments = root / "data" / name, [], [], [], []
        for speaker in speakers:
            recording = f"{speaker}-rec"
            path = f"downloads/{speaker}/{recording}.wav"
            write_audio(root / path, seed=sum(map(ord, speaker)), seconds=1.0)
            scp.append(f"{recording} {path}\n")
            ids = [f"{speaker}-0", f"{speaker}-1"] if name == "train_clean" else [recording]
            for k, id in enumerate(ids):
                text.append(f"{id} WORDS OF {k}\n")
                utt2spk.append(f"{id} {speaker}\n")
                segments.append(f"{id} {recording} {k * 0.5:.2f} {k * 0.5 + 0.4:.2f}\n")
        write_text(folder / "wav.scp", "".join(scp))
        write_text(folder / "text", "".join(text))
        write_text(folder / "utt2spk", "".join(utt2spk))
        if name == "train_clean":
            write_text(folder / "segments", "".join(segments))
    write_text(root / "data/lang/words.txt", "<eps> 0\n")
    return Tree(
        root=root,
        audio=root / "downloads/s3/s3-rec.wav",
        index=root / "data/dev/wav.scp",
        splits={"train": 4, "dev": 1, "test": 1},
    )
