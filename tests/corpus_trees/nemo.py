from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEAKERS = {
    "EB0": ("female", 27), "KD0": ("female", 28), "KS0": ("male", 23), "MK0": ("female", 23), "WR0": ("male", 23),
}  # fmt: skip
SENTENCES = (("fear", "„Ród smoka” to serial telewizyjny."), ("surprised", "Dziunia, nie jesteś moim szefem."))


def build(root: Path) -> Tree:
    """Five speakers, two sentences each; the release has blanks before every speaker."""
    top = root / "nEMO-06f1f83dde8f1a780443a57d53b2af3971af34ab"
    lines = ["file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"]
    for speaker, (gender, age) in SPEAKERS.items():
        for k, (emotion, text) in enumerate(SENTENCES):
            name = f"{speaker}_{emotion}_{k + 1}.wav"
            write_audio(top / "samples" / name, seed=sum(map(ord, speaker)) * 10 + k, rate=24_000)
            lines.append(f"{name}\t{emotion}\t{text}\t{text.lower()}\t        {speaker}\t{gender}\t{age}\n")
    write_text(top / "data.tsv", "".join(lines))
    return Tree(
        root=root,
        audio=top / "samples/KS0_fear_1.wav",
        index=top / "data.tsv",
        splits={"train": 2, "dev": 4, "test": 4},
    )
