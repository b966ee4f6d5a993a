"""Fixtures of stores: one to read, one to break."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_stores import FINGERPRINT, fill, made_states

from wavbench.upstream.store import Store, open_store


@pytest.fixture(scope="module")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
    folder = tmp_path_factory.mktemp("stores")
    stores = {t: fill(folder / t, made_states(), replace(FINGERPRINT, dtype=t)) for t in ("float32", "int8")}
    return stores.__getitem__


@pytest.fixture
def store(store_of: Callable[[str], Store], tmp_path: Path) -> Store:
    """A float32 store of its own to break."""
    shutil.copytree(store_of("float32").path, tmp_path / "store")
    return open_store(tmp_path / "store")
