"""Any speech encoder of transformers, from a folder or the Hub: the door for families not built here.

Padding reaches valid frames in many of these models (by as much as half of a feature's norm where there is a
group norm), so they run one utterance, or utterances of equal length, at a time.
"""

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream.checkpoints import MOST_LAYERS, refuse_not_finite
from wavbench.upstream.errors import UserError
from wavbench.upstream.features import Features
from wavbench.upstream.hugging_face import WAVEFORMS, preprocessing
from wavbench.upstream.languages import file_name, unknown_language
from wavbench.upstream.layers.waveform import UNIT_VARIANCE, normalise_waveforms
from wavbench.upstream.lengths import frames_from_samples, samples_from_frames

SAMPLE_RATE = 16_000  # Hz
PROBE = SAMPLE_RATE  # samples of noise that a model of unknown shape is measured with
WINDOWS = {"cpu": 2, "cuda": 16}  # of a model that computes 30 s of every utterance, at once: all states of them
PASSING = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")  # not the model


@dataclass(frozen=True, kw_only=True)
class Config:
    kind: str  # `model_type` of transformers
    settings: dict = field(default_factory=dict)  # what differs from the defaults of its configuration
    normalise: bool = False  # each waveform to zero mean and unit variance first


class Hub(nn.Module):
    """A model of transformers with the face of an upstream.

    Args:
        encoder: takes waveforms, or what `extractor` makes of them, and returns hidden states.
        kind: `model_type`.
        settings: its configuration as plain values.
        normalise: each waveform to zero mean and unit variance first.
        extractor: feature extractor of models that see log mel spectra; None where they see waveforms.
    """

    needs_equal_lengths = True

    def __init__(self, encoder: nn.Module, *, kind: str, settings: dict, normalise: bool, extractor=None) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        self.extractor = extractor
        self.normalise = normalise
        self.window = getattr(extractor, "n_samples", None)  # samples that every input is filled up to (Whisper)
        self.normalisation = (
            UNIT_VARIANCE if normalise else f"none ({type(extractor).__name__})" if extractor else "none"
        )
        self.description = {"kind": kind, "settings": settings, "normalise": normalise}
        if extractor is not None:
            self.description["extractor"] = _digest(extractor)
        self._measure()

    def _measure(self) -> None:
        """Number and width of the states, frame rate, and the shortest utterance."""
        config = self.encoder.config
        if config.model_type == "whisper":  # known without a pass over its window of 30 s
            self.num_states, self.dim = config.encoder_layers + 1, config.d_model
            self.positions = config.max_source_positions  # frames of the whole window
            self.frame_rate, self.min_samples = self.positions * SAMPLE_RATE / self.window, 1
            return
        with torch.inference_mode(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # feature extractors, about inputs that are too short
            torch.manual_seed(0)
            noise = 0.1 * torch.randn(1, 3 * PROBE)
            states = self._states(noise[:, :PROBE])
            self.num_states, _, frames, self.dim = states.shape
            kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
            sizes = tuple(zip(kernels, strides, strict=True)) if kernels and strides else ()
            if self.window:
                self.positions = frames  # for the whole window
                self.frame_rate, self.min_samples = frames * SAMPLE_RATE / self.window, 1
            elif sizes and self.extractor is None and frames == frames_from_samples(PROBE, sizes):
                self.frame_rate = SAMPLE_RATE / math.prod(strides)
                self.min_samples = samples_from_frames(1, sizes)
            else:
                self.frame_rate = (self._states(noise).shape[2] - frames) / 2
                if self.frame_rate <= 0:
                    raise ValueError(f"{frames} states for one second of sound, and as many for three")
                low, high = 0, PROBE  # no frame, at least one
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if self._gives_frames(noise[:, :middle]) else (middle, high)
                self.min_samples = high

    @property
    def max_samples(self) -> int | None:
        """Longest utterance, where the model sees a window of fixed length."""
        return self.window or None

    def _gives_frames(self, waveform: Tensor) -> bool:
        try:
            states = self._states(waveform)
            return states.shape[2] > 0 and bool(states.isfinite().all())  # the variance of one frame is not
        except (RuntimeError, ValueError, IndexError, AssertionError):  # how a model says that its input is too short
            return False

    def forward(self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> Features:
        sizes = lengths.tolist()
        results: dict[int, Tensor] = {}
        for size in sorted(set(sizes)):
            members = [i for i, other in enumerate(sizes) if other == size]
            if size >= self.min_samples:
                at_once = WINDOWS.get(waveforms.device.type, len(members)) if self.window else len(members)
                for first in range(0, len(members), at_once):
                    some = members[first : first + at_once]
                    batch = self._states(waveforms[some, :size]).transpose(0, 1)
                    results |= dict(zip(some, batch, strict=True))
            else:
                results |= {i: waveforms.new_zeros(self.num_states, 0, self.dim) for i in members}
        frames = [results[i].shape[1] for i in range(len(sizes))]
        states = torch.stack([F.pad(results[i], (0, 0, 0, max(frames) - n)) for i, n in enumerate(frames)])
        return Features(states, torch.tensor(frames, device=lengths.device), self.frame_rate)

    def _states(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "states batch frames dim"]:
        """All states of utterances of one length, without any padding."""
        samples = waveforms.shape[1]
        if self.window and samples > self.window:
            raise UserError(
                f"an utterance of {samples / SAMPLE_RATE:.1f} s is too long for this model",
                why=f"it sees {self.window / SAMPLE_RATE:.0f} s, and what lies beyond would be lost silently",
                remedy="cut it with the manifest's start and end columns",
            )
        if self.extractor is None:
            if self.normalise:
                waveforms = normalise_waveforms(
                    waveforms, torch.full((len(waveforms),), samples, device=waveforms.device)
                )
            inputs = {self.encoder.main_input_name: waveforms}
        else:
            arrays = list(waveforms.detach().cpu().numpy())
            inputs = self.extractor(arrays, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            inputs = inputs.to(waveforms.device, waveforms.dtype)
        output = self.encoder(**inputs, output_hidden_states=True)
        states = list(output.hidden_states)
        if output.last_hidden_state.shape == states[-1].shape:
            states[-1] = output.last_hidden_state  # after the final norm, whatever the version of transformers
        states = torch.stack(states)
        if self.window and hasattr(self, "positions"):
            # copied: a part would keep the states of the whole window
            states = states[:, :, : math.ceil(samples * self.positions / self.window)].clone()
        return states


def build(config: Config) -> Hub:
    """A model with random weights."""
    from transformers import AutoConfig, AutoModel

    theirs = AutoConfig.for_model(config.kind, **config.settings)
    return wrap(AutoModel.from_config(theirs, trust_remote_code=False), theirs, config.normalise)


def open_folder(folder: Path, *, random: bool = False) -> Hub:
    """The encoder in a Hugging Face folder; with `random`, one of its configuration.

    Raises:
        UserError: transformers does not know the model, or weights are missing, damaged or of another shape.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    extractor, normalise = None, False
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        for name in ("num_hidden_layers", "encoder_layers", "decoder_layers"):
            if type(depth := getattr(config, name, 0)) is int and depth > MOST_LAYERS:
                raise ValueError(f"{name} is {depth:,}; {MOST_LAYERS:,} are the most that are built")
        if settings := preprocessing(folder):
            if settings.get("feature_extractor_type", WAVEFORMS) == WAVEFORMS:
                normalise = settings["do_normalize"]
            else:
                extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        kind = encoder_class(config)
        if kind:
            _refuse_other_spectra(extractor, config, folder)
        if random:
            model, report = kind(config) if kind else AutoModel.from_config(config, trust_remote_code=False), {}
        else:
            with _no_bars():  # they would stand before the one screen of an error
                model, report = (kind or AutoModel).from_pretrained(
                    folder,
                    trust_remote_code=False,
                    weights_only=True,
                    use_safetensors=bool(list(folder.glob("*.safetensors"))),
                    dtype=torch.float32,
                    output_loading_info=True,
                    key_mapping={r"^(model\.)?encoder\.": ""} if kind else None,
                )
    except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError, AttributeError) as error:
        raise UserError(
            "transformers cannot open this folder",
            where=folder,
            why=str(error).strip()[:1_000],
            remedy="a folder with config.json and weights of a speech encoder, fetched whole",
        ) from None
    except Exception as error:  # safetensors and pickle raise types of their own
        if type(error).__name__ not in ("SafetensorError", "UnpicklingError"):
            raise
        raise UserError("the weights are damaged", where=folder, why=str(error), remedy="fetch them again") from None
    missing = [name for name in report.get("missing_keys", ()) if not name.endswith("masked_spec_embed")]
    if missing or report.get("mismatched_keys"):
        raise UserError(
            "the weights do not fit the model",
            where=folder,
            why=f"missing: {missing[:8]}; of another shape: {list(report.get('mismatched_keys', ()))[:8]}",
            remedy="weights and config must come from the same checkpoint",
        )
    refuse_not_finite(model.state_dict(), folder)
    try:
        return wrap(model, config, normalise, extractor)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models raise what they like: of shapes, of words in place of waves, of what is absent
        why = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        heard = (
            ""
            if preprocessing(folder)
            else "; the folder has neither preprocessor_config.json nor processor_config.json"
        )
        raise UserError(
            "the model gives no states for a second of sound",
            where=folder,
            why=f"{why}{heard}",
            remedy="a folder of a speech encoder, fetched whole: config.json, preprocessor_config.json and weights",
        ) from None


def _digest(extractor) -> str:
    """Of what a feature extractor does, for the fingerprint of features: where its settings are not their defaults.

    So that a setting which a later release of transformers adds, or a word that it does not know, changes nothing.
    """
    settings = {name: value for name, value in extractor.to_dict().items() if name not in PASSING}
    with contextlib.suppress(TypeError):  # one that has no defaults
        plain = type(extractor)().to_dict()
        settings = {n: v for n, v in settings.items() if n in plain and not _same(v, plain[n])}
    text = json.dumps(settings, sort_keys=True, default=lambda value: np.asarray(value).tolist())
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _same(value, other) -> bool:
    return bool(np.array_equal(np.asarray(value, dtype=object), np.asarray(other, dtype=object)))


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of transformers, which a caller may have wanted elsewhere."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def encoder_class(config) -> type | None:
    """The class of an encoder that is built and read without the decoder of its model; None where there is none."""
    if config.model_type != "whisper":
        return None
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder


def _refuse_other_spectra(extractor, config, folder: Path) -> None:
    if extractor is None or extractor.feature_size != config.num_mel_bins:
        has = f"it makes spectra of {extractor.feature_size} mel channels" if extractor else "there is none"
        raise UserError(
            "preprocessor_config.json does not fit the encoder",
            where=folder,
            why=f"{has}, and the encoder sees {config.num_mel_bins}",
            remedy="fetch it from the same checkpoint as the weights",
        )


def wrap(model: nn.Module, config, normalise: bool, extractor=None) -> Hub:
    """The face of an upstream for an encoder, or for the encoder of a model that has a decoder too."""
    settings = json.loads(config.to_json_string(use_diff=True))
    settings = {name: value for name, value in settings.items() if name not in PASSING}
    encoder = model.get_encoder() if config.is_encoder_decoder else model
    return Hub(encoder, kind=config.model_type, settings=settings, normalise=normalise, extractor=extractor)


def download(name: str, revision: str | None = None, *, weights: bool = True, language: str | None = None) -> Path:
    """A snapshot of a Hub repository: JSON files and weights, safetensors where there are any.

    Args:
        name: `org/name`.
        revision: branch, tag or commit.
        weights: fetch them, or the JSON files alone.
        language: fetch the adapters of this one too; a repository may have a thousand of 10 MB.

    Raises:
        UserError: there is no connection, no such repository, revision or language, or no right to read it.
    """
    import huggingface_hub
    from huggingface_hub.errors import HTTPError  # of whatever library it speaks HTTP with

    def fetch(patterns: Sequence[str], ignored: Sequence[str] = ("*/*", "adapter.*")) -> Path:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignored)
        )
        return Path(folder)

    try:
        folder = fetch(["*.json", "*.safetensors"] if weights else ["*.json"])
        if language and not (folder / file_name(language)).is_file():
            fetch([file_name(language)], ["*/*"])
        if language and not (folder / file_name(language)).is_file():
            files = [Path(file) for file in huggingface_hub.list_repo_files(name, revision=revision)]
            adapters = [file.name.split(".")[1] for file in files if file.match("adapter.*.safetensors")]
            raise unknown_language(language, sorted(adapters), name)
        if weights and not list(folder.glob("*.safetensors")):
            folder = fetch(["*.json", "pytorch_model*.bin"])
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{name} cannot be fetched",
            where=f"revision {revision}" if revision else "",
            why=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            remedy="check the spelling and the connection, or fetch the folder elsewhere and name its path",
        ) from None
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} has no config.json", remedy="only models in the layout of transformers can be opened")
    return folder


TINY = {
    "conv_dim": (64,) * 7,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "num_conv_pos_embeddings": 32,
}
presets = {
    "wavlm_tiny": Config(kind="wavlm", settings=TINY),
    "hubert_tiny": Config(kind="hubert", settings=TINY),
}
