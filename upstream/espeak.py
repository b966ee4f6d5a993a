"""Speech and its phones from espeak-ng, each batch of sentences in a process of its own.

Three facts decide the shape of this file. espeak-ng keeps global state from call to call, so the same sentence
sounds different the second time: only the same calls in a fresh process give the same samples. Its breath noise is
seeded by the clock, unless it is told otherwise. And it is C code that can die. So a batch is one process with a
fixed list of jobs, and its death is an error message here, not the death of the caller.

    python -m wavbench.upstream.espeak < jobs.jsonl > spoken.jsonl
"""

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

from wavbench.upstream.errors import UserError
from wavbench.upstream.sentences import missing_extra

SAMPLE_RATE = 16_000  # of the files written; espeak-ng itself says 22,050 Hz
SHORTEST_PAUSE_S = 0.05  # a shorter gap belongs to the phone before it: the closure of a stop, say

_RETRIEVE_SYNCHRONOUSLY, _DONT_EXIT, _PHONEME_EVENTS_IN_IPA, _UTF8 = 2, 0x8000, 1 | 2, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_END_OF_EVENTS, _PHONEME = 0, 7  # espeak_EVENT_TYPE
_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class Job:
    """One sentence to say, and how.

    Args:
        path: FLAC file to write, absolute.
        voice: espeak-ng voice and variant, such as "de+f2".
        text: what to say; punctuation makes pauses.
        rate: words per minute, 80 to 450.
        pitch: 0 to 99, 50 as the variant has it.
        pitch_range: 0 (monotone) to 99, 50 as the variant has it.
        tract: formants, pitch and speed are multiplied by this (a shorter vocal tract above 1); speed is put
            right again through `rate`.
        tilt: coefficient of y[n] = x[n] + tilt * x[n-1]: above 0 darker, below 0 brighter.
        level: root mean square of the speech, dB below full scale.
        noise: root mean square of a white noise floor, dB below full scale.
        lead: silence before, seconds.
        tail: silence after, seconds.
        seed: of the noise floor, and of the breath that some variants have.
    """

    path: str
    voice: str
    text: str
    rate: int
    pitch: int
    pitch_range: int
    tract: float
    tilt: float
    level: float
    noise: float
    lead: float
    tail: float
    seed: int


@dataclass(frozen=True)
class Spoken:
    """What a job gave: seconds of audio, the phones, and the second at which each of them ends."""

    duration: float
    phones: tuple[str, ...]
    phone_ends: tuple[float, ...]


def speak(jobs: list[Job]) -> list[Spoken]:
    """Say all jobs in one fresh process, in this order.

    Args:
        jobs: the same list gives the same bytes; a sentence alone or elsewhere in the list does not.

    Raises:
        UserError: the `synthetic` extra is missing, or the synthesiser refused a job or died (the message says
            how; run the command again, it goes on where it was).
    """
    require()
    lines = "".join(json.dumps(asdict(job)) + "\n" for job in jobs)
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "wavbench.upstream.espeak"],
            input=lines.encode(),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(jobs, f"it was still speaking after {_TIMEOUT_S} s") from error
    if finished.returncode:
        code = finished.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = finished.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise _failure(jobs, ": ".join([how, *last]))
    spoken = [spoken_from(json.loads(line)) for line in finished.stdout.decode().splitlines()]
    if len(spoken) != len(jobs):
        raise _failure(jobs, f"{len(jobs)} sentences went in, {len(spoken)} came out")
    return spoken


def spoken_from(fields: dict) -> Spoken:
    """What JSON kept of a `Spoken`."""
    return Spoken(fields["duration"], tuple(fields["phones"]), tuple(fields["phone_ends"]))


def require() -> None:
    """Fail now, with the way out, where the synthesiser is not installed.

    Raises:
        UserError: espeakng-loader is missing (install the `synthetic` extra).
    """
    try:
        import espeakng_loader  # noqa: F401
    except ImportError as error:
        raise missing_extra(error) from error


def _failure(jobs: list[Job], why: str) -> UserError:
    return UserError(
        "the speech synthesiser espeak-ng failed",
        where=f"{len(jobs)} sentences from {jobs[0].path}",
        why=why,
        remedy="run the command again: what is already spoken is kept",
    )


@dataclass(frozen=True)
class _Event:
    """A phone (or, with no name, a pause) that starts at a sample of espeak-ng's."""

    sample: int
    phone: str


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _EspeakEvent(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent))


