"""What an import promises whatever the reader: all or nothing, counted, described, and found again from elsewhere."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from corpus_trees import librispeech as tree
from corpus_trees import write_audio, write_text

from wavbench.upstream import importing
from wavbench.upstream.corpus import Corpus, Reading
from wavbench.upstream.description import description_of, statistics
from wavbench.upstream.errors import UserError
from wavbench.upstream.importing import Imported, import_corpus
from wavbench.upstream.lexicon import read_lexicon
from wavbench.upstream.manifest import read_manifest

TEXTS = ("Don’t STOP", "well-known", "stop, stop!")
FACTS = {"title": "Three Words", "licence": "CC0 1.0", "source": "https://example.org", "text": "words"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A corpus of three utterances, u0 to u2, one in each split."""
    for k in range(3):
        write_audio(tmp_path / f"corpus/wav/u{k}.wav", seed=k, seconds=0.5)
    return tmp_path / "corpus"


def rows(**changes: list) -> list[dict]:
    """Rows of the corpus, some columns changed."""
    columns = {
        "id": ["u0", "u1", "u2"],
        "audio": [f"wav/u{k}.wav" for k in range(3)],
        "split": ["train", "dev", "test"],
        "speaker": ["ann", "bob", "cat"],
        "language": ["en"] * 3,
        "text": list(TEXTS),
        **changes,
    }
    return pd.DataFrame(columns, dtype=object).to_dict("records")


@pytest.fixture
def imports(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Imported]:
    """A function that imports what a reader made by hand finds."""

    def run(
        found: list[dict] | None = None, out: Path | None = None, facts: dict | None = None, **more: object
    ) -> Imported:
        reading = {key: more.pop(key) for key in ("expected", "trials", "separates", "notes") if key in more}

        def read(root: Path, *, take: int = 3) -> Reading:
            return Reading(root=root, rows=(rows() if found is None else found)[:take], **reading)

        module = ModuleType("three_words")
        module.corpus, module.read = Corpus(**{**FACTS, **(facts or {})}), read
        monkeypatch.setattr(importing, "load_corpus", lambda name: module)
        return import_corpus("three_words", root, out, **more)

    return run


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix != ".wav"}


def test_a_manifest_and_its_description_go_into_the_corpus_folder(imports: Callable, root: Path) -> None:
    made = imports()
    assert written(root) == {"wav", "three_words.csv", "three_words.json"}
    assert made.manifest == root / "three_words.csv"
    assert (made.root, made.trials, made.notes) == (None, (), ())
    lines = made.manifest.read_text().splitlines()
    assert lines[0] == "id,audio,split,duration,speaker,language,text,raw_text"
    assert lines[1] == "u0,wav/u0.wav,train,0.5,ann,en,don't stop,Don’t STOP"


def test_the_description_says_what_the_corpus_is_and_how_it_was_read(imports: Callable) -> None:
    described = description_of(imports(options={"take": 2}).manifest)
    assert {key: described[key] for key in ("corpus", "title", "licence", "text", "partial", "lexicon", "root")} == {
        "corpus": "three_words", "title": "Three Words", "licence": "CC0 1.0", "text": "words 1", "partial": False,
        "lexicon": None, "root": "",
    }  # fmt: skip
    assert described["options"] == {"take": "2"}
    assert described["utterances"] == {"train": 1, "dev": 1, "test": 0}


def test_a_manifest_elsewhere_is_read_with_the_root_that_is_returned(
    imports: Callable, root: Path, tmp_path: Path
) -> None:
    made = imports(out=tmp_path / "mine/deep/three.csv")
    assert made.root == root.resolve()
    assert written(root) == {"wav"}
    manifest = read_manifest(made.manifest, made.root)
    assert all(manifest.audio_path(row).is_file() for row in range(3))
    assert description_of(made.manifest)["root"] == str(root.resolve())


def test_a_manifest_in_a_folder_above_needs_no_root(imports: Callable, tmp_path: Path) -> None:
    made = imports(out=tmp_path / "three.csv")
    assert made.root is None
    assert made.table["audio"].tolist() == [f"corpus/wav/u{k}.wav" for k in range(3)]
    assert read_manifest(made.manifest).audio_path(0).is_file()


