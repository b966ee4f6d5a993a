"""Trained heads on disk: safetensors, and a JSON of what they need to be used again."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wavbench.downstream import objectives
from wavbench.downstream.fit import HeadStack
from wavbench.downstream.fold import HEADS, Head, head_of
from wavbench.downstream.mix import MIX
from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError

FORMAT = "wavbench-head-1"
WEIGHTS, ABOUT = "head.safetensors", "head.json"
MOST_BYTES = 16 << 20  # of the JSON: a vocabulary of a hundred thousand symbols fits
MOST_FOLDS = 64
MOST_WIDTH = 1 << 20  # of features and outputs


@dataclass(frozen=True)
class Saved:
    """Heads of one task, one per fold, that see the same layers of the same upstream.

    Args:
        folder: where they lie.
        task: name of the task.
        objective: what it was trained for: a class of objectives.py.
        name: a file of heads/.
        statistics: what is pooled for it; None where it reads frames.
        heads: one per fold.
        upstream: what is known of the upstream: `name`, `weights_hash` and how it was loaded.
        about: everything else that was written.
    """

    folder: Path
    task: str
    objective: str
    name: str
    statistics: tuple[str, ...] | None
    heads: tuple[Head, ...]
    upstream: dict
    about: dict

    @property
    def layers(self) -> tuple[int, ...]:
        """States that the heads read, ascending."""
        return tuple(sorted({layer for head in self.heads for layer in head.layers}))


def save_heads(
    folder: Path, heads: Sequence[Head], *, task: str, objective: str, name: str, upstream: Mapping, about: Mapping
) -> Path:
    """Write heads of one layer choice, whole or not at all.

    Args:
        folder: made if it is not there; a head in it is replaced.
        heads: one per fold.
        task: name of the task.
        objective: of the task.
        name: a file of heads/.
        upstream: how to load it again, and its `weights_hash`.
        about: whatever else is worth knowing: corpus, protocol, score.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for fold, head in enumerate(heads):
        own = dict(head.model.state_dict())
        own |= {} if head.shift is None else {"shift": head.shift, "scale": head.scale}
        tensors |= {f"{fold}.{key}": value.detach().contiguous().clone() for key, value in own.items()}
    described = {
        "format": FORMAT,
        "task": task,
        "objective": objective,
        "head": name,
        "statistics": getattr(head_of(name), "STATISTICS", None),
        "folds": [
            {
                "layers": list(head.layers),
                "layer": MIX if head.model.mix is not None else int(head.model.layer[0]),
                "inputs": head.model.inputs,
                "symbols": list(head.symbols),
                "learning_rate": head.rate,
                "standardised": head.shift is not None,
            }
            for head in heads
        ],
        "upstream": dict(upstream),
        "about": dict(about),
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(described, ensure_ascii=False, indent=1) + "\n"
    for name_of_file, content in ((WEIGHTS, save(tensors)), (ABOUT, text.encode())):  # the JSON says that all is there
        temporary = temporary_in(folder, Path(name_of_file).suffix)
        temporary.write_bytes(content)
        os.replace(temporary, folder / name_of_file)
    return folder


def record_of(folder: Path) -> str:
    """Key of the record whose head lies in a folder; "" where none does."""
    try:
        described = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return str(described["about"]["record"]) if (folder / WEIGHTS).is_file() else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def load_heads(folder: Path | str) -> Saved:
    """Read what `save_heads` wrote.

    Raises:
        UserError: there is none, or it is not what it says it is.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    if not (folder / ABOUT).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(
            "there is no saved head",
            where=folder,
            why=f"a head is a folder with {ABOUT} and {WEIGHTS}",
            remedy="`wavbench run task=... save=FOLDER` or `wavbench finetune` write one",
        )
    try:
        if (folder / ABOUT).stat().st_size > MOST_BYTES:
            raise ValueError(f"{ABOUT} has more than {MOST_BYTES >> 20} MB")
        described = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            raise ValueError(f"{ABOUT} does not say that its format is {FORMAT}")
        name, objective = described["head"], described["objective"]
        if name not in {path.stem for path in HEADS.glob("*.py")}:
            raise ValueError(f"there is no head {name!r}")
        if not isinstance(objective, str) or not isinstance(getattr(objectives, objective, None), type):
            raise ValueError(f"there is no objective {objective!r}")
        folds = described["folds"]
        if not 0 < len(folds) <= MOST_FOLDS:
            raise ValueError(f"{len(folds)} heads in one folder")
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        heads = tuple(_head(name, objective, fold, k, tensors) for k, fold in enumerate(folds))
        statistics = described["statistics"]
        return Saved(
            folder=folder,
            task=str(described["task"]),
            objective=objective,
            name=name,
            statistics=None if statistics is None else tuple(statistics),
            heads=heads,
            upstream=dict(described["upstream"]),
            about=dict(described["about"]),
        )
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, RecursionError, SafetensorError) as error:
        raise UserError(
            "the saved head cannot be read",
            where=folder,
            why=str(error).partition("\n")[0][:300],
            remedy="train it again: `wavbench run task=... save=FOLDER`",
        ) from None


def refuse_other_upstream(saved: Saved, weights_hash: str, name: str, features: str = "") -> None:
    """Raise unless an upstream is the one that heads were trained on: features of another mean nothing to them.

    Args:
        saved: heads.
        weights_hash: of the upstream.
        name: of the upstream, for people.
        features: hash of what else its features depend on; "" where that is not known.
    """
    known = saved.upstream.get("features")
    if known and features and known != features and saved.upstream.get("weights_hash") == weights_hash:
        raise UserError(
            f"the head was trained on another upstream than {name}",
            where=saved.folder,
            why=f"the weights are those of {saved.upstream.get('name')!r}, its configuration or normalisation is not",
            remedy="leave upstream= out, or give the one that it was trained on",
        )
    if saved.upstream.get("weights_hash") != weights_hash:
        raise UserError(
            f"the head was trained on another upstream than {name}",
            where=saved.folder,
            why=f"it knows the weights {str(saved.upstream.get('weights_hash'))[:16]} of "
            f"{saved.upstream.get('name')!r}; these are {weights_hash[:16]}",
            remedy="leave upstream= out, or give the one that it was trained on",
        )


def extra_outputs(objective: str) -> int:
    """Outputs that stand before the symbols: CTC's blank, or the end of what is written."""
    return 1 if objective in ("Ctc", "Transcribe", "Translate") else 0


def _head(name: str, objective: str, fold: Mapping, number: int, tensors: Mapping[str, Tensor]) -> Head:
    """One head of a folder, its tensors seen to be those of the head that it names."""
    layers = tuple(int(layer) for layer in fold["layers"])
    symbols, inputs = tuple(str(symbol) for symbol in fold["symbols"]), int(fold["inputs"])
    outputs = len(symbols) + extra_outputs(objective)
    if not layers or not symbols or not 0 < inputs <= MOST_WIDTH or outputs > MOST_WIDTH:
        raise ValueError("its layers, symbols or widths cannot be")
    mixed = fold["layer"] == MIX
    single = [] if mixed else [int(fold["layer"])]
    if single and not 0 <= single[0] < len(layers):
        raise ValueError(f"it reads layer {single[0]} of {len(layers)}")

    def make() -> HeadStack:
        return HeadStack(int(mixed), single, len(layers), lambda n: head_of(name).build(n, inputs, outputs), inputs)

    prefix = f"{number}."
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    shift, scale = own.pop("shift", None), own.pop("scale", None)
    for name_of_part, part in (("shift", shift), ("scale", scale)):
        if (part is not None) != bool(fold["standardised"]) or (
            part is not None and tuple(part.shape) != (len(layers), 1, inputs)
        ):
            raise ValueError(f"its {name_of_part} does not fit {len(layers)} layers of {inputs}")
    with torch.device("meta"):  # shapes without memory: nobody's JSON makes us fill it
        wanted = {key: tuple(value.shape) for key, value in make().state_dict().items()}
    found = {key: tuple(value.shape) for key, value in own.items()}
    if wanted != found:
        other = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
        raise ValueError(f"{len(other)} of its weights do not fit the head {name} (first: {other[0]})")
    if any(value.is_floating_point() and not value.isfinite().all() for value in own.values()):
        raise ValueError("it has weights that are not finite")
    model = make()
    model.load_state_dict(own)
    rate = float(fold["learning_rate"])
    return Head(model.eval().requires_grad_(False), layers, symbols, shift, scale, rate if math.isfinite(rate) else 0.0)
