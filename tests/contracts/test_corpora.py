"""What every file in upstream/corpora promises."""

import importlib
import inspect
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from corpus_trees import Tree

from wavbench.upstream.corpus import corpus_names, load_corpus
from wavbench.upstream.description import description_of
from wavbench.upstream.errors import UserError
from wavbench.upstream.importing import import_corpus
from wavbench.upstream.manifest import check_manifest, read_manifest
from wavbench.upstream.transcripts import RULES

NAMES = corpus_names()
READERS = [name for name in NAMES if hasattr(load_corpus(name), "read")]
TASKS = {"asr", "pr", "phones", "er", "asv", "lid", "st", "ks", "sid", "ic"}
SMALL = {"utterances": 1, "languages": ("de", "en"), "speakers": (1, 1, 1)}  # what generated corpora take


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return load_corpus(request.param)


@pytest.fixture(params=READERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tree(name: str, tmp_path: Path) -> Tree:
    return importlib.import_module(f"corpus_trees.{name}").build(tmp_path)


def test_says_what_it_is_where_it_comes_from_and_under_which_licence(module: ModuleType) -> None:
    corpus = module.corpus
    assert module.__doc__
    assert all(text.strip() for text in (corpus.title, corpus.licence, corpus.source))
    assert set(corpus.tasks) <= TASKS
    assert corpus.text in ("", *RULES)


def test_has_a_way_to_its_manifest_whose_options_are_plain_and_optional(module: ModuleType) -> None:
    function = module.manifest if hasattr(module, "manifest") else module.read
    first, *others = inspect.signature(function).parameters.values()
    assert first.name == "root"
    assert all(each.kind == each.KEYWORD_ONLY and each.default is not each.empty for each in others)
    if function is getattr(module, "read", None):
        assert all(type(each.default) in (str, int, bool) for each in others if each.name != "into")


def test_archives_are_https_and_say_how_they_are_checked(module: ModuleType) -> None:
    archives = getattr(module, "archives", ())
    parts = [archive.part for archive in archives]
    assert len(set(parts)) == len(parts)
    for archive in archives:
        assert archive.url.startswith("https://")
        assert len(archive.sha256) in (0, 64)


def test_imports_its_tree_with_the_splits_it_promises(name: str, tree: Tree) -> None:
    made = import_corpus(name, tree.root, options=tree.options, partial=not tree.complete)
    problems, _, table = check_manifest(made.manifest) if made.root is None else ([], [], made.table)
    assert problems == []
    assert table["id"].is_unique
    assert {split: n for split, n in table["split"].value_counts().items() if split} == tree.splits
    manifest = read_manifest(made.manifest, made.root)
    assert all(manifest.audio_path(row).is_file() for row in range(len(manifest)))
    assert (manifest.table["duration"] > 0).all()
    for column in load_corpus(name).corpus.separates:
        named = manifest.table[(manifest.table[column] != "") & (manifest.table["split"] != "")]
        assert named.groupby(column)["split"].nunique().max() == 1


def test_the_same_tree_gives_the_same_manifest_byte_for_byte(name: str, tree: Tree) -> None:
    first = import_corpus(name, tree.root, options=tree.options, partial=True)
    before = first.manifest.read_bytes(), first.manifest.with_suffix(".json").read_bytes()
    again = import_corpus(name, tree.root, options=tree.options, partial=True)
    assert (again.manifest.read_bytes(), again.manifest.with_suffix(".json").read_bytes()) == before


def test_describes_what_it_imported(name: str, tree: Tree) -> None:
    made = import_corpus(name, tree.root, options=tree.options, partial=True)
    described = description_of(made.manifest)
    assert described["corpus"] == name
    assert described["licence"] == load_corpus(name).corpus.licence
    assert sum(described["utterances"].values()) == sum(tree.splits.values())


def test_a_folder_of_something_else_is_named_with_what_was_looked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"no corpus")
    with pytest.raises(UserError) as caught:
        import_corpus(name, tmp_path)
    assert str(tmp_path) in caught.value.where
    assert caught.value.remedy


def test_a_missing_index_is_named(name: str, tree: Tree) -> None:
    if tree.index is None:
        pytest.skip("its audio files are all there is")
    shutil.rmtree(tree.index) if tree.index.is_dir() else tree.index.unlink()
    with pytest.raises(UserError) as caught:
        import_corpus(name, tree.root, options=tree.options, partial=True)
    assert tree.index.name in str(caught.value) or "none of" in caught.value.why
    assert not list(tree.root.rglob(f"{name}.csv"))


def test_a_half_copied_corpus_is_refused_and_nothing_is_written(name: str, tree: Tree) -> None:
    if tree.audio is None:
        pytest.skip("nothing says which files there ought to be")
    tree.audio.unlink()
    with pytest.raises(UserError) as caught:
        import_corpus(name, tree.root, options=tree.options)
    assert caught.value.why
    assert not list(tree.root.rglob(f"{name}.csv"))


def test_a_root_that_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        import_corpus(name, tmp_path / "absent")


def test_generated_corpus_is_a_manifest_without_a_bad_row(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the synthetic extra is not installed")
    path = load_corpus("synthetic").manifest(tmp_path, **SMALL)
    problems, warnings, table = check_manifest(path)
    assert problems == []
    assert not any("speaker" in warning for warning in warnings)
    assert len(table) == len(read_manifest(path)) == 24
    assert set(table["split"]) == {"train", "dev", "test"}
