"""One small corpus with every label, and commands run in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from wavbench.benchmark import cli

COUNT = 48  # 12 speakers of four utterances: 6 train, 3 dev, 3 test
COLUMNS = {
    "speaker": [f"s{k // 4:02d}" for k in range(COUNT)],
    "split": ["train"] * 24 + ["dev"] * 12 + ["test"] * 12,
    "emotion": [("joy", "fear")[k % 2] for k in range(COUNT)],
    "language": [("en", "pl")[k // 2 % 2] for k in range(COUNT)],
    "phones": [("SIL p a t", "t a SIL p a")[k % 2] for k in range(COUNT)],
    "phone_ends": [("0.05 0.1 0.2 0.3", "0.1 0.15 0.2 0.25 0.3")[k % 2] for k in range(COUNT)],
}


@dataclass(frozen=True)
class Done:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def made(self, what: str) -> list[Path]:
        """Paths that the command says it made."""
        return [Path(line.removeprefix(f"{what}: ")) for line in self.lines if line.startswith(f"{what}: ")]


@pytest.fixture
def wavbench(capsys: pytest.CaptureFixture) -> Callable[..., Done]:
    """The command, run in this process."""

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, build_corpus: Callable) -> Path:
    """The manifest of a corpus with every label that tasks need."""
    return build_corpus(tmp_path_factory.mktemp("corpus"), COUNT, shortest=0.3, longest=0.6, **COLUMNS)


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "wavbench.benchmark.cli"]


@pytest.fixture
def refused(wavbench: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that runs a command which must be refused, and returns the screen."""
    monkeypatch.chdir(tmp_path)  # the folders of results and stores by default lie here

    def run(*words: object, code: int = 2) -> str:
        before = files_in(tmp_path)
        done = wavbench(*words)
        assert done.code == code, done
        assert "Traceback" not in done.out + done.err
        assert done.err.startswith("error: ")
        assert "way out: " in done.err
        assert len(done.err.splitlines()) < 30
        assert files_in(tmp_path) == before
        return done.err

    return run


def files_in(folder: Path) -> dict[str, bytes]:
    """What lies in a folder; the remembered hashes of audio are no result."""
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "audio.json"}