def test_a_manifest_in_a_folder_below_is_elsewhere(imports: Callable, root: Path) -> None:
    assert imports(out=root / "lists/three.csv").root == root.resolve()


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_read(
    imports: Callable, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written there") as caught:
        imports()
    assert "out=FILE.csv" in caught.value.remedy
    assert written(root) == {"wav"}


def test_a_corpus_that_is_only_readable_is_imported_elsewhere(
    imports: Callable, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: "corpus" not in Path(path).parts)
    assert imports(out=tmp_path / "mine/three.csv").root == root.resolve()
    assert written(root) == {"wav"}


def test_only_csv_is_written(imports: Callable, tmp_path: Path) -> None:
    for name in ("three.jsonl", "three", ".csv"):
        with pytest.raises(UserError, match=r"end it in \.csv|no name for"):
            imports(out=tmp_path / name)


def test_files_that_are_no_manifest_are_not_written_over(imports: Callable, root: Path, tmp_path: Path) -> None:
    other = write_text(root / "metadata.csv", "file,words\na,b\n")
    with pytest.raises(UserError, match="something else than a manifest") as caught:
        imports(out=other)
    assert caught.value.where == str(other)
    assert other.read_text() == "file,words\na,b\n"
    settings = write_text(root / "settings.json", '["mine"]')
    with pytest.raises(UserError, match="something else than a manifest"):
        imports(out=root / "settings.csv")
    assert settings.read_text() == '["mine"]'
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="something else than a manifest"):
        imports(out=tmp_path / "folder.csv")
    with pytest.raises(UserError, match="a file lies where"):
        imports(out=other / "three.csv")


def test_rows_never_have_the_description_of_an_earlier_import(
    imports: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = imports(options={"take": 2})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wavbench.upstream.importing._describe", killed)
    with pytest.raises(KeyboardInterrupt):
        imports()
    assert len(read_manifest(first.manifest)) == 3
    assert description_of(first.manifest) == {}


def test_an_import_takes_the_place_of_an_earlier_one(imports: Callable) -> None:
    first = imports(options={"take": 2})
    assert len(read_manifest(first.manifest)) == 2
    assert len(read_manifest(imports().manifest)) == 3


def test_utterances_in_no_split_are_left_out_and_counted(imports: Callable) -> None:
    made = imports(rows(split=["train", "", "test"]))
    assert made.table["id"].tolist() == ["u0", "u2"]
    assert made.notes == ("1 utterances are in no split and were left out",)


def test_missing_audio_is_refused_or_left_out_with_partial(imports: Callable, root: Path) -> None:
    (root / "wav/u1.wav").unlink()
    with pytest.raises(UserError, match=r"1 of 3 audio files of Three Words are missing \(first: .*u1\.wav\)"):
        imports()
    assert written(root) == {"wav"}
    made = imports(partial=True)
    assert made.table["id"].tolist() == ["u0", "u2"]
    assert made.notes[0].startswith("partial: 1 of 3 audio files")
    assert description_of(made.manifest)["partial"] is True


def test_partial_is_not_nothing(imports: Callable, root: Path) -> None:
    for path in root.glob("wav/*"):
        path.unlink()
    with pytest.raises(UserError, match="3 of 3 audio files"):
        imports(partial=True)
    with pytest.raises(UserError, match="no utterance of Three Words was found"):
        imports([], partial=True)


def test_counts_are_those_that_are_published(imports: Callable, root: Path) -> None:
    assert imports(expected={"train": 1, "all": 3}).notes == ()
    (root / "three_words.csv").unlink()
    with pytest.raises(UserError, match="not as it is published") as caught:
        imports(expected={"train": 2, "dev": 1, "all": 4_000})
    assert caught.value.why == "train: 1 utterances where 2 are published; all: 3 utterances where 4,000 are published"
    assert not (root / "three_words.csv").exists()
    assert len(imports(expected={"train": 2, "all": 4_000}, partial=True).notes) == 2


def test_audio_that_cannot_be_opened_stays_without_a_duration(imports: Callable, root: Path) -> None:
    (root / "wav/u1.wav").write_bytes(b"RIFF")
    made = imports()
    assert made.table["duration"].tolist() == ["0.5", "", "0.5"]
    assert made.notes[0].startswith("1 audio files cannot be opened (first: u1)")


def test_durations_are_those_of_segments_or_of_the_reader(imports: Callable) -> None:
    segments = {"start": ["0.1", "0.2", ""], "end": ["0.35", "", "0.2"]}
    made = imports(rows(**segments)).table
    assert made["duration"].tolist() == ["0.25", "0.3", "0.2"]
    assert made["end"].tolist() == ["0.35", "0.5", "0.2"]  # a duration ends nothing
    given = imports(rows(duration=[0.45, "", "nonsense"])).table["duration"].tolist()
    assert given == ["0.45", "0.5", ""]


def test_seconds_that_are_none_are_bad_rows_and_no_crash(imports: Callable) -> None:
    with pytest.raises(UserError, match="1 row of Three Words") as caught:
        imports(rows(end=["soon", "", ""]))
    assert "line 2 (u0): end is no number of seconds" in caught.value.why


def test_values_that_a_reader_leaves_out_are_empty_and_whole_numbers_stay_whole(imports: Callable) -> None:
    found = [row | ({"age": 31} if row["id"] == "u0" else {}) for row in rows(text=["a", None, "b"])]
    made = imports(found)
    assert made.table["age"].tolist() == ["31", "", ""]
    assert made.table["text"].tolist() == ["a", "", "b"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ["u0", "u0", "u2"]}, "line 3 (u0): the id occurs before"),
        ({"audio": ["wav/u0.wav", "wav/../wav/u1.wav", "wav/u2.wav"]}, "line 3 (u1): audio leaves the corpus folder"),
        ({"audio": ["wav/u0.wav"] * 3}, "it is the audio of u0 in split train again"),
        ({"language": ["en", "English language", "en"]}, "language is no BCP 47 tag"),
        ({"speaker": ["ann", "b\x00b", "cat"]}, "speaker holds control characters"),
        ({"split": ["train", "validation", "test"]}, "split 'validation' is unknown"),
    ],
)
def test_rows_that_cannot_be_in_a_manifest_are_all_named_and_an_older_one_stays(
    imports: Callable, root: Path, changes: dict, said: str
) -> None:
    imports()
    before = {path: path.read_bytes() for path in root.iterdir() if path.is_file()}
    trials = {"o": pd.DataFrame({"enroll": ["u0"], "test": ["u2"], "target": [False]})}
    lexicon = read_lexicon(write_text(root.parent / "lexicon.txt", "stop S T AA1 P\n"))
    with pytest.raises(UserError, match="of Three Words cannot be in a manifest") as caught:
        imports(rows(**changes), trials=trials, lexicon=lexicon)
    assert said in caught.value.why
    assert {path: path.read_bytes() for path in root.iterdir() if path.is_file()} == before


