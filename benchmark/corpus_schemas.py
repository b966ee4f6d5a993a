"""The typed schemas of `wavbench corpus`; see schemas.py."""

from dataclasses import dataclass


@dataclass
class CorpusList:
    """Corpora that wavbench can build, fetch or import."""

    name: str = ""  # one of them; all where empty


@dataclass
class CorpusBuild:
    """Build a corpus."""

    name: str = "???"
    root: str = ""  # folder; corpora/NAME where empty
    seed: int = 0
    workers: int = 2


@dataclass
class CorpusCheck:
    """Print every bad row of a manifest."""

    manifest: str = "???"
    root: str = ""  # folder that `audio` is relative to; the manifest's own where empty
    mended: str = ""  # write what is left to this file


@dataclass
class CorpusFetch:
    """Download a data set whose licence lets anybody do so; the same command goes on where it stopped."""

    name: str = "???"
    root: str = ""  # folder; corpora/NAME where empty
    parts: str = ""  # some of the corpus, with commas between, or all; the parts that its task needs where empty
    keep: bool = False  # keep the archives


@dataclass
class CorpusImport:
    """A data set on disk, as its authors lay it out, to a manifest."""

    name: str = "???"
    root: str = "???"  # folder of the corpus, or its parent
    out: str = ""  # manifest; ROOT/NAME.csv where empty
    lexicon: str = ""  # words and their phones: fills the column `phones` from `text`
    stress: bool = True  # keep the stress of the lexicon's vowels (AH0, AH1)
    partial: bool = False  # import what is there of a corpus that is not complete
