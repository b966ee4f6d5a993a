"""The folders of Hugging Face: their settings and weights as a native family's."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wavbench.upstream import catalog
from wavbench.upstream.checkpoints import (
    Checkpoint,
    State,
    buildable,
    joined,
    read_json,
    read_safetensors,
)
from wavbench.upstream.errors import UserError
from wavbench.upstream.pickles import read_tensors

WAVEFORMS = "Wav2Vec2FeatureExtractor"  # the feature extractor of models that see waveforms
SAMPLE_RATE = 16_000  # Hz; models of any other rate are refused


def preprocessing(folder: Path) -> dict:
    """What `preprocessor_config.json` says, or the part of `processor_config.json` that newer releases of transformers
    write in its place; empty without either.

    Raises:
        UserError: the model wants another sample rate, or the flag of normalisation is missing or no truth value.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        settings = read_json(path)
    elif (path := folder / "processor_config.json").is_file():
        settings = read_json(path).get("feature_extractor", {})
        if not isinstance(settings, dict):
            raise UserError("feature_extractor is no table of settings", where=path, remedy="fetch the file again")
    else:
        settings = {}
    if not settings:
        return {}
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

    The waveform is normalised as `preprocessing` says; where it says nothing, as the released models were trained:
    exactly where the convolutions have layer norms.
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
    notes = () if preprocessing(folder) else (assumed_normalisation(config),)
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
    with buildable(where, config):
        names = catalog.family(family).hugging_face_names(config)
    return joined(names, state, where), tuple(sorted(left_out))


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
