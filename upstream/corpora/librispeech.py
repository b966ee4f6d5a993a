"""LibriSpeech: English audiobooks, for ASR and, through a lexicon, phonemes."""

import os
from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, need_folder, read_lines, refuse_row
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="LibriSpeech",
    folder="LibriSpeech",
    tasks=("asr", "pr"),
    licence="CC BY 4.0",
    source="https://www.openslr.org/12",
    citation="Panayotov et al. 2015, LibriSpeech: an ASR corpus based on public domain audio books",
    size="6.3 GB for train-clean-100, 0.7 GB for dev-clean and test-clean; 60 GB in all",
    hours=111.4,
    separates=("speaker",),
    text="librispeech",
)

# utterances of each part: section 5 of the paper gives hours, these are the lines of the transcripts
COUNTS = {
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
}
_SHA256 = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}
LEXICON = Archive(part="lexicon", url="https://www.openslr.org/resources/11/librispeech-lexicon.txt")
default_parts = ("train-clean-100", "dev-clean", "test-clean", "lexicon")
archives = (
    *(
        Archive(part=part, url=f"https://www.openslr.org/resources/12/{part}.tar.gz", sha256=digest)
        for part, digest in _SHA256.items()
    ),
    LEXICON,
)


def read(root: Path, *, train: str = "train-clean-100", dev: str = "dev-clean", test: str = "test-clean") -> Reading:
    """Utterances of the parts asked for.

    Args:
        root: `LibriSpeech/` or its parent.
        train, dev, test: parts that make each split, several with commas between.
    """
    root = find_root(root, corpus, "*-clean*", "*-other*")
    rows, expected = [], {}
    for split, parts in (("train", train), ("dev", dev), ("test", test)):
        for part in filter(None, parts.split(",")):
            if part not in COUNTS:
                raise UserError(
                    f"LibriSpeech has no part {part!r}", where=f"{split}={parts}", remedy=f"one of: {', '.join(COUNTS)}"
                )
            if not (root / part).is_dir():
                there = ", ".join(name for name in COUNTS if (root / name).is_dir())
                raise UserError(
                    f"the part {part} of LibriSpeech is missing",
                    where=root / part,
                    why=f"there are {there or 'no parts'}",
                    remedy=f"fetch or copy it, name another with {split}=PART, or leave the split out with {split}=",
                )
            rows += utterances(root, part, split)
            expected[split] = expected.get(split, 0) + COUNTS[part]
    return Reading(root=root, rows=rows, expected=expected)


def utterances(root: Path, part: str, split: str) -> list[dict]:
    """Rows of one part: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside SPEAKER-CHAPTER-NUMBER.flac."""
    folder, rows = need_folder(root / part, f"the part {part} of LibriSpeech"), []
    for speaker in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()):
        for chapter in sorted(entry.name for entry in os.scandir(folder / speaker) if entry.is_dir()):
            path = folder / speaker / chapter / f"{speaker}-{chapter}.trans.txt"
            for number, line in read_lines(path, f"the transcript of chapter {speaker}-{chapter}"):
                id, _, text = line.partition(" ")
                if not id.startswith(f"{speaker}-{chapter}-") or not text:
                    refuse_row(path, number, f"{line[:80]!r} is no id and text")
                audio = f"{part}/{speaker}/{chapter}/{id}.flac"
                rows.append(
                    {"id": id, "audio": audio, "split": split, "speaker": speaker, "language": "en", "text": text}
                )
    return rows
