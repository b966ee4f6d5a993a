"""Options that nothing would look at, and devices and processes that cannot be, are refused before anything is read."""

from pathlib import Path

import pytest
import torch

from wavbench.benchmark import schemas
from wavbench.benchmark.cli import main
from wavbench.benchmark.config import refuse_idle
from wavbench.benchmark.loading import check_processes
from wavbench.upstream.errors import UserError
from wavbench.upstream.processes import make_fabric

RUN = ("run", "task=asr", "upstream=fbank", "manifest=none.csv")
TUNE = ("finetune", "task=pr", "upstream=hubert_tiny", "manifest=none.csv")
PRETRAIN = ("pretrain", "objective=wav2vec2", "manifest=none.csv")


def screen(words: tuple[str, ...], capsys: pytest.CaptureFixture, folder: Path) -> str:
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert list(folder.iterdir()) == []
    return said


@pytest.mark.parametrize(
    ("words", "named", "owner"),
    [
        ((*RUN, "lm_order=2"), "lm_order=2", "lm="),
        ((*RUN, "lm_unit=character"), "lm_unit=character", "lm="),
        ((*RUN, "lm_neural=folder"), "lm_neural=folder", "lm="),
        ((*RUN, "lm_closed=true"), "lm_closed=True", "lm="),
        ((*RUN, "lm=a.arpa", "lm_order=2"), "lm_order=2", "lm=train"),
        ((*TUNE, "rank=16"), "rank=16", "adaptation=lora"),
        ((*TUNE, "adaptation=partial", "alpha=8"), "alpha=8.0", "adaptation=lora"),
        ((*TUNE, "adaptation=lora", "blocks=2"), "blocks=2", "adaptation=partial"),
    ],
)
def test_an_option_without_its_owner_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, words: tuple, named: str, owner: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = screen(words, capsys, tmp_path)
    assert f"{named} would change nothing" in said
    assert f"it goes with {owner}; else leave it out" in said


@pytest.mark.parametrize(
    "words",
    [
        (*RUN, "lm=train", "lm_order=2"),
        (*RUN, "lm=a.arpa", "lm_unit=character", "lm_neural=x"),
        (*TUNE, "adaptation=lora", "rank=16", "alpha=4"),
        (*TUNE, "adaptation=partial", "blocks=1"),
        (*TUNE, "rank=8"),  # the usual value
    ],
)
def test_an_option_with_its_owner_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, words: tuple
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "none.csv" in screen(words, capsys, tmp_path)


def test_a_value_that_may_be_missing_is_idle_where_it_is_given() -> None:
    config = schemas.Infer(head="h", lm_weight=0.0)
    with pytest.raises(UserError, match=r"lm_weight=0\.0 would change nothing"):
        refuse_idle(config, ["lm_weight", "lm_length"], "lm=FILE.arpa")
    refuse_idle(config, ["lm_length"], "lm=FILE.arpa")


@pytest.mark.parametrize("command", [TUNE, PRETRAIN])
@pytest.mark.parametrize(
    "word", ["device=zzz", "device=meta", "devices=0", "devices=-1", "nodes=0", "workers=-1", "threads=-1"]
)
def test_devices_and_processes_that_cannot_be_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, command: tuple, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = screen((*command, word), capsys, tmp_path)
    assert word in said
    assert "none.csv" not in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UserError, match=f"device={device} cannot be used"):
        check_processes(schemas.Finetune(device=device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_more_gpus_than_there_are_is_named() -> None:
    there = torch.cuda.device_count()
    check_processes(schemas.Finetune(device="cuda", devices=there))
    with pytest.raises(UserError, match=f"devices={there + 1} is more than the {there}"):
        check_processes(schemas.Finetune(device="cuda", devices=there + 1))


def test_a_gpu_by_number_is_for_one_process() -> None:
    with pytest.raises(UserError, match="device=cuda:0 is one GPU, and 4 processes want one each"):
        make_fabric("cuda:0", 2, 2, "fp32", unused=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_gpu_by_number_is_taken() -> None:
    assert make_fabric("cuda:0", 1, 1, "fp32", unused=False).device == torch.device("cuda:0")
