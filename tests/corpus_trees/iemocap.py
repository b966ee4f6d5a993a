from pathlib import Path

from corpus_trees import Tree, write_audio, write_text

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
LABELS = (("F000", "neu"), ("M000", "xxx"), ("F001", "exc"), ("M001", "ang"), ("M002", "sad"), ("F002", "fru"))


def build(root: Path) -> Tree:
    """One improvised dialogue of six turns in each session, four of them with one of the four labels."""
    top = root / "IEMOCAP_full_release"
    for session in range(1, 6):
        name, folder = f"Ses0{session}F_impro01", top / f"Session{session}"
        labels, said = [], []
        for k, (turn, label) in enumerate(LABELS):
            times = f"{k}.2901", f"{k}.8000"
            labels.append(f"[{times[0]} - {times[1]}]\t{name}_{turn}\t{label}\t[2.5000, 2.5000, 2.5000]\n")
            labels.append("C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\nA-F1:\tval 3; act 2; dom  1;\t()\n\n")
            said.append(f"{name}_{turn} [00{times[0]}-00{times[1]}]: Sentence {k}, please. [LAUGHTER]\n")
            write_audio(folder / "sentences/wav" / name / f"{name}_{turn}.wav", seed=session * 10 + k)
        write_text(folder / f"dialog/EmoEvaluation/{name}.txt", HEADER + "".join(labels))
        (folder / f"dialog/EmoEvaluation/._{name}.txt").write_bytes(b"\x00\x05\x16\x07\xb0Mac OS X")
        write_text(folder / f"dialog/EmoEvaluation/Categorical/{name}_e2_cat.txt", f"{name}_F000 :Neutral; ()\n")
        write_text(folder / f"dialog/transcriptions/{name}.txt", "".join(said) + "M: [BREATHING]\n")
    return Tree(
        root=root,
        audio=top / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M001.wav",
        index=top / "Session4/dialog/EmoEvaluation",
        splits={"train": 12, "dev": 4, "test": 4},
    )
