"""The built-in corpus: what it says, that nothing gives a label away, and that it is the same every time."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="the synthetic extra is not installed")

from wavbench.upstream import espeak, sentences
from wavbench.upstream.corpora import synthetic
from wavbench.upstream.description import names_of
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import read_manifest

BREATHY = {"alicia", "f2", "f3", "f5", "reed", "sandro"}  # variants with a noise source
TINY = {"seed": 5, "utterances": 1, "languages": ("en", "tr"), "speakers": (2, 1, 1)}
_VOWELS = "a e i o u y æ ɐ ɑ ɔ ə ɚ ɛ ɜ ɪ ʊ ʌ ɯ œ ø ʏ ɨ iː uː eː oː ɑː ɔː ɜː eɪ aɪ oʊ aʊ"
VOWELS = frozenset(_VOWELS.split())


@pytest.fixture(scope="module")
def full() -> list[synthetic.Planned]:
    """The default corpus, planned but not spoken."""
    return synthetic.plan()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.manifest(tmp_path_factory.mktemp("built"), workers=1, **TINY)


def digests(root: Path) -> dict[str, str]:
    """Name and hash of every file under a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def counts(rows: list[synthetic.Planned], *names: str) -> Counter:
    return Counter(tuple(getattr(row, name) for name in names) for row in rows)


def of_split(rows: list[synthetic.Planned], split: str) -> list[synthetic.Planned]:
    return [row for row in rows if row.split == split]


# What it says


@pytest.mark.parametrize(
    ("meaning", "language", "expected"),
    [
        (("weather", "6", "JP", "25"), "en", "Sunday, Japan: twenty-five degrees Celsius"),
        (("weather", "6", "JP", "25"), "de", "Sonntag, Japan: fünfundzwanzig Grad Celsius"),
        (("weather", "6", "JP", "25"), "tr", "Pazar, Japonya: yirmi beş santigrat derece"),
        (("journey", "BR", "8", "length-kilometer", "40"), "fr", "Brésil: huit kilomètres et quarante minutes"),
        (("journey", "BR", "23", "length-kilometer", "5"), "pl", "Brazylia: dwadzieścia trzy kilometry i pięć minut"),
        (("price", "5", "mass-gram", "30", "PLN"), "ro", "cinci grame: treizeci de zloți"),
        (("event", "DE", "IN", "7", "-week"), "es", "Alemania e India, hace siete semanas"),
        (("event", "DE", "PL", "7", "year"), "nb", "Tyskland og Polen, om syv år"),
        (("lesson", "tr", "it", "0", "45"), "hu", "török és olasz: hétfő, negyvenöt perc"),
    ],
)
def test_a_meaning_is_a_real_sentence_in_each_language(meaning, language, expected) -> None:
    assert sentences.render(meaning, language) == expected


def test_every_word_is_spelt_out_in_every_language() -> None:
    for meaning in islice(sentences.meanings(3), 400):
        for language in sentences.LANGUAGES:
            words = sentences.normalise(sentences.render(meaning, language), language)
            assert all(sign.isalpha() or sign in " '" for sign in words), (meaning, language, words)
            assert words == words.lower()
            assert not any(leak in words.split() for leak in ("duration", "length", "mass", "volume"))


def test_normalised_turkish_keeps_its_two_letters_i() -> None:
    assert sentences.normalise("Isparta, İzmir’de: yirmi-beş", "tr") == "ısparta izmir'de yirmi beş"


def test_meanings_do_not_repeat() -> None:
    stream = list(islice(sentences.meanings(0), 5_000))
    assert len(set(stream)) == len(stream)


def test_translation_is_the_text_of_the_same_meaning_in_the_other_language(full) -> None:
    said = {(row.meaning, row.language): row.text for row in full}
    compared = 0
    for row in full:
        assert row.translation_language == ("de" if row.language == "en" else "en")
        if (row.meaning, row.translation_language) in said:
            assert row.translation == said[row.meaning, row.translation_language]
            compared += row.translation != row.text
    assert compared > len(full) * 0.9


# That nothing gives a label away


