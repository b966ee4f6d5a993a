from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

SENTENCES = {
    "en_us": {1: "However, it's late.", 2: "Twelve ships left.", 3: "Nobody came.", 4: "Only in English."},
    "cmn_hans_cn": {1: "不过，已经很晚了。", 2: "十二艘船离开了。", 3: "没有人来。"},
}
READ = {"train": (1, 1, 4), "dev": (2,), "test": (3, 3)}  # sentences by id, some read twice


def build(root: Path, languages: tuple[str, ...] = tuple(SENTENCES)) -> Tree:
    """Two languages; one sentence of the training part is there in English only. Other languages say the same."""
    for language in languages:
        sentences = SENTENCES.get(language, SENTENCES["en_us"])
        top = root / language
        for split, read in READ.items():
            lines = []
            for k, sentence in enumerate(number for number in read if number in sentences):
                text = sentences[sentence]
                file = f"{sentence * 1000 + k}.wav"
                write_audio(top / "audio" / split / file, seed=sentence * 10 + k)
                plain = text.lower().strip(".。")
                characters = " ".join(plain.replace(" ", "|")) + " |"
                lines.append(f"{sentence}\t{file}\t{text}\t{plain}\t{characters}\t6400\t{'FEMALE' if k else 'MALE'}\n")
            write_text(top / f"{split}.tsv", "".join(lines))
    return Tree(
        root=root,
        audio=root / "en_us/audio/dev/2000.wav",
        index=root / "cmn_hans_cn/dev.tsv",
        splits={"train": 5, "dev": 2, "test": 4},
        complete=True,
    )
