"""How long an import takes: a tree of LibriSpeech's shape and number of files, each of them a short one.

    python tests/benchmarks/import_speed.py [--files 28539] [--folder FOLDER]

Durations come from the header of every file, so that a file's length costs nothing; a cold or networked disk does.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from corpus_trees import write_audio, write_text

from wavbench.upstream.importing import import_corpus

CHAPTER, SPEAKERS = 49, 251  # utterances of a chapter, speakers of train-clean-100
PARTS = {"train-clean-100": 28_539, "dev-clean": 2_703, "test-clean": 2_620}


def build(root: Path, files: int) -> int:
    """Write the tree; returns how many audio files it has."""
    sound, made = write_audio(root / "one.flac", seconds=1.0), 0
    share = files / PARTS["train-clean-100"]
    for offset, (part, count) in enumerate(PARTS.items()):
        count = max(int(count * share), 1)
        for chapter in range(-(-count // CHAPTER)):
            speaker = 1_000 * (offset + 1) + chapter % SPEAKERS
            folder = root / "LibriSpeech" / part / str(speaker) / str(chapter)
            names = [f"{speaker}-{chapter}-{k:04d}" for k in range(min(CHAPTER, count - chapter * CHAPTER))]
            lines = (f"{name} THE SAME WORDS AGAIN {k}\n" for k, name in enumerate(names))
            write_text(folder / f"{speaker}-{chapter}.trans.txt", "".join(lines))
            for name in names:
                shutil.copyfile(sound, folder / f"{name}.flac")
            made += len(names)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=PARTS["train-clean-100"], help="of the training part")
    parser.add_argument("--folder", type=Path, help="where the tree goes; a temporary folder where not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        files = build(Path(folder), given.files)
        started, cpu = time.perf_counter(), time.process_time()
        made = import_corpus("librispeech", Path(folder), partial=True)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(f"{files:,} files, {len(made.table):,} rows: {seconds:.1f} s, {cpu:.1f} s of CPU")
        print(f"{files / seconds:,.0f} files a second")


if __name__ == "__main__":
    main()