def test_default_corpus_has_the_promised_shape(full) -> None:
    assert len(full) == 1_536
    assert len({row.speaker for row in full}) >= 24
    assert len({row.language for row in full}) >= 5
    assert set(counts(full, "emotion").values()) == {384}
    assert len({row.speaker for row in of_split(full, "test")}) >= 10
    assert len({row.id for row in full}) == len(full)


@pytest.mark.parametrize("split", synthetic.SPLITS)
def test_speaker_language_and_style_are_fully_crossed(full, split) -> None:
    rows = of_split(full, split)
    cells = counts(rows, "speaker", "language", "emotion")
    speakers, languages, emotions = ({cell[i] for cell in cells} for i in range(3))
    assert len(cells) == len(speakers) * len(languages) * len(emotions)
    assert set(cells.values()) == {2}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_sentence_predicts_no_label(full, split) -> None:
    rows = of_split(full, split)
    meanings = {row.meaning for row in rows}
    by_speaker, by_style = counts(rows, "meaning", "speaker"), counts(rows, "meaning", "emotion")
    by_language = counts(rows, "meaning", "language")
    assert set(by_speaker.values()) == {1}
    assert len(by_speaker) == len(meanings) * len({row.speaker for row in rows})
    assert len(set(by_style.values())) == 1
    assert len(by_style) == len(meanings) * 4
    assert len(by_language) == len(meanings) * 6
    assert max(by_language.values()) - min(by_language.values()) <= 1
    assert max(counts(rows, "meaning", "language", "emotion").values()) == 1


def test_no_two_speakers_of_a_split_give_a_meaning_the_same_language_and_style(full) -> None:
    for languages in (synthetic.LANGUAGES[:5], synthetic.LANGUAGES):
        rows = synthetic.plan(languages=languages, utterances=1)
        assert max(counts(rows, "split", "meaning", "language", "emotion").values()) == 1


def test_splits_share_no_speaker_no_meaning_and_no_sentence(full) -> None:
    for name in ("speaker", "meaning", "text", "translation"):
        homes = defaultdict(set)
        for row in full:
            homes[getattr(row, name)].add(row.split)
        assert {len(splits) for splits in homes.values()} == {1}, name


def test_every_split_has_women_and_men(full) -> None:
    women = {name.lower() for name in synthetic.FEMALE}
    for split in synthetic.SPLITS:
        speakers = {row.speaker for row in of_split(full, split)}
        assert 0.4 <= len(speakers & women) / len(speakers) <= 0.6


@pytest.mark.parametrize("setting", ["rate", "pitch", "pitch_range", "level", "tilt"])
def test_no_setting_of_the_synthesiser_tells_the_style_by_itself(full, setting) -> None:
    values = np.array([getattr(row.job, setting) for row in full])
    styles = np.array([row.emotion for row in full])
    means = {style: values[styles == style].mean() for style in synthetic.STYLES}
    nearest = [min(means, key=lambda style: abs(means[style] - value)) for value in values]
    assert len(set(values)) > 40
    assert 0.3 < np.mean(np.array(nearest) == styles) < 0.75


# That it is the same every time


