"""Upstreams by name: `names()` lists the presets, `load()` makes one ready for extraction.

A listing of `upstream/models` is the registry: a preset is called `<file>_<preset>`, or as its file when the
preset has no name of its own. Only the file that a name points to is imported.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream import inference
from wavbench.upstream.errors import UserError, closest
from wavbench.upstream.features import Features
from wavbench.upstream.kept import Trained, heard_of, trained_of

MODELS = Path(__file__).parent / "models"
WEIGHTS = Path(__file__).parent / "weights"  # shipped checkpoints, one <preset name>.safetensors each
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PICKLED = (".pt", ".pth", ".bin")  # suffixes of files that torch.save wrote
FORCE_HUB = "hub:"  # before a folder or id: use the model of transformers even where a native one exists


class Upstream:
    """A frozen model with its identity: waveforms in, features out, no gradients.

    Args:
        name: what it was asked for by.
        model: module with `num_states`, `dim`, `frame_rate`, `min_samples` and
            `forward(waveforms, lengths) -> Features`.
        config: plain values that describe the model, `family` among them.
        checkpoint: where the weights came from, for people.
        device: where the model runs; features always come back on the CPU.
        left_out: names of the checkpoint's weights that are no part of the encoder.
        notes: sentences for people: what was assumed about the checkpoint.
        folder: where a Hugging Face checkpoint lies.
        precision: "fp32", or "bf16" for products in bfloat16 (the residual stream stays float32): twice as fast on
            hardware that has it, states differ by about one percent.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        config: dict,
        checkpoint: str,
        device: str | torch.device = "cpu",
        left_out: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        folder: Path | None = None,
        precision: str = "fp32",
    ) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False).to(device)
        self.config = config
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.left_out, self.notes, self.folder = left_out, notes, folder
        self.precision = "fp32"
        self.set_precision(precision)
        self.pretraining: tuple[str, ...] = ()  # corpora that the weights have heard, where that is known
        self.trained: Trained | None = None  # how long, where that is known
        self.language: str | None = None  # whose adapters are in the model, where they were exchanged
        self.num_states: int = model.num_states
        self.dim: int = model.dim
        self.frame_rate: float = model.frame_rate  # Hz
        self.min_samples: int = model.min_samples  # fewest samples that give one frame
        self.max_samples: int | None = getattr(model, "max_samples", None)  # most, where the model has a fixed window
        self.normalisation: str = getattr(model, "normalisation", "none")  # what happens to the waveform first
        self.needs_equal_lengths: bool = getattr(model, "needs_equal_lengths", False)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())

    def __repr__(self) -> str:
        return f"Upstream({self.name!r}, {self.num_states} states x {self.dim}, {self.checkpoint!r})"

    def remarks(self) -> list[str]:
        """What a person should know of the checkpoint, a sentence each: what was left out, and what was assumed."""
        if not self.left_out:
            return list(self.notes)
        parts = sorted({name.split(".")[0] for name in self.left_out})
        more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
        said = f"{len(self.left_out)} weights beside the encoder were left out: {', '.join(parts[:8])}{more}"
        return [said, *self.notes]

    def set_language(self, code: str) -> None:
        """Exchange the adapters of a multilingual model (MMS) for those of a language; the hash changes with them.

        Args:
            code: of the language, as in `adapter.<code>.safetensors` of the checkpoint's folder.

        Raises:
            UserError: the model has no adapters, or none for that language.
        """
        from wavbench.upstream import languages

        if self.folder is None or not self.config.get("adapter_dim"):
            raise UserError(
                f"{self.name} has no adapters per language",
                where=f"language={code}",
                remedy="leave language= out, or a Hugging Face folder or id with adapters: facebook/mms-1b-all",
            )
        names = family(self.config["family"]).hugging_face_names(self.model.config)
        languages.set_language(self.model, names, self.folder, code)
        self.checkpoint = f"{self.checkpoint.removesuffix(f' language {self.language}')} language {code}"
        self.language = code
        self.__dict__.pop("weights_hash", None)  # of the weights that were

    @functools.cached_property
    def weights_hash(self) -> str:
        """BLAKE2b over the names, types, shapes and bytes of all weights: the same model, wherever it lies."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def set_precision(self, precision: str) -> None:
        """Compute in "fp32" or "bf16" from now on; bf16 is part of the model's description, as it changes states.

        Raises:
            UserError: another word.
        """
        inference.check_precision(precision)
        self.checkpoint = self.checkpoint.removesuffix(f" {self.precision}")
        self.precision = precision
        self.config = {name: value for name, value in self.config.items() if name != "precision"}
        if precision != "fp32":
            self.config["precision"] = precision
            self.checkpoint += f" {precision}"

    def __call__(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        with inference.computing(self.device, self.precision):
            features = self.model(waveforms.to(self.device, torch.float32), lengths.to(self.device))
        return Features(features.states.cpu().float(), features.lengths.cpu(), features.frame_rate)

    def batch(self, waveforms: Sequence[Float[Tensor, " _"]], layers: Sequence[int]) -> inference.Pending:
        """States of some layers (ascending) of a batch, without padding; on a GPU they may still be under way."""
        with inference.computing(self.device, self.precision):
            return inference.batch_states(self.model, waveforms, layers, self.device)

    def recording(self, waveform: Float[Tensor, " samples"], layers: Sequence[int]) -> Iterator[inference.Part]:
        """States of some layers of a long recording, part by part; see `inference.recording_states`."""
        parts = inference.recording_states(self.model, waveform, layers, self.device)
        while True:
            with inference.computing(self.device, self.precision):  # never around a yield: the caller would be in it
                part = next(parts, None)
            if part is None:
                return
            yield part

    def extract(self, source: str | Path | np.ndarray | Tensor | Sequence) -> Features:
        """Features of a file, of a 16 kHz waveform, or of a list of either, as one batch.

        Args:
            source: path of an audio file; one-dimensional samples at 16 kHz in [-1, 1]; or a list of those.

        Raises:
            UserError: a file does not decode, its samples cannot be speech, or it is shorter than one frame.
        """
        from wavbench.upstream import audio

        several = isinstance(source, Sequence) and not isinstance(source, str)
        waveforms = []
        for one in source if several else [source]:
            where = one if isinstance(one, str | Path) else f"waveform {len(waveforms)}"
            try:
                samples = audio.load_audio(one) if where is one else audio.prepare(np.asarray(one), 16_000)
            except audio.AudioError as error:
                raise UserError(f"not usable as speech: {error}", where=where) from None
            if len(samples) < self.min_samples:
                raise UserError(
                    f"too short: {len(samples)} samples at 16 kHz give no frame",
                    where=where,
                    remedy=f"{self.name} needs at least {self.min_samples} samples "
                    f"({1000 * self.min_samples / 16_000:.0f} ms): leave it out, or pad it",
                )
            waveforms.append(torch.from_numpy(np.ascontiguousarray(samples)))
        lengths = torch.tensor([len(samples) for samples in waveforms])
        return self(nn.utils.rnn.pad_sequence(waveforms, batch_first=True), lengths)


def families() -> list[str]:
    """The model files, by name; nothing is imported."""
    return sorted(path.stem for path in MODELS.glob("*.py") if not path.stem.startswith("_"))


def family(name: str) -> ModuleType:
    """The module of one family: `Config`, `build` and `presets`."""
    return importlib.import_module(f"wavbench.upstream.models.{name}")


def names() -> list[str]:
    """All preset names. Imports every family."""
    return [f"{stem}_{preset}" if preset else stem for stem in families() for preset in family(stem).presets]


def find_preset(name: str) -> tuple[str, object] | None:
    """Family and config of a preset name, importing only the family whose file name it starts with."""
    stems = [stem for stem in families() if name == stem or name.startswith(f"{stem}_")]
    for stem in sorted(stems, key=len, reverse=True):
        presets = family(stem).presets
        preset = name[len(stem) + 1 :]
        if preset in presets:
            return stem, presets[preset]
    return None


def is_known(name: str) -> bool:
    """Whether a name has the form of something that `load` takes: a preset, a path that is there, an id of the Hub."""
    place = name.removeprefix(FORCE_HUB)
    return bool(find_preset(name) or (place and Path(place).exists()) or HUB_ID.fullmatch(place))


def describe(stem: str, config) -> dict:
    """A config as plain JSON values, with its family; fields marked so are left out where they are not set."""
    optional = {field.name: field.default for field in dataclasses.fields(config) if field.metadata.get("described")}
    values = {name: value for name, value in dataclasses.asdict(config).items() if optional.get(name, ...) != value}
    return {"family": stem, **json.loads(json.dumps(values))}


def build_random(stem: str, config, seed: int) -> nn.Module:
    """A model with fresh weights from a seed; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family(stem).build(config)


