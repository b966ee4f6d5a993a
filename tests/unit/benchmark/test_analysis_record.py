"""Files of analyses: what is written is read, and what is damaged is named and never drawn."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wavbench.benchmark.analysis_record import KINDS, analysis_path, read_analyses, read_analysis, write_analysis
from wavbench.upstream.errors import UserError


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(tmp_path: Path, make_analysis: Callable, kind: str) -> None:
    analysis = make_analysis(kind)
    path = write_analysis(tmp_path, analysis)
    assert path == analysis_path(tmp_path, kind, analysis.key)
    assert read_analysis(path) == analysis
    assert read_analyses(tmp_path) == ([analysis], [])


def test_a_folder_without_analyses_has_none(tmp_path: Path) -> None:
    assert read_analyses(tmp_path) == ([], [])


DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no object": lambda text: "[1, 2]",
    "not UTF-8": lambda text: text.replace("emotions", "\udcff"),
    "deep": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_the_rest_is_read(tmp_path: Path, make_analysis: Callable, damage: str) -> None:
    sound = make_analysis("norms")
    write_analysis(tmp_path, sound)
    path = write_analysis(tmp_path, make_analysis("cka"))
    path.write_bytes(DAMAGE[damage](path.read_text()).encode(errors="surrogateescape"))
    found, damaged = read_analyses(tmp_path)
    assert found == [sound]
    assert [error.where for error in damaged] == [str(path)]
    assert "`wavbench analyse` computes it again" in damaged[0].remedy


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("cka", {"schema": 2}),
        ("cka", {"kind": "pca"}),
        ("cka", {"upstreams": ["one"]}),
        ("norms", {"upstreams": "one"}),
        ("norms", {"layers": [[]]}),
        ("norms", {"more": 1}),
        ("norms", {"key": "another"}),
        ("cka", {"values": {"cka": [[1.0, 2.0]], "debiased": [[1.0, 2.0]]}}),
        ("cka", {"values": {"cka": [[1.0, 2.0], [3.0]], "debiased": [[1.0, 2.0], [3.0]]}}),
        ("cka", {"values": {"cka": [[1.0, float("nan")]] * 2, "debiased": [[1.0, 2.0]] * 2}}),
        ("cca", {"values": {}}),
        ("cca", {"permuted": [[], []]}),
        ("cca", {"weighted": [[1.0]]}),
        ("cca", {"permuted": [[1.0], [1.0]]}),
        ("cca", {"weighted": 1.0}),
        ("tsne", {"x": [1.0]}),
        ("tsne", {"label": [1, 2, 3]}),
        ("norms", {"norm": [[1.0], [2.0]]}),
    ],
    ids=str,
)
def test_what_is_no_analysis_is_refused(tmp_path: Path, make_analysis: Callable, kind: str, change: dict) -> None:
    analysis = make_analysis(kind)
    path = write_analysis(tmp_path, analysis)
    values = dataclasses.asdict(analysis)
    place = values["values"] if set(change) <= set(analysis.values) else values
    path.write_text(
        json.dumps(values | {"values": values["values"] | change} if place is not values else values | change)
    )
    with pytest.raises(UserError, match="an analysis cannot be read"):
        read_analysis(path)
