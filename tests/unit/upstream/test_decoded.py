"""Corpora decoded once: the samples of every utterance, whatever happens on the way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wavbench.upstream import decoded
from wavbench.upstream.audio import load_audio
from wavbench.upstream.manifest import read_manifest


def test_every_utterance_is_there_to_the_last_16_bit_sample(tmp_path: Path, build_corpus: Callable) -> None:
    manifest = read_manifest(build_corpus(tmp_path / "corpus", 5))
    speech = decoded.decode([manifest], tmp_path / "decoded", workers=3)
    assert speech.ids == tuple(f"corpus/{id}" for id in manifest.table["id"])
    assert list(speech.splits) == manifest.table["split"].tolist()
    for row in range(5):
        whole = load_audio(manifest.audio_path(row))
        kept = speech.crop(row, 0, int(speech.lengths[row]))
        assert len(kept) == len(whole)
        assert np.abs(kept - whole).max() <= 0.5 / decoded.SCALE + 1e-7
        np.testing.assert_array_equal(speech.crop(row, 100, 50), kept[100:150])


def test_a_second_call_decodes_nothing_and_another_recording_does(
    tmp_path: Path, build_corpus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_corpus(tmp_path / "corpus", 3)
    first = decoded.decode([read_manifest(path)], tmp_path / "decoded")
    with monkeypatch.context() as patch:
        patch.setattr(decoded, "load_audio", None)
        assert decoded.decode([read_manifest(path)], tmp_path / "decoded").hash == first.hash
    (path.parent / "audio/u0001.wav").write_bytes((path.parent / "audio/u0002.wav").read_bytes())
    assert decoded.decode([read_manifest(path)], tmp_path / "decoded").hash != first.hash


def test_audio_that_does_not_decode_is_named_and_left_out(tmp_path: Path, build_corpus: Callable) -> None:
    path = build_corpus(tmp_path / "corpus", 3)
    (path.parent / "audio/u0001.wav").write_bytes(b"no sound")
    speech = decoded.decode([read_manifest(path)], tmp_path / "decoded")
    assert speech.ids == ("corpus/u0000", "corpus/u0002")
    assert list(speech.rejected) == ["corpus/u0001"]
    assert "cannot be decoded" in speech.rejected["corpus/u0001"]


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path, build_corpus: Callable) -> None:
    manifest = read_manifest(build_corpus(tmp_path / "corpus", 3))
    decoded.decode([manifest], tmp_path / "decoded")
    (place,) = (tmp_path / "decoded").iterdir()
    (place / "index.json").unlink()
    own = decoded.temporary_in(place).name.rsplit("-", 3)
    orphan = place / f"{own[0]}-999999999-1-{own[3]}"  # a process that no longer runs
    orphan.write_bytes(b"half")
    decoded.decode([manifest], tmp_path / "decoded")
    assert sorted(path.name for path in place.iterdir()) == ["index.json", "samples.i16"]