def test_a_hundred_bad_rows_are_counted_and_twenty_shown(imports: Callable, root: Path) -> None:
    many = [row | {"id": f"{row['id']}-{k}", "split": "train", "end": "x"} for k in range(40) for row in rows()]
    with pytest.raises(UserError, match="120 rows of Three Words") as caught:
        imports(many, options={"take": 120})
    assert caught.value.why.count("\n") == 21
    assert "... and 100 more" in caught.value.why


def test_what_splits_must_not_share_is_refused(imports: Callable, root: Path) -> None:
    shared = rows(speaker=["ann", "ann", ""])
    with pytest.raises(UserError, match=r"1 values of speaker occur in several splits .*\(first: ann\)"):
        imports(shared, facts={"separates": ("speaker",)})
    assert written(root) == {"wav"}
    imports(shared, facts={"separates": ("speaker",)}, separates=())  # options may change what is promised
    with pytest.raises(UserError, match="values of language"):
        imports(facts={"separates": ("speaker",)}, separates=("language",))


def test_trials_lie_beside_the_manifest(imports: Callable, root: Path) -> None:
    trials = pd.DataFrame({"enroll": ["u0", "u1"], "test": ["u2", "u2"], "target": [False, True]})
    made = imports(trials={"o": trials})
    assert made.trials == (root / "three_words.o.csv",)
    assert made.trials[0].read_text() == "enroll,test,target\nu0,u2,0\nu1,u2,1\n"


def test_trials_of_unknown_utterances_are_refused_or_left_out_with_partial(imports: Callable, root: Path) -> None:
    good = pd.DataFrame({"enroll": ["u0"], "test": ["u2"], "target": [False]})
    bad = pd.DataFrame({"enroll": ["u0", "u9"], "test": ["u2", "u2"], "target": [False, True]})
    with pytest.raises(UserError, match="1 of 2 trials of list hard name an utterance") as caught:
        imports(trials={"easy": good, "hard": bad})
    assert caught.value.why == "first: u9"
    assert written(root) == {"wav"}
    made = imports(trials={"easy": good, "hard": bad, "none": bad[1:]}, partial=True)
    assert [path.name for path in made.trials] == ["three_words.easy.csv", "three_words.hard.csv"]
    assert made.trials[1].read_text() == "enroll,test,target\nu0,u2,0\n"
    assert made.notes[0].startswith("partial: 1 of 2 trials of list hard")


