"""Labels and language models that cannot be learned from: left out and counted, or refused before any work is done."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark.record import read_record

ASR = ("run", "task=asr", "upstream=fbank", "head=linear", "budget=0.005")
WORDS = ("one two", "two one", "one", "two")


@pytest.fixture(scope="module")
def texts(corpus: Path) -> pd.DataFrame:
    """Rows of the corpus with short transcripts."""
    table = pd.read_csv(corpus, dtype=str, keep_default_na=False)
    return table.assign(text=[WORDS[k % len(WORDS)] for k in range(len(table))])


def written(table: pd.DataFrame, corpus: Path, name: str) -> str:
    """A manifest beside the corpus' own; what a command is given."""
    table.to_csv(corpus.parent / name, index=False)
    return f"manifest={corpus.parent / name}"


def places(folder: Path) -> tuple[str, str]:
    return f"results={folder / 'results'}", f"stores={folder / 'stores'}"


def test_utterances_without_a_transcript_are_left_out_and_counted(
    wavbench: Callable, corpus: Path, texts: pd.DataFrame, tmp_path: Path
) -> None:
    table = texts.copy()
    table.loc[[3, 4, 40], "text"] = ""
    done = wavbench(*ASR, written(table, corpus, "silent.csv"), *places(tmp_path))
    assert done.code == 0, done
    assert "left out: 3 of 48 utterances without text" in done.out
    record = read_record(done.made("record")[0])
    assert record.n == 11
    assert "train_skipped" not in record.secondary
    whole = wavbench(*ASR, written(texts, corpus, "spoken.csv"), *places(tmp_path))
    assert "left out" not in whole.out
    screen = wavbench(*ASR, written(table.assign(text=""), corpus, "mute.csv"), *places(tmp_path)).err
    assert "no values in column 'text'" in screen


def test_characters_that_train_lacks_cost_errors_and_are_counted(
    wavbench: Callable, corpus: Path, texts: pd.DataFrame, tmp_path: Path
) -> None:
    table = texts.copy()
    table.loc[[40, 41], "text"] = ["drei", "øne"]
    done = wavbench(*ASR, written(table, corpus, "strange.csv"), *places(tmp_path))
    assert done.code == 0, done
    record = read_record(done.made("record")[0])
    assert record.secondary["utterances_with_unseen_characters"] == 2
    scores = pd.read_csv(tmp_path / "results/runs" / f"{record.key}.scores.csv")
    assert sorted(scores["unseen"]) == [0] * 10 + [1, 3]  # d, r, i; ø
    assert np.isfinite(record.value)


def test_a_transcript_longer_than_its_frames_is_named_and_never_learned_from(
    wavbench: Callable, corpus: Path, texts: pd.DataFrame, tmp_path: Path
) -> None:
    table = texts.copy()
    table.loc[[5, 9], "text"] = "one two " * 40  # of half a second
    table.loc[41, "text"] = "one two " * 40  # of test: scored as any other
    done = wavbench(*ASR, written(table, corpus, "long.csv"), *places(tmp_path))
    assert done.code == 0, done
    (path,) = done.made("record")
    file = path.with_suffix("").with_suffix(".skipped.csv")
    assert f"left out of training: 2 utterances with more symbols than frames (first: u0005; all: {file})" in done.out
    assert pd.read_csv(file).to_numpy().tolist() == [[id, "more symbols than frames"] for id in ("u0005", "u0009")]
    record = read_record(path)
    assert record.secondary["train_skipped"] == 2
    assert record.n == 12
    assert np.isfinite([record.value, *record.ci95]).all()
    assert all(np.isfinite(v) for v in record.learning_rate_curve[0]["dev"].values())
    assert "*.skipped.csv" in (Path(__file__).parents[2] / ".gitignore").read_text().splitlines()


def test_train_of_nothing_but_such_transcripts_is_refused(
    wavbench: Callable, corpus: Path, texts: pd.DataFrame, tmp_path: Path
) -> None:
    table = texts.assign(text=["one two " * 40] * 24 + ["one"] * 24)
    done = wavbench(*ASR, written(table, corpus, "longest.csv"), *places(tmp_path))
    assert done.code == 2
    assert "no utterance of train has as many frames as symbols (24 are too short)" in done.err
    assert "way out: " in done.err
    assert not list((tmp_path / "results").rglob("*.json"))


def test_a_fold_without_a_second_class_is_named(refused: Callable, corpus: Path, texts: pd.DataFrame) -> None:
    few = texts[texts["speaker"].isin(["s00", "s01", "s02", "s03"])]
    table = few.assign(emotion=["fear" if speaker == "s02" else "joy" for speaker in few["speaker"]])
    screen = refused("run", "task=er", "upstream=fbank", written(table, corpus, "folds.csv"))
    assert "one class only: 'joy'" in screen
    assert "where: the fold that leaves speaker s01 out" in screen  # and takes s02 as dev
    table = few.assign(emotion=["envy" if k == 0 else ("joy", "fear")[k % 2] for k in range(len(few))])
    screen = refused("run", "task=er", "upstream=fbank", written(table, corpus, "envious.csv"))
    assert "'envy' occurs in test and never in train" in screen
    assert "where: the fold that leaves speaker s00 out" in screen


def test_a_missing_column_of_translations_is_named(refused: Callable, corpus: Path, texts: pd.DataFrame) -> None:
    screen = refused("run", "task=st", "upstream=fbank", written(texts, corpus, "plain.csv"))
    assert "no values in column 'translation'" in screen
    assert "way out: add the column" in screen
    table = texts.rename(columns={"text": "translations"})
    assert "did you mean translations?" in refused("run", "task=st", "upstream=fbank", written(table, corpus, "st.csv"))


@pytest.mark.parametrize(
    ("sentences", "words", "said"),
    [
        ("ONE TWO\nTWO\n", (), "it has 'ONE', 'TWO'"),
        ("eins zwei\n", (), "knows 0 of 36 tokens"),
        ("one two\n", ("lm_unit=character",), "expected tokens such as 'o', 'n', 'e'"),
    ],
)
def test_a_language_model_of_other_tokens_is_refused_before_any_work(
    refused: Callable,
    wavbench: Callable,
    corpus: Path,
    texts: pd.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
    sentences: str,
    words: tuple,
    said: str,
) -> None:
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text(sentences)
    assert wavbench("lm", f"text={folder / 'text.txt'}", f"out={folder / 'other.arpa'}", "order=2").code == 0
    screen = refused(*ASR, written(texts, corpus, "spoken.csv"), f"lm={folder / 'other.arpa'}", *words)
    assert said in screen
    assert "other.arpa" in screen
    assert "way out: a model of the same unit" in screen


def test_a_damaged_language_model_is_refused_before_any_work(
    refused: Callable, corpus: Path, texts: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "cut.arpa"
    path.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-1.0\tone\n")
    screen = refused(*ASR, written(texts, corpus, "spoken.csv"), f"lm={path}")
    assert "no sound ARPA file" in screen
    assert "cut.arpa, line" in screen


def test_transcripts_that_no_language_model_can_be_made_of_are_refused_before_training(
    wavbench: Callable, corpus: Path, texts: pd.DataFrame, tmp_path: Path
) -> None:
    table = texts.copy()
    table.loc[3, "text"] = "one <unk>"
    done = wavbench(*ASR, "lm=train", written(table, corpus, "marked.csv"), *places(tmp_path))
    assert done.code == 2
    assert "<unk>" in done.err
    assert "training" not in done.err + done.out
    assert not list((tmp_path / "results").rglob("*.json"))
