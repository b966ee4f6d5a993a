"""ARPA files come back as they were, KenLM reads the same in them, and broken ones are refused by name."""

import gzip
import random
from pathlib import Path

import pytest

from wavbench.downstream.language import arpa, decoding
from wavbench.downstream.language.arpa import Kenlm, read_arpa, write_arpa
from wavbench.downstream.language.decoding import load_lm
from wavbench.downstream.language.ngrams import BEGIN, END, Ngrams, estimate
from wavbench.upstream.errors import UserError


def corpus(seed: int = 0, sentences: int = 200) -> list[list[str]]:
    draw = random.Random(seed)
    words = ["on", "to", "tree", "été", "three", "four", "over", "under"]
    return [draw.choices(words, weights=range(1, 9), k=draw.randint(1, 7)) for _ in range(sentences)]


@pytest.fixture(scope="module")
def model() -> Ngrams:
    return estimate(corpus(), 3)


def changed(model: Ngrams, path: Path, old: str, new: str) -> Path:
    write_arpa(model, path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_a_model_comes_back_from_its_file(model: Ngrams, tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "m.arpa"
    write_arpa(model, path)
    if zipped:
        path = path.with_suffix(".arpa.gz")
        path.write_bytes(gzip.compress((tmp_path / "m.arpa").read_bytes()))
    back = load_lm(path)
    assert back.order == model.order
    assert back.tokens == model.tokens
    assert back.backoffs == pytest.approx(model.backoffs, abs=1e-7)
    for ngram, value in model.probabilities.items():
        if ngram != (BEGIN,):
            assert back.probabilities[ngram] == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("prune", [False, True])
def test_kenlm_gives_the_same_probabilities(tmp_path: Path, prune: bool) -> None:
    pytest.importorskip("kenlm", reason="KenLM is not installed: its scores are not compared")
    path = tmp_path / "m.arpa"
    write_arpa(estimate(corpus(), 4, prune), path)
    ours, theirs = read_arpa(path), Kenlm(path)
    assert theirs.tokens == ours.tokens
    for sentence in corpus(1, 50):
        own, other = ours.start(), theirs.start()
        for token in (*sentence, "never heard", "tree", END):
            value, own = ours.score(own, token)
            same, other = theirs.score(other, token)
            assert value == pytest.approx(same, abs=1e-4)


def test_files_too_large_for_dictionaries_go_to_kenlm(
    model: Ngrams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_arpa(model, tmp_path / "m.arpa")
    monkeypatch.setattr(decoding, "MAX_OWN", 10)
    monkeypatch.setattr(arpa, "MAX_OWN", 10)
    try:
        import kenlm  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="KenLM"):
            load_lm(tmp_path / "m.arpa")
    else:
        assert isinstance(load_lm(tmp_path / "m.arpa"), Kenlm)
    with pytest.raises(UserError, match="more than fit"):
        read_arpa(tmp_path / "m.arpa")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("\\data\\", "data", "does not begin"),
        ("ngram 2=", "ngram 3=", "its counts are not"),
        ("ngram 1=11", "ngram 1=12", "is no 1-gram"),
        ("ngram 1=11", "ngram 1=10", "2-grams: is missing"),
        ("ngram 1=11", "ngram 1=-1", "its counts are not"),
        ("ngram 1=11", "ngram 1=999999999999999999", "more than fit in memory"),
        ("\\2-grams:", "\\3-grams:", "is missing"),
        ("\\end\\", "", "ends too early"),
        ("\\end\\", "-1 a b c", "is missing"),
        ("\ttree\t", "\ttree\tnan", "is no log10|is no number"),
        ("\ttree\t", "\ttree\tx", "is no number"),
        ("\ttree\t", "\ttree house\t", "is no 1-gram"),
        ("\ttree\t", "\tfour\t", "twice"),
        ("\t<s>\t", "\t<x>\t", "has parts that are no n-grams"),
        ("-99\t", "99\t", "above zero"),
        ("\ttree\t", "\t" + "x" * 20_000 + "\t", "a line of more than"),
    ],
)
def test_a_broken_file_is_refused_by_name(model: Ngrams, tmp_path: Path, old: str, new: str, named: str) -> None:
    path = changed(model, tmp_path / "m.arpa", old, new)
    with pytest.raises(UserError, match=named) as caught:
        read_arpa(path)
    assert str(path) in caught.value.where


@pytest.mark.parametrize("content", [b"", b"\\data\\\n", b"\xff\xfe\x00", b"\\data\\\nngram 1=1\n\\1-grams:\n\xff\n"])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    for name, data in (("m.arpa", content), ("m.arpa.gz", content), ("n.arpa.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError):
            read_arpa(tmp_path / name)


def test_a_damaged_archive_is_refused(model: Ngrams, tmp_path: Path) -> None:
    write_arpa(model, tmp_path / "m.arpa")
    whole = gzip.compress((tmp_path / "m.arpa").read_bytes())
    for place in range(12, len(whole) - 8, 7):
        damaged = bytes([*whole[:place], whole[place] ^ 0x55, *whole[place + 1 :]])
        (tmp_path / "m.arpa.gz").write_bytes(damaged)
        with pytest.raises(UserError):
            read_arpa(tmp_path / "m.arpa.gz")


def test_a_file_that_cannot_be_written_leaves_the_old_one(model: Ngrams, tmp_path: Path) -> None:
    write_arpa(model, tmp_path / "m.arpa")
    before = (tmp_path / "m.arpa").read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_arpa(Ngrams(1, {("\ud800",): -1.0}, {}), tmp_path / "m.arpa")
    assert (tmp_path / "m.arpa").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.arpa"]


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.arpa"):
        with pytest.raises(UserError):
            load_lm(path)
