"""`wavbench analyse`, from audio to figures; what it cannot do it says before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import wavbench as wb
from wavbench.benchmark.analysis_record import read_analyses
from wavbench.benchmark.cca import PARTS

UPSTREAMS = "upstreams=wav2vec2_tiny@random0,fbank"
SMALL = ("frames=600", "utterances=40")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def places(folder: Path) -> tuple[str, str]:
    return f"results={folder / 'results'}", f"stores={folder / 'stores'}"


def read(folder: Path) -> dict[tuple, object]:
    found, damaged = read_analyses(folder / "results")
    assert not damaged
    return {(one.kind, one.label, *one.upstreams): one for one in found}


TWIN = "wav2vec2_tiny random seed 0"


def test_every_analysis_that_the_labels_allow_is_made_with_its_figures(
    wavbench: Callable, corpus: Path, places: tuple, folder: Path
) -> None:
    done = wavbench("analyse", f"manifest={corpus}", UPSTREAMS, *SMALL, *places)
    assert (done.code, done.err) == (0, "")
    found = read(folder)
    whole = {("tsne", label) for label in ("speaker", "language", "emotion")}
    timed = {("cca", label) for label in ("phones", "language", "emotion")}  # of 12 speakers few have four utterances
    assert {key[:2] for key in found} >= {("norms", ""), ("cka", ""), *whole, *timed}
    pairs = {key[2:] for key in found if key[0] == "cka"}
    assert pairs == {(TWIN, TWIN), ("fbank", TWIN)}  # one layer is like itself
    assert {path.name for path in done.made("figure")} == {
        f"{kind}_corpus.png" for kind in ("cka", "cca", "norms", "tsne")
    }
    assert all(path.with_suffix(kind).is_file() for path in done.made("figure") for kind in (".svg", ".csv", ".png"))
    assert len(done.made("analysis")) == len(found)
    # nothing but the sample was extracted
    (store,) = (folder / "stores").glob("*/wav2vec2_tiny-frames-*")
    assert store.name.endswith("-sample")
    assert len(wb.open_store(store)) == 40


def test_the_numbers_are_those_of_the_states(folder: Path) -> None:
    found = read(folder)
    own = found["cka", "", TWIN, TWIN]
    values = np.array(own.values["cka"])
    assert values.shape == (13, 13)
    np.testing.assert_allclose(np.diag(values), 1, atol=1e-4)
    np.testing.assert_allclose(values, values.T, atol=1e-3)
    assert np.array(found["cka", "", "fbank", TWIN].values["cka"]).shape == (1, 13)
    (path,) = (folder / "stores").glob("*/wav2vec2_tiny-frames-*")
    store = wb.open_store(path)
    states, _ = store.read_frames(np.arange(len(store)), store.layers)
    norms = np.linalg.norm(states.astype(float), axis=2).mean(axis=1)
    np.testing.assert_allclose(found["norms", "", TWIN].values["norm"], norms, rtol=0.02)  # of a part of the frames
    cca = found["cca", "phones", TWIN]
    assert np.array(cca.values["weighted"]).shape == (13, PARTS)
    assert cca.values["classes"] == 3  # p, a and t: silence is none
    map_of = found["tsne", "speaker", TWIN].values
    assert map_of["layer"] == 6
    assert not {f"s{k:02d}" for k in range(12)} & set(map_of["label"])  # who speaks is nobody's to publish
    assert {"joy", "fear"} == set(found["tsne", "emotion", TWIN].values["label"])


def test_what_is_done_is_not_computed_again_even_without_its_stores(
    wavbench: Callable, corpus: Path, places: tuple, folder: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "results/analysis").iterdir()}
    shutil.move(folder / "stores", folder / "elsewhere")
    done = wavbench("analyse", f"manifest={corpus}", UPSTREAMS, *SMALL, *places)
    shutil.rmtree(folder / "stores")
    shutil.move(folder / "elsewhere", folder / "stores")
    assert done.code == 0
    assert f"done already: {len(before)} of {len(before)} analyses" in done.out
    assert {path: path.stat().st_mtime_ns for path in (folder / "results/analysis").iterdir()} == before


def test_a_further_upstream_costs_only_its_own_comparisons(
    wavbench: Callable, corpus: Path, places: tuple, folder: Path
) -> None:
    before = read(folder)
    words = ("analyse", f"manifest={corpus}", f"{UPSTREAMS},fbank_raw", "kinds=cka", *SMALL, *places)
    done = wavbench(*words)
    assert "done already: 2 of 4 analyses" in done.out
    assert {key[2:] for key in set(read(folder)) - set(before)} == {
        ("fbank_raw", TWIN),
        ("fbank", "fbank_raw"),
    }
    turned = wavbench(
        "analyse", f"manifest={corpus}", "upstreams=fbank,wav2vec2_tiny@random", "kinds=cka", *SMALL, *places
    )
    assert "done already: 2 of 2 analyses" in turned.out  # in whatever order they are named
    seeded = wavbench(*words, "seed=1")
    assert "done already" not in seeded.out


def test_a_store_of_the_whole_corpus_is_used_as_it_is(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    places = (f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    made = wavbench("extract", "upstream=fbank", f"manifest={corpus}", *places).made("store")
    files = sorted((path, path.stat().st_mtime_ns) for path in made[0].rglob("*"))
    assert wavbench("analyse", f"manifest={corpus}", "upstreams=fbank", *SMALL, *places).code == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in made[0].rglob("*")) == files
    assert [path.name for path in made[0].parent.iterdir() if path.is_dir()] == [made[0].name]


def test_means_are_enough_for_a_map(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    places = (f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    done = wavbench(
        "analyse", f"manifest={corpus}", "upstreams=wav2vec2_tiny@random1", "kinds=tsne", "labels=emotion", "layer=3",
        "utterances=100", *places,
    )  # fmt: skip
    assert done.code == 0
    (store,) = (path for path in (tmp_path / "stores").glob("*/*") if path.is_dir())
    assert wb.open_store(store).pooled
    assert not store.name.endswith("-sample")  # the sample is the corpus
    (one,) = read(tmp_path).values()
    assert (one.values["layer"], one.values["chosen"], one.upstreams) == (
        3,
        "as asked for",
        ["wav2vec2_tiny random seed 1"],
    )


def test_the_layer_that_did_best_on_dev_is_mapped(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    places = (f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    done = wavbench(
        "run", "task=er", "upstream=wav2vec2_tiny", "weights=random", f"manifest={corpus}", "layers=2,9",
        "budget=0.02", *places,
    )  # fmt: skip
    dev = {}
    for path in done.made("record"):
        record = json.loads(path.read_text())
        dev[record["layers"]] = np.mean([max(fold["dev"].values()) for fold in record["learning_rate_curve"]])
    wavbench("analyse", f"manifest={corpus}", "upstreams=wav2vec2_tiny@random", "kinds=tsne", "labels=emotion", *places)
    (one,) = read(tmp_path).values()
    assert one.values["chosen"] == "best on dev"
    assert dev[one.values["layer"]] == max(dev.values())


def test_a_damaged_analysis_is_made_again(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    places = (f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    words = ("analyse", f"manifest={corpus}", "upstreams=fbank,fbank_raw", "kinds=norms,cka", *SMALL, *places)
    first = wavbench(*words).made("analysis")
    sound = first[0].read_bytes()
    first[0].write_bytes(sound[:50])
    done = wavbench(*words)
    assert "done already: 2 of 3 analyses" in done.out
    again, before = json.loads(first[0].read_bytes()), json.loads(sound)
    assert again["values"] == before["values"]


BAD = [
    (("upstreams=hubert_tiny,wav2vec9",), "unknown upstream 'wav2vec9'"),
    (("upstreams=hubert_base@random,wav2vec2_tiny@1234",), "has no revision 1234"),
    ((), "upstreams is missing"),
    (("upstreams=fbank", "kinds=cka,pca"), "there is no kind of analysis 'pca'"),
    (("upstreams=fbank,wav2vec2_tiny@random", "layer=13", "kinds=tsne"), "has no such layer"),
    (("upstreams=fbank", "layer=last"), "layer=last is no number"),
    (("upstreams=fbank", "labels=colour"), "no values in column 'colour'"),
    (("upstreams=fbank", "frames=10"), "frames=10 is not possible"),
    (("upstreams=fbank", "utterances=0"), "utterances=0 is not possible"),
    (("upstreams=fbank", "seed=-1"), "seed=-1 is no seed"),
    (("upstreams=fbank@random-1",), "has no revision random-1"),
    (("upstreams=fbank", "kinds=cka"), "nothing to compare for cka"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=str)
def test_what_means_nothing_is_refused_before_any_work(
    refused: Callable, corpus: Path, words: tuple, says: str
) -> None:
    assert says in refused("analyse", f"manifest={corpus}", *words)


def test_labels_that_are_not_there_are_refused_where_they_are_needed(
    wavbench: Callable, refused: Callable, build_corpus: Callable, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bare = build_corpus(tmp_path_factory.mktemp("bare"), 12, speaker=["s"] * 12)
    for kind in ("cca", "tsne"):
        screen = refused("analyse", f"manifest={bare}", "upstreams=fbank,fbank_raw", f"kinds=cka,{kind}")
        assert f"the manifest has no labels for {kind}" in screen
    done = wavbench(
        "analyse", f"manifest={bare}", "upstreams=fbank,fbank_raw"
    )  # where nothing was asked for, what there is
    assert done.code == 0
    assert {path.name.partition("-")[0] for path in done.made("analysis")} == {"norms", "cka"}


def test_upstreams_without_a_common_utterance_are_refused(
    wavbench: Callable, build_corpus: Callable, tmp_path: Path
) -> None:
    """Whisper sees 30 s, and recordings are longer: nothing is left that both could use."""
    path = build_corpus(tmp_path / "long", 8)
    table = pd.read_csv(path)
    for audio in table["audio"]:
        soundfile.write(path.parent / audio, 0.1 * np.random.default_rng(0).standard_normal(31 * 8_000), 8_000)
    places = (f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    done = wavbench("analyse", f"manifest={path}", "upstreams=fbank,whisper_tiny@random", "kinds=cka", *places)
    assert done.code == 2
    assert "no utterance of the sample can be used by both fbank and whisper_tiny random seed 0" in done.err
    assert "longer than the 30 s" in done.err
    assert "way out: " in done.err
    assert not (tmp_path / "results/analysis").exists()


def test_words_with_times_are_compared_where_a_manifest_has_them(
    wavbench: Callable, build_corpus: Callable, tmp_path: Path
) -> None:
    said = {"words": ["SIL good morning", "good SIL evening"] * 8, "word_ends": ["0.1 0.2 0.3", "0.1 0.2 0.3"] * 8}
    path = build_corpus(tmp_path / "said", 16, shortest=0.4, longest=0.5, **said)
    places = (f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    done = wavbench("analyse", f"manifest={path}", "upstreams=fbank", "kinds=cca", *places)
    assert done.code == 0
    one = read(tmp_path)["cca", "words", "fbank"]
    assert (one.values["classes"], one.values["rows"]) == (3, 32)
    # words that hardly come twice are no reason to leave out what there is beside them
    rare = pd.read_csv(path).assign(
        words=[f"good{k} SIL evening{k}" for k in range(16)], phones="a SIL b", phone_ends="0.1 0.2 0.3"
    )
    rare.to_csv(path, index=False)
    assert wavbench("analyse", f"manifest={path}", "upstreams=fbank", "kinds=cca", *places).code == 0
    assert ("cca", "phones", "fbank") in read(tmp_path)
    bad = pd.read_csv(path).assign(word_ends="0.1 0.2")
    bad.to_csv(path, index=False)
    done = wavbench("analyse", f"manifest={path}", "upstreams=fbank", *places)
    assert done.code == 2
    assert "3 words but 2 word_ends" in done.err


def test_what_cannot_be_made_costs_itself_alone(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    """Eight recordings of one sound: no map can be drawn of them, all else can be told."""
    table = pd.read_csv(corpus, keep_default_na=False).head(8)
    shutil.copy(corpus.parent / table["audio"].iloc[0], tmp_path / "one.wav")
    table["audio"] = "one.wav"
    table["emotion"] = ["joy", "fear"] * 4
    table[["id", "audio", "split", "emotion"]].to_csv(tmp_path / "same.csv", index=False)
    done = wavbench(
        "analyse", f"manifest={tmp_path / 'same.csv'}", "upstreams=wav2vec2_tiny@random0", "labels=emotion",
        "kinds=norms,tsne,cka", f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}", "utterances=8",
    )  # fmt: skip
    assert done.code == 2
    assert "1 of 3 analyses could not be made; the others are there" in done.err
    assert "all utterances have the same state" in done.err
    assert {key[0] for key in read(tmp_path)} == {"norms", "cka"}
    assert {path.name for path in done.made("figure")} == {"norms_same.png", "cka_same.png"}
