"""Whatever is wrong with what a person gives: one screen that names it and a way out, and nothing half-written."""

import shutil
import subprocess
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import wavbench as wb
from wavbench.benchmark.record import read_record
from wavbench.downstream.probe import probe, usable_rows
from wavbench.downstream.spec import load_task
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import read_manifest

RUN = ("run", "task=er", "upstream=fbank", "budget=0.01")


def changed(corpus: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Path:
    """A manifest beside the corpus' own, with its table changed."""
    table = pd.read_csv(corpus, dtype=str)
    result = change(table)
    path = corpus.parent / name
    (table if result is None else result).to_csv(path, index=False)
    return path


def put(column: str, rows: object, value: object) -> Callable[[pd.DataFrame], None]:
    def change(table: pd.DataFrame) -> None:
        table.loc[rows, column] = value

    return change


def test_a_missing_manifest_names_those_beside_it(refused: Callable, corpus: Path) -> None:
    for command in (RUN, ("extract", "upstream=fbank")):
        screen = refused(*command, f"manifest={corpus.parent / 'corpsu.csv'}")
        assert "corpsu.csv" in screen
        assert "corpus.csv" in screen
    assert "corpsu.csv" in refused("corpus", "check", corpus.parent / "corpsu.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "empty"),
        (b"id,audio,split\n", "no rows"),
        (b"id,audio\nu,u.wav\n", "split"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
        (b"id,audio,split\nu,../u.wav,train\n", "leaves the corpus folder"),
        (b"id,audio,split\nu,u.wav,train\nu,v.wav,test\n", "the id occurs before"),
    ],
)
def test_a_manifest_that_is_none_says_why(refused: Callable, tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "bad.csv").write_bytes(text)
    assert said in refused(*RUN, "manifest=bad.csv")
    assert said in refused("extract", "upstream=fbank", "manifest=bad.csv")


def test_something_that_is_no_manifest_is_refused(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "speech.wav").write_bytes(b"RIFF")
    assert "no kind of manifest" in refused(*RUN, "manifest=speech.wav")
    assert "no kind of manifest" in refused(*RUN, "manifest=.")
    assert "error" in refused(*RUN, "manifest=")


def test_a_column_that_the_task_needs_is_named_with_the_near_ones(refused: Callable, corpus: Path) -> None:
    path = changed(corpus, "renamed.csv", lambda table: table.rename(columns={"emotion": "emotions"}))
    screen = refused(*RUN, f"manifest={path}")
    assert "'emotion'" in screen
    assert "emotions" in screen
    path = changed(corpus, "unfilled.csv", put("emotion", slice(None), ""))
    assert "no values in column 'emotion'" in refused(*RUN, f"manifest={path}")


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_a_split_without_a_row_is_named_with_the_counts(refused: Callable, corpus: Path, part: str) -> None:
    path = changed(corpus, f"no_{part}.csv", lambda table: table[table["split"] != part])
    screen = refused("run", "task=lid", "upstream=fbank", f"manifest={path}")  # er would leave speakers out in turn
    assert f"no row in the {part} split" in screen
    assert f"{part} 0" in screen


def test_a_class_of_test_that_train_never_has_is_named(refused: Callable, corpus: Path) -> None:
    path = changed(corpus, "envy.csv", put("emotion", 47, "envy"))
    screen = refused(*RUN, f"manifest={path}")
    assert "'envy' occurs in test and never in train" in screen
    assert "fear, joy" in screen
    path = changed(corpus, "new_phone.csv", put("phones", 40, "SIL p a zz"))
    for task in ("pr", "phones"):
        assert "'zz' occurs in test" in refused("run", f"task={task}", "upstream=fbank", f"manifest={path}")


def test_one_class_or_one_speaker_cannot_be_learned(refused: Callable, corpus: Path) -> None:
    path = changed(corpus, "joyful.csv", put("emotion", slice(None), "joy"))
    assert "one class only: 'joy'" in refused(*RUN, f"manifest={path}")
    path = changed(corpus, "alone.csv", put("speaker", slice(36, 48), "s99"))
    assert "no trials can be drawn" in refused("run", "task=asv", "upstream=fbank", f"manifest={path}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "task=err", "upstream=fbank"), "did you mean er"),
        (("run", "task=er", "upstream=fbnk"), "did you mean fbank"),
        (("run", "task=er", "upstream="), "unknown upstream"),
        (("run", "task=er", "upstream=nowhere/model.safetensors"), "nowhere/model.safetensors"),
        (("run", "task=er", "upstream=wav2vec2_small"), "has no weights"),
        (("run", "task=er", "upstream=wav2vec2_tiny", "weights=trained"), "weights=trained is not known"),
        (("run", "task=er", "upstream=fbank", "device=gpu"), "device=gpu cannot be used"),
        (("run", "task=er", "upstream=fbank", "device=meta"), "device=meta cannot be used"),
        (("run", "task=er", "upstream=fbank", "device=cuda:99"), "device=cuda:99 cannot be used"),
        (("run", "task=er", "upstream=fbank", "layers=7"), "no layer 7"),
        (("run", "task=er", "upstream=fbank", "layers=-1"), "no layer -1"),
        (("run", "task=er", "upstream=fbank", "layers=last"), "layers=last is not known"),
        (("run", "task=er", "upstream=fbank", "layers="), "layers= is not known"),
        (("run", "task=er", "upstream=fbank", "budget=0"), "budget=0 is not a share"),
        (("run", "task=er", "upstream=fbank", "budget=-1"), "not a share"),
        (("run", "task=er", "upstream=fbank", "budget=nan"), "not a share"),
        (("run", "task=er", "upstream=fbank", "head_seed=-1"), "head_seed=-1 is no seed"),
        (("run", "task=er", "upstream=fbank", "seed=99999999999999999999999"), "no seed"),
        (("run", "task=er", "upstream=fbank", "trials=none.csv"), "takes no trials"),
        (("run", "task=asv", "upstream=fbank", "trials=none.csv"), "no such trials file"),
        (("run", "tusk=er", "upstream=fbank"), "did you mean task?"),
        (("run", "upstream=fbank"), "task is missing"),
        (("run", "task=er", "upstream=fbank", "seed=one"), "seed=one"),
        (("extract", "upstream=fbank", "pool=max"), "pool=max is not known"),
        (("extract", "upstream=fbank", "dtype=float64"), "'float64'"),
        (("extract", "upstream=fbank", "layers=1"), "no layer 1"),
        (("extract", "upstream=fbank", "layers="), "layers= is not known"),
        (("extract", "upstream=fbank", "layers=mix"), "layers=mix is not known"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_a_value_that_is_not_known_is_named_with_what_is(
    refused: Callable, corpus: Path, words: tuple, said: str
) -> None:
    assert said in refused(*words, f"manifest={corpus}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rum",), "run"),
        (("store",), "store verify"),
        (("store", "unseal", "x"), "store seal"),
        (("corpus", "build", "librispeech"), "corpus build synthetic"),
        (("corpus", "check"), "manifest is missing"),
        (("store", "info", "nowhere"), "wavbench extract"),
        (("store", "verify", "nowhere"), "store.json cannot be read"),
        (("store", "seal", "nowhere"), "store.json cannot be read"),
        (("report", "results=nowhere"), "no records"),
        (("sweep", "experiment=dmo"), "baselines, demo, full, objective_layers"),
        (("sweep", "experiment=demo", "corpora=nowhere"), "corpora=FOLDER"),
        (("sweep",), "experiment is missing"),
        (("extract", "fbank"), "key=value"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_that_cannot_be_run_says_what_can(refused: Callable, words: tuple, said: str) -> None:
    assert said in refused(*words)


def test_an_experiment_that_asks_for_nothing_is_refused(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("corpora: .\n")
    assert "no upstreams and no cells" in refused("sweep", "experiment=empty.yaml")


@pytest.mark.parametrize("workers", [0, -2])
def test_no_worker_is_refused(refused: Callable, corpus: Path, tmp_path: Path, workers: int) -> None:
    text = "upstreams: [{name: fbank}]\ncells: [{task: er, manifest: corpus.csv}]\n"
    (tmp_path / "mine.yaml").write_text(text)
    words = ("sweep", "experiment=mine.yaml", f"corpora={corpus.parent}", f"workers={workers}")
    assert f"workers={workers} cannot work" in refused(*words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("enroll,test\nu0036,u0037\n", "columns: enroll, test, target"),
        ("enroll,test,target\nu0036,u0037,yes\n", "neither target"),
        ("enroll,test,target\nu0036,nobody,1\nu0036,u0040,0\n", "first: nobody"),
        ("enroll,test,target\nu0000,u0001,1\nu0036,u0040,0\n", "not in the test split"),
        ("enroll,test,target\nu0036,u0037,1\nu0036,u0038,1\n", "all of one kind"),
    ],
)
def test_trials_that_cannot_work_are_named(
    refused: Callable, corpus: Path, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "trials.csv").write_text(text)
    words = ("run", "task=asv", "upstream=fbank", f"manifest={corpus}", "trials=trials.csv", "budget=0.01")
    assert said in refused(*words)


def test_too_little_disk_is_said_before_the_first_batch(
    refused: Callable, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("wavbench.upstream.extract.shutil.disk_usage", lambda _: usage(1, 1, 1_000))
    screen = refused("extract", "upstream=fbank", f"manifest={corpus}")
    assert "the disk has 0.00 GB free" in screen
    assert "stores=" in screen
    assert "the disk has" in refused(*RUN, f"manifest={corpus}")


def test_a_folder_that_cannot_be_written_is_named(
    refused: Callable, wavbench: Callable, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refused("extract", "upstream=fbank", f"manifest={corpus}", "store=file")
    assert "file" in refused("extract", "upstream=fbank", f"manifest={corpus}", "stores=file/under")
    assert "file" in refused(*RUN, f"manifest={corpus}", "results=file", "stores=file")
    (tmp_path / "mine.yaml").write_text("upstreams: [{name: fbank}]\ncells: [{task: er, manifest: corpus.csv}]\n")
    done = wavbench("sweep", "experiment=mine.yaml", f"corpora={corpus.parent}", "results=file", "stores=file")
    assert done.code == 1
    assert "Traceback" not in done.out + done.err


def test_a_store_from_other_weights_is_refused(
    refused: Callable, wavbench: Callable, corpus: Path, tmp_path: Path
) -> None:
    words = ("extract", "upstream=wav2vec2_tiny", "weights=random", f"manifest={corpus}", "pool=mean", "layers=0")
    assert wavbench(*words, "seed=0", f"store={tmp_path / 'mine'}").code == 0
    screen = refused(*words, "seed=1", "store=mine")
    assert "made with another weights" in screen
    assert "another" in refused(*words[:-1], "layers=0,1", "seed=0", "store=mine")
    assert "another" in refused("extract", "upstream=fbank", f"manifest={corpus}", "pool=mean", "store=mine")


def test_a_frame_task_refuses_a_pooled_store(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    done = wavbench("extract", "upstream=fbank", f"manifest={corpus}", "pool=mean", f"store={tmp_path / 'pooled'}")
    store, manifest = wb.open_store(done.made("store")[0]), read_manifest(corpus)
    for name in ("pr", "phones"):
        task = load_task(name)
        with pytest.raises(UserError, match="needs a frame store, and this one is pooled") as error:
            probe(task, store, usable_rows(manifest, task, store), ["mix"])
        assert "pool=none" in error.value.remedy
    with pytest.raises(UserError, match="pooled"):
        store["u0000"]


def spoilt(corpus: Path, folder: Path) -> dict[str, str]:
    """A copy of the corpus with unusable audio in five places: utterance -> what is said of it."""
    shutil.copytree(corpus.parent / "audio", folder / "audio")
    table = pd.read_csv(corpus, dtype=str)
    table.to_csv(folder / "corpus.csv", index=False)
    audio = folder / "audio"
    (audio / "u0001.wav").write_bytes(b"this is no sound")
    (audio / "u0002.wav").write_bytes(b"")
    soundfile.write(audio / "u0003.wav", np.full(8_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(audio / "u0004.wav", np.array([0.5], np.float32), 16_000)
    (audio / "u0005.wav").unlink()
    return {"u0001": "", "u0002": "", "u0003": "NaN", "u0004": "ms are the least", "u0005": ""}


def test_unusable_audio_is_rejected_with_a_reason_and_the_run_goes_on(
    wavbench: Callable, corpus: Path, tmp_path: Path
) -> None:
    bad = spoilt(corpus, tmp_path / "corpus")
    words = (f"manifest={tmp_path / 'corpus/corpus.csv'}", f"stores={tmp_path / 'stores'}")
    done = wavbench("extract", "upstream=fbank", *words, "pool=mean")
    assert done.code == 0
    assert "5 utterances were rejected (first: u0001: " in done.out
    (path,) = done.made("rejected")
    listed = pd.read_json(path, lines=True).set_index("id")["reason"]
    assert set(listed.index) == set(bad)
    for id, part in bad.items():
        assert part.lower() in listed[id].lower()
        assert len(listed[id]) > 10
    store = wb.open_store(done.made("store")[0])
    assert len(store) + len(store.rejected) == 48
    with pytest.raises(UserError, match="no utterance 'u0003'") as error:
        store.row("u0003")
    assert "rejected" in error.value.why
    done = wavbench(*RUN, *words, f"results={tmp_path / 'results'}")
    assert done.code == 0, done
    assert read_record(done.made("record")[0]).n == 12


def test_a_corpus_without_any_usable_audio_is_refused_by_tasks(
    wavbench: Callable, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "audio").mkdir()
    shutil.copy(corpus, tmp_path / "corpus.csv")
    words = (f"manifest={tmp_path / 'corpus.csv'}", f"stores={tmp_path / 'stores'}", f"results={tmp_path / 'results'}")
    done = wavbench(*RUN, *words)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert not list((tmp_path / "results").rglob("*.json"))


def test_a_damaged_record_is_named_by_the_report(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "results/runs").mkdir(parents=True)
    (tmp_path / "results/runs/abc.json").write_text('{"schema": 1}')
    screen = refused("report")
    assert "abc.json" in screen
    assert "delete it" in screen


def test_a_damaged_store_is_named_with_the_way_to_mend_it(
    wavbench: Callable, refused: Callable, corpus: Path, tmp_path: Path
) -> None:
    words = ("extract", "upstream=fbank", f"manifest={corpus}", "store=mine", "pool=mean")
    assert wavbench(*words).code == 0
    shard = next((tmp_path / "mine/shards").glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:1_000])
    assert shard.name in refused("store", "info", "mine")
    assert "delete the shard and extract again" in refused(*words)


def test_errors_of_a_process_are_on_stderr_with_exit_code_2(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*command, "run", "task=er", "upstream=fbank", "manifest=none.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: there is no such manifest"
    assert list(tmp_path.iterdir()) == []
