from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEAKERS = {"dev": ("id10001", "id10002", "id10020", "id10050"), "test": ("id10270", "id10309")}
VIDEOS = ("1zcIwhmdeo4", "-kv5sYSAtFs")  # a hyphen may start the name of a video


def build(root: Path) -> Tree:
    """The archives of dev and test, unpacked apart, two videos of two utterances each.

    With list O and its corrected one, and the identification splits.
    """
    splits = []
    for part, speakers in SPEAKERS.items():
        for speaker in speakers:
            for k, video in enumerate(VIDEOS):
                for number in (1, 2):
                    path = root / "VoxCeleb1" / part / "wav" / speaker / video / f"{number:05d}.wav"
                    write_audio(path, seed=int(speaker[2:]) * 10 + k * 2 + number)
                    splits.append(f"{max(k * 2 + number - 1, 1)} {speaker}/{video}/{number:05d}.wav\n")
    first, second = (f"{speaker}/{VIDEOS[0]}/00001.wav" for speaker in SPEAKERS["test"])
    other = f"id10270/{VIDEOS[1]}/00002.wav"
    write_text(root / "VoxCeleb1/veri_test.txt", f"1 {first} {other}\n0 {first} {second}\n0 {second} {other}\n")
    write_text(root / "VoxCeleb1/veri_test2.txt", f"1 {first} {other}\n0 {first} {second}\n")
    write_text(root / "VoxCeleb1/iden_split.txt", "".join(splits))
    return Tree(
        root=root,
        audio=root / "VoxCeleb1/test/wav/id10309" / VIDEOS[0] / "00002.wav",
        index=None,
        splits={"train": 8, "dev": 8, "test": 8},
    )
