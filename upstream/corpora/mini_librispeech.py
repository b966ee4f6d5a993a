"""Mini LibriSpeech: five hours of LibriSpeech to train on and two to test on, for trying things out."""

from pathlib import Path

from wavbench.upstream.corpora.librispeech import LEXICON, utterances
from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root

corpus = Corpus(
    title="Mini LibriSpeech",
    folder="LibriSpeech",
    tasks=("asr", "pr"),
    licence="CC BY 4.0",
    source="https://www.openslr.org/31",
    citation="Panayotov et al. 2015, LibriSpeech: an ASR corpus based on public domain audio books",
    size="0.5 GB",
    hours=7.0,
    separates=("speaker",),
    text="librispeech",
    part_of="librispeech",
)

TRAIN, TEST = "train-clean-5", "dev-clean-2"
UTTERANCES = {TRAIN: 1_519, TEST: 1_089}
DEV_SHARE = 8  # one speaker in so many of the training part is dev
archives = (
    Archive(
        part=TRAIN,
        url="https://www.openslr.org/resources/31/train-clean-5.tar.gz",
        sha256="47805806c8b15f7549f3c51bd6b7da72ec0128a34d32830c8014a88658c0292d",
        md5="5df7d4e78065366204ca6845bb08f490",
        bytes=332_954_390,
    ),
    Archive(
        part=TEST,
        url="https://www.openslr.org/resources/31/dev-clean-2.tar.gz",
        sha256="176ec501490eced2d6c1f89f4f0ddc7dfe799e649e5322f8ba49fe3ff50c8012",
        md5="6d7ab67ac6a1d2c993d050e16d61080d",
        bytes=126_046_265,
    ),
    LEXICON,
)


def read(root: Path) -> Reading:
    """All utterances; there is no test part, so dev-clean-2 is test, and dev is taken from the training speakers.

    Dev are the last speakers of train-clean-5 by number, one in eight of them and at least one.

    Args:
        root: `LibriSpeech/` or its parent.
    """
    root = find_root(root, corpus, TRAIN, TEST)
    train = utterances(root, TRAIN, "train")
    speakers = sorted({row["speaker"] for row in train}, key=lambda name: (len(name), name))
    held_out = set(speakers[-max(1, len(speakers) // DEV_SHARE) :])
    rows = [row | {"split": "dev" if row["speaker"] in held_out else "train"} for row in train]
    rows += utterances(root, TEST, "test")
    return Reading(root=root, rows=rows, expected={"test": UTTERANCES[TEST], "all": sum(UTTERANCES.values())})
