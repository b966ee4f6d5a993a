"""The benchmark on recorded speech."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import wavbench as wb
from wavbench.benchmark.record import read_record, read_scores

pytestmark = pytest.mark.real


def subset(corpora: Path, name: str, folder: Path, rows: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """Some rows of a corpus with their audio, in a folder of their own: a manifest may not point out of its folder."""
    table = rows(pd.read_csv(corpora / name, dtype=str, keep_default_na=False))
    for audio in table["audio"]:
        (folder / audio).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpora / audio, folder / audio)
    table.to_csv(folder / name, index=False)
    return folder / name


def test_emotions_are_recognised_leaving_each_speaker_out(corpora: Path, tmp_path: Path, wavbench: Callable) -> None:
    def few(table: pd.DataFrame) -> pd.DataFrame:
        return table.groupby(["speaker", "emotion"], sort=True).head(4)

    manifest = subset(corpora, "emotion_pl.csv", tmp_path, few)
    speakers = pd.read_csv(manifest)["speaker"].unique()
    assert len(speakers) == 6
    words = (f"manifest={manifest}", f"results={tmp_path / 'results'}", f"stores={tmp_path / 'stores'}")
    done = wavbench("run", "task=er", "upstream=fbank_raw", *words, "budget=0.05")
    assert done.code == 0, done.err
    record = read_record(done.made("record")[0])
    assert record.split == "leave one speaker out"
    assert len(record.learning_rate) == len(record.learning_rate_curve) == 6
    assert len({fold["fold"] for fold in record.learning_rate_curve}) == 6
    assert all(len(fold["dev"]) == 5 for fold in record.learning_rate_curve)
    assert record.n == 6 * 6 * 4  # every utterance was in test once
    assert record.ci_unit == "utterance"  # six speakers are too few to be resampled
    assert not record.synthetic
    scores = read_scores(tmp_path / "results", record.key)
    assert scores.groupby("speaker").size().tolist() == [24] * 6
    text = done.made("record")[0].read_text() + scores.to_csv()
    assert not any(speaker in text for speaker in speakers)
    assert record.ci95[0] < record.value < record.ci95[1]  # so few utterances say little about the score


def test_compressed_speech_of_every_corpus_is_extracted(corpora: Path, tmp_path: Path, wavbench: Callable) -> None:
    names = sorted(path.name for path in corpora.glob("*.csv"))
    assert "mboshi_fr.csv" in names
    for name in names:
        folder = tmp_path / Path(name).stem
        manifest = subset(corpora, name, folder, lambda table: table.iloc[:: max(len(table) // 3, 1)].head(3))
        done = wavbench("extract", "upstream=fbank", f"manifest={manifest}", f"store={folder / 'store'}")
        assert done.code == 0, (name, done.err)
        store, table = wb.open_store(folder / "store"), pd.read_csv(manifest)
        assert len(store) == len(table) == 3
        for id, seconds in zip(table["id"], table["duration"], strict=True):
            assert abs(len(store[str(id)]) / store.frame_rate - seconds) < 0.1, id


@pytest.mark.slow
def test_phones_of_mboshi_reach_40_percent_of_all_frames(corpora: Path, tmp_path: Path, wavbench: Callable) -> None:
    words = (
        f"manifest={corpora / 'mboshi_fr.csv'}",
        f"results={tmp_path / 'results'}",
        f"stores={tmp_path / 'stores'}",
    )
    done = wavbench("run", "task=phones", "upstream=fbank", *words)
    assert done.code == 0, done.err
    record = read_record(done.made("record")[0])
    assert record.n == 461
    assert record.value >= 40
    assert record.secondary["speech_accuracy"] >= 22