def test_same_seed_gives_same_rows_in_another_interpreter() -> None:
    code = (
        "import hashlib; from wavbench.upstream.corpora.synthetic import plan; "
        "print(hashlib.sha256(repr(plan(seed=5, utterances=1)).encode()).hexdigest())"
    )
    here = hashlib.sha256(repr(synthetic.plan(seed=5, utterances=1)).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert there.stdout.strip() == here, there.stderr


def test_rows_of_seed_0_are_these_on_every_platform(full) -> None:
    first, last = full[0], full[-1]
    assert first.meaning == ("weather", "3", "TH", "23")
    assert (first.id, first.job.rate, first.job.pitch, first.job.seed) == ("alicia-de-neutral-0", 199, 54, 3136416780)
    assert last.meaning == ("event", "DE", "CL", "75", "-week")
    assert (last.id, last.job.rate, last.job.pitch, last.job.seed) == ("travis-pl-sad-1", 163, 40, 23564718)


def test_another_seed_gives_other_sentences_voices_and_settings(full) -> None:
    other = synthetic.plan(seed=1)
    assert {row.meaning for row in full} != {row.meaning for row in other}
    assert {row.speaker for row in of_split(full, "test")} != {row.speaker for row in of_split(other, "test")}
    assert [row.job.rate for row in full] != [row.job.rate for row in other]


def test_same_seed_gives_same_bytes_with_any_number_of_workers(built: Path, tmp_path: Path) -> None:
    assert BREATHY & {row.speaker for row in synthetic.plan(**TINY)}, "choose a seed with a breathy voice"
    time.sleep(1.1)  # a seed from the clock would be another one now
    again = synthetic.manifest(tmp_path, workers=3, **TINY)
    assert digests(again.parent) == digests(built.parent)
    assert len(digests(built.parent)) == 32 + 2


def test_other_seed_gives_other_bytes(built: Path, tmp_path: Path) -> None:
    other = synthetic.manifest(tmp_path, **{**TINY, "seed": 6, "speakers": (1, 1, 1)})
    assert not set(digests(built.parent).values()) & set(digests(other.parent).values())


# What is built


def test_manifest_has_the_columns_of_the_contract_and_16_khz_mono_audio(built: Path) -> None:
    table = pd.read_csv(built)
    columns = "id audio split duration speaker language text phones phone_ends emotion translation translation_language"
    assert list(table.columns) == columns.split()
    assert table.notna().all().all()
    for row in table.itertuples():
        info = soundfile.info(built.parent / row.audio)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.frames / 16_000 == pytest.approx(row.duration, abs=1e-4)
        assert 1.0 < row.duration < 8.0


def test_every_phone_has_an_end_and_the_last_ends_with_the_audio(built: Path) -> None:
    for row in pd.read_csv(built).itertuples():
        phones, ends = row.phones.split(), np.array(row.phone_ends.split(), dtype=float)
        assert len(phones) == len(ends)
        assert ends[0] > 0
        assert (np.diff(ends) > 0).all()
        assert ends[-1] == pytest.approx(row.duration, abs=1e-4)
        assert phones[0] == phones[-1] == "SIL"
        assert ("SIL", "SIL") not in set(pairwise(phones))
        assert not any(mark in row.phones for mark in "ˈˌ()")


def test_pauses_are_quiet_where_they_are_said_to_be_and_vowels_are_loud(built: Path) -> None:
    pauses, vowels = [], []
    for row in pd.read_csv(built).itertuples():
        samples, rate = soundfile.read(built.parent / row.audio)
        ends = np.array(row.phone_ends.split(), dtype=float)
        for phone, start, end in zip(row.phones.split(), [0, *ends[:-1]], ends, strict=True):
            power = float((samples[int(start * rate) : int(end * rate)] ** 2).mean())
            (pauses if phone == "SIL" else vowels if phone in VOWELS else []).append(10 * np.log10(power + 1e-12))
    assert len(pauses) > 64
    assert len(vowels) > 200
    assert np.percentile(pauses, 95) < np.percentile(vowels, 10)  # one voice has an echo
    assert np.median(vowels) - np.median(pauses) > 30


def test_corpus_card_says_synthetic_and_names_the_versions(built: Path) -> None:
    card = json.loads((built.parent / "corpus.json").read_text())
    assert card["synthetic"] is True
    assert card["versions"]["espeakng-loader"]
    assert not (built.parent / "parts").exists()


# Builds that end early, or twice


def test_finished_build_is_found_at_once(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "speak", lambda jobs: pytest.fail("spoke again"))
    assert synthetic.manifest(built.parent, **TINY) == built


def test_killed_build_goes_on_where_it_was(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_early(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.manifest(tmp_path, workers=1, progress=stop_early, **TINY)
    assert not (tmp_path / "manifest.csv").exists()
    assert not (tmp_path / "corpus.json").exists()
    kept = len(list((tmp_path / "parts").glob("*.json")))
    calls = []
    really_speak = espeak.speak
    monkeypatch.setattr(espeak, "speak", lambda jobs: calls.append(len(jobs)) or really_speak(jobs))
    synthetic.manifest(tmp_path, workers=1, **TINY)
    assert 1 <= kept < 4
    assert len(calls) == 4 - kept
    assert digests(tmp_path) == digests(built.parent)


def test_progress_counts_every_utterance_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "speak", lambda jobs: [espeak.Spoken(1.0, ("SIL",), (1.0,)) for _ in jobs])
    seen = []
    synthetic.manifest(tmp_path, progress=lambda done, total: seen.append((done, total)), **TINY)
    assert seen == [(0, 32), (8, 32), (16, 32), (24, 32), (32, 32)]


def test_folder_of_another_corpus_is_refused_by_name_of_what_differs(built: Path) -> None:
    with pytest.raises(UserError, match="seed=5, not 6"):
        synthetic.manifest(built.parent, **{**TINY, "seed": 6})


def test_manifest_changed_by_hand_is_not_overwritten(built: Path, tmp_path: Path) -> None:
    for name in ("manifest.csv", "corpus.json"):
        (tmp_path / name).write_bytes((built.parent / name).read_bytes() + b"\n")
    with pytest.raises(UserError, match="changed after it was built"):
        synthetic.manifest(tmp_path, **TINY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"languages": ("en", "dee")}, "does not speak 'dee'"),
        ({"languages": ("en",)}, "two or more"),
        ({"languages": ("en", "en")}, "two or more"),
        ({"utterances": 0}, "utterances=0"),
        ({"speakers": (30, 3, 1)}, "33 voices"),
        ({"speakers": (3, 0, 1)}, "33 voices"),
    ],
)
def test_arguments_out_of_range_are_user_errors(arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        synthetic.plan(**arguments)


def test_at_least_ten_languages_can_be_spoken(tmp_path: Path) -> None:
    assert len(sentences.LANGUAGES) >= 10
    planned = synthetic.plan(utterances=1, languages=tuple(sentences.LANGUAGES), speakers=(1, 1, 1))
    neutral = [row for row in planned if row.split == "train" and row.emotion == "neutral"]
    spoken = espeak.speak([replace(row.job, path=str(tmp_path / f"{row.id}.flac")) for row in neutral])
    assert len(spoken) == len(sentences.LANGUAGES)
    assert all(len(set(one.phones)) > 8 for one in spoken)


# The synthesiser


def test_unknown_voice_is_a_user_error_with_the_reason(tmp_path: Path) -> None:
    job = replace(synthetic.plan(**TINY)[0].job, path=str(tmp_path / "a.flac"), voice="xx+nobody")
    with pytest.raises(UserError, match=r"no voice 'xx\+nobody'"):
        espeak.speak([job])


def test_death_of_the_synthesiser_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\nkill -SEGV $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(UserError, match="SIGSEGV"):
        synthetic.manifest(tmp_path / "corpus", **TINY)
    assert not (tmp_path / "corpus" / "manifest.csv").exists()


def test_missing_extra_names_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r'pip install "wavbench\[synthetic\]"'):
        synthetic.manifest(tmp_path, **TINY)


