"""What every file in upstream/corpora promises."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import wavbench.upstream.corpora as folder
from wavbench.upstream.manifest import check_manifest, read_manifest

NAMES = [module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_")]
SMALL = {"utterances": 1, "languages": ("de", "en"), "speakers": (1, 1, 1)}  # what generated corpora take


@pytest.fixture(params=NAMES)
def corpus(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"wavbench.upstream.corpora.{request.param}")


def test_the_built_in_corpus_is_there() -> None:
    assert "synthetic" in NAMES


def test_says_what_it_is_where_it_comes_from_and_under_which_licence(corpus: ModuleType) -> None:
    assert corpus.__doc__
    assert isinstance(corpus.licence, str)
    assert corpus.licence.strip()
    assert isinstance(corpus.source, str)
    assert corpus.source.strip()
    assert isinstance(getattr(corpus, "synthetic", False), bool)


def test_manifest_takes_a_folder_and_needs_nothing_else(corpus: ModuleType) -> None:
    first, *others = inspect.signature(corpus.manifest).parameters.values()
    assert first.name == "root"
    assert all(each.kind == each.KEYWORD_ONLY and each.default is not each.empty for each in others)


def test_generated_corpus_is_a_manifest_without_a_bad_row(corpus: ModuleType, tmp_path: Path) -> None:
    if not getattr(corpus, "synthetic", False):
        pytest.skip("made of recordings, which are not here")
    pytest.importorskip("espeakng_loader", reason="the synthetic extra is not installed")
    path = corpus.manifest(tmp_path, **SMALL)
    problems, warnings, table = check_manifest(path)
    assert problems == []
    assert not any("speaker" in warning for warning in warnings)
    assert len(table) == len(read_manifest(path)) == 24
    assert set(table["split"]) == {"train", "dev", "test"}
