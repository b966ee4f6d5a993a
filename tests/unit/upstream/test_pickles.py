"""Files of `torch.save`: nothing in them is run or imported, and whatever is wrong with them fills one screen."""

import argparse
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.pickles import read_pickle

SETTINGS = {"encoder_layers": 2, "encoder_embed_dim": 48, "conv_feature_layers": "[(32, 10, 5)]"}


@pytest.fixture
def fairseq_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module called `fairseq.models` for classes that are pickled by name; absent again when files are read."""
    for name in ("fairseq", "fairseq.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    return sys.modules["fairseq.models"]


class Bomb:
    """Unpickling it would run a command of the shell."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["args", "model", "w2v_args"])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "system"),
        (eval, "eval"),
        (getattr, "getattr"),
        (torch.hub.load, r"torch\.hub"),
        (Path.touch, "getattr"),
    ],
    ids=["system", "eval", "getattr", "hub", "touch"],
)
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    function: object, name: str, place: str, legacy: bool, tmp_path: Path
) -> None:
    target = tmp_path / "ran"
    bomb = Bomb(function, target if function is Path.touch else f"touch {target}")
    arguments = argparse.Namespace(arch="wav2vec2", **SETTINGS, w2v_args=bomb if place == "w2v_args" else None)
    content = {"args": arguments, "model": {"x": torch.zeros(1)}}
    if place != "w2v_args":
        content[place] = bomb
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=f"it asks for .*{name}.*could run code") as error:
        catalog.load(str(tmp_path / "evil.pt"))
    assert "nothing in it was run" in error.value.remedy
    assert not target.exists()


def test_classes_of_fairseq_are_never_imported(
    tmp_path: Path, fairseq_module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Evil:\n    pass\n"
    evil = type("Evil", (), {"__module__": "fairseq.models"})
    fairseq_module.Evil = evil
    torch.save({"args": evil(), "model": {"x": torch.zeros(1)}}, tmp_path / "a.pt")
    monkeypatch.undo()
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq/__init__.py").write_text(code)
    (tmp_path / "fairseq/models.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError):
        catalog.load(str(tmp_path / "a.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [0, 10, 1_000, 20_000])
def test_a_truncated_file_is_an_error_of_one_screen(size: int, tmp_path: Path) -> None:
    for legacy in (False, True):
        content = {"args": argparse.Namespace(arch="wav2vec2", **SETTINGS), "model": {"x": torch.zeros(10_000)}}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:size])
        with pytest.raises(UserError, match="is damaged"):
            catalog.load(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("legacy", [False, True])
def test_changed_bytes_are_never_more_than_an_error_of_one_screen(legacy: bool, tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(arch="wav2vec2", **SETTINGS), "model": {"x": torch.zeros(8)}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / "a.pt").read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(200):
        changed = np.frombuffer(data, np.uint8).copy()
        changed[draw.integers(0, len(data), 3)] = draw.integers(0, 256, 3)
        (tmp_path / "a.pt").write_bytes(changed.tobytes()[: draw.integers(len(data) // 2, 2 * len(data))])
        with pytest.raises(UserError):
            catalog.load(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("content", [{}, [], 3, {"weights": {}}, {"x": torch.zeros(1)}, {"model": {}, "cfg": None}])
def test_a_file_of_no_known_layout_says_what_is_known(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="nothing here knows the layout"):
        catalog.load(str(tmp_path / "a.pt"))
    with pytest.raises(UserError, match="no such checkpoint"):
        catalog.load(str(tmp_path / "b.pth"))


def test_a_container_that_holds_itself_ends(tmp_path: Path) -> None:
    namespace = argparse.Namespace(arch="wav2vec2")
    namespace.itself = namespace
    loop: list = [namespace]
    loop.append(loop)
    torch.save({"args": {"loop": loop}, "model": {}}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="no native family"):
        catalog.load(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("legacy", [False, True])
def test_values_beside_the_weights_are_read_as_plain_ones(legacy: bool, tmp_path: Path) -> None:
    arguments = argparse.Namespace(inner=argparse.Namespace(x=[1, None]), best=np.float64(3), path=Path("/data/x"))
    content = {"args": arguments, "model": {"x": torch.ones(2)}, "epoch": 3}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    read = read_pickle(tmp_path / "a.pt")
    assert read["args"]["inner"] == {"x": [1, None]}
    assert read["args"]["best"] is None  # what numpy or pathlib would have to make is not made
    assert torch.equal(read["model"]["x"], torch.ones(2))
    assert read["epoch"] == 3


def test_nobody_is_told_to_load_a_pickle_without_the_check(tmp_path: Path) -> None:
    """torch's own message says that `weights_only=False` will likely succeed."""
    path = tmp_path / "plain.pt"
    path.write_bytes(pickle.dumps({"model": Path("x")}, protocol=4))  # of another pickler than torch.save's
    with pytest.raises(UserError) as error:
        read_pickle(path)
    assert "stopped at" in error.value.why
    assert "weights_only" not in error.value.screen()
