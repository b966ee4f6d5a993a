"""Trained heads on files: what they say is what they said of the test split, and whatever is given is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from wavbench.benchmark import cli
from wavbench.benchmark.record import read_record
from wavbench.upstream import catalog
from wavbench.upstream.checkpoints import write_checkpoint

RATE = 16_000
TONES = {"a": 700.0, "b": 1_800.0, " ": 3_000.0}  # Hz of a letter; the blank sounds, too
LETTER, GAP = 0.1, 0.05  # seconds
TEXTS = ("ab", "ba", "a b", "b a", "ab a", "b ab", "aba", "bab")
SPEAKERS, EACH = 12, 4
TRAINED = {  # what each head is trained with
    "er": ("task=er", "upstream=fbank_raw", "budget=0.04"),
    "asr": ("task=asr", "upstream=fbank_raw", "head=linear", "budget=0.06", "lm=train", "lm_order=2"),
    "pr": ("task=pr", "upstream=fbank_raw", "budget=0.05"),
    "asv": ("task=asv", "upstream=fbank_raw", "budget=0.06"),
    "st": ("task=st", "upstream=fbank_raw", "budget=0.04"),
    "twin": ("task=er", "upstream=wav2vec2_tiny", "weights=random", "seed=3", "layers=2", "budget=0.01"),
}


def sound(text: str, speaker: int, joyful: bool, seed: int) -> np.ndarray:
    """A tone for each letter with a gap behind it, over a hum of the speaker and a whistle of joy."""
    random, letter = np.random.default_rng(seed), np.arange(round(LETTER * RATE)) / RATE
    gap = np.zeros(round(GAP * RATE))
    parts = [gap, *(part for c in text for part in (0.3 * np.sin(2 * np.pi * TONES[c] * letter), gap))]
    samples = np.concatenate(parts)
    time = np.arange(len(samples)) / RATE
    samples += 0.05 * np.sin(2 * np.pi * (150 + 40 * speaker) * time) + 0.003 * random.standard_normal(len(samples))
    return (samples + joyful * 0.05 * np.sin(2 * np.pi * 6_000 * time)).astype(np.float32)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Rows of a corpus in which every label can be heard; its manifest is in `attrs`."""
    folder, rows = tmp_path_factory.mktemp("spoken"), []
    (folder / "audio").mkdir()
    for k in range(SPEAKERS * EACH):
        speaker, text = k // EACH, TEXTS[(5 * k + k // EACH) % len(TEXTS)]
        soundfile.write(folder / f"audio/u{k:02d}.wav", sound(text, speaker, k % 2 == 0, k), RATE)
        row = {"id": f"u{k:02d}", "audio": f"audio/u{k:02d}.wav", "speaker": f"s{speaker:02d}", "text": text}
        row["split"] = "train" if speaker < 6 else "dev" if speaker < 9 else "test"
        row |= {"emotion": ("joy", "fear")[k % 2], "phones": " ".join(text.replace(" ", ""))}
        rows.append(row | {"translation": f"tak tak {'dobrze jest' if text[0] == 'a' else 'nie ma'}"})
    table = pd.DataFrame(rows)
    table.to_csv(folder / "spoken.csv", index=False)
    table.attrs["manifest"] = folder / "spoken.csv"
    return table


