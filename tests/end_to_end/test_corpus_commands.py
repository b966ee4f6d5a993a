"""`wavbench corpus ...` as a newcomer types it, on small trees in the layouts of their authors."""

import hashlib
import inspect
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from corpus_trees import crema_d as crema_tree
from corpus_trees import folders as folders_tree
from corpus_trees import librispeech as libri_tree
from corpus_trees import speech_commands as commands_tree
from corpus_trees import write_audio, write_text
from file_server import Server, serving

from wavbench.benchmark import corpus_schemas
from wavbench.upstream import fetch
from wavbench.upstream.corpora import crema_d, librispeech
from wavbench.upstream.corpus import Archive, corpus_names, load_corpus
from wavbench.upstream.manifest import read_manifest

READERS = [name for name in corpus_names() if hasattr(load_corpus(name), "read")]
LEXICON = "A  AH0\nMAN  M AE1 N\nSAID  S EH1 D\nTO  T UW1\nTHE  DH AH0\nUNIVERSE  Y UW1 N AH0 V ER2 S\n"


@pytest.fixture
def libri(tmp_path: Path) -> Path:
    libri_tree.build(tmp_path)
    return tmp_path / "LibriSpeech"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def parts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The three parts of LibriSpeech on the server, in place of the real ones."""
    libri_tree.build(tmp_path / "made")
    packed = {}
    for part in libri_tree.SPEAKERS:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            archive.add(tmp_path / "made/LibriSpeech" / part, f"LibriSpeech/{part}")
        packed[part] = server.files[f"/{part}.tar.gz"] = out.getvalue()
    archives = tuple(
        Archive(part=part, url=server.url(f"/{part}.tar.gz"), sha256=hashlib.sha256(data).hexdigest())
        for part, data in packed.items()
    )
    monkeypatch.setattr(librispeech, "archives", archives)
    monkeypatch.setattr(librispeech, "default_parts", tuple(packed))
    return packed


def test_list_names_every_corpus_with_its_licence_and_how_to_get_it(wavbench: Callable) -> None:
    done = wavbench("corpus", "list")
    assert (done.code, done.err) == (0, "")
    heads = [line for line in done.lines if not line.startswith(" ")]
    assert heads == [f"{name}: {load_corpus(name).corpus.title}" for name in corpus_names()]
    assert sum(line.startswith("  licence: ") for line in done.lines) == len(heads)
    assert sum(line.startswith("  get it: ") for line in done.lines) == len(heads)
    assert "  get it: wavbench corpus fetch librispeech; https://www.openslr.org/12" in done.lines
    assert any(line.startswith("  parts: af_za, ") and line.endswith(", ... (102 in all)") for line in done.lines)


def test_librispeech_is_imported_with_its_licence_and_ends_with_the_manifest(wavbench: Callable, libri: Path) -> None:
    done = wavbench("corpus", "import", "librispeech", libri.parent, "partial=true")
    assert done.code == 0
    notes = [line for line in done.lines if line.startswith("note: ")]
    assert notes[0] == "note: partial: train: 6 utterances where 28,539 are published"
    assert len(notes) == 3
    assert done.lines[3:] == [
        "split  utterances  hours  speakers",
        "train  6           0.00   2",
        "dev    3           0.00   1",
        "test   3           0.00   1",
        "licence: CC BY 4.0",
        f"cite: {librispeech.corpus.citation}",
        f"manifest: {libri / 'librispeech.csv'}",
    ]
    done = wavbench("corpus", "check", libri / "librispeech.csv")
    assert (done.code, done.lines[-1]) == (0, "12 rows, all well")


def test_options_of_a_reader_are_keys_of_the_command(wavbench: Callable, libri: Path) -> None:
    words = ("corpus", "import", "librispeech", libri, "train=train-clean-100", "dev=dev-clean", "partial=true")
    done = wavbench(*words, "test=")
    assert [line.split()[:2] for line in done.lines if line.startswith(("train ", "dev ", "test "))] == [
        ["train", "6"], ["dev", "3"],
    ]  # fmt: skip


def test_a_manifest_elsewhere_is_printed_with_the_root_that_its_readers_take(
    wavbench: Callable, libri: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine/libri.csv"
    done = wavbench("corpus", "import", "librispeech", libri, "partial=true", f"out={out}")
    assert done.lines[-2:] == [
        f"audio lies elsewhere: give root={libri.resolve()} to the commands that read this manifest",
        f"manifest: {out}",
    ]
    assert wavbench("corpus", "check", out).code == 2
    assert wavbench("corpus", "check", out, f"root={libri}").code == 0


def test_a_reader_that_looks_beside_the_folder_does_so_for_the_one_that_it_is_run_in(
    wavbench: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = commands_tree.build(tmp_path).root / "speech_commands_v0.01"
    made = []
    for here in (folder, "."):  # the test set is an archive of its own beside it
        monkeypatch.chdir(folder)
        done = wavbench("corpus", "import", "speech_commands", here, "partial=true")
        made.append(read_manifest(done.made("manifest")[0]).table["id"].tolist())
    assert made[0] == made[1]
    assert any(id.startswith("test_") for id in made[0])


def test_a_lexicon_gives_phones_and_says_what_it_lacks(wavbench: Callable, libri: Path, tmp_path: Path) -> None:
    path = write_text(tmp_path / "lexicon.txt", LEXICON)
    words = ("corpus", "import", "librispeech", libri, "partial=true", f"lexicon={path}")
    done = wavbench(*words, "stress=false")
    said = "note: 6 words are not in the lexicon (most frequent: exist, however, i, it's, late): 8 of 12 utterances"
    assert any(line.startswith(said) for line in done.lines)
    phones = read_manifest(libri / "librispeech.csv").table["phones"]
    assert phones[0] == "AH M AE N S EH D T UW DH AH Y UW N AH V ER S"
    assert phones[1] == ""
    assert (libri / "librispeech.oov.txt").read_text().splitlines()[0] == "exist\t4"


def test_crema_d_is_imported(wavbench: Callable, tmp_path: Path) -> None:
    crema_tree.build(tmp_path)
    done = wavbench("corpus", "import", "crema_d", tmp_path, "partial=true")
    assert done.code == 0
    assert "note: partial: all: 10 utterances where 7,442 are published" in done.lines
    assert "test   4           0.00   2         2 values" in done.lines
    assert done.made("manifest") == [tmp_path / "CREMA-D/crema_d.csv"]


def test_a_folder_of_folders_is_imported_with_its_classes_as_the_column_asked_for(
    wavbench: Callable, tmp_path: Path
) -> None:
    root = folders_tree.build(tmp_path).root
    done = wavbench("corpus", "import", "folders", root, "column=emotion", "language=en")
    assert done.code == 0
    assert done.lines[0] == "split  utterances  hours  emotion"
    assert set(read_manifest(root / "folders.csv").table["emotion"]) == {"calm", "loud"}


def test_help_of_a_reader_shows_its_options_and_no_others(wavbench: Callable) -> None:
    for name in ("librispeech", "folders", "webdataset"):
        done = wavbench("corpus", "import", name, "--help")
        options = list(inspect.signature(load_corpus(name).read).parameters)[1:]
        keys = [line.split("=")[0].strip() for line in done.lines if line.startswith("  ") and "= " in line]
        assert done.code == 0
        assert set(options) - {"into"} <= set(keys)
        assert "into:" not in done.out
    assert "`wavbench corpus import NAME --help`" in wavbench("corpus", "import", "--help").out


@pytest.mark.parametrize("name", READERS)
def test_no_option_of_a_reader_has_the_name_of_a_key_of_the_command(name: str) -> None:
    taken = {item.name for item in fields(corpus_schemas.CorpusImport)}
    assert not taken & set(list(inspect.signature(load_corpus(name).read).parameters)[1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("import", "librispeech", "LibriSpeech", "trian=x"), "did you mean train?"),
        (("import", "librispeech", "LibriSpeech", "train=train-clean"), "no part 'train-clean'"),
        (("import", "librispech", "LibriSpeech"), "did you mean librispeech"),
        (("import", "librispeech"), "root is missing"),
        (("import",), "name and root are missing"),
        (("import", "librispeech", "absent"), "no such folder for LibriSpeech"),
        (("import", "crema_d", "LibriSpeech"), "CREMA-D is not here"),
        (("import", "librispeech", "LibriSpeech"), "not as it is published"),
        (("import", "librispeech", "LibriSpeech", "partial=perhaps"), "partial=perhaps"),
        (("import", "librispeech", "LibriSpeech", "lexicon=absent.txt"), "the lexicon is missing"),
        (("import", "librispeech", "LibriSpeech", "out=manifest.txt"), "end it in .csv"),
        (("import", "synthetic", "LibriSpeech"), "wavbench corpus build synthetic"),
        (("fetch", "librispeech", "here", "parts=dev"), "no part 'dev'"),
        (("fetch", "fleurs"), "fleurs is fetched by part"),
        (("fetch", "iemocap"), "sign the release form"),
        (("fetch", "folders"), "wavbench corpus import folders FOLDER"),
        (("fetch", "synthetic"), "wavbench corpus build synthetic"),
        (("fetch", "timt"), "did you mean timit"),
        (("imprt", "librispeech"), "corpus import"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_words_are_one_screen_with_a_way_out(refused: Callable, libri: Path, words: tuple, said: str) -> None:
    assert said in refused("corpus", *words)


def test_fetched_parts_are_imported_as_they_lie(wavbench: Callable, parts: dict, tmp_path: Path) -> None:
    root = tmp_path / "corpora/librispeech"
    done = wavbench("corpus", "fetch", "librispeech", root)
    assert done.code == 0
    assert done.lines[0] == "licence: CC BY 4.0"
    assert done.lines[-2:] == [
        f"to import it: wavbench corpus import librispeech {root}",
        f"corpus: {root}",
    ]
    assert wavbench("corpus", "import", "librispeech", root, "partial=true").code == 0
    assert len(read_manifest(root / "LibriSpeech/librispeech.csv")) == 12
    again = wavbench("corpus", "fetch", "librispeech", root)
    assert again.out.count("is there already") == 3


def test_an_interrupted_fetch_prints_the_command_that_goes_on(
    wavbench: Callable, server: Server, parts: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cut["/dev-clean.tar.gz"] = 1_000

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch.time, "sleep", stop)  # what is done when a connection ended early
    words = ("corpus", "fetch", "librispeech", tmp_path / "root", "parts=dev-clean")
    done = wavbench(*words)
    assert done.code == 130
    assert " ".join(map(str, words)) in done.err
    server.cut.clear()
    assert wavbench(*words).code == 0
    assert server.log[-1] == ("/dev-clean.tar.gz", "bytes=1000-")
    assert (tmp_path / "root/LibriSpeech/dev-clean/84").is_dir()


def test_an_archive_that_was_exchanged_is_not_unpacked(
    wavbench: Callable, server: Server, parts: dict, tmp_path: Path
) -> None:
    server.files["/dev-clean.tar.gz"] = parts["test-clean"]
    done = wavbench("corpus", "fetch", "librispeech", tmp_path / "root", "parts=dev-clean")
    assert done.code == 2
    assert done.err.startswith("error: the download is not the file that it should be, and was deleted")
    assert not (tmp_path / "root/LibriSpeech").exists()


def test_recordings_that_the_server_lacks_are_named_and_all_others_are_there(
    wavbench: Callable, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["1001_IEO_ANG_HI", "1002_IEO_SAD_LO", "1091_TSI_HAP_XX"]
    rows = "".join(f"{k},{name}\n" for k, name in enumerate(names, start=1))
    server.files["/SentenceFilenames.csv"] = f"Stimulus_Number,Filename\n{rows}".encode()
    for name in names[:2]:
        server.files[f"/AudioWAV/{name}.wav"] = write_audio(tmp_path / f"{name}.wav").read_bytes()
    listed = Archive(part="list", url=server.url("/SentenceFilenames.csv"), into="CREMA-D")
    monkeypatch.setattr(crema_d, "archives", (listed,))
    monkeypatch.setattr(crema_d, "_AUDIO", server.url("/AudioWAV"))
    root = tmp_path / "root"
    done = wavbench("corpus", "fetch", "crema_d", root)
    assert done.code == 2
    assert done.err.startswith("error: the server lacks 1 file (1091_TSI_HAP_XX)")
    assert "2 of 3 files are there now" in done.err
    assert sorted(path.stem for path in root.glob("CREMA-D/AudioWAV/*")) == names[:2]
    assert wavbench("corpus", "import", "crema_d", root, "partial=true").code == 0
    monkeypatch.setattr(crema_d, "may_be_absent", names[2:], raising=False)
    done = wavbench("corpus", "fetch", "crema_d", root)
    assert (done.code, done.lines[-1]) == (0, f"corpus: {root}")
    assert "the server lacks 1 file (1091_TSI_HAP_XX), as its authors say" in done.out