def test_alignment_of_hand_made_events() -> None:
    events = [(0.1, "ˈa"), (0.2, "ʲ"), (0.25, ""), (0.28, "(en)"), (0.29, "l"), (0.29, "ˌuː"), (0.4, ""), (0.5, "t")]
    phones, ends = espeak.align([*events, (0.6, ""), (0.61, "")], 0.8)
    assert phones == ["SIL", "aʲ", "uː", "SIL", "t", "SIL"]
    assert ends == [0.1, 0.29, 0.4, 0.5, 0.6, 0.8]


def test_a_built_in_corpus_is_known_by_its_name_wherever_it_lies(tmp_path: Path) -> None:
    """Its speakers are the same persons whatever the seed: weights that heard one of them know the others' voices."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere/manifest.csv"
    path.write_text("id,audio,split\nu1,a.wav,test\n")
    (path.parent / "a.wav").write_bytes(b"")
    for said, names in (
        ('{"corpus": "synthetic", "synthetic": true}', {"elsewhere", "synthetic"}),
        ('{"corpus": 7, "synthetic": true}', {"elsewhere"}),
        ('{"corpus": "synthetic"}', {"elsewhere"}),
        ("[", {"elsewhere"}),
    ):
        (path.parent / "corpus.json").write_text(said)
        assert names_of(read_manifest(path)) == names