@pytest.fixture(scope="module")
def work(spoken: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained heads in heads/ and their records in results/."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "manifest.txt").write_text(str(spoken.attrs["manifest"]))
    places = [f"manifest={spoken.attrs['manifest']}", f"results={folder / 'results'}", f"stores={folder / 'stores'}"]
    for name, words in TRAINED.items():
        done = cli.main(["run", *words, *places, "dtype=float32", f"save={folder / 'heads' / name}"])
        if done:
            raise AssertionError(f"{name} was not trained")
    return folder


@pytest.fixture
def tested(spoken: pd.DataFrame) -> pd.DataFrame:
    """Rows of the test split, with the file of each."""
    rows = spoken[spoken["split"] == "test"]
    return rows.assign(file=[str(spoken.attrs["manifest"].parent / audio) for audio in rows["audio"]])


def head(work: Path, name: str) -> str:
    return f"head={work / 'heads' / name}"


def about(work: Path, name: str) -> dict:
    return json.loads((work / "heads" / name / "head.json").read_text())


def beside(work: Path, name: str, kind: str) -> pd.DataFrame:
    """A table beside the record of a head."""
    key = about(work, name)["about"]["record"]
    return pd.read_csv(work / "results/runs" / f"{key}.{kind}.csv", keep_default_na=False, comment="#")


def lines(done) -> list[dict]:
    assert (done.code, done.err) == (0, ""), done
    return [json.loads(line) for line in done.lines]


@pytest.mark.parametrize(
    ("name", "command", "field"),
    [
        ("er", "classify", "label"),
        ("twin", "classify", "label"),
        ("asr", "transcribe", "text"),
        ("pr", "transcribe", "text"),
        ("st", "translate", "text"),
    ],
)
def test_files_are_told_what_the_test_split_was_told(
    wavbench: Callable, work: Path, tested: pd.DataFrame, name: str, command: str, field: str
) -> None:
    rows = lines(wavbench(command, *tested["file"], head(work, name), "json=true"))
    assert [row["audio"] for row in rows] == tested["file"].tolist()
    said = beside(work, name, "predictions").set_index("id")["hypothesis"]
    assert [row[field] for row in rows] == said[tested["id"]].tolist()
    assert len(set(said)) > 1  # a head that says one thing to all would show nothing


def test_what_can_be_heard_is_written(wavbench: Callable, work: Path, tested: pd.DataFrame) -> None:
    done = wavbench("transcribe", *tested["file"], head(work, "asr"))
    assert done.lines == [f"{row.file}\t{row.text}" for row in tested.itertuples()]
    done = wavbench("transcribe", tested["file"].iloc[0], head(work, "asr"))  # of one file, the text alone
    assert done.lines == [tested["text"].iloc[0]]


@pytest.mark.parametrize("lm", [False, True])
def test_times_are_those_of_the_sounds(wavbench: Callable, work: Path, tested: pd.DataFrame, lm: bool) -> None:
    words = [f"lm={model_of(wavbench, work)}"] if lm else []
    rows = lines(wavbench("transcribe", *tested["file"], head(work, "asr"), "json=true", *words))
    for row, text in zip(rows, tested["text"], strict=True):
        assert [word["symbol"] for word in row["words"]] == text.split()
        place = 0
        for word in row["words"]:
            place = text.index(word["symbol"], place)
            start = GAP + place * (LETTER + GAP)
            place += len(word["symbol"])
            assert word["start"] == pytest.approx(start, abs=0.06)
            assert start < word["end"] < start + len(word["symbol"]) * (LETTER + GAP) + 0.06


@pytest.mark.parametrize("name", ["asr", "pr"])
def test_times_ascend_and_lie_inside_the_file(wavbench: Callable, work: Path, tested: pd.DataFrame, name: str) -> None:
    field = "words" if name == "asr" else "phones"
    for row in lines(wavbench("transcribe", *tested["file"], head(work, name), "json=true")):
        seconds = soundfile.info(row["audio"]).duration
        edges = [edge for unit in row[field] for edge in (unit["start"], unit["end"])]
        assert edges == sorted(edges)
        assert edges
        assert edges[0] >= 0
        assert edges[-1] <= seconds
        assert row["text"] == " ".join(unit["symbol"] for unit in row[field])


def test_probabilities_of_classes_sum_to_one_and_the_likeliest_is_first(
    wavbench: Callable, work: Path, tested: pd.DataFrame
) -> None:
    for row in lines(wavbench("classify", *tested["file"], head(work, "er"), "json=true")):
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert set(row["probabilities"]) == {"joy", "fear"}
        assert next(iter(row["probabilities"].items())) == (row["label"], row["probability"])
        assert row["probability"] == max(row["probabilities"].values())
    done = wavbench("classify", tested["file"].iloc[0], head(work, "er"))
    assert done.out.startswith(("joy\t", "fear\t"))


def test_voices_are_compared_as_in_the_trials(wavbench: Callable, work: Path, tested: pd.DataFrame) -> None:
    trials = next((work / "stores").rglob("trials-test-0.csv"))
    trials, scores = pd.read_csv(trials), beside(work, "asv", "scores")
    assert len(trials) == len(scores)
    files, threshold = tested.set_index("id")["file"], about(work, "asv")["about"]["threshold"]
    for k in (0, 1, len(trials) - 1):
        pair = files[trials["enroll"][k]], files[trials["test"][k]]
        (row,) = lines(wavbench("verify", *pair, head(work, "asv"), "json=true"))
        assert row["score"] == pytest.approx(scores["score"][k], abs=2e-4)
        assert (row["a"], row["b"]) == pair
        assert row["same"] == (row["score"] >= threshold)
        (line,) = wavbench("verify", *pair, head(work, "asv")).lines
        assert line.startswith(f"{row['score']:.4f}\t{'same speaker' if row['same'] else 'different speakers'}")


def test_a_matrix_of_the_classes_lies_beside_a_record(work: Path) -> None:
    counts, scores = beside(work, "er", "confusion"), beside(work, "er", "scores")
    assert list(counts) == ["label", "fear", "joy"]
    assert counts["label"].tolist() == ["fear", "joy"]
    for label in ("fear", "joy"):
        own = scores[scores["label"] == label]["prediction"]
        expected = [int((own == name).sum()) for name in ("fear", "joy")]
        assert counts.set_index("label").loc[label].tolist() == expected


def test_an_upstream_with_random_weights_comes_back_as_it_was(work: Path, wavbench: Callable, tested) -> None:
    upstream = about(work, "twin")["upstream"]
    assert (upstream["weights"], upstream["seed"], upstream["name"]) == ("random", 3, "wav2vec2_tiny")
    record = read_record(work / "results/runs" / f"{about(work, 'twin')['about']['record']}.json")
    assert upstream["weights_hash"] == record.checkpoint_hash
    other = work / "heads" / "other seed"
    shutil.copytree(work / "heads" / "twin", other, dirs_exist_ok=True)
    changed = about(work, "twin")
    changed["upstream"]["seed"] = 4
    (other / "head.json").write_text(json.dumps(changed))
    done = wavbench("classify", tested["file"].iloc[0], f"head={other}")
    assert done.code == 2
    assert "trained on another upstream" in done.err


def test_a_random_upstream_is_looked_for_where_it_lies_now(
    wavbench: Callable, work: Path, tested: pd.DataFrame
) -> None:
    """A file has weights of its own: the seed that the head remembers would put others in their place."""
    (work / "moved").mkdir(exist_ok=True)
    words = ("classify", tested["file"].iloc[0], head(work, "twin"))
    for seed in (3, 4):
        random = catalog.load("wav2vec2_tiny", weights="random", seed=seed)
        path = work / "moved" / f"{seed}.safetensors"
        write_checkpoint(path, "wav2vec2", random.model.config, random.model.state_dict())
    same, other = (wavbench(*words, f"upstream={work / 'moved' / f'{seed}.safetensors'}") for seed in (3, 4))
    assert (same.code, same.out) == (0, wavbench(*words).out)
    assert other.code == 2
    assert "trained on another upstream" in other.err


def test_names_of_files_may_hold_anything(
    wavbench: Callable, work: Path, tested: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["my file.wav", "take,2.wav", "rate=16k.wav", "seed=a b,c.wav", "[1].wav", "zażółć.wav"]
    for name in names:
        shutil.copy(tested["file"].iloc[0], name)
    rows = lines(wavbench("transcribe", *names, head(work, "asr"), "json=true"))
    assert [row["audio"] for row in rows] == names
    assert {row["text"] for row in rows} == {tested["text"].iloc[0]}


def test_a_broken_file_is_named_and_the_others_are_done(
    wavbench: Callable, work: Path, tested: pd.DataFrame, tmp_path: Path
) -> None:
    good = tested["file"].tolist()[:2]
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "short.wav", np.full(20, 0.1, np.float32), RATE)
    bad = [str(tmp_path / name) for name in ("broken.wav", "short.wav", "none.wav", "")]
    for command, name in (("transcribe", "asr"), ("classify", "twin"), ("translate", "st")):
        done = wavbench(command, good[0], *bad, good[1], head(work, name), "json=true")
        assert done.code == 2
        assert "Traceback" not in done.err
        rows = [json.loads(line) for line in done.lines]
        assert [row["audio"] for row in rows] == [good[0], *bad, good[1]]
        assert ["error" in row for row in rows] == [False, True, True, True, True, False]
        assert [line.startswith("not usable as speech: ") for line in done.err.splitlines()] == [True] * 4
        done = wavbench(command, good[0], *bad, good[1], head(work, name))
        assert (done.code, len(done.lines)) == (2, 2)


def model_of(wavbench: Callable, work: Path, *words: str, name: str = "train.arpa") -> Path:
    """A language model of the corpus' transcripts."""
    path = work / name
    if not path.exists():
        manifest = (work / "manifest.txt").read_text()
        assert wavbench("lm", f"manifest={manifest}", f"out={path}", "order=2", *words).code == 0
    return path


def test_a_language_model_helps_with_the_weights_that_dev_chose(
    wavbench: Callable, work: Path, tested: pd.DataFrame
) -> None:
    kept = about(work, "asr")["about"]["lm"]
    record = read_record(work / "results/runs" / f"{about(work, 'asr')['about']['record']}.json")
    assert record.config["lm"] == [kept]
    assert set(kept["weights"]) == {"lm", "length", "unknown", "neural"}
    said = beside(work, "asr", "predictions").set_index("id")["hypothesis_lm"]
    rows = lines(
        wavbench("transcribe", *tested["file"], head(work, "asr"), f"lm={model_of(wavbench, work)}", "json=true")
    )
    assert [row["text"] for row in rows] == said[tested["id"]].tolist()


def test_given_weights_of_a_language_model_win(wavbench: Callable, work: Path, tested: pd.DataFrame) -> None:
    """With no weight a model that knows one word changes nothing; with all the weight it writes something else."""
    (work / "one.txt").write_text("bab\n" * 20)
    arpa = work / "one.arpa"
    assert wavbench("lm", f"text={work / 'one.txt'}", f"out={arpa}", "order=1").code == 0
    words = ("transcribe", tested["file"].iloc[0], head(work, "asr"), f"lm={arpa}")
    assert wavbench(*words, "lm_weight=0", "lm_length=0").lines == [tested["text"].iloc[0]]
    heavy = wavbench(*words, "lm_weight=60", "lm_length=0")
    assert heavy.code == 0
    assert heavy.lines != [tested["text"].iloc[0]]
    for value in ("nan", "inf"):
        done = wavbench(*words, f"lm_weight={value}")
        assert (done.code, "'lm'" in done.err) == (2, True)


def test_a_transformer_reorders_the_hypotheses(wavbench: Callable, work: Path, tested: pd.DataFrame) -> None:
    """With no weight it changes nothing; of all hypotheses it likes another best than it likes least."""
    (work / "strange.txt").write_text("b b\n" * 200)
    neural = work / "neural"
    assert wavbench("lm", f"text={work / 'strange.txt'}", f"out={neural}", "kind=transformer", "epochs=3").code == 0
    row = tested[tested["text"] == "bab"].iloc[0]
    words = ("transcribe", row["file"], head(work, "asr"), f"lm={model_of(wavbench, work)}")
    said = {
        weight: wavbench(*words, f"lm_neural={neural}", f"lm_neural_weight={weight}").lines for weight in (0, 500, -500)
    }
    assert said[0] == wavbench(*words).lines == ["bab"]
    assert said[500] != said[-500]
    assert wavbench(*words, f"lm_neural={neural}").code == 0


def test_models_of_characters_and_of_phones_are_taken_as_such(
    wavbench: Callable, work: Path, tested: pd.DataFrame
) -> None:
    characters = model_of(wavbench, work, "unit=character", name="characters.arpa")
    words = ("transcribe", *tested["file"], head(work, "asr"), f"lm={characters}", "lm_weight=0.5")
    done = wavbench(*words)
    assert done.code == 2
    assert "language model is one of characters" in done.err
    assert "lm_unit=character" in done.err
    done = wavbench(*words, "lm_unit=character", "lm_length=0")
    assert [line.partition("\t")[2] for line in done.lines] == tested["text"].tolist()
    phones = model_of(wavbench, work, "column=phones", name="phones.arpa")
    rows = lines(wavbench("transcribe", *tested["file"], head(work, "pr"), f"lm={phones}", "json=true"))
    assert {unit["symbol"] for row in rows for unit in row["phones"]} <= {"a", "b"}


def test_what_cannot_be_is_refused_with_a_way_out(
    refused: Callable, work: Path, tested: pd.DataFrame, wavbench: Callable, tmp_path: Path
) -> None:
    one, two = tested["file"].tolist()[:2]
    for command, name, right in (
        ("classify", "asr", "transcribe"),
        ("transcribe", "er", "classify"),
        ("translate", "asv", "verify"),
        ("verify", "st", "translate"),
    ):
        screen = refused(command, one, two, head(work, name))
        assert f"way out: wavbench {right} takes it" in screen
    for upstream in ("fbank", "hubert_tiny"):
        screen = refused("transcribe", one, head(work, "asr"), f"upstream={upstream}")
        assert "trained on another upstream" in screen
        assert "leave upstream= out" in screen
    assert "there is no saved head" in refused("transcribe", one, "head=nowhere")
    assert "head is missing" in refused("transcribe", one)
    assert "no audio was given" in refused("classify", head(work, "er"))
    for files in ((), (one,), (one, two, one)):
        assert f"two files are compared, and {len(files)} were given" in refused("verify", *files, head(work, "asv"))
    assert "none.wav" in refused("verify", one, "none.wav", head(work, "asv"))
    assert "leave lm= out" in refused("classify", one, head(work, "er"), "lm=train.arpa")
    assert "there is no such language model" in refused("transcribe", one, head(work, "asr"), "lm=none.arpa")
    assert "wavbench lm manifest=" in refused("transcribe", one, head(work, "asr"), "lm=train")
    for option in ("lm_weight=1", "lm_length=1", "lm_unit=word", "lm_neural=folder"):
        assert "it goes with lm=FILE.arpa" in refused("transcribe", one, head(work, "asr"), option)
    with_lm = ("transcribe", one, head(work, "asr"), f"lm={model_of(wavbench, work)}")
    assert "it goes with lm_neural=FOLDER" in refused(*with_lm, "lm_neural_weight=1")
    assert "a folder of a transformer" in refused(*with_lm, f"lm_neural={model_of(wavbench, work)}")
    phones = f"lm={model_of(wavbench, work, 'column=phones', name='phones.arpa')}"
    assert "the head writes phones" in refused("transcribe", one, head(work, "pr"), phones, "lm_neural=folder")
    assert "lm_unit=syllable" in refused(
        "transcribe", one, head(work, "asr"), f"lm={model_of(wavbench, work)}", "lm_unit=syllable"
    )


def test_a_language_model_in_capitals_is_refused(
    refused: Callable, wavbench: Callable, work: Path, tested: pd.DataFrame
) -> None:
    (work / "capitals.txt").write_text("AB BA\nB A\n")
    assert wavbench("lm", f"text={work / 'capitals.txt'}", f"out={work / 'capitals.arpa'}", "order=1").code == 0
    screen = refused("transcribe", tested["file"].iloc[0], head(work, "asr"), f"lm={work / 'capitals.arpa'}")
    assert "no word of the lexicon can be spelt" in screen
    assert "the same case" in screen


def test_a_head_whose_tuned_weights_are_no_numbers_is_refused(
    refused: Callable, wavbench: Callable, work: Path, tested: pd.DataFrame
) -> None:
    broken = work / "heads" / "broken lm"
    shutil.copytree(work / "heads" / "asr", broken, dirs_exist_ok=True)
    changed = about(work, "asr")
    changed["about"]["lm"]["weights"]["lm"] = "much"
    (broken / "head.json").write_text(json.dumps(changed))
    screen = refused("transcribe", tested["file"].iloc[0], f"head={broken}", f"lm={model_of(wavbench, work)}")
    assert "no numbers" in screen