def test_a_lexicon_fills_phones_and_lists_the_words_that_it_lacks(
    imports: Callable, root: Path, tmp_path: Path
) -> None:
    lexicon = read_lexicon(write_text(tmp_path / "lexicon.txt", "stop S T AA1 P\nwell W EH1 L\n"))
    made = imports(lexicon=lexicon)
    assert made.table["phones"].tolist() == ["", "", "S T AA1 P S T AA1 P"]
    assert (root / "three_words.oov.txt").read_text() == "don't\t1\nknown\t1\n"
    assert made.notes[0].startswith("2 words are not in the lexicon (most frequent: don't, known): 2 of 3 utterances")
    facts = description_of(made.manifest)["lexicon"]
    assert (facts["name"], facts["words"], facts["absent"], len(facts["hash"])) == ("lexicon.txt", 2, 2, 32)
    write_text(tmp_path / "lexicon.txt", "stop S\nwell W\nknown N\ndon't D\n")
    assert imports(lexicon=read_lexicon(tmp_path / "lexicon.txt")).notes == ()
    assert not (root / "three_words.oov.txt").exists()


def test_a_lexicon_needs_texts_and_no_phones(imports: Callable, tmp_path: Path) -> None:
    lexicon = read_lexicon(write_text(tmp_path / "lexicon.txt", "stop S T AA1 P\n"))
    with pytest.raises(UserError, match="this corpus has none"):
        imports([{key: value for key, value in row.items() if key != "text"} for row in rows()], lexicon=lexicon)
    with pytest.raises(UserError, match="phones of its own"):
        imports(rows(phones=["a b", "c", "d"]), lexicon=lexicon)


def test_translations_keep_case_and_punctuation_and_lose_blanks(imports: Callable) -> None:
    found = [{**row, "translation": "  Halt,\tHalt! "} for row in rows()]
    assert set(imports(found).table["translation"]) == {"Halt, Halt!"}
    silent = [{key: value for key, value in row.items() if key != "text"} for row in found]
    assert set(imports(silent).table["translation"]) == {"Halt, Halt!"}


def test_an_option_that_a_reader_does_not_have_is_named(imports: Callable) -> None:
    with pytest.raises(UserError, match="three_words has no option 'tako'") as caught:
        imports(options={"tako": 1})
    assert "did you mean take" in caught.value.remedy


def test_the_built_in_corpus_is_no_import(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="made here") as caught:
        import_corpus("synthetic", tmp_path)
    assert caught.value.remedy == "wavbench corpus build synthetic"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a": "' + b"x" * (1 << 20)])
def test_a_description_that_is_broken_or_huge_is_none(tmp_path: Path, content: bytes) -> None:
    assert description_of(tmp_path / "corpus.csv") == {}
    (tmp_path / "corpus.json").write_bytes(content)
    assert description_of(tmp_path / "corpus.csv") == {}


def test_a_real_layout_is_told_of_in_lines_of_a_table(tmp_path: Path) -> None:
    tree.build(tmp_path)
    made = import_corpus("librispeech", tmp_path, partial=True)
    assert statistics(made.table) == [
        "split  utterances  hours  speakers",
        "train  6           0.00   2",
        "dev    3           0.00   1",
        "test   3           0.00   1",
    ]
    assert json.loads((tmp_path / "LibriSpeech/librispeech.json").read_text())["text"] == "librispeech 1"


def test_statistics_count_hours_and_labels_of_every_split() -> None:
    table = pd.DataFrame(
        {
            "id": list("abcd"),
            "split": ["train", "train", "test", ""],
            "duration": ["3600", "1800.0", "", "36"],
            "emotion": ["joy", "fear", "joy", ""],
            "room": ["hall"] * 4,
        }
    )
    assert statistics(table) == [
        "split  utterances  hours  emotion",
        "train  2           1.50   2 values",
        "test   1           0.00   1 values",
        "none   1           0.01   0 values",
    ]


def test_progress_ends_with_all_files(imports: Callable) -> None:
    told: list[tuple[int, int]] = []
    imports(progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 3)]


def test_files_are_dealt_to_threads_many_at_a_time(imports: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted, submit = [], importing.ThreadPoolExecutor.submit
    monkeypatch.setattr(
        importing.ThreadPoolExecutor, "submit", lambda self, *given: submitted.append(1) or submit(self, *given)
    )
    columns = {"audio": "wav/u0.wav", "split": "train", "text": "a"}
    times = [{"start": k / 2_000, "end": (k + 1) / 2_000} for k in range(1_000)]
    table = imports([columns | {"id": f"s{k}"} | time for k, time in enumerate(times)], options={"take": 1_000}).table
    assert len(table) == 1_000
    assert table["duration"].tolist() == ["0.0005"] * 1_000
    assert len(submitted) <= 10  # a waiting task for each file of Common Voice took two gigabytes