class _Synthesiser:
    """The C library with its callback; one per process, because its state is global."""

    def __init__(self) -> None:
        import espeakng_loader

        library = Path(espeakng_loader.get_library_path()).resolve()
        self._library = ctypes.CDLL(str(library))
        os.chdir(library.parent)  # the library holds its data path in 160 bytes; "." always fits
        self.sample_rate = self._library.espeak_Initialize(
            _RETRIEVE_SYNCHRONOUSLY, 0, b".", _PHONEME_EVENTS_IN_IPA | _DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak_Initialize returned {self.sample_rate}")
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._callback = _CALLBACK(self._receive)  # kept here, or it is collected while C still calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != _END_OF_EVENTS:
            event = events[index]
            if event.type == _PHONEME:
                raw = ctypes.string_at(ctypes.addressof(event) + _EspeakEvent.id.offset, 8)
                self._events.append(_Event(event.sample, raw.split(b"\0")[0].decode("utf-8", errors="ignore")))
            index += 1
        return 0

    def say(self, job: Job):
        """Samples in [-1, 1] at `sample_rate`, and the events, in order."""
        import numpy as np

        self._chunks: list[bytes] = []
        self._events: list[_Event] = []
        if self._library.espeak_SetVoiceByName(job.voice.encode()):
            raise RuntimeError(f"espeak-ng has no voice {job.voice!r}")
        for parameter, value in (
            (_RATE, round(job.rate / job.tract)),
            (_PITCH, job.pitch),
            (_RANGE, job.pitch_range),
            (_VOLUME, 50),  # of 200: loud variants clip at their usual 100
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(job.seed & 0x7FFFFFFF)  # else breath is seeded by the clock
        text = job.text.encode() + b"\0"
        if self._library.espeak_Synth(text, len(text), 0, 1, 0, _UTF8, None, None):
            raise RuntimeError(f"espeak-ng would not say {job.text!r}")
        return np.frombuffer(b"".join(self._chunks), np.int16) / 32768, self._events


def shape(samples, sample_rate: int, job: Job):
    """Vocal tract, tilt, level, silence around and noise floor: from what espeak-ng says to what is written.

    Args:
        samples: as espeak-ng gives them.
        sample_rate: of `samples`, Hz.
        job: how it should sound.

    Returns:
        16 kHz samples in [-1, 1], and the seconds of silence really put before them.
    """
    import numpy as np
    import soxr

    warped = soxr.resample(samples.astype(np.float64), sample_rate * job.tract, SAMPLE_RATE)
    warped[1:] += job.tilt * warped[:-1]
    speech = warped[np.abs(warped) > 0.02 * np.abs(warped).max()]
    warped *= 10 ** (job.level / 20) / math.sqrt(float((speech**2).mean()))
    lead, tail = (round(seconds * SAMPLE_RATE) for seconds in (job.lead, job.tail))
    padded = np.concatenate([np.zeros(lead), warped, np.zeros(tail)])
    padded += np.random.default_rng(job.seed).standard_normal(len(padded)) * 10 ** (job.noise / 20)
    return padded / max(1.0, np.abs(padded).max() / 0.99), lead / SAMPLE_RATE


def align(events: list[tuple[float, str]], duration: float) -> tuple[list[str], list[float]]:
    """Phones and their ends from the starts that espeak-ng reports.

    Stress marks go, length marks stay, a bare modifier joins the phone before it, pauses become `SIL`: from the
    start, to the end, and wherever speech stops for `SHORTEST_PAUSE_S`. A change of language is silent, too. A phone
    of no length was never heard as such (espeak-ng has merged it into a neighbour) and goes.

    Args:
        events: (start in seconds, IPA or "" for a pause), starts never falling.
        duration: of the audio, seconds.

    Returns:
        The phones and, for each, its end in seconds; the last one ends at `duration`.
    """
    spans: list[tuple[str, float]] = [("SIL", 0.0)]  # phone, start
    for (start, name), (end, _) in zip(events, [*events[1:], (duration, "")], strict=True):
        phone = "SIL" if name.startswith("(") else name.strip("ˈˌ") or "SIL"  # "(en)": a change of language
        if phone != "SIL" and all(unicodedata.category(sign) in ("Lm", "Mn") for sign in phone):
            spans[-1] = (spans[-1][0] + phone, spans[-1][1])
        elif (end > start and phone != spans[-1][0]) or (end > start and phone != "SIL"):
            spans.append((phone, start))
    ends = [start for _, start in spans[1:]] + [duration]
    phones: list[str] = []
    phone_ends: list[float] = []
    for (phone, start), end in zip(spans, ends, strict=True):
        inner = start > 0 and end < duration
        if phone == "SIL" and inner and end - start < SHORTEST_PAUSE_S:
            phone_ends[-1] = end
        elif end > start:
            phones.append(phone)
            phone_ends.append(end)
    return phones, phone_ends


def _speak_one(synthesiser: _Synthesiser, job: Job) -> Spoken:
    """Write one file under a temporary name, rename it, and say what is in it."""
    import soundfile

    samples, heard = synthesiser.say(job)
    audio, lead = shape(samples, synthesiser.sample_rate, job)
    duration = len(audio) / SAMPLE_RATE
    scale = synthesiser.sample_rate * job.tract
    phones, ends = align([(lead + event.sample / scale, event.phone) for event in heard], duration)
    path = Path(job.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    soundfile.write(temporary, audio, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    os.replace(temporary, path)
    return Spoken(duration, tuple(phones), tuple(round(end, 4) for end in ends))


def main() -> None:
    """Read jobs as JSON lines, speak them, write results as JSON lines."""
    jobs = [Job(**json.loads(line)) for line in sys.stdin.buffer]
    synthesiser = _Synthesiser()
    for job in jobs:
        print(json.dumps(asdict(_speak_one(synthesiser, job))), flush=True)


if __name__ == "__main__":
    main()
