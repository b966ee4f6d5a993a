from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

HEADER = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
)
CLIPS = {
    "train": (("a1", 17283, 'Er sagte "ja'), ("a1", 17284, "Grüße aus Bonn!"), ("b2", 17285, "Zwei, drei.")),
    "dev": (("c3", 17290, "Danke schön."), ("c3", 17291, "Bitte")),
    "test": (("d4", 17299, "Wie geht’s?"),),
}


def build(root: Path, language: str = "de", release: str = "cv-corpus-17.0-2024-03-15") -> Tree:
    """Four speakers of German, and the lists that releases have beside the splits."""
    top = root / release / language
    lengths = ["clip\tduration[ms]\n"]
    for split, clips in CLIPS.items():
        lines = []
        for speaker, number, sentence in clips:
            clip = f"common_voice_{language}_{number}.mp3"
            write_audio(top / "clips" / clip, seed=number)
            fields = [
                speaker * 64,
                clip,
                f"{number:064x}",
                sentence,
                "",
                "2",
                "0",
                "twenties",
                "",
                "",
                "",
                language,
                "",
            ]
            lines.append("\t".join(fields) + "\n")
            lengths.append(f"{clip}\t400\n")
        write_text(top / f"{split}.tsv", "\t".join(HEADER.split()) + "\n" + "".join(lines))
    write_text(top / "validated.tsv", "\t".join(HEADER.split()) + "\n")
    write_text(top / "other.tsv", "\t".join(HEADER.split()) + "\n")
    write_text(top / "clip_durations.tsv", "".join(lengths))
    return Tree(
        root=root,
        audio=top / "clips/common_voice_de_17290.mp3",
        index=top / "test.tsv",
        splits={"train": 3, "dev": 2, "test": 1},
    )
