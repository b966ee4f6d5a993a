"""Trained heads on disk: safetensors, and a JSON of what they need to be used again.

The JSON holds a hash of the weights: of a folder that was being replaced when it was killed, half is the old head.
"""

import hashlib
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
SEQUENCES = ("Ctc", "Transcribe", "Translate")  # objectives that write symbols from frames
MOST_BYTES = 16 << 20  # of the JSON: a vocabulary of a hundred thousand symbols fits
MOST_FOLDS = 64
MOST_WIDTH = 1 << 20  # of features and outputs
HASHED = "weights_blake2b"  # key of the hash; heads that were saved before there was one have none
WORDS = ("name", "weights_hash", "weights", "revision", "language", "precision", "features")  # about an upstream


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
    weights = save(tensors)
    described = {
        "format": FORMAT,
        HASHED: _digest(weights),
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
    # the JSON comes last: it says that all is there
    for name_of_file, content in ((WEIGHTS, weights), (ABOUT, _text(described))):
        _replace(folder / name_of_file, content)
    return folder


def refuse_place(folder: Path) -> None:
    """Raise a UserError unless a head can be written to a folder: before hours of training, and not after them."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    why = ""
    if not there.is_dir():
        why = f"{there} is no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"nothing can be written in {there}"
    elif there == folder and not (folder / ABOUT).is_file():
        others = [path.name for path in folder.iterdir() if path.name != WEIGHTS and not path.name.startswith(".tmp-")]
        why = f"it holds other things ({min(others)})" if others else ""  # a save that was killed is none
    if why:
        raise UserError("a head cannot be saved here", where=folder, why=why, remedy="save=FOLDER, a new or empty one")


def add_about(folder: Path, **more: object) -> None:
    """Write further things worth knowing to what a saved head says about itself."""
    described = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    _replace(folder / ABOUT, _text(described | {"about": described["about"] | more}))


def record_of(folder: Path) -> str:
    """Key of the record whose head lies in a folder; "" where none does, or not all of it."""
    try:
        described = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        _refuse_other_weights(described, (folder / WEIGHTS).read_bytes())
        return str(described["about"]["record"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


def _text(described: dict) -> bytes:
    return (json.dumps(described, ensure_ascii=False, indent=1) + "\n").encode()


def _replace(path: Path, content: bytes) -> None:
    temporary = temporary_in(path.parent, path.suffix)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(weights: bytes) -> str:
    return hashlib.blake2b(weights, digest_size=16).hexdigest()


def _refuse_other_weights(described: dict, weights: bytes) -> None:
    """Raise a ValueError unless the weights are those that were written with a description."""
    if described.get(HASHED, found := _digest(weights)) != found:
        raise ValueError(f"{WEIGHTS} holds other weights than {ABOUT} was written with")


def load_heads(folder: Path | str) -> Saved:
    """Read what `save_heads` wrote.

    Raises:
        UserError: there is none, or it is not what it says it is.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

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
        if name not in {path.stem for path in HEADS.glob("[!_]*.py")}:
            raise ValueError(f"there is no head {name!r}")
        if not isinstance(objective, str) or not isinstance(getattr(objectives, objective, None), type):
            raise ValueError(f"there is no objective {objective!r}")
        folds = described["folds"]
        if not 0 < len(folds) <= MOST_FOLDS:
            raise ValueError(f"{len(folds)} heads in one folder")
        weights = (folder / WEIGHTS).read_bytes()
        _refuse_other_weights(described, weights)
        tensors = load(weights)
        heads = tuple(_head(name, objective, fold, k, tensors) for k, fold in enumerate(folds))
        statistics = getattr(head_of(name), "STATISTICS", None)
        if described["statistics"] != (None if statistics is None else list(statistics)):
            raise ValueError(f"it says that {name} reads {described['statistics']}, which it does not")
        if statistics is not None and objective in SEQUENCES:
            raise ValueError(f"{name} reads no frames, which {objective} needs")
        _refuse_odd(described["upstream"])
        return Saved(
            folder=folder,
            task=str(described["task"]),
            objective=objective,
            name=name,
            statistics=statistics,
            heads=heads,
            upstream=dict(described["upstream"]),
            about=dict(described["about"]),
        )
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, OSError, RuntimeError,
            SafetensorError) as error:  # fmt: skip
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
    return 1 if objective in SEQUENCES else 0


def _refuse_odd(upstream: Mapping) -> None:
    """Raise a ValueError unless what is known of an upstream can be given to a loader."""
    odd = [name for name in WORDS if not isinstance(upstream.get(name) or "", str)]
    odd += [] if isinstance(upstream.get("seed") or 0, int) else ["seed"]
    if odd:
        raise ValueError(f"upstream.{odd[0]} cannot be {upstream[odd[0]]!r}")


def _whole(value: object) -> int:
    """A number of a thing, as JSON has it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _head(name: str, objective: str, fold: Mapping, number: int, tensors: Mapping[str, Tensor]) -> Head:
    """One head of a folder, its tensors seen to be those of the head that it names."""
    layers = tuple(_whole(layer) for layer in fold["layers"])
    symbols, inputs = tuple(str(symbol) for symbol in fold["symbols"]), _whole(fold["inputs"])
    outputs = len(symbols) + extra_outputs(objective)
    if not layers or not symbols or not 0 < inputs <= MOST_WIDTH or outputs > MOST_WIDTH or min(layers) < 0:
        raise ValueError("its layers, symbols or widths cannot be")
    for what, own in (("layers", layers), ("symbols", symbols)):
        if len(set(own)) < len(own):
            raise ValueError(f"it has two {what} that are alike")
    mixed = fold["layer"] == MIX
    single = [] if mixed else [_whole(fold["layer"])]
    if single and not 0 <= single[0] < len(layers):
        raise ValueError(f"it reads layer {single[0]} of {len(layers)}")

    def make() -> HeadStack:
        return HeadStack(int(mixed), single, len(layers), lambda n: head_of(name).build(n, inputs, outputs), inputs)

    prefix = f"{number}."
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if any(value.is_complex() or not value.isfinite().all() for value in own.values()):
        raise ValueError("it has weights that are not finite, or not real")
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
    if own["layer"].tolist() != single:
        raise ValueError(f"its weights read layer {own['layer'].tolist()}, and it says {single}")
    model = make()
    if hasattr(model.one, "speakers") != (objective == "Verify"):
        raise ValueError(f"{name} is no head of {objective}")
    if getattr(model.one, "takes_symbols", False) != (objective == "Translate"):
        raise ValueError(f"{name} is no head of {objective}")
    model.load_state_dict(own)
    rate = float(fold["learning_rate"])
    return Head(model.eval().requires_grad_(False), layers, symbols, shift, scale, rate if math.isfinite(rate) else 0.0)
