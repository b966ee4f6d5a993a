"""The state of a training on disk: written whole or not at all, read without running anything that is in it."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from wavbench.upstream.claims import remove_orphans, temporary_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.shards import fsync_folder

FORMAT = "wavbench-training-1"
LAST = "last.pt"


def save_state(folder: Path, state: dict) -> None:
    """Replace `last.pt`: after a kill, or on a full disk, the one before it is still there.

    Args:
        state: tensors, numbers, text, and dicts and lists of them.

    Raises:
        UserError: the disk is full or not writable.
    """
    remove_orphans(folder)
    temporary = temporary_in(folder, ".pt")

    def write() -> None:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / LAST)
        fsync_folder(folder)

    try:
        write_whole(folder, write)
    finally:
        temporary.unlink(missing_ok=True)


def save_about(folder: Path, about: dict) -> None:
    """Replace `run.json`, which is for people and for model cards, whole or not at all.

    Raises:
        UserError: the disk is full or not writable.
    """
    temporary = temporary_in(folder, ".json")

    def write() -> None:
        temporary.write_text(json.dumps(about, indent=1) + "\n")
        os.replace(temporary, folder / "run.json")

    try:
        write_whole(folder, write)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(folder: Path, write: Callable[[], None]) -> None:
    """Call what writes a state or a checkpoint, and say plainly what keeps it from doing so.

    Raises:
        UserError: the disk is full or not writable.
    """
    try:
        write()
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        raise UserError(
            "the training state cannot be saved",
            where=folder,
            why=(str(error) or type(error).__name__).splitlines()[0],
            remedy="free some space and give the same command again: it goes on from the checkpoint before",
        ) from None


def load_state(folder: Path) -> dict | None:
    """What `save_state` wrote, or None where there is nothing.

    Raises:
        UserError: the file is damaged or another program's.
    """
    path = folder / LAST
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:  # torch itself does not look at the checksums
            if (part := file.testzip()) is not None:
                raise ValueError(f"the checksum of {part} does not fit")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError(f"it does not say that it is {FORMAT}")
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise UserError(
            "the training state cannot be read",
            where=path,
            why=str(error).splitlines()[0][:200],
            remedy="give another out= folder, or remove the file to begin anew",
        ) from None
    return state


def refuse_missing(folder: Path, found: dict, wanted: dict) -> None:
    """Raise a UserError that names the parts of a model that a state does not hold.

    Args:
        folder: of the run.
        found: tensors of the state, by name.
        wanted: those of the model.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in missing))
        raise UserError(
            f"the training state is not whole: it lacks {parts}",
            where=folder / LAST,
            why=f"{len(missing)} of {len(wanted)} tensors are not in it, {missing[0]} first",
            remedy="give another out= folder, or remove the file to begin anew",
        )


def refuse_changes(folder: Path, found: str, wanted: dict) -> None:
    """Raise a UserError that names every hyperparameter in which a resumed run differs from its beginning.

    One that the run did not know when it began, because a later version added it, is not compared.

    Args:
        found: the ones it began with, as JSON.
        wanted: the ones it is now given.
    """
    began = json.loads(found)
    wanted = json.loads(json.dumps(wanted))
    changed = sorted(name for name in began if began[name] != wanted.get(name))
    if changed:
        lines = [f"{name}: began with {began[name]}, now {wanted.get(name)}" for name in changed]
        raise UserError(
            "this folder holds a training with other settings",
            where=folder,
            why="\n    ".join(["", *lines]),
            remedy="give the settings it began with to resume it, or another out= folder",
        )
