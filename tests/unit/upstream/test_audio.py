"""Decoding: what arrives is the sound that was stored, and what cannot be used is refused with a reason."""

import struct
import subprocess
import sys
import tracemalloc
import wave
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavbench.upstream.audio import MIN_SAMPLES, SAMPLE_RATE, AudioError, audio_hash, load_audio, prepare

# format, subtype, largest error of a decoded sample, None where the codec is lossy
FORMATS = [
    ("wav", "PCM_16", 2**-15),
    ("wav", "PCM_24", 2**-23),
    ("wav", "PCM_32", 2**-24),
    ("wav", "PCM_U8", 2**-7),
    ("wav", "FLOAT", 0.0),
    ("wav", "DOUBLE", 2**-24),
    ("wav", "ULAW", 0.02),
    ("flac", "PCM_16", 2**-15),
    ("flac", "PCM_24", 2**-23),
    ("aiff", "PCM_16", 2**-15),
    ("ogg", "VORBIS", None),
    ("ogg", "OPUS", None),
    ("mp3", "MPEG_LAYER_III", None),
]


def sine(frequency: float, rate: int, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def strongest(samples: np.ndarray) -> tuple[float, float]:
    """Frequency in Hz and amplitude of the strongest sine, away from the edges."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    window = np.hanning(len(middle))
    spectrum = np.abs(np.fft.rfft(middle * window, 16 * len(middle)))
    peak = int(spectrum.argmax())
    return peak * SAMPLE_RATE / (16 * len(middle)), 2 * spectrum[peak] / window.sum()


def reason(path: Path, **arguments) -> str:
    with pytest.raises(AudioError) as error:
        load_audio(path, **arguments)
    return str(error.value)


# what is decoded


@pytest.mark.parametrize(("suffix", "subtype", "error"), FORMATS)
def test_samples_are_those_that_were_written(
    tmp_path: Path, make_speech: Callable, suffix: str, subtype: str, error: float | None
) -> None:
    if suffix.upper() not in soundfile.available_formats() or subtype not in soundfile.available_subtypes(suffix):
        pytest.skip(f"this libsndfile does not write {suffix} {subtype}")
    path, speech = tmp_path / f"a.{suffix}", make_speech(1.0, 1)
    soundfile.write(path, speech, SAMPLE_RATE, subtype=subtype)
    samples = load_audio(path)
    assert samples.dtype == np.float32
    assert samples.flags.c_contiguous
    if error is not None:
        assert len(samples) == len(speech)
        assert np.abs(samples - speech).max() <= error
    else:
        assert abs(len(samples) - len(speech)) <= 0.1 * SAMPLE_RATE  # codecs pad
        spectrum = [np.abs(np.fft.rfft(x[:15_000])) for x in (samples, speech)]
        assert np.corrcoef(*spectrum)[0, 1] > 0.9


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_resampling_keeps_frequency_level_and_duration(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "sine.wav"
    soundfile.write(path, sine(1_000, rate), rate, subtype="FLOAT")
    samples = load_audio(path)
    frequency, level = strongest(samples)
    assert abs(len(samples) - SAMPLE_RATE) <= 1
    assert frequency == pytest.approx(1_000, abs=0.5)
    assert level == pytest.approx(0.5, rel=0.005)


def test_nothing_above_8_khz_folds_down(tmp_path: Path) -> None:
    path = tmp_path / "high.wav"
    soundfile.write(path, sine(11_000, 48_000), 48_000, subtype="FLOAT")
    assert np.abs(load_audio(path)[1_000:-1_000]).max() < 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left, right = sine(440, SAMPLE_RATE), sine(700, SAMPLE_RATE)
    soundfile.write(path, np.stack([left, right], axis=1), SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_segment_is_that_stretch_of_the_file(tmp_path: Path, make_speech: Callable, suffix: str, rate: int) -> None:
    path, speech = tmp_path / f"long.{suffix}", make_speech(4.0, 2, rate)
    soundfile.write(path, speech, rate)
    whole = load_audio(path)
    for start, end in ((None, 1.0), (1.25, 2.5), (3.0, None), (float("nan"), float("nan")), (0.5, 0.5251)):
        first = 0 if start is None or start != start else round(start * SAMPLE_RATE)
        last = len(whole) if end is None or end != end else round(end * SAMPLE_RATE)
        segment = load_audio(path, start, end)
        assert abs(len(segment) - (last - first)) <= 1
        inner = slice(100, -100) if rate != SAMPLE_RATE else slice(None)  # the resampler sees no neighbours
        if len(segment) > 1_000:
            np.testing.assert_allclose(segment[inner], whole[first : first + len(segment)][inner], atol=0.01)


def test_segments_side_by_side_are_the_whole(tmp_path: Path, make_speech: Callable) -> None:
    path, speech = tmp_path / "long.wav", make_speech(2.0, 3)
    soundfile.write(path, speech, SAMPLE_RATE, subtype="FLOAT")
    times = [0.0, 0.300_03, 0.9, 1.517_77, 2.0]
    parts = [load_audio(path, *pair) for pair in pairwise(times)]
    np.testing.assert_array_equal(np.concatenate(parts), speech)


def test_an_end_may_be_rounded_up_by_a_manifest(tmp_path: Path, make_speech: Callable) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, make_speech(1.0), SAMPLE_RATE)
    assert len(load_audio(path, 0.5, 1.04)) == 8_000
    assert "end 1.1 s lies behind the file's end at 1 s" in reason(path, start=0.5, end=1.1)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "uint16"])
def test_integer_arrays_are_scaled_to_one(dtype: str) -> None:
    info = np.iinfo(dtype)
    low, middle, high = info.min, (int(info.max) + int(info.min) + 1) // 2, info.max
    samples = prepare(np.repeat(np.array([low, middle, high], dtype), 400), SAMPLE_RATE)
    np.testing.assert_allclose(samples[[0, 400, 800]], [-1, 0, 1], atol=0.01)


def test_the_hash_follows_the_bytes(tmp_path: Path) -> None:
    first, twin, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for path, content in ((first, b"sound"), (twin, b"sound"), (other, b"sounD")):
        path.write_bytes(content)
    assert audio_hash(first) == audio_hash(twin) != audio_hash(other)


# what is refused


def test_an_absent_file_a_folder_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    assert reason(tmp_path / "gone.wav") == "there is no such file"
    assert reason(tmp_path) == "it is no regular file"
    assert "0 bytes" in reason(tmp_path / "empty.wav")


@pytest.mark.parametrize("content", [b"this is text\n" * 50, b"RIFF", b"RIFF\xff\xff\xff\xffWAVE", b"\x00" * 999])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
def test_a_file_that_is_no_sound_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"text.{suffix}"
    path.write_bytes(content)
    assert str(path) not in reason(path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
def test_a_file_cut_anywhere_is_refused_or_gives_its_beginning(
    tmp_path: Path, make_speech: Callable, suffix: str
) -> None:
    path, cut, speech = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}", make_speech(1.0)
    format = {"opus": {"format": "OGG", "subtype": "OPUS"}}.get(suffix, {})
    soundfile.write(path, speech, SAMPLE_RATE, **format)
    content = path.read_bytes()
    for length in (1, 4, 12, 20, 43, 44, 60, 200, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        try:
            decoded = len(load_audio(cut))
        except AudioError:
            continue
        assert decoded <= len(speech) + 0.1 * SAMPLE_RATE


def wav(path: Path, frames: int, content: bytes, *, rate: int = SAMPLE_RATE, channels: int = 1) -> Path:
    """A wav of 16-bit samples whose header promises `frames`."""
    size = min(frames * 2 * channels, 2**32 - 100)
    head = b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + struct.pack("<I", 16)
    head += struct.pack("<HHIIHH", 1, channels, rate, min(rate * 2 * channels, 2**32 - 1), 2 * channels, 16)
    path.write_bytes(head + b"data" + struct.pack("<I", size) + content)
    return path


def flac(path: Path, frames: int) -> Path:
    """A flac of one second and eight channels whose header promises `frames`."""
    soundfile.write(path, np.stack([sine(440, SAMPLE_RATE)] * 8, axis=1), SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    content[21] = (content[21] & 0xF0) | (frames >> 32)
    content[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    path.write_bytes(content)
    return path


def peak_megabytes(path: Path) -> float:
    tracemalloc.start()
    try:
        load_audio(path)
    except AudioError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak / 2**20


def test_only_what_exists_is_allocated(tmp_path: Path) -> None:
    second = sine(440, SAMPLE_RATE).astype("<f4")
    second = (second * 32_767).astype("<i2").tobytes()
    load_audio(wav(tmp_path / "warm.wav", 16_000, second))
    assert len(load_audio(wav(tmp_path / "a.wav", 2**30, second))) == 16_000
    assert peak_megabytes(tmp_path / "a.wav") < 20
    assert peak_megabytes(wav(tmp_path / "b.wav", 2**20, second, channels=1_000)) < 20
    assert peak_megabytes(flac(tmp_path / "c.flac", 2**36 - 1)) < 20


def test_a_header_that_promises_more_than_memory_is_survived_under_a_limit(tmp_path: Path) -> None:
    """In a process that may not have more than 1 GB beyond what it has."""
    paths = [wav(tmp_path / "a.wav", 2**31, b"\x00\x10" * 16_000), flac(tmp_path / "b.flac", 2**36 - 1)]
    paths += [wav(tmp_path / "c.wav", 2**31, b"\x00\x10" * 16_000, channels=1_024)]
    code = (
        "import resource, sys, numpy, soundfile, soxr\n"
        "from wavbench.upstream.audio import AudioError, load_audio\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(len(load_audio(path)))\n"
        "    except AudioError as error: print(error)\n"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say how much address space a process has")
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert "memory" not in done.stdout.lower()
    assert "allocate" not in done.stdout.lower()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, make_speech: Callable, value: float) -> None:
    path, speech = tmp_path / "a.wav", make_speech(1.0)
    speech[12_345] = value
    soundfile.write(path, speech, SAMPLE_RATE, subtype="FLOAT")
    assert reason(path) == "it holds NaN or infinite samples"
    soundfile.write(path, np.stack([speech, make_speech(1.0)], axis=1), 44_100, subtype="FLOAT")
    assert reason(path) == "it holds NaN or infinite samples"


def test_samples_of_another_scale_are_refused(tmp_path: Path, make_speech: Callable) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, make_speech(1.0) * 32_768, SAMPLE_RATE, subtype="FLOAT")
    assert "sound lies in [-1, 1]" in reason(path)


@pytest.mark.parametrize(("count", "rate"), [(1, 16_000), (160, 16_000), (MIN_SAMPLES - 1, 16_000), (480, 48_000)])
def test_less_than_a_window_is_refused(tmp_path: Path, count: int, rate: int) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.full(count, 0.1), rate)
    assert "25 ms are the least" in reason(path)


def test_a_window_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.full(MIN_SAMPLES, 0.1), SAMPLE_RATE)
    assert len(load_audio(path)) == MIN_SAMPLES


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.wav"
    soundfile.write(path, np.zeros(0), SAMPLE_RATE)
    assert reason(path) == "it holds no samples"


def test_a_segment_behind_the_end_is_refused(tmp_path: Path, make_speech: Callable) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, make_speech(1.0), SAMPLE_RATE)
    assert "start 1 s lies behind the file's end at 1 s" in reason(path, start=1.0)
    assert "start 7 s lies behind" in reason(path, start=7.0, end=8.0)
    assert "end 9 s lies behind" in reason(path, end=9.0)
    assert reason(path, end=1e12)


@pytest.mark.parametrize("rate", [1, 100, 1_999, 800_000, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_refused(tmp_path: Path, rate: int) -> None:
    assert reason(wav(tmp_path / "a.wav", 16_000, b"\x00\x10" * 16_000, rate=rate))


def test_a_recording_longer_than_the_limit_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(b"\x00\x01" * SAMPLE_RATE * 30)
    assert "it is longer than 20 s" in reason(path, max_seconds=20)
    assert "it is longer than 20 s" in reason(path, max_seconds=20, start=1, end=29)
    assert len(load_audio(path, 5, 25, max_seconds=20)) == 20 * SAMPLE_RATE
    assert len(load_audio(path, max_seconds=30)) == 30 * SAMPLE_RATE


@pytest.mark.parametrize("shape", [(2, 3, 400), ()])
def test_arrays_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioError, match="is no sound"):
        prepare(np.zeros(shape, np.float32), SAMPLE_RATE)


@pytest.mark.real
def test_recorded_speech_decodes(corpora: Path) -> None:
    paths = sorted(corpora.glob("audio/*/*.opus"))[::997]
    assert paths
    for path in paths:
        samples = load_audio(path)
        assert 0.01 < np.abs(samples).max() < 2
        assert len(samples) >= 0.3 * SAMPLE_RATE
