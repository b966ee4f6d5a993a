"""The commands of the README, from audio to the page, on small data."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import wavbench as wb
from wavbench.benchmark import cli, experiment
from wavbench.benchmark.collect import collect
from wavbench.benchmark.record import read_record
from wavbench.upstream.errors import UserError

TINY = ("upstream=wav2vec2_tiny", "weights=random", "seed=0")
TASKS = ("er", "lid", "asv", "pr", "phones")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of this file put results and stores, one after the other."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def places(folder: Path) -> tuple[str, str]:
    return f"results={folder / 'results'}", f"stores={folder / 'stores'}"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("pool", ["none", "mean"])
def test_extract_ends_with_the_store_it_made(wavbench: Callable, corpus: Path, places: tuple, pool: str) -> None:
    done = wavbench("extract", *TINY, f"manifest={corpus}", f"pool={pool}", *places)
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].startswith("48 of 48 utterances to extract, about ")
    (path,) = done.made("store")
    assert done.lines[-1] == f"store: {path}"
    store = wb.open_store(path)
    assert len(store) == 48
    assert store.layers == tuple(range(13))
    assert store.pooled == (pool == "mean")


def test_extract_again_computes_nothing(wavbench: Callable, corpus: Path, places: tuple, folder: Path) -> None:
    first = wavbench("extract", *TINY, f"manifest={corpus}", "pool=mean", *places)
    before = contents(first.made("store")[0] / "shards")
    again = wavbench("extract", *TINY, f"manifest={corpus}", "pool=mean", *places)
    assert again.lines[0].startswith("0 of 48 utterances to extract")
    assert contents(again.made("store")[0] / "shards") == before


def test_extract_keeps_the_layers_asked_for(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    done = wavbench(
        "extract", *TINY, f"manifest={corpus}", "layers=8,4", "dtype=float32", "pool=none", f"store={tmp_path / 'mine'}"
    )
    assert done.made("store") == [tmp_path / "mine"]
    store = wb.open_store(tmp_path / "mine")
    assert store.layers == (4, 8)
    assert store["u0003"][8].dtype == np.float32
    with pytest.raises(UserError, match="no layer 5"):
        store["u0003"][5]


def test_the_notebook_path_gives_what_the_store_holds(wavbench: Callable, corpus: Path, places: tuple) -> None:
    done = wavbench("extract", *TINY, f"manifest={corpus}", "pool=none", *places)
    up = wb.load("wav2vec2_tiny", weights="random", seed=0)
    file = corpus.parent / "audio/u0005.wav"
    features = up.extract(str(file))
    stored = wb.open_store(done.made("store")[0])["u0005"]
    assert features.states.shape == (1, 13, len(stored), up.dim)
    assert stored[6].shape == (len(stored), up.dim)
    for layer in (0, 6, 12):
        error = np.linalg.norm(stored[layer] - features.states[0, layer].numpy()) / np.linalg.norm(stored[layer])
        assert error < 1e-3  # float16
    samples, _ = soundfile.read(file, dtype="float32")
    both = up.extract([samples, file])
    assert both.states.shape[0] == 2
    torch.testing.assert_close(both.states[0], features.states[0], rtol=1e-3, atol=1e-4)
    assert both.lengths.tolist() == [len(stored)] * 2


def test_the_api_names_what_there_is() -> None:
    assert {"load", "open_store", "Features", "UserError"} <= set(wb.__all__)
    assert isinstance(
        wb.load("fbank").extract(np.zeros(4_000, np.float32) + 0.1 * np.sin(np.arange(4_000))), wb.Features
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_on_filterbanks(wavbench: Callable, corpus: Path, places: tuple, task: str) -> None:
    done = wavbench("run", f"task={task}", "upstream=fbank", f"manifest={corpus}", "budget=0.02", *places)
    assert (done.code, done.err) == (0, "")
    (path,) = done.made("record")
    record = read_record(path)
    assert (record.task, record.upstream, record.layers, record.corpus) == (task, "fbank", "mix", "corpus")
    assert re.search(rf"^{task} mix: {record.metric} [\d.]+ % \[[\d.]+, [\d.]+\]$", done.out, re.M)
    assert record.ci95[0] <= record.value <= record.ci95[1]
    assert done.lines[-1] == f"record: {path}"


def test_a_repeated_run_is_instant_and_changes_nothing(
    wavbench: Callable, corpus: Path, places: tuple, folder: Path
) -> None:
    words = ("run", "task=er", "upstream=fbank", f"manifest={corpus}", "budget=0.02", *places)
    first = wavbench(*words)
    before, begun = contents(folder), time.monotonic()
    again = wavbench(*words)
    assert time.monotonic() - begun < 3
    assert contents(folder) == before
    assert again.out.splitlines()[-2:] == first.out.splitlines()[-2:]


def test_a_transformer_is_run_over_all_layers_and_over_some(wavbench: Callable, corpus: Path, places: tuple) -> None:
    words = ("run", "task=er", *TINY, f"manifest={corpus}", "budget=0.01", *places)
    whole = wavbench(*words, "layers=all")
    assert whole.code == 0
    records = [read_record(path) for path in whole.made("record")]
    assert [record.layers for record in records] == ["mix", *range(13)]
    assert records[0].layer_numbers == list(range(13))
    assert sum(records[0].layer_weights) == pytest.approx(1, abs=1e-4)
    one = wavbench(*words, "layers=2")
    assert one.made("record") == [whole.made("record")[3]]  # the same cell: not run again
    two = wavbench(*words, "layers=[2,4]", "head_seed=1")
    assert [read_record(path).layers for path in two.made("record")] == [2, 4]
    assert not set(two.made("record")) & set(whole.made("record"))


def test_trials_may_be_given(wavbench: Callable, corpus: Path, places: tuple, tmp_path: Path) -> None:
    pairs = [(f"u{a:04d}", f"u{b:04d}", int(a // 4 == b // 4)) for a in range(36, 48) for b in range(a + 1, 48)]
    trials = tmp_path / "trials.csv"
    pd.DataFrame(pairs, columns=["enroll", "test", "target"]).to_csv(trials, index=False)
    done = wavbench(
        "run", "task=asv", "upstream=fbank", f"manifest={corpus}", f"trials={trials}", "budget=0.02", *places
    )
    assert done.code == 0
    assert read_record(done.made("record")[0]).n == len(pairs)


EXPERIMENT = """
upstreams:
  - {name: fbank}
  - {name: wav2vec2_tiny, weights: random, seed: 0}
