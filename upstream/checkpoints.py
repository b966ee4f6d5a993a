"""Read and write weights: our own format, and the folders of Hugging Face.

Pickles are only ever read by the loader of torch that admits nothing but tensors.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wavbench.upstream import catalog
from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.pickles import read_tensors

FORMAT = "wavbench-1"
WAVEFORMS = "Wav2Vec2FeatureExtractor"  # the feature extractor of models that see waveforms
SAMPLE_RATE = 16_000  # Hz; models of any other rate are refused
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
    path: Path | str, family: str, config, state: Mapping[str, Tensor], trained: Mapping | None = None
) -> None:
    """One safetensors file with the config in it; a kill leaves the old file or the new one, never half of one.

    Args:
        path: ends in `.safetensors`; replaced if it exists.
        family: file name in `upstream/models`, without its suffix.
        config: the dataclass that the family builds from.
        state: the model's `state_dict()`.
        trained: what `kept.Trained` says of the training, plain values; None where nobody knows.
    """
    from safetensors.torch import save

    path = Path(path)
    description = {name: value for name, value in catalog.describe(family, config).items() if name != "family"}
    metadata = {"format": FORMAT, "family": family, "config": json.dumps(description)}
    metadata |= {} if trained is None else {"trained": json.dumps(trained)}
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
    with buildable(where), torch.device("meta"):
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
def buildable(where: object) -> Iterator[None]:
    """What is raised on the way from a checkpoint's settings to a model is said of the settings.

    Raises:
        UserError: they are of no model.
    """
    try:
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


def preprocessing(folder: Path) -> dict:
    """What `preprocessor_config.json` says; empty without the file.

    Raises:
        UserError: the model wants another sample rate, or the flag of normalisation is missing or no truth value.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    settings = read_json(path)
    rate = settings.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UserError(
            f"the model was trained at another sample rate: {rate} Hz",
            where=path,
            why=f"waveforms here have {SAMPLE_RATE} Hz, and its features of them would be meaningless",
            remedy=f"a model of {SAMPLE_RATE} Hz; where the file is wrong, correct its sampling_rate",
        )
    missing = "do_normalize" not in settings
    hears = settings.get("feature_extractor_type", WAVEFORMS) == WAVEFORMS
    if hears if missing else not isinstance(settings["do_normalize"], bool):
        raise UserError(
            "do_normalize is " + ("missing" if missing else f"neither true nor false: {settings['do_normalize']!r}"),
            where=path,
            remedy="true where the model was trained on waveforms of zero mean and unit variance, otherwise false",
        )
    return settings


def model_type(family: str) -> str:
    """What transformers calls a family."""
    return getattr(catalog.family(family), "MODEL_TYPE", family.replace("_", "-"))


def family_of(settings: Mapping) -> str | None:
    """The native family of a `config.json`, if any."""
    kind = str(settings.get("model_type", ""))
    candidates = {kind.replace("-", "_"), kind.partition("-")[0]} & set(catalog.families())
    return next(
        (
            name
            for name in sorted(candidates)
            if hasattr(catalog.family(name), "from_hugging_face") and model_type(name) == kind
        ),
        None,
    )


def native_config(folder: Path) -> tuple[str, object] | None:
    """Family and config of a Hugging Face folder; None where no file in `upstream/models` covers it.

    The waveform is normalised as `preprocessor_config.json` says; without that file, as the released models
    were trained: exactly where the convolutions have layer norms.
    """
    settings = read_json(folder / "config.json")
    family = family_of(settings)
    if family is None:
        return None
    prepared = preprocessing(folder)
    config = config_of(family, settings, prepared.get("do_normalize"), folder)
    return None if config is None else (family, config)


def config_of(family: str, settings: Mapping, normalise: bool | None, where: Path) -> object | None:
    """A family's config from settings of transformers; None where they ask for what is not built here."""
    try:
        return catalog.family(family).from_hugging_face(settings, normalise)
    except (TypeError, ValueError) as error:
        raise UserError("the settings of the model cannot be used", where=where, why=str(error)) from None


def read_hugging_face(folder: Path) -> Checkpoint:
    """Weights of a Hugging Face folder as its native family's.

    Checkpoints with a head (pretraining, CTC) keep the encoder under a prefix; all that lies beside it is left
    out, and so is the vector that replaces masked frames.

    Raises:
        UserError: a file is damaged or holds more than tensors, or encoder weights are missing or unknown.
    """
    native = native_config(folder)
    if native is None:
        raise ValueError(f"no native family covers {folder}")
    family, config = native
    notes = () if (folder / "preprocessor_config.json").is_file() else (assumed_normalisation(config),)
    state, left_out = from_hugging_face(family, config, _read_folder(folder), folder)
    return Checkpoint(family=family, config=config, state=state, left_out=left_out, notes=notes)


def from_hugging_face(
    family: str, config: object, state: Mapping[str, Tensor], where: object
) -> tuple[State, tuple[str, ...]]:
    """Weights under the names of transformers to native ones, and the names of those left out.

    Raises:
        UserError: encoder weights are missing or unknown.
    """
    state = {old_weight_norm(name): tensor for name, tensor in state.items()}
    prefix = f"{model_type(family).replace('-', '_')}."
    left_out = []
    if any(name.startswith(prefix) for name in state):
        left_out = [name for name in state if not name.startswith(prefix)]
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    left_out += [name for name in state if name == "masked_spec_embed"]
    state.pop("masked_spec_embed", None)
    with buildable(where):
        names = catalog.family(family).hugging_face_names(config)
    return joined(names, state, where), tuple(sorted(left_out))


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


def assumed_normalisation(config: object) -> str:
    """What is said where a checkpoint does not tell whether it was trained on normalised waveforms."""
    does = "are" if getattr(config, "normalise", False) else "are not"
    return (
        f"the checkpoint does not say whether waveforms are normalised: they {does} "
        "(as the released models were trained: exactly where the convolutions have layer norms)"
    )


def old_weight_norm(name: str) -> str:
    """The name that a weight had before torch's weight norm became a parametrisation; others stay as they are."""
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = name.replace(f"parametrizations.weight.{new}", old)
    return name


def _read_folder(folder: Path) -> State:
    """All tensors of a folder: safetensors where there are any, one file or several."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index, single = folder / f"{stem}.{suffix}.index.json", folder / f"{stem}.{suffix}"
        if single.is_file():
            files = [single]
        elif index.is_file():
            places = read_json(index).get("weight_map")
            names = sorted({str(name) for name in places.values()} if isinstance(places, dict) else ())
            files = [folder / Path(name).name for name in names]  # a name never leads out of the folder
            if absent := [path.name for path in files if not path.is_file()]:
                raise UserError(f"{index.name} names files that are not there: {', '.join(absent)}", where=folder)
        else:
            continue
        if suffix == "safetensors":
            return {name: tensor for path in files for name, tensor in read_safetensors(path).items()}
        return {name: tensor for path in files for name, tensor in read_tensors(path).items()}
    raise UserError(
        "this folder has no weights",
        where=folder,
        why="neither model.safetensors nor pytorch_model.bin",
        remedy="fetch them, or weights=random for a random twin",
    )


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
