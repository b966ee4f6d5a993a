"""Experiment trackers beside CSV files and TensorBoard, through Lightning's loggers, where they are installed."""

import importlib.util
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError

PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}  # what each tracker is imported as
PROJECT = "wavbench"


@runtime_checkable
class Tracker(Protocol):
    """What is used of Lightning's loggers."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Note numbers of a step."""

    def finalize(self, status: str) -> None:
        """Say that the run has ended."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise a UserError unless all of them are known and installed."""
    for name in names:
        if name not in PACKAGES:
            raise UserError(f"trackers={name} is not known", remedy=f"of: {', '.join(PACKAGES)}, commas between")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(f"trackers={name} needs the package {PACKAGES[name]}", remedy=f"pip install {name}")


def make_trackers(names: Sequence[str], folder: Path, hyperparameters: dict) -> list[Tracker]:
    """Trackers of a run, which go on with the same run of theirs when the training is resumed.

    MLflow writes where MLFLOW_TRACKING_URI says, or into the run's folder; Weights & Biases under the project wavbench,
    as its own environment says (WANDB_MODE=offline, WANDB_ENTITY, ...).

    Args:
        names: of PACKAGES.
        folder: of the training; `trackers.json` in it has the runs' ids.
        hyperparameters: told at the beginning.
    """
    check_trackers(names)
    if not names:
        return []
    notes = folder / "trackers.json"
    ids, made = _noted(notes), []
    for name in names:
        tracker = {"mlflow": _mlflow, "wandb": _wandb}[name](folder, ids.get(name))
        if name not in ids:
            tracker.log_hyperparams(hyperparameters)
        ids[name] = tracker.version if name == "wandb" else tracker.run_id
        made.append(tracker)
    temporary = temporary_in(folder)
    try:
        temporary.write_text(json.dumps(ids) + "\n")
        os.replace(temporary, notes)
    finally:
        temporary.unlink(missing_ok=True)
    return made


def _noted(path: Path) -> dict[str, str]:
    """The runs that a training has; none where the note of them cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: id for name, id in found.items() if isinstance(id, str)} if isinstance(found, dict) else {}


def _mlflow(folder: Path, id: str | None):
    from lightning.pytorch.loggers import MLFlowLogger

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    return MLFlowLogger(experiment_name=PROJECT, run_name=folder.name, tracking_uri=uri, run_id=id)


def _wandb(folder: Path, id: str | None):
    from lightning.pytorch.loggers import WandbLogger

    id = id or uuid.uuid4().hex[:12]
    return WandbLogger(project=PROJECT, name=folder.name, id=id, resume="allow", save_dir=str(folder))