cells:
  - {task: er, manifest: corpus.csv, layers: all, budget: 0.02}
  - {task: phones, manifest: corpus.csv, layers: 2, budget: 0.01}
  - {task: lid, manifest: corpus.csv, budget: 0.02}
head_seeds: [3]
"""


def test_a_sweep_runs_every_cell_then_skips_them_and_says_which_failed(
    wavbench: Callable, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    words = ("sweep", f"experiment={tmp_path / 'mine.yaml'}", f"corpora={corpus.parent}")
    words += (f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    done = wavbench(*words)
    assert done.lines[0] == "6 cells: 3 tasks, 2 upstreams"
    # fbank has one layer only, so layer 2 of it fails and nothing else
    assert done.code == 1
    assert "5 of 6 cells done, 1 failed" in done.out
    assert done.err.count("failed: phones on corpus with fbank: ") == 1
    assert "the upstream has no layer 2" in done.err
    assert done.lines[-1] == f"results: {tmp_path / 'results'}"
    found = collect(tmp_path / "results").records
    assert len(found) == 2 + 14 + 1 + 2
    assert {record.seed for record in found} == {3}
    before = contents(tmp_path / "results")
    again = wavbench(*words)
    assert again.out.count("done already:") == 5
    assert contents(tmp_path / "results") == before


def test_two_revisions_of_one_upstream_are_two_upstreams(
    wavbench: Callable, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_upstream(name: str, options, **_: str):
        asked.append(options.revision)
        return wb.load({"old": "fbank", "new": "fbank_raw"}[options.revision])

    monkeypatch.setattr(experiment, "load_upstream", load_upstream)
    (tmp_path / "mine.yaml").write_text(
        "upstreams: [{name: org/speech, revision: old}, {name: org/speech, revision: new}]\n"
        "cells: [{task: lid, manifest: corpus.csv, budget: 0.01}]\n"
    )
    done = wavbench(
        "sweep",
        f"experiment={tmp_path / 'mine.yaml'}",
        f"corpora={corpus.parent}",
        f"results={tmp_path / 'results'}",
        f"stores={tmp_path / 'stores'}",
    )
    assert done.code == 0
    assert asked == ["old", "new"]
    assert {record.upstream for record in collect(tmp_path / "results").records} == {"fbank", "fbank_raw"}


def test_two_processes_share_a_sweep(command: list[str], corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "upstreams: [{name: fbank}, {name: fbank_raw}]\n"
        "cells: [{task: er, manifest: corpus.csv, budget: 0.02}, {task: lid, manifest: corpus.csv, budget: 0.02}]\n"
    )
    words = [f"experiment={tmp_path / 'mine.yaml'}", f"corpora={corpus.parent}", "workers=2"]
    words += [f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}"]
    done = subprocess.run([*command, "sweep", *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 cells done, 0 failed" in done.stdout
    finished = re.findall(r"^\[\d\] finished: (\S+ on \S+ with .*) \(", done.stdout, re.M)
    assert len(finished) == len(set(finished)) == 4
    assert len(collect(tmp_path / "results").records) == 4
    assert not list(tmp_path.rglob("*.claim"))
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_report_is_made_of_all_records(wavbench: Callable, corpus: Path, places: tuple, folder: Path) -> None:
    for words in (("task=er", "upstream=fbank"), ("task=er", *TINY, "layers=all"), ("task=pr", "upstream=fbank")):
        assert wavbench("run", *words, f"manifest={corpus}", "budget=0.01", *places).code == 0
    done = wavbench("report", places[0])
    results = folder / "results"
    assert done.code == 0
    assert done.made("results") == [results]
    assert done.lines[-1] == f"page: {results / 'leaderboard.html'}"
    assert "er on corpus" in done.out
    for name in (
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.html",
        "figures/scores.png",
        "figures/layers_er.svg",
    ):
        assert (results / name).stat().st_size > 100, name
    with open(results / "leaderboard.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["task"], row["upstream"]) for row in rows} >= {
        ("er", "fbank"),
        ("er", "wav2vec2_tiny random seed 0"),
        ("pr", "fbank"),
    }
    assert all(row["synthetic"] == "False" for row in rows)


def test_a_store_is_described_verified_and_sealed(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    wavbench("extract", "upstream=fbank", f"manifest={corpus}", f"store={path}")
    info = wavbench("store", "info", path)
    assert info.code == 0
    assert "utterances: 48 of corpus.csv, 0 rejected" in info.out
    assert "240 wide, 100 Hz" in info.out
    assert info.lines[-1] == f"store: {path}"
    assert wavbench("store", "verify", path).lines == ["all well", f"store: {path}"]
    index = (path / "features.h5").read_bytes()
    (path / "features.h5").unlink()
    assert wavbench("store", "seal", f"store={path}").code == 0
    assert len((path / "features.h5").read_bytes()) == len(index)
    shard = next((path / "shards").glob("*.h5"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    damaged = wavbench("store", "verify", path)
    assert damaged.code == 2
    assert damaged.out.startswith(f"damaged: {shard.name}")
    assert "way out:" in damaged.err


def test_a_damaged_shard_is_made_again_from_its_audio(wavbench: Callable, corpus: Path, tmp_path: Path) -> None:
    words = ("extract", "upstream=fbank", f"manifest={corpus}", f"store={tmp_path / 'store'}")
    wavbench(*words)
    whole = wb.open_store(tmp_path / "store")["u0007"][0]
    next((tmp_path / "store" / "shards").glob("*.h5")).unlink()
    assert wavbench(*words).code == 0
    assert np.array_equal(wb.open_store(tmp_path / "store")["u0007"][0], whole)


def test_a_manifest_is_checked_and_mended(wavbench: Callable, corpus: Path) -> None:
    assert wavbench("corpus", "check", corpus).lines[-1] == "48 rows, all well"
    table = pd.read_csv(corpus, dtype=str)
    table.loc[3, "split"], table.loc[7, "audio"], table.loc[9, "id"] = "validation", "audio/none.wav", "u0000"
    bad, mended = corpus.parent / "bad.csv", corpus.parent / "mended.csv"
    table.to_csv(bad, index=False)
    done = wavbench("corpus", "check", bad)
    assert done.code == 2
    assert "3 problems in 3 rows" in done.out
    assert {line.split(":")[0].split(" (")[0] for line in done.lines if "line" in line} == {
        "line 5",
        "line 9",
        "line 11",
    }
    done = wavbench("corpus", "check", bad, f"mended={mended}")
    assert done.code == 0
    assert f"manifest: {mended} (45 rows)" in done.out
    assert wavbench("corpus", "check", mended).lines[-1] == "45 rows, all well"


def test_corpora_are_listed_with_licence_and_source(wavbench: Callable) -> None:
    done = wavbench("corpus", "list")
    assert done.code == 0
    assert any(line.startswith("synthetic: ") for line in done.lines)
    assert "licence:" in done.out


def test_the_doctor_looks_at_everything(wavbench: Callable, tmp_path: Path) -> None:
    done = wavbench("doctor", f"stores={tmp_path / 'not' / 'yet'}")
    assert done.code == 0
    for word in ("python 3.", "torch ", "device: ", "hdf5: written and read back", "extra [synthetic]", "all well"):
        assert word in done.out
    assert list(tmp_path.iterdir()) == []


def test_help_shows_every_command_and_its_keys(wavbench: Callable) -> None:
    for words in ((), ("help",), ("--help",)):
        text = wavbench(*words).out
        for name in ("demo", "extract", "run", "sweep", "report", "corpus", "store", "doctor"):
            assert f"wavbench {name}" in text
    for name in ("extract", "run", "sweep", "demo", "report", "corpus build", "store info", "doctor"):
        done = wavbench(*name.split(), "--help")
        assert done.code == 0
        assert done.lines[0].startswith(f"wavbench {name}: ")
    assert wavbench("--version").out == f"wavbench {wb.__version__}\n"


def test_ctrl_c_prints_the_command_that_goes_on(
    wavbench: Callable, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("wavbench.upstream.extract._work", interrupted)
    place = tmp_path / "a folder"
    done = wavbench("extract", "upstream=fbank", f"manifest={corpus}", f"store={place}")
    assert done.code == 130
    line = done.err.splitlines()[-1].strip()
    assert line == f"wavbench extract upstream=fbank manifest={corpus} 'store={place}'"
    monkeypatch.undo()
    assert wavbench("extract", "upstream=fbank", f"manifest={corpus}", f"store={place}").code == 0


def test_a_reader_that_stops_reading_is_no_crash(command: list[str]) -> None:
    # output is written when its buffer is full or at the end, as in a shell
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen([*command, "help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    process.stdout.close()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (1, b"")


def test_an_interrupted_process_ends_with_130_and_goes_on_later(
    corpus: Path, tmp_path: Path, wavbench: Callable
) -> None:
    slow = (
        "import signal, sys, time; from wavbench.upstream import extract; from wavbench.benchmark.cli import main\n"
        # a runner in the background ignores SIGINT, and so would its children
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "extract._work = lambda *_: (print('working', flush=True), time.sleep(60))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["extract", "upstream=fbank", f"manifest={corpus}", f"store={tmp_path / 'store'}"]
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.stdout.readline() not in ("working\n", ""):
        pass
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.splitlines()[-1].strip() == "wavbench " + " ".join(words)
    assert wavbench(*words).code == 0
    assert len(wb.open_store(tmp_path / "store")) == 48


def test_the_command_is_installed_under_its_name() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="wavbench")
    assert entry.load() is cli.main
