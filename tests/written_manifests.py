"""Manifests written line by line, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import check_manifest, read_manifest

HEADER = "id,audio,split"
SUFFIXES = (".csv", ".jsonl", ".parquet")


def write(folder: Path, text: str | bytes, name: str = "corpus.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(*lines: str, header: str = HEADER) -> str:
    return "\n".join([header, *lines, ""])


def found(path: Path) -> list[tuple[int, str]]:
    """Line and reason of every problem but absent audio."""
    problems, _, _ = check_manifest(path)
    return [(p.line, p.reason) for p in problems if not p.reason.startswith("there is no audio file")]


def reasons(folder: Path, **values: str) -> list[str]:
    """What is wrong with one row that is good but for these values."""
    row = {"id": "u1", "audio": "a.wav", "split": "train"} | values
    path = write(folder, json.dumps(row) + "\n", "one.jsonl")
    problems = found(path)
    if problems:
        with pytest.raises(UserError) as error:
            read_manifest(path)
        assert all(reason in str(error.value) for _, reason in problems)
    else:
        assert len(read_manifest(path)) == 1
    return [reason for _, reason in problems]
