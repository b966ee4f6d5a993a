from pathlib import Path

from corpus_trees import Tree, write_audio

CODES = {"Dutch": "nld", "Mangolian": "mon"}
PARTS = {"train": ("trn", 2), "dev": ("dev", 1), "test": ("tst", 1)}


def build(root: Path) -> Tree:
    """Two languages, one of them misspelt as in the release; lists in UTF-16 with a byte-order mark."""
    top = root / "common_voice_kpd"
    for number, (language, code) in enumerate(CODES.items()):
        for split, (mark, speakers) in PARTS.items():
            lines = ["\tclient_id\tpath\tsentence\tage\tgender\r\n"]
            for k in range(speakers):
                speaker, file = f"{code}_{mark}_sp_{k + 1}", f"common_voice_{code}_{number}{len(split)}{k}.wav"
                seed = int.from_bytes(speaker.encode())
                write_audio(top / language / split / speaker / file, seed=seed, rate=48_000)
                lines.append(f"{k}\t{speaker}\t{file}\tÉén zin.\tnot_defined\tfemale\r\n")
            (top / language / f"{split}.csv").write_bytes("".join(lines).encode("utf-16"))
    return Tree(
        root=root,
        audio=top / "Dutch/dev/nld_dev_sp_1/common_voice_nld_030.wav",
        index=top / "Mangolian/test.csv",
        splits={"train": 4, "dev": 2, "test": 2},
    )
