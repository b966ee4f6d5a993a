"""The large experiments, from corpora in their authors' layout and checkpoints in theirs, with small ones of both."""

import importlib
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import yaml
from corpus_trees import write_text

from wavbench.benchmark.baselines import find_baseline
from wavbench.benchmark.collect import collect
from wavbench.benchmark.config import CONFIGS
from wavbench.downstream.heads import blstm, blstm_superb, translator, translator_superb, xvector
from wavbench.upstream import catalog
from wavbench.upstream.export import export_hugging_face

SMALL = {"conv_channels": (16,) * 7, "dim": 32, "num_layers": 1, "num_heads": 2, "inner_dim": 48, "position_kernel": 8}
EXPERIMENTS = ("superb", "baselines")
LARGER = {  # than what a reader is tested with: trials need two speakers in dev and in test, classes some in train
    "speech_commands": {"words": ("bed", "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")},
    "mini_librispeech": {"speakers": {"train-clean-5": tuple(str(k) for k in range(16)), "dev-clean-2": ("84", "85")}},
    "fleurs": {"languages": ("de_de", "en_us", "es_419", "fr_fr", "it_it", "nl_nl", "pl_pl", "pt_br")},
}


def experiment(name: str) -> dict:
    return yaml.safe_load((CONFIGS / "experiment" / f"{name}.yaml").read_text())


@pytest.fixture(autouse=True)
def narrow_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """SUPERB's heads for GPUs and those of translation, at a width that a test can pay for."""
    narrow = partial(blstm.Stack, stride=1, projection=8, hidden=8)
    small = translator.Shape(width=16, hidden=24, attention_heads=2, encoder_blocks=1, decoder_blocks=1)
    monkeypatch.setattr(blstm_superb, "build", narrow)
    monkeypatch.setattr(blstm, "build", narrow)
    monkeypatch.setattr(blstm, "STRIDE", 1)  # the made recordings are too short for two frames a character
    monkeypatch.setattr(xvector, "WIDTH", 8)
    monkeypatch.setattr(xvector, "POOLED", 12)
    for module in (translator, translator_superb):
        monkeypatch.setattr(module, "build", partial(translator.Translator, shape=small))


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints as the Hub has them, under the ids of the official ones."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in {u["name"] for e in EXPERIMENTS for u in experiment(e)["upstreams"]}:
        baseline = find_baseline(name)
        if baseline:
            stem, config = catalog.find_preset(baseline.preset)
            known = {field.name for field in fields(config)}
            config = type(config)(**{key: value for key, value in SMALL.items() if key in known})
            model = catalog.build_random(stem, config, len(name))
            upstream = catalog.Upstream(name, model, config=catalog.describe(stem, config), checkpoint=name)
            export_hugging_face(upstream, folder / baseline.id)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every corpus of the experiments, each in a folder of its reader's name, and a lexicon."""
    root = tmp_path_factory.mktemp("root")
    for name in {cell["corpus"] for e in EXPERIMENTS for cell in experiment(e)["cells"]}:
        importlib.import_module(f"corpus_trees.{name}").build(root / name, **LARGER.get(name, {}))
    words = "a man said to the universe sir i exist however it's late so it is anyway don't"
    text = "".join(f"{word.upper()} {' '.join(word.replace(chr(39), '').upper())}\n" for word in words.split())
    write_text(root / "librispeech-lexicon.txt", text)
    return root


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_plan_says_what_it_takes_and_makes_nothing(
    name: str, wavbench: Callable, root: Path, stand_ins: Path, tmp_path: Path
) -> None:
    done = wavbench("sweep", f"experiment={name}", f"root={root}", f"corpora={tmp_path / 'manifests'}", "--dry")
    assert done.code == 0, done.err
    for cell in experiment(name)["cells"]:
        assert any(line.startswith(f"{cell['task']} ") and cell["corpus"] in line for line in done.lines)
    for upstream in experiment(name)["upstreams"]:
        assert any(line.startswith(upstream["name"]) for line in done.lines)
    assert "missing:" not in done.out
    assert "of disk" in done.lines[-1] or "of disk" in done.lines[-2]
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_corpora_that_are_not_there_says_how_to_get_them(wavbench: Callable, tmp_path: Path) -> None:
    done = wavbench("sweep", "experiment=superb", f"root={tmp_path}", "--dry")
    assert done.code == 0
    assert f"wavbench corpus fetch librispeech {tmp_path}/librispeech" in done.out
    assert "sign the release form" in done.out
    assert any(line.startswith("missing: ") and "iemocap" in line for line in done.lines)


@pytest.mark.parametrize("name", [pytest.param("baselines", marks=pytest.mark.slow), "superb"])
def test_the_experiment_runs_to_its_end_and_again_does_nothing(
    name: str, wavbench: Callable, root: Path, stand_ins: Path, tmp_path: Path
) -> None:
    words = ["sweep", f"experiment={name}", f"root={root}", f"corpora={tmp_path / 'manifests'}", "partial=true"]
    words += [f"checkpoints={stand_ins}", "budget=0.00001", f"results={tmp_path / 'results'}"]
    words += [f"stores={tmp_path / 'stores'}"]
    done = wavbench(*words)
    assert done.code == 0, done.err + done.out
    cells, upstreams = experiment(name)["cells"], experiment(name)["upstreams"]
    count = len(upstreams) * sum(len(cell.get("protocols", ["clean"])) for cell in cells)
    assert f"{count} of {count} cells done, 0 failed" in done.lines
    records = collect(tmp_path / "results").records
    assert {(r.task, r.protocol) for r in records} == {
        (cell["task"], protocol) for cell in cells for protocol in cell.get("protocols", ["clean"])
    }
    assert {r.upstream for r in records} == {u["name"] for u in upstreams}
    heard = {r.corpus for r in records if r.config["heard"] and r.upstream == "hubert_base"}
    assert all("librispeech" in corpus for corpus in heard)
    assert heard
    again = wavbench(*words)
    assert again.out.count("done already:") == count
