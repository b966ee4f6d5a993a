from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEAKERS = {"train": ("0a7c2a8d", "0b09edd3"), "dev": ("0c40e715",), "test": ("0d2bcf9d",)}
WORDS = ("yes", "bed")
CLASSES = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_")


def build(root: Path, words: tuple[str, ...] = WORDS) -> Tree:
    """Version 0.01: two words of four speakers, ten seconds of noise, and the separate test set with a file a class."""
    top = root / "speech_commands_v0.01"
    files = {
        split: [f"{word}/{speaker}_nohash_0.wav" for word in words for speaker in speakers]
        for split, speakers in SPEAKERS.items()
    }
    for split, places in files.items():
        for k, place in enumerate(places):
            write_audio(top / place, seed=sum(map(ord, split)) * 10 + k)
    write_audio(top / "_background_noise_/pink_noise.wav", seed=1, seconds=10.5)
    write_text(top / "_background_noise_/README.md", "Background noise\n")
    write_text(top / "validation_list.txt", "".join(f"{place}\n" for place in files["dev"]))
    write_text(top / "testing_list.txt", "".join(f"{place}\n" for place in files["test"]))
    for k, name in enumerate(CLASSES):
        file = "0.wav" if name == "_silence_" else f"{'bed_' if name == '_unknown_' else ''}0d2bcf9d_nohash_0.wav"
        write_audio(root / "speech_commands_test_set_v0.01" / name / file, seed=5_000 + k)
    return Tree(
        root=root,
        audio=top / "bed/0c40e715_nohash_0.wav",
        index=top / "validation_list.txt",
        splits={"train": 4 + 8, "dev": 2 + 1, "test": 12},
    )