def load(
    name: str,
    *,
    weights: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    language: str | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> Upstream:
    """An upstream by preset name, folder, file or hub id.

    Args:
        name: a preset (`names()`; a folder of the same name is `./name`); a folder in the layout of Hugging Face,
            or with one checkpoint of ours; a `.safetensors` file of ours; a `.pt` or `.pth` file of fairseq, WavLM
            or torchaudio; or a hub id such as `org/name`. With `hub:` before a folder or an id the implementation of
            transformers is used even where there is a native one.
        weights: `"random"` for a random twin: the same model with fresh weights from `seed`.
        seed: of random weights.
        revision: branch, tag or commit of a hub id.
        language: code of the language whose adapters a multilingual checkpoint (MMS) is used with.
        device: where the model runs.
        precision: "fp32" or "bf16".

    Raises:
        UserError: the name is unknown, the preset has no weights, or a checkpoint does not fit its model.
    """
    inference.check_precision(precision)
    upstream = _load(name, weights, seed, revision, language, device)
    upstream.set_precision(precision)
    if language:
        upstream.set_language(language)
    return upstream


def _load(name: str, weights: str | None, seed: int, revision: str | None, language: str | None, device) -> Upstream:
    if weights not in (None, "random"):
        raise UserError(f"weights={weights} is not known", remedy="leave it out, or weights=random seed=0")
    forced = name.startswith(FORCE_HUB)
    place = name.removeprefix(FORCE_HUB)
    path = Path(place)
    found = None if forced else find_preset(name)
    if revision and (found or path.exists()):
        raise UserError(
            f"{name} has no revision {revision}",
            why="a revision is a branch, tag or commit of a hub id (org/name)",
            remedy="leave revision= out",
        )
    if found:
        return _load_preset(name, *found, weights, seed, device)
    if place and path.is_dir():
        return _load_folder(name, path, weights, seed, device, force_hub=forced)
    if path.suffix == ".safetensors" and not forced:
        return _load_file(name, path, weights, seed, device)
    if path.suffix in PICKLED and not forced:
        return _load_pickle(name, path, weights, seed, device)
    if HUB_ID.fullmatch(place):
        from wavbench.upstream.models.hub import download

        folder = download(place, revision, weights=weights is None, language=language)
        return _load_folder(name, folder, weights, seed, device, force_hub=forced, title=f"{place}@{folder.name[:8]}")
    raise UserError(
        f"unknown upstream {name!r}",
        why="it is no preset, no folder, no .safetensors or .pt file and no hub id (org/name)",
        remedy=closest(name, names()),
    )


def _load_preset(name: str, stem: str, config, weights: str | None, seed: int, device) -> Upstream:
    shipped = WEIGHTS / f"{name}.safetensors"
    if weights == "random":
        model, checkpoint = build_random(stem, config, seed), f"{name} random seed {seed}"
    elif shipped.is_file():
        return _load_file(name, shipped, None, seed, device, title=name)
    elif hasattr(family(stem), "NEEDS_NO_WEIGHTS"):
        model, checkpoint = family(stem).build(config), name
    else:
        raise UserError(
            f"the preset {name} has no weights here",
            why="a preset is a size, and no trained checkpoint of it is shipped",
            remedy="weights=random seed=0 for a random twin, or the folder, file or hub id of a checkpoint",
        )
    return Upstream(name, model, config=describe(stem, config), checkpoint=checkpoint, device=device)


def _load_file(name: str, path: Path, weights: str | None, seed: int, device, title: str = "") -> Upstream:
    from wavbench.upstream.checkpoints import buildable, fill, read_checkpoint

    stem, config, state = read_checkpoint(path, with_weights=weights is None)
    checkpoint = title or path.name
    if weights == "random":
        with buildable(path, config):
            model, checkpoint = build_random(stem, config, seed), f"{checkpoint} random seed {seed}"
    else:
        model = fill(stem, config, state, where=path)
    upstream = Upstream(name, model, config=describe(stem, config), checkpoint=checkpoint, device=device)
    if weights is None:
        upstream.trained, upstream.pretraining = trained_of(path), heard_of(path)
    return upstream


def _load_pickle(name: str, path: Path, weights: str | None, seed: int, device) -> Upstream:
    from wavbench.upstream.checkpoints import buildable, fill
    from wavbench.upstream.foreign import read_foreign

    found = read_foreign(path)
    if weights == "random":
        with buildable(path, found.config):
            model, checkpoint = build_random(found.family, found.config, seed), f"{path.name} random seed {seed}"
        said = {}
    else:
        model, checkpoint = fill(found.family, found.config, found.state, where=path), path.name
        said = {"left_out": found.left_out, "notes": found.notes}
    description = describe(found.family, found.config)
    return Upstream(name, model, config=description, checkpoint=checkpoint, device=device, **said)


def _load_folder(
    name: str, folder: Path, weights: str | None, seed: int, device, *, force_hub: bool, title: str = ""
) -> Upstream:
    from wavbench.upstream import checkpoints, hugging_face

    title = title or folder.resolve().name or str(folder)
    if not (folder / "config.json").is_file():
        return _load_file(name, checkpoints.only_checkpoint(folder), weights, seed, device, title=title)
    said = {}
    if not force_hub and (native := hugging_face.native_config(folder)):
        stem, config = native
        if weights == "random":
            with checkpoints.buildable(folder, config):
                model = build_random(stem, config, seed)
        else:
            found = hugging_face.read_hugging_face(folder)
            model = checkpoints.fill(stem, config, found.state, where=folder)
            said = {"left_out": found.left_out, "notes": found.notes, "folder": folder}
        description = describe(stem, config)
    else:
        from wavbench.upstream.models import hub

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = hub.open_folder(folder, random=weights == "random")
        description = {"family": "hub", **model.description}
    checkpoint = f"{title} random seed {seed}" if weights == "random" else title
    return Upstream(name, model, config=description, checkpoint=checkpoint, device=device, **said)
