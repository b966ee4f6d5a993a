"""The rooms and who may import whom."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("upstream", "downstream", "benchmark", "configs")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def lint_imports(tree: Path) -> subprocess.CompletedProcess:
    """Run the contracts of pyproject.toml over a tree in which the rooms lie inside `wavbench/`."""
    shutil.copy(ROOT / "pyproject.toml", tree)
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120)


def copy_rooms(tree: Path) -> None:
    """import-linter looks for packages where files lie, and ours are mapped to their names by setuptools."""
    compiled = shutil.ignore_patterns("__pycache__")  # other tests write and rename there
    shutil.copytree(ROOT / "wavbench", tree / "wavbench", ignore=compiled)
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / "wavbench" / room, ignore=compiled)


def test_benchmark_uses_downstream_uses_upstream_and_never_back(tmp_path: Path) -> None:
    copy_rooms(tmp_path)
    done = lint_imports(tmp_path)
    assert done.returncode == 0, done.stdout


def test_the_import_contracts_can_fail(tmp_path: Path) -> None:
    copy_rooms(tmp_path)
    with open(tmp_path / "wavbench" / "upstream" / "errors.py", "a") as file:
        file.write("\nfrom wavbench.downstream import spec\n")
    with open(tmp_path / "wavbench" / "benchmark" / "page.py", "a") as file:
        file.write("\nfrom wavbench.upstream import store\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    assert "wavbench.upstream.errors -> wavbench.downstream" in done.stdout
    assert "wavbench.benchmark.page -> wavbench.upstream.store" in done.stdout


def test_the_package_list_names_every_folder_with_code() -> None:
    found = {"wavbench"}
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            found.add("wavbench." + ".".join(init.parent.relative_to(ROOT).parts))
    assert set(project()["tool"]["setuptools"]["packages"]) == found


def test_no_file_imports_a_room_without_wavbench_before_it() -> None:
    bare = re.compile(r"^\s*(from|import) (upstream|downstream|benchmark|configs)\b", re.M)
    files = [p for room in (*ROOMS, "wavbench", "tests") for p in (ROOT / room).rglob("*.py")]
    assert [str(path) for path in files if bare.search(path.read_text())] == []


def test_no_configuration_names_code() -> None:
    files = list((ROOT / "configs").rglob("*.yaml"))
    assert files
    assert [str(path) for path in files if "_target_" in path.read_text() or "${" in path.read_text()] == []


def test_an_uninstalled_checkout_imports_from_its_own_folders() -> None:
    code = "import wavbench.upstream.lengths as m; print(m.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    # -S leaves site-packages out, so torch is missing: the traceback must name our file, not "no module wavbench"
    assert str(ROOT / "upstream" / "lengths.py") in done.stdout + done.stderr


def test_torchaudio_and_what_needs_it_import_beside_any_torch() -> None:
    code = "import wavbench, torchaudio, speechbrain; from transformers import Wav2Vec2Model"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_help_waits_for_neither_torch_nor_hydra() -> None:
    code = "import sys; from wavbench.benchmark.cli import main; main(['help']); "
    code += "print('torch' in sys.modules, 'hydra' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False False"
