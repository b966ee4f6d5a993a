from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

ROWS = {
    100: ("a", "The door is open.", "Die Tür ist offen.", "train"),
    101: ("a", "Close the door!", "Schließ die Tür!", "train_covost"),
    102: ("b", "What?", "REMOVE", "train"),
    103: ("b", "Yes.", "Ja, das ist so, wie du sagst.", "train"),
    104: ("c", 'He said "no".', 'Er sagte "nein".', "dev"),
    105: ("c", "Nobody knows.", "Niemand weiß es.", "dev_covost"),
    106: ("d", "It rains.", "Es regnet.", "test"),
}


def build(root: Path) -> Tree:
    """Translations as they are distributed, beside Common Voice 4; two of five rows are noise by SUPERB's rules."""
    top = root / "cv-corpus-4-2019-12-10" / "en"
    validated = ["client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"]
    translations = ["path\ttranslation\tsplit\n"]
    for number, (speaker, text, translation, split) in ROWS.items():
        clip = f"common_voice_en_{number}.mp3"
        write_audio(top / "clips" / clip, seed=number)
        validated.append(f"{speaker * 64}\t{clip}\t{text}\t2\t0\t\t\t\n")
        translations.append(f"{clip}\t{translation}\t{split}\n")
    validated.append("ee\tcommon_voice_en_999.mp3\tNot translated.\t2\t0\t\t\t\n")
    write_text(top / "validated.tsv", "".join(validated))
    write_text(root / "covost_v2.en_de.tsv", "".join(translations))
    return Tree(
        root=root,
        audio=top / "clips/common_voice_en_106.mp3",
        index=top / "validated.tsv",
        splits={"train": 2, "dev": 1, "test": 1},
        complete=True,
    )
