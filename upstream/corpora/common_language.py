"""CommonLanguage: an hour of Common Voice in each of 45 languages, for LID."""

from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, read_lines, refuse_empty, refuse_row
from wavbench.upstream.errors import UserError, closest

corpus = Corpus(
    title="CommonLanguage",
    folder="common_voice_kpd",
    tasks=("lid",),
    licence="CC BY 4.0",
    source="https://zenodo.org/record/5036977",
    citation="Sinisetty et al. 2021, CommonLanguage (0.1), Zenodo",
    size="3.8 GB",
    hours=45.1,
    text="words",
    part_of="common_voice",
)

# folders, two of them misspelt, and what is spoken in them
LANGUAGES = {
    "Arabic": "ar", "Basque": "eu", "Breton": "br", "Catalan": "ca", "Chinese_China": "zh-CN",
    "Chinese_Hongkong": "zh-HK", "Chinese_Taiwan": "zh-TW", "Chuvash": "cv", "Czech": "cs", "Dhivehi": "dv",
    "Dutch": "nl", "English": "en", "Esperanto": "eo", "Estonian": "et", "French": "fr", "Frisian": "fy",
    "Georgian": "ka", "German": "de", "Greek": "el", "Hakha_Chin": "cnh", "Indonesian": "id", "Interlingua": "ia",
    "Italian": "it", "Japanese": "ja", "Kabyle": "kab", "Kinyarwanda": "rw", "Kyrgyz": "ky", "Latvian": "lv",
    "Maltese": "mt", "Mangolian": "mn", "Persian": "fa", "Polish": "pl", "Portuguese": "pt", "Romanian": "ro",
    "Romansh_Sursilvan": "rm-sursilv", "Russian": "ru", "Sakha": "sah", "Slovenian": "sl", "Spanish": "es",
    "Swedish": "sv", "Tamil": "ta", "Tatar": "tt", "Turkish": "tr", "Ukranian": "uk", "Welsh": "cy",
}  # fmt: skip
SPLITS = ("train", "dev", "test")
UTTERANCES = {"train": 22_194, "dev": 5_888, "test": 5_963}
FIELDS = 6  # number, speaker, file, sentence, age, gender
archives = (
    Archive(
        part="all",
        url="https://zenodo.org/record/5036977/files/CommonLanguage.tar.gz",
    ),
)


def read(root: Path, *, languages: str = "") -> Reading:
    """Utterances of some languages in the authors' splits.

    Args:
        root: `common_voice_kpd/` or its parent.
        languages: names of folders with commas between, such as `German,Kabyle`; all that are there where empty.
    """
    root = find_root(root, corpus, *(f"{name}/{split}.csv" for name in LANGUAGES for split in SPLITS))
    there = [name for name in LANGUAGES if (root / name).is_dir()]
    wanted = [name.strip() for name in languages.split(",")] if languages else there
    rows = []
    for name in dict.fromkeys(wanted):
        if name not in there:
            what = "is not here" if name in LANGUAGES else "is no language of CommonLanguage"
            raise UserError(f"{name!r} {what}", where=root, remedy=closest(name, there))
        for split in SPLITS:
            rows += _utterances(root, name, split)
    return Reading(root=root, rows=rows, expected={} if languages else UTTERANCES)


def _utterances(root: Path, name: str, split: str) -> list[dict]:
    """Rows of one list: UTF-16 with tabs, whatever its suffix says; its header has no name for the first field."""
    path, what = root / name / f"{split}.csv", f"the {split} list of {name} of CommonLanguage"
    rows: list[dict] = []
    for number, line in read_lines(path, what, encoding="utf-16"):
        fields = line.split("\t")
        if len(fields) != FIELDS:
            refuse_row(path, number, f"{len(fields)} fields, not {FIELDS}")
        _, speaker, file, sentence, age, gender = fields
        if number == 1:
            continue
        rows.append(
            {
                "id": f"{speaker}_{file.removesuffix('.wav')}",
                "audio": f"{name}/{split}/{speaker}/{file}",
                "split": split,
                "speaker": speaker,
                "language": LANGUAGES[name],
                "text": sentence,
                "gender": gender,
                "age": age,
            }
        )
    if not rows:
        refuse_empty(path, what)
    return rows
