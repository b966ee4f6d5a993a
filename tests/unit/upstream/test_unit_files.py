"""Unit files and notes that somebody changed: refused by name, or not believed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_training import small_codes, source_of, train, write_corpus

from wavbench.upstream import codes, units
from wavbench.upstream.decoded import Speech, decode
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.unit_source import UnitSource

FILES = {"hubert": "units.h5", "vq_wav2vec_bert": "codes.h5"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech: Callable) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


@pytest.fixture(scope="module")
def speech(manifest: Path) -> Speech:
    return decode([read_manifest(manifest)], manifest.parent / "decoded")


@pytest.fixture(scope="module")
def written(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A unit file of each objective."""
    found = {}
    for objective, name in FILES.items():
        folder = tmp_path_factory.mktemp(objective)
        train(objective, manifest, folder, steps=1)
        found[objective] = folder / name
    return found


def told(**changes: object) -> Callable:
    """Another fingerprint; values of None are left out."""

    def change(file: h5py.File) -> None:
        values = json.loads(file.attrs["fingerprint"]) | changes
        file.attrs["fingerprint"] = json.dumps({name: value for name, value in values.items() if value is not None})

    return change


def replaced(name: str, made: Callable, honest: bool = False) -> Callable:
    """Another dataset; `honest` where the fingerprint has the hash of the new centroids."""

    def change(file: h5py.File) -> None:
        value = made(file[name][:])
        del file[name]
        file[name] = value
        if honest:
            told(centroids=units._hash_of(value))(file)

    return change


def text(value: str) -> Callable:
    return lambda file: file.attrs.__setitem__("fingerprint", value)


DAMAGE = {
    "no speech": told(speech=None),
    "no source": told(source=None),
    "odd source": told(source=[1]),
    "a list": text("[1]"),
    "nested": text("[" * 60_000),
    "centroids of another": replaced("centroids", lambda old: old[::-1].copy()),
    "one centroid for all": replaced("centroids", lambda old: np.repeat(old[1:2], len(old), 0)),
    "flat": replaced("centroids", lambda old: old[:, 0], honest=True),
    "nan": replaced("centroids", lambda old: old * np.float32("nan"), honest=True),
    "whole numbers": replaced("centroids", lambda old: old.astype(np.int64), honest=True),
    "an id of no utterance": replaced("ids", lambda old: np.array([b"speech/zz", *old[1:]], object)),
    "an id twice": replaced("ids", lambda old: np.array([old[1], *old[1:]], object)),
    "ids of numbers": replaced("ids", lambda old: np.arange(len(old))),
    "an id less": replaced("ids", lambda old: old[1:]),
    "a length less": replaced("lengths", lambda old: np.array([old[0] + old[1], *old[2:]])),
    "frames of the next": replaced("lengths", lambda old: np.array([old[0] + 5, old[1] - 5, *old[2:]])),
    "less than none": replaced("lengths", lambda old: np.array([old[0] + 1_000, old[1] - 1_000, *old[2:]])),
    "half lengths": replaced("lengths", lambda old: old + 0.5),
    "units of another kind": replaced("units", lambda old: old.astype(np.float32)),
}


@pytest.mark.parametrize("objective", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_was_changed_is_refused(
    objective: str, damage: str, written: dict, manifest: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changed.h5"
    shutil.copy(written[objective], path)
    with h5py.File(path, "r+") as file:
        DAMAGE[damage](file)
    said = "one for each frame" if damage == "frames of the next" else "the unit file is damaged or is none"
    with pytest.raises(UserError, match=said) as caught:
        train(objective, manifest, tmp_path / "run", steps=1, unit_source=source_of(objective, file=path))
    assert caught.value.why
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    "made",
    [
        lambda old: np.concatenate([old, old[:, :1]], axis=1),
        lambda old: np.concatenate([old[:1], np.repeat(old[1:2], len(old) - 1, 0)]),
        lambda old: old + np.float32(1),
        lambda old: np.concatenate([old[:1], old[1:] + np.float32(8)]),
        lambda old: np.concatenate([old[:1], old[1:] + np.float32(0.5)]),
        lambda old: old[1:],
    ],
)
def test_a_dictionary_that_is_none_is_refused(made: Callable, written: dict, manifest: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.h5"
    shutil.copy(written["vq_wav2vec_bert"], path)
    with h5py.File(path, "r+") as file:
        replaced("centroids", made, honest=True)(file)
        replaced("units", np.zeros_like)(file)
    with pytest.raises(UserError, match="the dictionary does not fit the codebook"):
        train("vq_wav2vec_bert", manifest, tmp_path / "run", unit_source=source_of("vq_wav2vec_bert", file=path))


def test_codes_in_the_place_of_clusters_are_refused(written: dict, manifest: Path, tmp_path: Path) -> None:
    shutil.copy(written["vq_wav2vec_bert"], tmp_path / "units.h5")
    with pytest.raises(UserError, match="made otherwise"):
        train("hubert", manifest, tmp_path, steps=1)
    with pytest.raises(UserError, match="codes of a vq-wav2vec"):
        train("hubert", manifest, tmp_path / "b", unit_source=UnitSource(file=tmp_path / "units.h5"))


@pytest.mark.parametrize("note", ["", "x", "999", "-1", "9" * 5_000, "1.5"])
def test_a_note_that_cannot_be_true_counts_as_none(
    note: str, written: dict, speech: Speech, manifest: Path, tmp_path: Path
) -> None:
    model = small_codes().model
    part = tmp_path / ".codes-a.part"
    part.write_bytes(bytes(10**6))
    part.with_suffix(codes.NOTE).write_text(note)
    found = codes.pairs_of(model, speech, next(model.parameters()).device, part)
    whole = codes.pairs_of(model, speech, next(model.parameters()).device, tmp_path / ".codes-b.part")
    for id, pairs in whole.items():
        assert np.array_equal(found[id], pairs)
