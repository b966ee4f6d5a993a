"""Speech Commands: single English words of thousands of people, for keyword spotting (KS).

The splits are the authors' lists, made from a hash of the speaker. SUPERB tests on an archive of its own, in which all
twelve classes are about equally frequent; it is used where it lies beside the corpus. Two things differ from SUPERB:
noise is cut into seconds (there every file of a minute is one example), and dev has silence too.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from wavbench.upstream.corpus import Archive, Corpus, Reading, find_root, need_folder, read_lines, refuse_row
from wavbench.upstream.errors import UserError

corpus = Corpus(
    title="Speech Commands",
    folder="SpeechCommands",
    tasks=("ks",),
    licence="CC BY 4.0",
    source="https://arxiv.org/abs/1804.03209",
    citation="Warden 2018, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition",
    size="1.5 GB for version 0.01, 2.4 GB for version 0.02; 0.1 GB for either test set",
    separates=("speaker",),
)

_HOST = "https://storage.googleapis.com/download.tensorflow.org/data"
_FILES = {  # part: bytes, SHA-256
    "speech_commands_v0.01": (1_489_096_277, "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d"),
    "speech_commands_test_set_v0.01": (0, ""),
    "speech_commands_v0.02": (2_428_923_189, "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"),
    "speech_commands_test_set_v0.02": (112_563_277, "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df"),
}
archives = tuple(
    Archive(part=part, url=f"{_HOST}/{part}.tar.gz", sha256=sha256, bytes=size, into=part)
    for part, (size, sha256) in _FILES.items()
)

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
ONLY_IN_SECOND = ("backward", "forward", "follow", "learn", "visual")  # words that tell version 0.02 from 0.01
LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}
WORDS = {
    "0.01": {"train": 51_088, "dev": 6_798, "test": 6_835},
    "0.02": {"train": 84_843, "dev": 9_981, "test": 11_005},
}
TEST_SET = {"0.01": 3_081, "0.02": 4_890}
TEST_SETS = ("auto", "lists", "archive")
# of the whole seconds of every noise file, in order; neighbours in time stay together
SHARES = (("train", 0.8), ("dev", 0.9), ("test", 1.0))

_SPEAKER = re.compile(r"([0-9a-f]{6,})_nohash_\d+")


def read(root: Path, *, version: str = "", classes: str = "12", test_set: str = "auto") -> Reading:
    """Utterances of one version, with the authors' lists as splits: what neither list names is train.

    With twelve classes the label (column `keyword`) is one of ten commands, `_unknown_` for any other word, or
    `_silence_`: whole seconds of the noise files, the first 80 % of each for train, 10 % for dev and 10 % for test.

    Args:
        root: folder of words, or the folder above, with `speech_commands_v0.01/` or `speech_commands_v0.02/` and
            perhaps `speech_commands_test_set_v0.01/`.
        version: "0.01" or "0.02"; may be left out where one is there.
        classes: "12", or "all" for every word (30 or 35) and no silence.
        test_set: "archive" for the separate test set (twelve classes only), "lists" for `testing_list.txt`, "auto" for
            the separate one where it is there.
    """
    for name, value, known in (
        ("version", version, ("", *WORDS)), ("classes", classes, ("12", "all")), ("test_set", test_set, TEST_SETS),
    ):  # fmt: skip
        if value not in known:
            raise UserError(f"{name}={value} is not known", remedy=f"one of: {', '.join(filter(None, known))}")
    if classes == "all" and test_set == "archive":
        raise UserError(
            "the separate test set does not tell every word",
            where="classes=all test_set=archive",
            remedy="leave test_set= out",
        )
    folder, version = _folder(Path(root), version)
    separate = folder.parent / f"speech_commands_test_set_v{version}"
    if test_set == "archive":
        need_folder(separate, f"the test set of Speech Commands {version}")
    apart = classes == "12" and test_set != "lists" and separate.is_dir()
    top = folder.parent if apart or folder != Path(root) else folder
    rows = [row for row in _words(folder, top, classes) if not (apart and row["split"] == "test")]
    expected = dict(WORDS[version])
    if classes == "12":
        for row in _noise(folder, top):
            if not (apart and row["split"] == "test"):
                rows.append(row)
                expected[row["split"]] += 1
    if apart:
        rows += _test_set(separate, top)
        expected["test"] = TEST_SET[version]
    # the authors say of their lists that speakers are apart, and nothing of the separate test set
    return Reading(root=top, rows=rows, expected=expected, separates=() if apart else None)


def _folder(root: Path, version: str) -> tuple[Path, str]:
    """The folder of words and its version."""
    names = [f"speech_commands_v{known}" for known in WORDS]
    root = find_root(root, corpus, LISTS["test"], *(f"{name}/{LISTS['test']}" for name in names))
    places = [root] if (root / LISTS["test"]).is_file() else [root / name for name in names if (root / name).is_dir()]
    found = {"0.02" if any((place / word).is_dir() for word in ONLY_IN_SECOND) else "0.01": place for place in places}
    if version and version not in found:
        raise UserError(
            f"version {version} of Speech Commands is not there",
            where=root,
            why=f"what is there is version {' and '.join(found)}",
            remedy="leave version= out, or give the folder of that version",
        )
    if not version and len(found) > 1:
        raise UserError("two versions of Speech Commands are there", where=root, remedy="version=0.01 or version=0.02")
    version = version or next(iter(found))
    return found[version], version


def _words(folder: Path, top: Path, classes: str) -> Iterator[dict]:
    """Recordings of words; those that a list names are there even if their file is not."""
    splits = {}
    for split, name in LISTS.items():
        for number, line in read_lines(folder / name, f"the list of the {split} split ({name})"):
            word, _, file = line.strip().partition("/")
            if not word or not _SPEAKER.match(file) or not file.endswith(".wav"):
                refuse_row(folder / name, number, f"{line[:80]!r} is no WORD/SPEAKER_nohash_NUMBER.wav")
            splits[f"{word}/{file}"] = split
    there = {
        f"{path.parent.name}/{path.name}" for path in folder.glob("*/*.wav") if not path.parent.name.startswith("_")
    }
    prefix = "" if folder == top else f"{folder.name}/"
    for place in sorted(there | set(splits)):
        word, _, file = place.partition("/")
        keyword = word if classes == "all" or word in COMMANDS else UNKNOWN
        yield _row(f"{word}_{file}", prefix + place, splits.get(place, "train"), keyword)


def _noise(folder: Path, top: Path) -> Iterator[dict]:
    """Seconds of the noise files as silence."""
    import soundfile

    prefix = "" if folder == top else f"{folder.name}/"
    for path in sorted(need_folder(folder / NOISE, "the folder of noise").glob("*.wav")):
        try:
            with soundfile.SoundFile(path) as file:
                seconds = file.frames // file.samplerate
        except (soundfile.SoundFileError, OSError) as error:
            raise UserError("a noise file cannot be opened", where=path, why=str(error)[:200]) from None
        for second in range(seconds):
            split = next(name for name, share in SHARES if second < share * seconds)
            row = _row(f"{SILENCE}_{path.stem}_{second:03d}.wav", f"{prefix}{NOISE}/{path.name}", split, SILENCE)
            yield row | {"start": second, "end": second + 1}


def _test_set(folder: Path, top: Path) -> list[dict]:
    """The separate test set: a folder for each of the twelve classes."""
    rows = []
    for keyword in (*COMMANDS, UNKNOWN, SILENCE):
        for path in sorted(need_folder(folder / keyword, f"the class {keyword} of the test set").glob("*.wav")):
            rows.append(
                _row(f"test_{keyword}_{path.name}", f"{folder.relative_to(top)}/{keyword}/{path.name}", "test", keyword)
            )
    return rows


def _row(id: str, audio: str, split: str, keyword: str) -> dict:
    speaker = _SPEAKER.search(audio.rpartition("/")[2])
    return {
        "id": id.removesuffix(".wav"),
        "audio": audio,
        "split": split,
        "start": "",
        "end": "",
        "speaker": speaker[1] if speaker and keyword != SILENCE else "",
        "language": "en",
        "keyword": keyword,
    }
