"""Fixtures of extraction: a corpus, and where its store goes."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def corpus(tmp_path: Path, build_corpus: Callable[..., Path]) -> Path:
    """The manifest of twelve short files."""
    return build_corpus(tmp_path / "corpus", 12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"
