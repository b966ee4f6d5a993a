"""`wavbench lm` writes models that load, says how well they fit dev, and refuses what it cannot use."""

from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark import language_models
from wavbench.benchmark.cli import main
from wavbench.downstream.language import causal_lm
from wavbench.downstream.language.causal_lm import CausalLm
from wavbench.downstream.language.decoding import load_lm


@pytest.fixture
def manifest(build_corpus, tmp_path: Path) -> Path:
    texts = ["one two three", "two one", "one four", "three two one", "one", "two five"]
    return build_corpus(tmp_path / "corpus", text=texts, phones=["W AH N", "SIL T", "T UW", "W SIL", "W", "T"])


def test_an_ngram_model_knows_the_words_of_train_alone(manifest: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "deep" / "m.arpa"
    assert main(["lm", f"manifest={manifest}", f"out={out}", "order=2"]) == 0
    table = pd.read_csv(manifest)
    assert load_lm(out).tokens == set(" ".join(table["text"][table["split"] == "train"]).split())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train: 2 sentences, 6 words, 3 different")
    assert lines[1].startswith("dev: perplexity")
    assert lines[-1] == f"lm: {out}"


@pytest.mark.parametrize(
    ("words", "tokens"), [(["unit=character"], set("▁onetwhr")), (["column=phones"], {"W", "AH", "N"})]
)
def test_other_units_are_characters_and_phones_without_silence(
    manifest: Path, tmp_path: Path, words: list[str], tokens: set[str]
) -> None:
    assert main(["lm", f"manifest={manifest}", f"out={tmp_path / 'm.arpa'}", *words]) == 0
    assert load_lm(tmp_path / "m.arpa").tokens == tokens


def test_a_text_file_is_normalised_like_transcripts(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\ufeffcafe\u0301  one\n\n two\n", encoding="utf-8")
    assert main(["lm", f"text={tmp_path / 't.txt'}", f"out={tmp_path / 'm.arpa'}"]) == 0
    assert load_lm(tmp_path / "m.arpa").tokens == {"café", "one", "two"}


def test_a_transformer_is_written_as_a_folder(manifest: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "lm"
    assert main(["lm", f"manifest={manifest}", "kind=transformer", f"out={out}", "epochs=1"]) == 0
    assert isinstance(load_lm(out), CausalLm)
    assert capsys.readouterr().out.splitlines()[-1] == f"lm: {out}"


def test_an_interrupted_training_leaves_nothing_and_says_so(
    manifest: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(causal_lm, "fit_of_characters", stopped)  # behind the first epoch
    out = tmp_path / "new" / "lm"
    assert main(["lm", f"manifest={manifest}", "kind=transformer", f"out={out}"]) == 130
    assert "begins anew" in capsys.readouterr().err
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["manifest=M", "out=D/m.txt"], "ends in .arpa"),
        (["manifest=M", "out=D/m.arpa", "kind=rnn"], "kind=ngram or kind=transformer"),
        (["manifest=M", "out=D/m", "kind=transformer", "unit=word"], "unit=character"),
        (["manifest=M", "out=D/m.arpa", "unit=phrase"], "unit=word or unit=character"),
        (["manifest=M", "out=D/m.arpa", "kind=transformer"], "a folder"),
        (["manifest=M", "out=D/corpus", "kind=transformer"], "is no language model"),
        (["manifest=M", "out=D/m", "kind=transformer", "column=phones"], "kind=ngram"),
        (["manifest=M", "text=D/t", "out=D/m.arpa"], "one source of text"),
        (["out=D/m.arpa"], "one source of text"),
        (["text=D/none", "out=D/m.arpa"], "no such text"),
        (["text=D/bad", "out=D/m.arpa"], "bad, line 2"),
        (["text=D/empty", "out=D/m.arpa"], "no text"),
        (["text=D/empty", "out=D/m", "kind=transformer"], "no text"),
        (["manifest=M", "out=D/m.arpa", "column=colour"], "colour"),
        (["manifest=M", "out=D/m.arpa", "order=9"], "1 to 6"),
        (["manifest=M", "out=D/m.arpa", "seed=-1"], "is no seed"),
        (["manifest=M", "out=D/m", "kind=transformer", "epochs=0"], "epochs"),
        (["manifest=M", "out=D/m", "kind=transformer", "order=3"], "order=3 would change nothing"),
        (["manifest=M", "out=D/m", "kind=transformer", "prune=true"], "prune=True would change nothing"),
        (["manifest=M", "out=D/m.arpa", "epochs=3"], "epochs=3 would change nothing"),
        (["manifest=M", "out=D/m.arpa", "seed=3"], "it goes with kind=transformer"),
    ],
)
def test_bad_input_is_one_screen_and_leaves_nothing(
    manifest: Path, tmp_path: Path, capsys, words: list[str], named: str
) -> None:
    (tmp_path / "bad").write_bytes(b"fine\n\xff\n")
    (tmp_path / "empty").write_text("\n \n")
    before = sorted(tmp_path.iterdir())
    words = [word.replace("=M", f"={manifest}").replace("=D/", f"={tmp_path}/") for word in words]
    assert main(["lm", *words]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error
    assert sorted(tmp_path.iterdir()) == before


def test_a_line_without_end_is_refused(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_models, "MAX_LINE", 50)
    (tmp_path / "t").write_text("word " * 100)
    assert main(["lm", f"text={tmp_path / 't'}", f"out={tmp_path / 'm.arpa'}"]) == 2
    assert "more than 50 bytes" in capsys.readouterr().err
