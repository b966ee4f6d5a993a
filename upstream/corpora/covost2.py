"""CoVoST 2: Common Voice 4 with translations from and into English, for ST."""

import re
from pathlib import Path

from wavbench.upstream.corpora.common_voice import clip_name, clips_of
from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, need_file, read_table
from wavbench.upstream.errors import UserError, closest

corpus = Corpus(
    title="CoVoST 2",
    folder="covost2",
    tasks=("st", "asr"),
    licence="CC0 1.0",
    source="https://github.com/facebookresearch/covost",
    obtain="the translations are fetched; the clips are Common Voice Corpus 4 (2019-12-10) of the source language",
    citation="Wang et al. 2020, CoVoST 2: A Massively Multilingual Speech-to-Text Translation Corpus",
    size="26 MB of translations for en_de, and Common Voice 4 in the source language",
    text="words",
    part_of="common_voice",
)

SPLITS = ("train", "dev", "test")
_INTO_ENGLISH = "fr de es ca it ru zh-CN pt fa et mn nl tr ar sv-SE lv sl ta ja id cy"
_FROM_ENGLISH = "de tr fa sv-SE mn zh-CN cy ca sl et id ar ta lv ja"
PAIRS = tuple([f"en_{code}" for code in _FROM_ENGLISH.split()] + [f"{code}_en" for code in _INTO_ENGLISH.split()])
UTTERANCES = {"en_de": {"train": 289_430, "dev": 15_531, "test": 15_531}}  # before any filter
archives = tuple(
    Archive(part=pair, url=f"https://dl.fbaipublicfiles.com/covost/covost_v2.{pair}.tsv.tar.gz") for pair in PAIRS
)

FILTERS = ("superb", "none")
LONGEST_RATIO = 5  # of words, of either side
UNPARTED = {"zh", "ja"}  # a sentence of these is one word
NO_TRANSLATION = "REMOVE"  # what translators wrote for sentences that cannot be translated


def read(root: Path, *, pair: str = "en_de", filter: str = "superb") -> Reading:
    """Clips of one direction with transcript and translation.

    Either the three lists that CoVoST's own script makes (`covost_v2.en_de.train.tsv`, ...) are there, or its
    translations (`covost_v2.en_de.tsv`), which then are joined with Common Voice's `validated.tsv` as that script does.

    Args:
        root: holds the lists and Common Voice, each directly or in folders inside, such as
            `covost_v2.en_de.tsv` beside `cv-corpus-4-2019-12-10/en/`.
        pair: source and target language.
        filter: `superb` leaves out, in all three splits, rows with an empty side, with five times more words on one
            side than on the other (not for Chinese and Japanese, which do not part words), and those that say REMOVE
            (as SUPERB's page says; its script names no such word).
    """
    if pair not in PAIRS:
        raise UserError(f"CoVoST 2 has no pair {pair!r}", where="pair=", remedy=closest(pair, list(PAIRS)))
    if filter not in FILTERS:
        raise UserError(f"there is no filter {filter!r}", where="filter=", remedy=f"one of: {', '.join(FILTERS)}")
    name = f"covost_v2.{pair}"
    marks = [f"{depth}{name}{end}" for depth in ("", "*/", "*/*/") for end in (".train.tsv", ".tsv")]
    root = find_root(root, corpus, *marks)
    lists = min((path for mark in marks for path in root.glob(mark)), key=lambda path: len(path.parts)).parent
    source, target = pair.split("_")
    clips = _clips(root, source)
    splits = _made(lists, name) if (lists / f"{name}.train.tsv").is_file() else _joined(lists / f"{name}.tsv", clips)
    rows, left_out = [], 0
    for split in SPLITS:
        for row in splits[split]:
            if filter == "superb" and is_noise(row["sentence"], row["translation"], pair):
                left_out += 1
                continue
            clip = clip_name(row["path"])
            rows.append(
                {
                    "id": clip.removesuffix(".mp3"),
                    "audio": f"clips/{clip}",
                    "split": split,
                    "speaker": row["client_id"],
                    "language": source,
                    "text": row["sentence"],
                    "translation": row["translation"],
                    "translation_language": target,
                }
            )
    notes = (f"{left_out:,} clips are left out as in SUPERB (filter=none keeps them)",) if left_out else ()
    return Reading(root=clips, rows=rows, expected={} if filter == "superb" else UTTERANCES.get(pair, {}), notes=notes)


def is_noise(text: str, translation: str, pair: str = "en_de") -> bool:
    """Whether SUPERB leaves a row out; numbers of words are compared where both languages part them with blanks."""
    ours, theirs = len(text.split()), len(translation.split())
    if not ours or not theirs or NO_TRANSLATION in text or NO_TRANSLATION in translation:
        return True
    if not UNPARTED.isdisjoint(code.partition("-")[0] for code in pair.split("_")):
        return False
    return ours > LONGEST_RATIO * theirs or theirs > LONGEST_RATIO * ours


def _clips(root: Path, language: str) -> Path:
    """The folder of Common Voice that has the clips of a language."""
    places = [root, *(place for depth in ("", "*/", "*/*/") for place in sorted(root.glob(f"{depth}{language}")))]
    for place in places:
        if (place / "clips").is_dir():
            return place
    raise UserError(
        f"the clips of Common Voice 4 in {language} are missing",
        where=root,
        why=f"neither clips/ nor {language}/clips/ is in it, or in a folder in it",
        remedy="unpack Common Voice Corpus 4 there, or link to it",
    )


def _made(folder: Path, name: str) -> dict[str, list[dict[str, str]]]:
    """The lists of CoVoST's script."""
    needs = ("path", "sentence", "translation", "client_id")
    return {
        split: [
            {key: unescaped(value) for key, value in row.items()}
            for row in clips_of(folder / f"{name}.{split}.tsv", f"the {split} list of CoVoST 2", needs)
        ]
        for split in SPLITS
    }


def _joined(path: Path, clips: Path) -> dict[str, list[dict[str, str]]]:
    """Translations with the transcripts of Common Voice, in the order of the latter."""
    translated = {
        row["path"]: row for row in read_table(path, "the translations of CoVoST 2", ("path", "translation", "split"))
    }
    validated = need_file(clips / "validated.tsv", "the list of validated clips of Common Voice 4")
    splits: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    for row in clips_of(validated, "the list of validated clips of Common Voice 4", ("path", "sentence", "client_id")):
        found = translated.get(row["path"])
        split = found["split"].removesuffix("_covost") if found else ""
        # of what CoVoST 1 added to the splits, the second one takes up the training part only
        if found and (split == "train" or found["split"] in SPLITS) and split in SPLITS:
            splits[split].append(
                {
                    "path": row["path"],
                    "client_id": row["client_id"],
                    "sentence": unescaped(row["sentence"]),
                    "translation": unescaped(found["translation"]),
                }
            )
    return splits


def unescaped(text: str) -> str:
    r"""Without the backslashes that CoVoST's tables put before backslashes and tabs."""
    return re.sub(r"\\(.)", r"\1", text)
