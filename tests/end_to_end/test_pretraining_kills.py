"""`wavbench pretrain` under SIGKILL and on several processes: the same weights to the last bit."""

import csv
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_training import shrunk, train, weights_of, write_corpus

from wavbench.benchmark import cli

PATIENCE = 180  # seconds for one uninterrupted run on a busy machine
PRESETS = Path(__file__).resolve().parents[1] / "small_presets"

context = multiprocessing.get_context("forkserver")
# wavbench before anything that imports torchaudio
context.set_forkserver_preload(
    ["wavbench.upstream.pretraining", "wavbench.upstream.pretrain.wav2vec2", "wavbench.upstream.pretrain.hubert",
     "wavbench.upstream.pretrain.wavlm", "wavbench.upstream.models.hubert", "wavbench.upstream.models.wavlm",
     "wavbench.upstream.pretrain.data2vec", "wavbench.upstream.models.data2vec", "wavbench.benchmark.pretraining",
     "wavbench.upstream.pretrain.vq_wav2vec_bert", "transformers.models.roberta.modeling_roberta",
     "lightning.fabric", "tensorboardX",
     "sklearn.cluster", "torchaudio.compliance.kaldi", "soundfile", "hydra"]
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


def work(objective: str, manifest: Path, folder: Path, values: dict, environment: dict) -> None:
    """A training in this process, or a part of one as torchrun would start it."""
    os.environ.update(environment)
    if words := values.get("words"):
        with shrunk():
            sys.exit(cli.main([*words]))
    if environment:
        from small_training import processes

        fabric = processes.make_fabric("cpu", 1, 1, "fp32", unused=values.get("layerdrop", 0) > 0)
        fabric.launch()
        values = {**values, "launched": fabric}
    train(objective, manifest, folder, **values)


def start(objective: str, manifest: Path, folder: Path, processes: int = 1, **values) -> list:
    values = {"precision": "fp32", "save_every": 2, "log_every": 1, **values}
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
        started.append(context.Process(target=work, args=(objective, manifest, folder, values, own)))
        started[-1].start()
    return started


def finish(processes: list) -> None:
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0


def kill(processes: list) -> bool:
    """Whether the first was still running."""
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


def running(process) -> bool:
    return process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()


def wait_for_step(folder: Path, step: int, process) -> None:
    until = time.monotonic() + PATIENCE
    while running(process) and time.monotonic() < until:
        if (folder / "train.csv").exists() and f"\n{step}," in (folder / "train.csv").read_text():
            return
        time.sleep(0.001)


def assert_killed_often_ends_the_same(manifest: Path, folder: Path, steps: int, kills: int, **values) -> None:
    finish(start("wav2vec2", manifest, folder / "whole", steps=steps, **values))
    moments, hits = random.Random(0), 0
    killed = folder / "killed"
    for k in range(kills):
        training = start("wav2vec2", manifest, killed, steps=steps, **values)
        if k % 4:  # amid the steps, a save or an evaluation
            wait_for_step(killed, min(steps - 1, steps * k // kills + moments.randrange(1, 4)), training[0])
            time.sleep(moments.uniform(0, 0.03))
        else:  # while it decodes, reads its state or begins
            time.sleep(moments.uniform(0.1, 0.6))
        hits += kill(training)
    finish(start("wav2vec2", manifest, killed, steps=steps, **values))
    assert hits >= 3 * kills // 4
    assert weights_of(killed) == weights_of(folder / "whole")
    assert steps_written(killed) == list(range(1, steps + 1))
    for part in (".", "kept"):
        names, whole = ({path.name for path in (place / part).glob("*")} for place in (killed, folder / "whole"))
        assert names == whole  # nothing half-written is left


def test_a_training_killed_four_times_ends_with_the_weights_of_a_quiet_one(manifest: Path, tmp_path: Path) -> None:
    assert_killed_often_ends_the_same(manifest, tmp_path, steps=24, kills=4, keep_every=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_killed_twenty_times_ends_with_the_weights_of_a_quiet_one(
    workers: int, manifest: Path, tmp_path: Path
) -> None:
    assert_killed_often_ends_the_same(manifest, tmp_path, steps=200, kills=20, workers=workers, layerdrop=0.2)


@pytest.mark.parametrize(
    "objective", ["hubert", "wav2vec2", "wavlm", "data2vec", "wav2vec", "vq_wav2vec", "vq_wav2vec_bert"]
)
def test_two_processes_killed_and_started_again_end_with_the_weights_of_a_quiet_pair(
    objective: str, manifest: Path, tmp_path: Path
) -> None:
    how = {"processes": 2, "steps": 6, "layerdrop": 0.4, "batch_seconds": 1.5}
    finish(start(objective, manifest, tmp_path / "whole", **how))
    pair = start(objective, manifest, tmp_path / "killed", **how)
    wait_for_step(tmp_path / "killed", 3, pair[0])
    assert kill(pair)
    finish(start(objective, manifest, tmp_path / "killed", **how))
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
    assert steps_written(tmp_path / "killed") == [1, 2, 3, 4, 5, 6]


def test_three_processes_that_leave_nothing_out_end_with_the_weights_of_a_quiet_three(
    manifest: Path, tmp_path: Path
) -> None:
    how = {"processes": 3, "steps": 6, "layerdrop": 0.0, "batch_seconds": 1.0}
    finish(start("hubert", manifest, tmp_path / "whole", **how))
    three = start("hubert", manifest, tmp_path / "killed", **how)
    wait_for_step(tmp_path / "killed", 3, three[0])
    assert kill(three)
    finish(start("hubert", manifest, tmp_path / "killed", **how))
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")


def test_two_processes_take_the_step_that_one_takes_with_two_batches(manifest: Path, tmp_path: Path) -> None:
    # dropout differs between the two, hence one step of which only the first loss and the hidden frames are compared
    how = {"steps": 1, "batch_seconds": 1.5}
    finish(start("hubert", manifest, tmp_path / "two", processes=2, **how))
    finish(start("hubert", manifest, tmp_path / "one", accumulate=2, **how))
    rows = []
    for name in ("one", "two"):
        with open(tmp_path / name / "train.csv", newline="") as file:
            rows.append(next(csv.DictReader(file)))
    for name in ("audio_hours", "masked_share", "epoch", "learning_rate"):
        assert rows[0][name] == rows[1][name]
    for name in ("loss", "masked_loss", "feature_penalty", "gradient_norm"):
        assert float(rows[0][name]) == pytest.approx(float(rows[1][name]), rel=0.1)


def test_a_process_without_a_dev_batch_waits_for_no_one(manifest: Path, tmp_path: Path) -> None:
    how = {"steps": 2, "batch_seconds": 1.5, "dev_every": 1, "dev_seconds": 0.1}
    finish(start("hubert", manifest, tmp_path / "two", processes=2, **how))
    with open(tmp_path / "two" / "dev.csv", newline="") as file:
        assert [float(row["masked_loss"]) > 0 for row in csv.DictReader(file)] == [True, True]


def words_of(manifest: Path, folder: Path) -> tuple[str, ...]:
    return (
        *("pretrain", "objective=wav2vec2", f"manifest={manifest}", f"out={folder}", "workers=0", "threads=1"),
        *("batch_seconds=1.5", "crop_seconds=0.8", "min_seconds=0.3", "precision=fp32", "layerdrop=0.3"),
        *("steps=6", "log_every=1", "save_every=2", "dev_every=3"),
    )


def popen(*words: str) -> subprocess.Popen:
    """A command of Python's, with the smaller presets."""
    environment = {**os.environ, "PYTHONPATH": str(PRESETS), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def assert_same_states(folder: Path, other: Path) -> None:
    for read in (
        lambda place: load_file(place / "checkpoint.safetensors"),
        lambda place: torch.load(place / "last.pt", weights_only=True)["module"],
    ):
        ours, theirs = read(folder), read(other)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert steps_written(folder) == steps_written(other) == [1, 2, 3, 4, 5, 6]


def family_of(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family_of(int(child)))]


COMMAND = ("-m", "wavbench.benchmark.cli")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_the_command_with_two_devices_trains_as_two_processes_of_torchrun_do(manifest: Path, tmp_path: Path) -> None:
    process = popen(*COMMAND, *words_of(manifest, tmp_path / "devices"), "devices=2")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err.decode()
    assert out.decode().count("checkpoint: ") == 1  # the second process is silent
    finish(start("", manifest, tmp_path, 2, words=words_of(manifest, tmp_path / "torchrun")))
    assert_same_states(tmp_path / "devices", tmp_path / "torchrun")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "words"), [((), ("devices=2",)), (TORCHRUN, ())], ids=["devices", "torchrun"])
def test_the_command_on_two_processes_goes_on_after_a_kill(
    before: tuple, words: tuple, manifest: Path, tmp_path: Path
) -> None:
    finish(start("", manifest, tmp_path, 2, words=words_of(manifest, tmp_path / "whole")))
    first = popen(*before, *COMMAND, *words_of(manifest, tmp_path / "killed"), *words)
    wait_for_step(tmp_path / "killed", 3, first)
    for pid in family_of(first.pid):  # torchrun's processes would outlive it
        os.kill(pid, signal.SIGKILL)
    first.communicate(timeout=PATIENCE)
    assert steps_written(tmp_path / "killed")[-1] < 6
    second = popen(*before, *COMMAND, *words_of(manifest, tmp_path / "killed"), *words)
    _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, err.decode()
    assert_same_states(tmp_path / "whole", tmp_path / "killed")


def test_the_command_goes_on_with_a_preset_file_of_its_own(wavbench: Callable, manifest: Path, tmp_path: Path) -> None:
    def small(*words: str):
        with shrunk():
            return wavbench(*words)

    (tmp_path / "tiny.yaml").write_text(
        "steps: 3\npeak_rate: 1.0e-3\nbatch_seconds: 2\ncrop_seconds: 0.8\nmin_seconds: 0.3\nlog_every: 1\n"
        "hubert:\n  unit_dim: 8\nwav2vec2:\n  entries: 4\n"
    )
    words = ("pretrain", "objective=hubert", f"manifest={manifest}", f"preset={tmp_path / 'tiny.yaml'}", "clusters=5",
             f"out={tmp_path / 'run'}", "workers=0", "threads=1")  # fmt: skip
    done = small(*words)
    assert done.code == 0, done
    assert done.made("checkpoint") == [tmp_path / "run" / "checkpoint.safetensors"]
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["module"]["units"].shape == (5, 8)
    again = small(*words)
    assert again.code == 0
    assert "step" not in again.out
    # What was trained is an upstream: its states can be the units of the next round, and its weights a beginning.
    trained, basis = tmp_path / "run" / "checkpoint.safetensors", (*words[:5], "workers=0")
    states = (f"units_from={trained}", "units_layer=1", f"stores={tmp_path / 'stores'}")
    second = small(*basis, *states, f"init={trained}", f"out={tmp_path / 'second'}")
    assert second.code == 0, second
    third = small(*basis, f"units={tmp_path / 'second' / 'units.h5'}", f"out={tmp_path / 'third'}")
    assert third.code == 0, third


def test_the_command_trains_bert_on_the_codes_of_a_training_before(
    wavbench: Callable, manifest: Path, tmp_path: Path
) -> None:
    words = (f"manifest={manifest}", "workers=0", "threads=1", "precision=fp32", "steps=3", "batch_seconds=2",
             "crop_seconds=0.8", "min_seconds=0.3", f"decoded={tmp_path / 'decoded'}")  # fmt: skip
    first, second = tmp_path / "first", tmp_path / "second"
    with shrunk():
        assert wavbench("pretrain", "objective=vq_wav2vec", *words, f"out={first}", "entries=8").code == 0
        done = wavbench("pretrain", "objective=vq_wav2vec_bert", *words, f"out={second}", f"codes={first}")
    assert done.code == 0, done
    assert "pairs have tokens" in done.out
    assert done.made("checkpoint") == [second / "checkpoint.safetensors"]
    codes, trained = (load_file(folder / "checkpoint.safetensors") for folder in (first, second))
    kept = {name.removeprefix("codes."): tensor for name, tensor in trained.items() if name.startswith("codes.")}
    assert kept.keys() == {name for name in codes if not name.startswith("context.")}
    assert all(torch.equal(tensor, codes[name]) for name, tensor in kept.items())
