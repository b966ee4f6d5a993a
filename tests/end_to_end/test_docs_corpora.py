"""Every table and command of docs/own_data.md and docs/corpora.md, as they stand there, in folders of their own."""

import csv
import importlib
import io
import re
import shlex
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
from corpus_trees import mini_librispeech as mini_tree
from file_server import serving

from wavbench.upstream.corpora import mini_librispeech
from wavbench.upstream.corpus import Archive

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECONDS = 4.0  # of every recording: segments in the page end before
TREES = {"folders": "", "kaldi": "recipe", "lhotse": "prepared", "webdataset": "", "hugging_face": "hub"}
PLACE = "/data/study"  # in the page, for the folder that the reader is in
TRAINING = "budget=0.01"  # a hundredth of the updates; all else is as in the page

FENCE = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Args:
        kind: word behind its opening; "" for commands.
        name: of the file that it is.
    """

    kind: str
    name: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command; explanations behind three blanks are none."""
        lines = re.sub(r" *\\\n *", " ", self.text).splitlines()
        return [shlex.split(re.split(r"\s{3,}", line.strip())[0]) for line in lines if line.startswith("wavbench ")]


def blocks(page: str) -> list[Block]:
    found = [Block(*match.groups()) for match in FENCE.finditer((DOCS / page).read_text(encoding="utf-8"))]
    if not found:
        raise AssertionError(f"{page} has no blocks")
    return found


def write_table(block: Block, folder: Path, make_speech: Callable) -> None:
    """The table, and the audio that it names; an exported table as the page says that it is."""
    text = block.text.replace(PLACE, str(folder))
    exported = text != block.text
    data = text.replace("\n", "\r\n").encode("utf-8-sig") if exported else text.encode()
    (folder / block.name).write_bytes(data)
    for row in csv.DictReader(io.StringIO(text)):
        path = folder / row.get("audio", "").strip()
        if path != folder and "gone" not in path.name and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, make_speech(SECONDS, sum(map(ord, path.stem))), 16_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_speech: Callable) -> Path:
    """Where a reader of the page has put its tables, their audio, and data in other layouts."""
    folder = tmp_path_factory.mktemp("own")
    for block in blocks("own_data.md"):
        if block.kind == "csv":
            write_table(block, folder, make_speech)
    for name, place in TREES.items():
        importlib.import_module(f"corpus_trees.{name}").build(folder / place)
    return folder


COMMANDS = [words for block in blocks("own_data.md") if not block.kind for words in block.commands]


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_every_command_of_the_page_runs(
    wavbench: Callable, folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = wavbench(*words[1:], *([TRAINING] if words[1] == "run" else []))
    assert (done.code, done.err) == (0, ""), done
    if words[1:3] == ["corpus", "import"]:
        (made,) = done.made("manifest")
        root = re.search(r"give root=(.*) to the commands", done.out)
        checked = wavbench("corpus", "check", made, *([f"root={root[1]}"] if root else []))
        assert checked.code == 0, checked


def test_the_page_runs_every_kind_of_command_and_layout() -> None:
    told = {" ".join(words[1:3]) for words in COMMANDS}
    assert {"corpus check", "corpus import"} <= told
    assert {words[3] for words in COMMANDS if words[1:3] == ["corpus", "import"]} == set(TREES)
    assert {words[1] for words in COMMANDS} == {"corpus", "extract", "run", "report"}
    assert {words[2] for words in COMMANDS if words[1] == "run"} == {
        f"task={name}" for name in ("er", "asv", "phones", "pr", "asr", "st")
    }


def test_the_exported_table_is_mended_as_the_page_says(
    wavbench: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = wavbench("corpus", "check", "export.csv")
    assert done.code == 2
    for said in ("leaves the corpus folder", "occurs before", "split 'training' is unknown", "no audio file"):
        assert said in done.out
    assert "it is the audio of anna1 in split train again" in done.out
    wavbench("corpus", "check", "export.csv", "mended=good.csv")
    rows = list(csv.DictReader((folder / "good.csv").open(encoding="utf-8")))
    assert [row["id"] for row in rows] == ["anna1", "anna2", "boris1", "david2"]
    assert [row["audio"] for row in rows] == [f"wav/{row['id']}.wav" for row in rows]


def test_a_mended_table_without_rows_is_not_written(
    wavbench: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = wavbench("corpus", "check", "export.csv", "mended=apart/good.csv")  # no audio lies in there
    assert done.code == 2
    assert done.err.startswith("error: no row can be kept")
    assert not (folder / "apart").exists()


@pytest.mark.parametrize("page", ["own_data.md", "corpora.md"])
def test_values_in_the_python_of_the_pages_are_true(page: str) -> None:
    lines = [line for block in blocks(page) if block.kind == "python" for line in block.text.splitlines()]
    known: dict = {}
    checked = 0
    for line in lines:
        code, _, expected = line.partition("  # ")
        if expected:
            assert eval(code, known) == eval(expected, known), line  # noqa: S307
            checked += 1
        else:
            exec(code, known)
    assert checked


def test_three_commands_lead_from_nothing_to_a_result(
    wavbench: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini_tree.build(tmp_path / "made", {"train-clean-5": ("19", "26"), "dev-clean-2": ("84",)})
    lexicon = "SO S OW1\nIT IH1 T\nIS IH1 Z\nSAID S EH1 D\nANYWAY EH1 N IY0 W EY2\nDON'T D OW1 N T\n"
    with serving(monkeypatch) as server:
        archives = []
        for archive in mini_librispeech.archives:
            file = Path(archive.url).name
            packed = io.BytesIO(lexicon.encode())
            if archive.part != "lexicon":
                with tarfile.open(fileobj=packed, mode="w:gz") as tar:
                    tar.add(tmp_path / "made/LibriSpeech" / archive.part, f"LibriSpeech/{archive.part}")
            server.files[f"/{file}"] = packed.getvalue()
            archives.append(Archive(part=archive.part, url=server.url(f"/{file}")))
        monkeypatch.setattr(mini_librispeech, "archives", tuple(archives))
        monkeypatch.chdir(tmp_path)
        first, *others = blocks("corpora.md")
        added = {"fetch": [], "import": ["partial=true"], "task=pr": [TRAINING]}  # the tree is not the whole corpus
        for words in first.commands:
            done = wavbench(*words[1:], *added[words[2]])
            assert done.code == 0, done
    assert not [words for block in others if not block.kind for words in block.commands]
    assert len(done.made("record")) == 1
    assert (tmp_path / "corpora/mini_librispeech/LibriSpeech/mini_librispeech.csv").is_file()
