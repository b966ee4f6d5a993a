"""Corpora decoded once: the samples of every utterance, whatever happens on the way."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wavbench.upstream import decoded
from wavbench.upstream.audio import load_audio
from wavbench.upstream.errors import UserError
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


def test_a_decoding_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, build_corpus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_corpus(tmp_path / "corpus", 8)
    (path.parent / "audio/u0001.wav").write_bytes(b"no sound")
    manifest = read_manifest(path)
    whole = decoded.decode([manifest], tmp_path / "whole")
    monkeypatch.setattr(decoded, "SAVED_SAMPLES", 1)  # a note after every utterance
    loaded: list[str] = []

    def stopped_at(last: str) -> None:
        def load(file: str, *span: float | None) -> np.ndarray:
            if Path(file).stem == last:
                raise KeyboardInterrupt
            loaded.append(Path(file).stem)
            return load_audio(file, *span)

        monkeypatch.setattr(decoded, "load_audio", load)

    for last in ("u0002", "u0005", "u0005"):
        stopped_at(last)
        with pytest.raises(KeyboardInterrupt):
            decoded.decode([manifest], tmp_path / "decoded")
        (place,) = (tmp_path / "decoded").iterdir()
        assert not (place / "index.json").exists()
        with open(place / "samples.part", "ab") as file:
            file.write(bytes(99))
        with open(place / "rows.part", "a") as file:
            file.write("12")  # of 12345 samples, when it was killed
        loaded.clear()
    stopped_at("")
    speech = decoded.decode([manifest], tmp_path / "decoded")
    assert sorted(loaded) == ["u0005", "u0006", "u0007"]
    assert (speech.hash, speech.ids, speech.rejected) == (whole.hash, whole.ids, whole.rejected)
    np.testing.assert_array_equal(speech.samples, whole.samples)
    assert sorted(file.name for file in place.iterdir()) == ["index.json", "samples.i16"]


def test_a_decoding_stopped_before_its_index_was_written_decodes_nothing_again(
    tmp_path: Path, build_corpus: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(build_corpus(tmp_path / "corpus", 3))
    whole = decoded.decode([manifest], tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(decoded, "temporary_in", None)  # what it calls after the samples have their name
        with pytest.raises(TypeError):
            decoded.decode([manifest], tmp_path / "decoded")
    monkeypatch.setattr(decoded, "load_audio", None)
    assert decoded.decode([manifest], tmp_path / "decoded").hash == whole.hash


def test_two_trainings_decode_once(tmp_path: Path, build_corpus: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(build_corpus(tmp_path / "corpus", 6))
    loaded: list[str] = []

    def load(file: str, *span: float | None) -> np.ndarray:
        loaded.append(file)
        time.sleep(0.02)
        return load_audio(file, *span)

    monkeypatch.setattr(decoded, "load_audio", load)
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(decoded.decode, [manifest], tmp_path / "decoded") for _ in range(2)]
    assert made[0].result().hash == made[1].result().hash
    assert len(loaded) == 6


@pytest.mark.parametrize("woken_at", ["u0006", "the end"])
def test_a_decoding_that_was_taken_over_while_it_slept_changes_nothing(
    tmp_path: Path, build_corpus: Callable, monkeypatch: pytest.MonkeyPatch, woken_at: str
) -> None:
    manifest = read_manifest(build_corpus(tmp_path / "corpus", 8))
    whole = decoded.decode([manifest], tmp_path / "whole")
    monkeypatch.setattr(decoded, "SAVED_SAMPLES", 1)  # a note after every utterance
    asleep, woken, waits = threading.Event(), threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        waits.set()
        time.sleep(0.01)

    monkeypatch.setattr(decoded, "time", SimpleNamespace(sleep=sleep))
    seen: list[str] = []

    def load(file: str, *span: float | None) -> np.ndarray:
        name = Path(file).stem
        seen.append(name)
        if name == "u0003" and seen.count(name) == 1:
            asleep.set()
            assert woken.wait(60)
        if name == woken_at and not woken.is_set():
            woken.set()
            assert waits.wait(60)  # until the first one has seen that it is no longer its turn
        return load_audio(file, *span)

    monkeypatch.setattr(decoded, "load_audio", load)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(decoded.decode, [manifest], tmp_path / "decoded", workers=1)
        assert asleep.wait(60)
        (place,) = (tmp_path / "decoded").iterdir()
        until = time.monotonic() + 60
        while sum(len(path.read_text().splitlines()) for path in place.glob("rows*.part")) < 4:  # who, and 3 utterances
            assert time.monotonic() < until
            time.sleep(0.01)
        os.utime(place / "decoding.claim", (0, 0))
        second = decoded.decode([manifest], tmp_path / "decoded", workers=1)
        woken.set()
        for speech in (first.result(), second, decoded.open_decoded(place)):
            assert speech.hash == whole.hash
            np.testing.assert_array_equal(speech.samples, whole.samples)
    assert sorted(file.name for file in place.iterdir()) == ["index.json", "samples.i16"]
    assert "u0002" not in seen[4:]  # what was noted was kept


@pytest.mark.parametrize("damage", ["nonsense\n", "[1]\n", "-5\n", "[" * 100_000 + "\n", "1.5\n"])
def test_notes_that_cannot_be_read_count_up_to_there(
    tmp_path: Path, build_corpus: Callable, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    manifest = read_manifest(build_corpus(tmp_path / "corpus", 4))
    whole = decoded.decode([manifest], tmp_path / "decoded")
    (place,) = (tmp_path / "decoded").iterdir()
    (place / "index.json").unlink()
    lengths = [f"{length}\n" for length in whole.lengths.tolist()]
    (place / "rows.part").write_text("".join([*lengths[:2], damage, *lengths[2:]]))
    loaded: list[str] = []
    monkeypatch.setattr(decoded, "load_audio", lambda file, *span: loaded.append(file) or load_audio(file, *span))
    again = decoded.decode([manifest], tmp_path / "decoded")
    assert sorted(Path(file).stem for file in loaded) == ["u0002", "u0003"]
    assert again.hash == whole.hash
    np.testing.assert_array_equal(again.samples, whole.samples)


def test_decoded_audio_that_others_wrote_to_is_refused_and_mended(tmp_path: Path, build_corpus: Callable) -> None:
    manifest = read_manifest(build_corpus(tmp_path / "corpus", 3))
    whole = decoded.decode([manifest], tmp_path / "whole")

    def meddle(done: int, total: int) -> None:
        if done == total:
            (part,) = (tmp_path / "decoded").glob("*/samples*.part")
            with open(part, "ab") as file:
                file.write(bytes(10))

    with pytest.raises(UserError, match="another program wrote"):
        decoded.decode([manifest], tmp_path / "decoded", progress=meddle)
    again = decoded.decode([manifest], tmp_path / "decoded")
    assert again.hash == whole.hash
    np.testing.assert_array_equal(again.samples, whole.samples)
