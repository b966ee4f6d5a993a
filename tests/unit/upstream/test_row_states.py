"""Rows of a manifest as samples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from wavbench.upstream.audio import AudioError
from wavbench.upstream.catalog import load
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.row_states import samples_of


@pytest.mark.parametrize(
    ("start", "end", "duration", "seconds"),
    [
        ("1", "", "2", None),  # offset and duration, as other toolkits write them
        ("1", "", "3", 3),  # a segment to the end of its file
        ("1", "3", "2", 2),
        ("1", "", "", 3),
        ("", "", "2", 4),  # of a whole file the table is not asked
    ],
)
def test_a_duration_ends_nothing_and_what_it_contradicts_is_refused(
    tmp_path: Path, make_speech: Callable, start: str, end: str, duration: str, seconds: float | None
) -> None:
    soundfile.write(tmp_path / "long.wav", make_speech(4.0), 16_000)
    table = f"id,audio,split,start,end,duration\na,long.wav,train,{start},{end},{duration}\n"
    (tmp_path / "made.csv").write_text(table)
    manifest, upstream = read_manifest(tmp_path / "made.csv"), load("fbank")
    if seconds is None:
        with pytest.raises(AudioError, match="its duration is 2 s: write end = start"):
            samples_of(upstream, manifest, 0)
    else:
        assert len(samples_of(upstream, manifest, 0)) == round(seconds * 16_000)
