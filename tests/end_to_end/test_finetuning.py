"""`wavbench finetune`: a record and a checkpoint, the same to the last bit after a kill; one screen for bad input."""

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small_training import SMALL, shrunk

from wavbench.benchmark import cli
from wavbench.benchmark.record import read_record
from wavbench.downstream.saved import load_heads, record_of
from wavbench.upstream import catalog
from wavbench.upstream.checkpoints import write_checkpoint

PATIENCE = 180  # seconds for one run on a busy machine
STEPS = 6
QUICK = (
    *(f"steps={STEPS}", "batch_seconds=2", "log_every=1", "dev_every=3", "save_every=2", "threads=1"),
    *("peak_rate=2e-3", "dev_seconds=3"),
)

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["wavbench.downstream.finetune", "wavbench.benchmark.finetuning", "wavbench.benchmark.run", "tensorboardX",
     "wavbench.upstream.models.wav2vec2", "lightning.fabric", "torchaudio.compliance.kaldi", "soundfile", "hydra"]
)  # fmt: skip


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of the wav2vec 2.0 kind."""
    path = tmp_path_factory.mktemp("upstream") / "small.safetensors"
    write_checkpoint(path, "wav2vec2", SMALL, catalog.build_random("wav2vec2", SMALL, 0).state_dict())
    return path


def words(corpus: Path, upstream: Path, folder: Path, *more: str) -> list[str]:
    given = ["finetune", "task=pr", f"manifest={corpus}", f"upstream={upstream}", *QUICK, *more]
    places = {"out": folder / "run", "results": folder / "results", "stores": folder / "features"}
    names = {word.partition("=")[0] for word in given}
    return [*given, *(f"{name}={place}" for name, place in places.items() if name not in names)]


def test_a_run_leaves_a_record_an_upstream_and_a_head(
    wavbench: Callable, corpus: Path, upstream: Path, tmp_path: Path
) -> None:
    done = wavbench(*words(corpus, upstream, tmp_path, "labels=0.05min", "adaptation=lora"))
    assert done.code == 0, done
    (folder,) = done.made("checkpoint")
    (path,) = done.made("record")
    record = read_record(path)
    assert (record.adaptation, record.task, record.metric, record.layers) == ("lora", "pr", "PER", "mix")
    assert record.checkpoint == "small.safetensors"
    assert record.checkpoint_hash == catalog.load(str(upstream)).weights_hash
    assert sum(record.layer_weights) == pytest.approx(1, abs=1e-3)
    assert record.config["rank"] == 8
    drawn = (folder / "labels.txt").read_text().split()
    table = pd.read_csv(corpus, dtype=str).set_index("id")
    assert set(table.loc[drawn, "split"]) == {"train"}
    assert table.loc[drawn[:6], "speaker"].nunique() == 6
    assert 0.05 <= record.config["labels"] < 0.061
    scores = pd.read_csv(path.with_suffix(".scores.csv"))
    assert len(scores) == record.n == 12
    assert record.value == pytest.approx(100 * scores["errors"].sum() / scores["tokens"].sum(), abs=1e-3)
    assert path.with_suffix(".predictions.csv").is_file()

    # What was trained opens as any other upstream, and with the head beside it gives what the record says.
    tuned = catalog.load(str(folder))
    about = json.loads((folder / "head.json").read_text())
    assert about["upstream"]["weights_hash"] == tuned.weights_hash != record.checkpoint_hash
    saved = load_heads(folder)
    assert (saved.task, saved.objective, saved.name, saved.layers) == ("pr", "Ctc", "linear", (0, 1, 2))
    symbols = saved.heads[0].symbols
    assert symbols == ("a", "p", "t")
    head = load_file(folder / "head.safetensors")
    id = table.index[table["split"] == "test"][0]
    states = tuned.extract(corpus.parent / table.loc[id, "audio"]).states[0]
    head = {name.removeprefix("0."): tensor for name, tensor in head.items()}
    mixed = head["mix.logits"].softmax(1)[0] @ ((states - head["shift"]) * head["scale"]).flatten(1)
    hidden = mixed.view(states.shape[1:]) @ head["mixed.project.weight"][0] + head["mixed.project.bias"][0]
    best = (hidden @ head["mixed.classify.weight"][0] + head["mixed.classify.bias"][0]).argmax(1).tolist()
    said = [best[k] for k in range(len(best)) if best[k] and (k == 0 or best[k] != best[k - 1])]
    predictions = pd.read_csv(path.with_suffix(".predictions.csv"), dtype=str, keep_default_na=False).set_index("id")
    assert predictions.loc[id, "hypothesis"].split() == [symbols[symbol - 1] for symbol in said]

    moved = shutil.copytree(folder, tmp_path / "moved")
    heard = wavbench("transcribe", corpus.parent / table.loc[id, "audio"], f"head={moved}", "json=true")
    assert heard.code == 0, heard
    assert json.loads(heard.lines[-1])["text"].split() == predictions.loc[id, "hypothesis"].split()

    again = wavbench(*words(corpus, upstream, tmp_path, "labels=0.05min", "adaptation=lora"))
    assert again.made("record") == [path]
    assert "step" not in again.out


def test_words_are_learned_with_random_weights_and_every_adaptation(
    wavbench: Callable, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {}
    with shrunk():
        for adaptation in ("full", "partial", "frozen"):
            more = ("task=asr", "weights=random", "seed=3", f"adaptation={adaptation}", "precision=bf16")
            more += ("blocks=1",) if adaptation == "partial" else ()
            given = words(corpus, Path("hubert_tiny"), tmp_path, *more, f"out={adaptation}")
            given.remove("task=pr")
            done = wavbench(*given)
            assert done.code == 0, done
            record = read_record(done.made("record")[0])
            assert (record.adaptation, record.metric) == (adaptation, "WER")
            assert "CER" in record.secondary
            assert record.config["random"]
            assert record.checkpoint == "hubert_tiny random seed 3"
            values[adaptation] = record.cost["parameters"]
    assert values["full"] > values["partial"] > values["frozen"]
    report = wavbench("report", f"results={tmp_path / 'results'}")
    assert report.code == 0, report
    for name in ("full", "partial"):
        assert f"{name} fine-tuning" in report.out


def work(arguments: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sys.exit(cli.main(arguments))


def start(arguments: list[str], processes: int = 1) -> list:
    """The command in one process, or in several as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "GROUP_WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    started = []
    for rank in range(processes):
        own = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        started.append(context.Process(target=work, args=(arguments, own)))
        started[-1].start()
    return started


