from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEAKERS = {
    "train": ("2BqVo8kVB2Skwgyb", "4BrX8aDqK2cLZRYl"),
    "valid": ("35v28XaVEns4WXOv",),
    "test": ("4aGjX3AG5xcxeL7a",),
}
ORDERS = (
    ("Turn up the heat in the kitchen", "increase", "heat", "kitchen"),
    ('"No, louder"', "increase", "volume", "none"),
    ("Bring me my shoes", "bring", "shoes", "none"),
)


def build(root: Path) -> Tree:
    """Two training speakers and one each of dev and test, three orders of each; one transcript holds a comma."""
    top = root / "fluent_speech_commands_dataset"
    for split, speakers in SPEAKERS.items():
        lines = [",path,speakerId,transcription,action,object,location"]
        for speaker in speakers:
            for order in ORDERS:
                number = len(lines) - 1
                path = f"wavs/speakers/{speaker}/{number:x}dbd7860-4b84-11e9-b3b3-0dab6b1a{speaker[:4]}.wav"
                write_audio(top / path, seed=sum(map(ord, speaker)) * 10 + number)
                lines.append(f"{number},{path},{speaker},{','.join(order)}")
        write_text(top / f"data/{split}_data.csv", "\n".join(lines) + "\n")
    write_text(top / "data/speaker_demographics.csv", "speakerId,Self-reported fluency level\n")
    return Tree(
        root=root,
        audio=next((top / "wavs/speakers/35v28XaVEns4WXOv").glob("*.wav")),
        index=top / "data/valid_data.csv",
        splits={"train": 6, "dev": 3, "test": 3},
    )
