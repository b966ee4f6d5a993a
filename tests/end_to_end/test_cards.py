"""`wavbench card`: from records to what a page of the Hub takes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import parse_eval_result_entries
from ruamel.yaml import YAML


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    from wavbench.benchmark import cli

    folder = tmp_path_factory.mktemp("cards")
    for task in ("er", "lid"):
        words = [f"task={task}", "upstream=fbank", f"manifest={corpus}", "budget=0.01", f"stores={folder / 'stores'}"]
        assert cli.main(["run", *words, f"results={folder / 'results'}"]) == 0
    return folder / "results"


def test_a_card_and_a_file_for_every_corpus_with_an_id(wavbench: Callable, results: Path, tmp_path: Path) -> None:
    words = ("card", "upstream=fbank", f"results={results}", f"out={tmp_path / 'out'}")
    done = wavbench(*words, "datasets=er/corpus:me/speech")
    assert done.code == 0
    (path,) = done.made("result")
    (entry,) = parse_eval_result_entries(YAML(typ="safe").load(path.read_text()))
    assert (entry.dataset_id, entry.task_id) == ("me/speech", "er")
    (card,) = done.made("card")
    assert [line.split(" | ")[0] for line in card.read_text().splitlines()[4:]] == ["| er", "| lid"]
    assert "in the card alone: corpus" not in done.out
    assert "in the card alone: corpus" in wavbench(*words).out
    damaged = tmp_path / "results"
    shutil.copytree(results, damaged)
    (damaged / "runs/0.json").write_text("{")
    left = wavbench("card", "upstream=fbank", f"results={damaged}", f"out={tmp_path / 'out'}")
    assert left.code == 2
    assert "a record cannot be read" in left.err


def test_what_a_card_cannot_be_made_of_is_refused(refused: Callable, results: Path) -> None:
    assert "no board has a row 'fbnk'" in refused("card", "upstream=fbnk", f"results={results}")
    assert "is no pair" in refused("card", "upstream=fbank", f"results={results}", "datasets=corpus")
    assert "no id of a data set" in refused("card", "upstream=fbank", f"results={results}", "datasets=corpus:../x")
