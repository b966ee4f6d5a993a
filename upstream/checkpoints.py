"""Read and write weights in our own format, and what reading any format needs.

Pickles are only ever read by the loader of torch that admits nothing but tensors.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wavbench.upstream import catalog
from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError

FORMAT = "wavbench-1"
MOST_LAYERS = 1_000  # of a model; a damaged or hostile number would fill the memory before any weight is read
State = dict[str, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights of another program as a native family's, and what there is to say about them."""

    family: str
    config: object
    state: State  # under native names
    left_out: tuple[str, ...] = ()  # names of weights that are no part of the encoder
    notes: tuple[str, ...] = ()  # sentences for people: what was assumed


def write_checkpoint(
    path: Path | str,
    family: str,
    config,
    state: Mapping[str, Tensor],
    trained: Mapping | None = None,
    heard: Iterable[str] = (),
) -> None:
    """One safetensors file with the config in it; a kill leaves the old file or the new one, never half of one.

    Args:
        path: ends in `.safetensors`; replaced if it exists.
        family: file name in `upstream/models`, without its suffix.
        config: the dataclass that the family builds from.
        state: the model's `state_dict()`.
        trained: what `kept.Trained` says of the training, plain values; None where nobody knows.
        heard: corpora whose audio the weights were trained on.
    """
    from safetensors.torch import save

    path = Path(path)
    description = {name: value for name, value in catalog.describe(family, config).items() if name != "family"}
    metadata = {"format": FORMAT, "family": family, "config": json.dumps(description)}
    metadata |= {} if trained is None else {"trained": json.dumps(trained)}
    metadata |= {"heard": json.dumps(sorted(set(heard)))} if heard else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_in(path.parent)
    try:
        # not save_file, whose own temporary file a kill would leave behind
        temporary.write_bytes(
            save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, metadata)
        )
        for place in (temporary, path.parent):
            if place == path.parent:
                os.replace(temporary, path)
            handle = os.open(place, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path | str, with_weights: bool = True) -> tuple[str, object, State]:
    """Family, config and weights of a file that `write_checkpoint` made.

    Args:
        path: the file.
        with_weights: read the tensors too, or leave the last result empty.

    Raises:
        UserError: there is no such file, it is damaged, or another program wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("there is no such checkpoint", where=path, remedy="check the path")
    metadata, state = _read_safetensors(path, with_weights)
    if metadata.get("format") != FORMAT:
        raise UserError(
            "this .safetensors file does not say what model it belongs to",
            where=path,
            why=f"it lacks the description that wavbench writes ({FORMAT})",
            remedy="for a Hugging Face checkpoint name its folder, which holds config.json too",
        )
    family = metadata.get("family", "")
    try:
        if family not in catalog.families():
            raise ValueError(f"there is no family {family!r}; known: {', '.join(catalog.families())}")
        config = config_from(catalog.family(family).Config, json.loads(metadata["config"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            "the checkpoint's description cannot be used", where=path, why=str(error), remedy="write it again"
        ) from None
    return family, config, state


def config_from(kind: type, values: Mapping):
    """A config dataclass from plain JSON values; lists become tuples."""
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"{kind.__module__} knows no {', '.join(unknown)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def fill(family: str, config, state: Mapping[str, Tensor], where: object) -> nn.Module:
    """A model with these weights, as float32; nothing is drawn at random on the way.

    Raises:
        UserError: the config is of no model, or weights are missing, unknown, of another shape, NaN or infinite.
    """
    with buildable(where, config), torch.device("meta"):
        model = catalog.family(family).build(config)
    expected = model.state_dict()
    refuse_misfits(
        where,
        missing=sorted(set(expected) - set(state)),
        unexpected=sorted(set(state) - set(expected)),
        misshapen=[
            f"{name} {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
    )
    refuse_not_finite(state, where)
    model.load_state_dict({name: tensor.float().contiguous() for name, tensor in state.items()}, assign=True)
    return model


@contextlib.contextmanager
def buildable(where: object, config: object) -> Iterator[None]:
    """What is raised on the way from a checkpoint's settings to a model is said of the settings.

    Raises:
        UserError: they are of no model.
    """
    try:
        depth = getattr(config, "num_layers", 0)
        if type(depth) is not int or not 0 <= depth <= MOST_LAYERS:
            raise ValueError(f"{depth!r} layers; {MOST_LAYERS:,} are the most that are built")
        yield
    except (ValueError, TypeError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(
            "no model can be built of the checkpoint's settings",
            where=where,
            why=str(error)[:300],
            remedy="weights and settings must come from the same checkpoint",
        ) from None


def refuse_not_finite(state: Mapping[str, Tensor], where: object) -> None:
    """Raise if a weight is NaN or infinite, naming the tensors: every feature would be NaN too."""
    names = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise UserError(
            f"{len(names)} tensors of the checkpoint hold NaN or infinities",
            where=where,
            why=f"{', '.join(names[:8])}{more}",
            remedy="such a model gives no features: take an earlier checkpoint of the training, or fetch it again",
        )


def only_checkpoint(folder: Path) -> Path:
    """The checkpoint of ours in a folder: `checkpoint.safetensors`, or the only `.safetensors` file."""
    files = sorted(folder.glob("*.safetensors"))
    named = [path for path in files if path.name == "checkpoint.safetensors"]
    if not files or (len(files) > 1 and not named):
        raise UserError(
            "this folder is no checkpoint",
            where=folder,
            why=f"it has no config.json, and {len(files) or 'no'} .safetensors files",
            remedy="a folder with config.json and model.safetensors (Hugging Face), or the path of one file",
        )
    return (named or files)[0]


def read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} cannot be read", where=path, why=str(error), remedy="fetch it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path.name} holds no object", where=path, remedy="fetch it again")
    return value


def joined(sources: Mapping[str, tuple[str, ...]], state: Mapping[str, Tensor], where: object) -> State:
    """Native weights, each made of one or several of a checkpoint, one after the other.

    Args:
        sources: for every native name, names in `state`.
        state: exactly the weights that `sources` names.
        where: for errors.

    Raises:
        UserError: weights are missing or unknown, or do not fit together.
    """
    wanted = {name for names in sources.values() for name in names}
    refuse_misfits(where, missing=sorted(wanted - set(state)), unexpected=sorted(set(state) - wanted))
    try:
        return {
            name: torch.cat([state[part] for part in parts]) if len(parts) > 1 else state[parts[0]]
            for name, parts in sources.items()
        }
    except RuntimeError as error:
        raise UserError(
            "the weights do not fit together", where=where, why=str(error), remedy="fetch the checkpoint again"
        ) from None


def read_safetensors(path: Path) -> State:
    """The tensors of one file.

    Raises:
        UserError: it is damaged.
    """
    return _read_safetensors(path)[1]


def _read_safetensors(path: Path, with_weights: bool = True) -> tuple[dict[str, str], State]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_weights else {}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path.name} is damaged", where=path, why=str(error), remedy="fetch or write it again"
        ) from None


def refuse_misfits(where: object, **faults: list[str]) -> None:
    """Raise if anything is wrong with the weights, naming the first few of each kind."""
    lines = []
    for kind, names in faults.items():
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            lines.append(f"{len(names)} {kind}: {', '.join(names[:8])}{more}")
    if lines:
        raise UserError(
            "the weights do not fit the model",
            where=where,
            why="; ".join(lines),
            remedy="weights and config must come from the same checkpoint",
        )