def finish(processes: list) -> None:
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0


def kill_after(processes: list, folder: Path, step: int, pause: float = 0.0) -> bool:
    """Whether the first was still at work once the step had been written."""
    until = time.monotonic() + PATIENCE
    while processes[0].is_alive() and time.monotonic() < until:
        if max(steps_written(folder), default=0) >= step:
            break
        time.sleep(0.002)
    time.sleep(pause)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    return processes[0].exitcode == -signal.SIGKILL


def steps_written(folder: Path) -> list[int]:
    path = folder / "train.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def assert_same_runs(one: Path, other: Path) -> None:
    states = [torch.load(folder / "run" / "last.pt", weights_only=True) for folder in (one, other)]
    assert states[0]["step"] == states[1]["step"] == STEPS
    tables = [[state["module"], *state["optimizer"]["state"].values()] for state in states]
    for name in ("checkpoint", "head", "best"):
        for place, folder in enumerate((one, other)):
            tables[place].append(load_file(folder / "run" / f"{name}.safetensors"))
    for ours, theirs in zip(*tables, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert steps_written(one / "run") == steps_written(other / "run") == list(range(1, STEPS + 1))
    ours, theirs = (next((folder / "results" / "runs").glob("*.json")) for folder in (one, other))
    assert ours.name == theirs.name
    for suffix in (".scores.csv", ".predictions.csv"):
        assert ours.with_suffix(suffix).read_bytes() == theirs.with_suffix(suffix).read_bytes()
    assert {path.name for path in (one / "run").iterdir()} == {path.name for path in (other / "run").iterdir()}


@pytest.mark.parametrize("adaptation", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_run_killed_often_ends_with_the_weights_and_scores_of_a_quiet_one(
    adaptation: str, corpus: Path, upstream: Path, tmp_path: Path
) -> None:
    noise = ("layerdrop=0.3", "dropout=0.1", "mask_frame_starts=0.1", "mask_frame_span=3", "mask_channel_starts=0.1")
    more = (f"adaptation={adaptation}", "head_only=0.3", *noise)
    finish(start(words(corpus, upstream, tmp_path / "quiet", *more)))
    given = words(corpus, upstream, tmp_path / "killed", *more)
    moments = random.Random(0)
    hits = [kill_after(start(given), tmp_path / "killed" / "run", step, moments.uniform(0, 0.02)) for step in (1, 3, 5)]
    assert sum(hits) >= 2
    finish(start(given))
    assert_same_runs(tmp_path / "quiet", tmp_path / "killed")


def test_two_processes_killed_and_started_again_end_with_the_weights_of_a_quiet_pair(
    corpus: Path, upstream: Path, tmp_path: Path
) -> None:
    finish(start(words(corpus, upstream, tmp_path / "quiet", "layerdrop=0.3", "mask_frame_starts=0.1"), 2))
    given = words(corpus, upstream, tmp_path / "killed", "layerdrop=0.3", "mask_frame_starts=0.1")
    assert kill_after(start(given, 2), tmp_path / "killed" / "run", 3)
    finish(start(given, 2))
    assert_same_runs(tmp_path / "quiet", tmp_path / "killed")


def test_what_cannot_be_fine_tuned_is_one_screen(refused: Callable, corpus: Path, upstream: Path) -> None:
    basis = ("finetune", f"manifest={corpus}", f"upstream={upstream}")
    assert "there is no task 'prr'" in refused(*basis, "task=prr")
    assert "emotion recognition cannot be fine-tuned" in refused(*basis, "task=er")
    assert "there is no adaptation 'half'" in refused(*basis, "task=pr", "adaptation=half")
    assert "labels=much is no amount of speech" in refused(*basis, "task=pr", "labels=much")
    assert "rank=0" in refused(*basis, "task=pr", "adaptation=lora", "rank=0")
    assert "steps=0" in refused(*basis, "task=pr", "steps=0")
    assert "layerdrop=1.5 is no share" in refused(*basis, "task=pr", "layerdrop=1.5")
    assert "mask_frame_starts" in refused(*basis, "task=pr", "mask_frame=1")
    assert "precision=fp8" in refused(*basis, "task=pr", "precision=fp8")
    screen = refused("finetune", f"manifest={corpus}", "upstream=fbank", "task=pr")
    assert "fbank cannot be fine-tuned" in screen
    assert "wav2vec2, hubert, wavlm or data2vec" in screen


def test_a_budget_larger_than_the_data_names_the_way_out(
    wavbench: Callable, corpus: Path, upstream: Path, tmp_path: Path
) -> None:
    done = wavbench(*words(corpus, upstream, tmp_path, "labels=10h"))
    assert done.code == 2
    assert "labels=600min is more than there is" in done.err
    assert "labels=all" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "run" / "labels.txt").exists()


def test_other_settings_in_the_folder_of_a_run_are_named(
    wavbench: Callable, corpus: Path, upstream: Path, tmp_path: Path
) -> None:
    assert wavbench(*words(corpus, upstream, tmp_path)).code == 0
    done = wavbench(*words(corpus, upstream, tmp_path, "head_rate=0.5"))
    assert done.code == 2
    assert "head_rate: began with 0.002, now 0.5" in done.err
    drawn = (tmp_path / "run" / "labels.txt").read_text()
    done = wavbench(*words(corpus, upstream, tmp_path, "labels=0.05min"))
    assert done.code == 2
    assert "a training on other labels" in done.err
    assert (tmp_path / "run" / "labels.txt").read_text() == drawn


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_never_told_to_hold_what_it_does_not(
    wavbench: Callable, corpus: Path, upstream: Path, tmp_path: Path
) -> None:
    """The record of one run does not speak for the folder of another, however that folder came to be."""
    runs = {name: tmp_path / name for name in ("a", "b")}
    one = words(corpus, upstream, tmp_path, f"out={runs['a']}")
    other = words(corpus, upstream, tmp_path, "head_rate=3e-3", f"out={runs['b']}")
    keys = [wavbench(*given).made("record")[0].stem for given in (one, other)]
    assert [record_of(folder) for folder in runs.values()] == keys
    settings = json.loads((runs["b"] / "run.json").read_text())["hyperparameters"]
    before = contents(runs["b"])
    done = wavbench(*words(corpus, upstream, tmp_path, f"out={runs['b']}"))
    assert done.code == 2
    assert "head_rate: began with 0.003, now 0.002" in done.err
    assert contents(runs["b"]) == before

    head = json.loads((runs["b"] / "head.json").read_text())  # as it was written before heads named their record
    del head["about"]["record"]
    (runs["b"] / "head.json").write_text(json.dumps(head))
    assert wavbench(*words(corpus, upstream, tmp_path, f"out={runs['b']}")).code == 2
    again = wavbench(*other)
    assert (again.code, "step" in again.out) == (0, False)
    assert again.made("record")[0].stem == keys[1]

    for name in ("run.json", "last.pt"):  # nothing is left that says what it is of
        (runs["b"] / name).unlink()
    again = wavbench(*other)
    assert (again.code, "step" in again.out) == (0, True)
    assert record_of(runs["b"]) == keys[1]
    assert json.loads((runs["b"] / "run.json").read_text())["hyperparameters"] == settings


def test_one_amount_of_labels_is_one_folder(
    wavbench: Callable, corpus: Path, upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {word.partition("=")[0]: word for word in words(corpus, upstream, tmp_path, "adaptation=frozen")}
    del places["out"], places["finetune"]
    made = [
        wavbench("finetune", *places.values(), f"labels={text}").made("checkpoint") for text in ("0.05min", "0.050min")
    ]
    assert made[0] == made[1] == [Path("finetuned/pr-corpus-small-frozen-0.05min")]
    (path,) = (tmp_path / "results/runs").glob("*.json")
    assert read_record(path).config["budget"]["labels"] == "0.05min"


def test_where_the_folder_is_gone_other_settings_begin_anew(
    wavbench: Callable, corpus: Path, upstream: Path, tmp_path: Path
) -> None:
    assert wavbench(*words(corpus, upstream, tmp_path)).code == 0
    shutil.rmtree(tmp_path / "run")
    assert wavbench(*words(corpus, upstream, tmp_path, "head_rate=0.5")).code == 0


def test_utterances_that_cannot_be_learned_from_are_written_and_named(
    wavbench: Callable, corpus: Path, upstream: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(corpus, dtype=str)
    table.loc[3, "phones"] = "SIL"
    table.loc[5, "phones"] = " ".join(["p"] * 400)
    table["phone_ends"] = ""
    path = corpus.parent / "long.csv"
    table.to_csv(path, index=False)
    done = wavbench(*words(path, upstream, tmp_path))
    assert done.code == 0, done
    assert "left out: 2 utterances (skipped.csv): u0003, u0005" in done.out
    skipped = pd.read_csv(tmp_path / "run" / "skipped.csv")
    assert skipped["id"].tolist() == ["u0003", "u0005"]
    assert "empty" in skipped["reason"][0]
    assert "799 frames" in skipped["reason"][1]
    assert f"u0005; 1: {skipped['reason'][0]}; 1: {skipped['reason'][1]}" in done.out
    losses = pd.read_csv(tmp_path / "run" / "train.csv")["loss"]
    assert losses.notna().all()
    assert (losses < 1e6).all()
