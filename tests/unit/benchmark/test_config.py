"""Words of a command line to a typed schema; whatever does not fit names what would."""

from pathlib import Path

import pytest

from wavbench.benchmark import cli
from wavbench.benchmark.config import compose
from wavbench.benchmark.schemas import Extract, Run, Sweep
from wavbench.upstream.errors import UserError

RUN = ["task=er", "upstream=fbank", "manifest=m.csv"]
EXPERIMENT = """
corpora: corpora
upstreams:
  - {name: fbank}
  - {name: wav2vec2_tiny, weights: random, seed: 3}
cells:
  - {task: er, manifest: m.csv, layers: all}
"""


def test_values_have_the_types_of_the_schema() -> None:
    config = compose(Run, [*RUN, "seed=7", "budget=0.25", "layers=4,8"])
    assert (config.seed, config.budget, config.layers, config.results) == (7, 0.25, "4,8", "results")
    assert isinstance(config, Run)


def test_a_number_where_text_is_wanted_stays_text() -> None:
    assert compose(Run, [*RUN, "layers=6"]).layers == "6"
    assert compose(Run, [*RUN, "results=007"]).results == "007"
    assert compose(Run, [*RUN, "results=null"]).results == "null"


def test_a_value_may_hold_what_paths_hold() -> None:
    path = "a folder/with=signs, [brackets] and {braces}'s.csv"
    assert compose(Extract, ["upstream=fbank", f"manifest={path}"]).manifest == path


def test_a_misspelt_key_names_the_near_one_and_all_there_are() -> None:
    with pytest.raises(UserError, match="no key 'manifset'") as error:
        compose(Run, ["task=er", "upstream=fbank", "manifset=m.csv"])
    assert "did you mean manifest?" in error.value.remedy
    assert "budget" in error.value.remedy


@pytest.mark.parametrize("word", ["seed=many", "seed=1.5", "budget=half", "seed="])
def test_a_value_of_another_type_names_the_word(word: str) -> None:
    with pytest.raises(UserError, match="does not fit") as error:
        compose(Run, [*RUN, word])
    assert error.value.where == word
    assert error.value.why


def test_missing_values_are_listed_together() -> None:
    with pytest.raises(UserError, match="manifest and task are missing") as error:
        compose(Run, ["upstream=fbank"])
    assert "give manifest=... task=..." in error.value.remedy


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="seed is given twice"):
        compose(Run, [*RUN, "seed=1", "seed=2"])


@pytest.mark.parametrize("word", ["upstream", "--upstream", "-u"])
def test_a_word_without_a_sign_names_the_form(word: str) -> None:
    with pytest.raises(UserError, match="not of the form key=value"):
        compose(Run, [word, "task=er"])


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a${task}", "${"])
def test_interpolation_is_refused_in_words(value: str) -> None:
    with pytest.raises(UserError, match="interpolation is not allowed"):
        compose(Run, ["task=er", "upstream=fbank", f"manifest={value}"])


def experiment(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_an_experiment_is_read_by_path_and_words_go_over_it(tmp_path: Path) -> None:
    path = experiment(tmp_path, EXPERIMENT)
    config = compose(Sweep, [f"experiment={path}", "head_seeds=0,1,2", "corpora=elsewhere"])
    assert [(u.name, u.weights, u.seed) for u in config.upstreams] == [("fbank", "", 0), ("wav2vec2_tiny", "random", 3)]
    assert [(c.task, c.layers, c.budget) for c in config.cells] == [("er", "all", 1.0)]
    assert config.head_seeds == [0, 1, 2]
    assert config.corpora == "elsewhere"


@pytest.mark.parametrize("name", ["demo", "real_speech"])
def test_every_experiment_that_comes_along_is_read_by_name(name: str) -> None:
    config = compose(Sweep, [f"experiment={name}"])
    assert config.cells
    assert config.upstreams
    assert config.corpora != "."


def test_every_experiment_in_the_folder_composes() -> None:
    from wavbench.benchmark.config import CONFIGS

    for path in sorted((CONFIGS / "experiment").glob("*.yaml")):
        assert compose(Sweep, [f"experiment={path.stem}"]).cells, path


def test_an_unknown_experiment_names_those_there_are() -> None:
    with pytest.raises(UserError, match="no experiment 'reel_speech'") as error:
        compose(Sweep, ["experiment=reel_speech"])
    assert "demo, full, objective_layers, objectives, pretrained" in error.value.remedy
    with pytest.raises(UserError, match=r"no experiment 'none\.yaml'"):
        compose(Sweep, ["experiment=none.yaml"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (EXPERIMENT + "worker: 2\n", "worker"),
        (EXPERIMENT.replace("task: er", "tusk: er"), "tusk"),
        (EXPERIMENT.replace("seed: 3", "seed: three"), "three"),
        (EXPERIMENT + "defaults: [demo]\n", "defaults"),
        (EXPERIMENT + "_target_: os.system\n", "_target_"),
        (EXPERIMENT.replace("cells:", "cells: 4\nhead_seeds:"), ""),
    ],
)
def test_an_experiment_that_does_not_fit_names_what_does_not(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        compose(Sweep, [f"experiment={experiment(tmp_path, text)}"])
    assert why in error.value.screen()
    assert "mine.yaml" in error.value.screen()


@pytest.mark.parametrize(
    "text", ["cells: [", "- a\n- b\n", "just words", "a: b: c", "\x00", "cells: !!python/object:x.y {}"]
)
def test_a_broken_experiment_is_one_clear_screen(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        compose(Sweep, [f"experiment={experiment(tmp_path, text)}"])
    assert "mine.yaml" in error.value.screen()


def test_bytes_that_are_no_text_are_one_clear_screen(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x9d")
    with pytest.raises(UserError, match="cannot be read"):
        compose(Sweep, [f"experiment={path}"])


def test_interpolation_is_refused_in_experiments_however_deep(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("name: fbank", "name: '${oc.env:HOME}'")
    with pytest.raises(UserError, match="interpolation is not allowed"):
        compose(Sweep, [f"experiment={experiment(tmp_path, text)}"])


def test_lists_of_tables_are_for_experiments_only() -> None:
    with pytest.raises(UserError, match="cells cannot be given on the command line"):
        compose(Sweep, ["experiment=demo", "cells=er"])


def test_the_help_of_a_command_lists_its_keys_with_defaults(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert "task=  needed" in text
    assert "budget=  default 1.0" in text
    assert cli.main(["corpus", "check", "-h"]) == 0
    assert "(or the word behind the command)" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "near"), [("runn", "run"), ("extarct", "extract"), ("store", "store verify")])
def test_an_unknown_command_names_the_near_ones(word: str, near: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main([word]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert near in error
