"""How long an encoder was trained, told in its file; and encoders kept along one training, with a table of them.

kept/<preset>_step<steps>_<hours>h.safetensors    each is a checkpoint as any other
kept/kept.csv                                     file, steps, hours: of all files there
"""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wavbench.upstream.claims import remove_orphans, temporary_in
from wavbench.upstream.errors import UserError

FOLDER = "kept"
HEARD = "- heard audio of: "  # the line of a model card
CARD_BYTES = 1 << 20  # a larger file is no card


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A moment of a training.

    Args:
        run: objective and preset.
        id: of all that decides its result.
        steps: updates done.
        hours: of audio seen in them, repetitions counted; not what made units or the weights that it began with.
        init: hash of the weights that it began with; "" for random ones.
    """

    run: str
    id: str
    steps: int
    hours: float
    init: str = ""

    @property
    def file(self) -> str:
        """Its name among those that are kept."""
        return f"{self.run}_step{self.steps:06d}_{self.hours:.2f}h.safetensors"


def trained_of(path: Path) -> Trained | None:
    """What a checkpoint of ours says of its training; None where it says nothing, or nothing that can be understood.

    Raises:
        UserError: the file is damaged.
    """
    told = _told(path, "trained")
    try:
        found = Trained(**told)
        kinds = {"run": str, "id": str, "steps": int, "hours": float, "init": str}
        sound = all(isinstance(getattr(found, name), kind) for name, kind in kinds.items())
        return found if sound and 0 <= found.hours < float("inf") else None
    except TypeError:
        return None


def heard_of(path: Path) -> tuple[str, ...]:
    """Corpora that a checkpoint of ours, or the model card beside it, says its weights were trained on.

    The card may know more: that a corpus is another one under another name was perhaps found out later.

    Raises:
        UserError: the file is damaged.
    """
    told = _told(path, "heard")
    known = told if isinstance(told, list) and all(isinstance(name, str) for name in told) else []
    return tuple(sorted({*known, *_heard_by_card(path.with_suffix(".md"))}))


def _heard_by_card(card: Path) -> list[str]:
    try:
        lines = card.read_text(encoding="utf-8").splitlines() if card.stat().st_size < CARD_BYTES else []
    except (OSError, ValueError):
        return []
    said = next((line.removeprefix(HEARD) for line in lines if line.startswith(HEARD)), "")
    return [name for name in (word.strip() for word in said.split(",")) if name]


def _told(path: Path, name: str) -> object:
    """What the metadata of a file hold under a name; None for nothing, or for what is no JSON."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(name, "null"))
    except (ValueError, RecursionError):
        return None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path.name} is damaged", where=path, why=str(error), remedy="fetch or write it again"
        ) from None


def write_table(folder: Path, say: Callable[[str], None] | None = None) -> None:
    """Write the table of all encoders that a folder has, by steps; whole or not at all.

    Args:
        folder: of kept encoders.
        say: told which files are damaged; these are left out.
    """
    remove_orphans(folder)
    found = []
    for path in sorted(folder.glob("[!.]*.safetensors")):
        try:
            if told := trained_of(path):
                found.append((told, path.name))
        except UserError as error:  # the training goes on: an old file is not worth its state
            if say:
                say(f"left out of {folder / 'kept.csv'}: {error.what} ({error.why})")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "steps", "hours"])
    table.writerows([name, told.steps, repr(told.hours)] for told, name in sorted(found, key=lambda one: one[0].steps))
    temporary = temporary_in(folder)
    try:
        temporary.write_text(text.getvalue(), encoding="utf-8")
        os.replace(temporary, folder / "kept.csv")
    finally:
        temporary.unlink(missing_ok=True)


def plain(trained: Trained) -> dict:
    """Its values for metadata and records; what it began with only where that is not chance."""
    values = dataclasses.asdict(trained)
    return values if trained.init else {name: value for name, value in values.items() if name != "init"}
