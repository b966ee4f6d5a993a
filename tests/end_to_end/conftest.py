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
