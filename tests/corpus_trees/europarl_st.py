from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SPEECHES = {
    "train": (("en.20080924.31.3-243", "MEP_28165"), ("en.20080924.4.3-018", "MEP_4521")),
    "dev": (("en.20090112.12.1-077", "MEP_1180"),),
    "test": (("en.20100519.4.3-113", "MEP_96919"),),
}
SEGMENTS = (("0.00", "0.35", "Madam President.", "Frau Präsidentin!"), ("0.40", "0.80", "I agree.", "Ich stimme zu."))


def build(root: Path) -> Tree:
    """Four speeches in English, converted to flac, of two segments each."""
    top = root / "v1.1" / "en"
    for split, speeches in SPEECHES.items():
        folder = top / "de" / split
        for k, (speech, _) in enumerate(speeches):
            write_audio(top / "audios" / f"{speech}.flac", seed=len(split) * 10 + k, seconds=0.9)
        lines = [(speech, *segment) for speech, _ in speeches for segment in SEGMENTS]
        write_text(folder / "speeches.lst", "".join(f"{speech}\n" for speech, _ in speeches))
        write_text(folder / "speakers.lst", "".join(f"{speaker}\n" for _, speaker in speeches))
        write_text(folder / "segments.lst", "".join(f"{s} {start} {end}\n" for s, start, end, _, _ in lines))
        write_text(folder / "segments.en", "".join(f"{line[3]}\n" for line in lines))
        write_text(folder / "segments.de", "".join(f"{line[4]}\n" for line in lines))
    return Tree(
        root=root,
        audio=top / "audios/en.20090112.12.1-077.flac",
        index=top / "de/test/segments.lst",
        splits={"train": 4, "dev": 2, "test": 2},
        complete=True,
    )
