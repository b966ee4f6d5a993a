"""Other toolkits with the same weights, for `wavbench speed`: what each needs to be built, and how it is called.

Every one is called as its own users call it: padding, masks and normalisation are its own affair. s3prl is no
dependency; it takes part where it is installed. Its `hub` and `nn` do not import beside current torchaudio, which
lacks two calls (`set_audio_backend`, `sox_effects`); the experts opened here need neither.
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.upstream import fairseq, torchaudio_weights
from wavbench.upstream.models.wav2vec2 import Config

Forward = Callable[[nn.Module, Sequence[Tensor]], Sequence[Tensor]]
EPS = 1e-7  # of the normalisation in transformers' feature extractor


class NoPeer(Exception):
    """A toolkit that cannot take part, and why."""


@dataclass(frozen=True)
class Given:
    """What a peer is built from.

    Args:
        family: of ours.
        config: the shape.
        folder: in the layout of transformers, with the weights.
    """

    family: str
    config: Config
    folder: Path

    def state(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self.folder / "model.safetensors")


@dataclass(frozen=True)
class Peer:
    """A toolkit ready to run.

    Args:
        name: of the toolkit.
        version: that is installed.
        model: in evaluation mode.
        forward: from the model and waveforms, padded if there are several, to states (batch, frames, dim).
        layers: of ours that the states are, in their order; more states than these correspond to none.
    """

    name: str
    version: str
    model: nn.Module
    forward: Forward
    layers: range


def open_peer(name: str, given: Given) -> Peer:
    """A toolkit with given weights, on the CPU.

    Raises:
        NoPeer: it is not installed, or cannot run these weights.
    """
    if importlib.util.find_spec(name) is None:
        raise NoPeer("not installed")
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # at the ways of older programs
            model, forward, layers = PEERS[name](given)
    except NoPeer:
        raise
    except Exception as error:  # other people's code, of any version: whatever it is, the others still count
        raise NoPeer(f"it cannot be built: {said_by(error)}") from error
    return Peer(name, importlib.metadata.version(name), model.eval().requires_grad_(False), forward, layers)


def said_by(error: Exception) -> str:
    """An error of another program in a line."""
    return f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0].removesuffix(": ")


def padded(
    model: nn.Module, waveforms: Sequence[Tensor]
) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
    """Waveforms as one batch in the type and on the device of a model, and their lengths."""
    weight = next(model.parameters())
    lengths = torch.tensor([len(waveform) for waveform in waveforms], device=weight.device)
    return nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True).to(weight.device, weight.dtype), lengths


def normalised(waveforms: Sequence[Tensor], config: Config) -> Sequence[Tensor]:
    """Each waveform to zero mean and unit variance, where the model wants it."""
    return [F.layer_norm(one, one.shape, eps=EPS) for one in waveforms] if config.normalise else waveforms


def _transformers(given: Given) -> tuple[nn.Module, Forward, range]:
    """As its feature extractors say: models with a group norm are padded with zeros and get no mask."""
    from transformers import AutoModel

    _quieten()
    masked = given.config.conv_norm == "layer"

    def forward(model: nn.Module, waveforms: Sequence[Tensor]) -> Sequence[Tensor]:
        batch, lengths = padded(model, normalised(waveforms, given.config))
        mask = None
        if masked and len(waveforms) > 1:
            mask = (torch.arange(batch.shape[1], device=batch.device) < lengths[:, None]).long()
        output = model(batch, attention_mask=mask, output_hidden_states=True)
        # of some families the last of the hidden states lacks the final norm
        return [*output.hidden_states[:-1], output.last_hidden_state]

    return AutoModel.from_pretrained(given.folder), forward, range(given.config.num_layers + 1)


def _torchaudio(given: Given) -> tuple[nn.Module, Forward, range]:
    """It has no state before the first block; with pre-norm blocks its last one lacks the final norm."""
    import torchaudio.models

    config = given.config
    _refuse(given, "torchaudio", ("wav2vec2", "hubert", "wavlm"))
    settings = {
        "extractor_mode": f"{config.conv_norm}_norm",
        "extractor_conv_layer_config": _convs(config),
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.dim,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": config.position_kernel,
        "encoder_pos_conv_groups": config.position_groups,
        "encoder_num_layers": config.num_layers,
        "encoder_num_heads": config.num_heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": config.inner_dim,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": config.pre_norm,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
    state = given.state()
    if given.family == "wavlm":
        settings |= {"encoder_num_buckets": config.buckets, "encoder_max_distance": config.max_distance}
        for i in range(config.num_layers):
            place = f"encoder.layers.{i}.attention."
            for kind in ("weight", "bias"):
                parts = [state.pop(f"{place}{part}_proj.{kind}") for part in "qkv"]
                state[f"{place}in_proj_{kind}"] = torch.cat(parts)
        model = torchaudio.models.wavlm_model(**settings)
    else:
        model = torchaudio.models.wav2vec2_model(**settings)

    def name_of(name: str) -> str:
        return torchaudio_weights.hugging_face_name(name).replace(".attention.attention.", ".attention.")

    model.load_state_dict(_renamed(model, name_of, state))

    def forward(model: nn.Module, waveforms: Sequence[Tensor]) -> Sequence[Tensor]:
        batch, lengths = padded(model, normalised(waveforms, config))
        return model.extract_features(batch, lengths if len(waveforms) > 1 else None)[0]

    return model, forward, range(1, config.num_layers + (0 if config.pre_norm else 1))


def _s3prl(given: Given) -> tuple[nn.Module, Forward, range]:
    """Its expert, from a checkpoint in its own layout."""
    config = given.config
    _refuse(given, "s3prl", ("wav2vec2", "hubert", "wavlm"))
    settings = {
        "extractor_mode": "default" if config.conv_norm == "group" else "layer_norm",
        "conv_feature_layers": str(_convs(config)),
        "conv_bias": config.conv_bias,
        "encoder_layers": config.num_layers,
        "encoder_embed_dim": config.dim,
        "encoder_ffn_embed_dim": config.inner_dim,
        "encoder_attention_heads": config.num_heads,
        "layer_norm_first": config.pre_norm,
        "conv_pos": config.position_kernel,
        "conv_pos_groups": config.position_groups,
    }
    task = {"normalize": config.normalise}
    _quieten()
    place = f"s3prl.upstream.{given.family}"
    if given.family == "wavlm":
        code = importlib.import_module(f"{place}.WavLM")
        settings |= task | {"relative_position_embedding": True, "gru_rel_pos": True}
        settings |= {"num_buckets": config.buckets, "max_distance": config.max_distance}
        model, beside = code.WavLM(code.WavLMConfig(settings)), {}
    elif given.family == "hubert":
        code = importlib.import_module(f"{place}.hubert_model")
        beside = {"dictionaries_symbols": [["0"]]}
        settings["label_rate"] = 50
        model = code.HubertModel(code.HubertConfig(**settings), code.HubertPretrainingConfig(**task), [["0"]])
    else:
        code = importlib.import_module(f"{place}.wav2vec2_model")
        model, beside = code.Wav2Vec2Model(code.Wav2Vec2Config(**settings)), {}
    state = _renamed(model, fairseq.hugging_face_name, given.state(), fairseq.LEFT_OUT)
    if given.family == "wavlm":
        content = {"cfg": settings, "model": state}
    else:
        content = {"task_cfg": task, "model_cfg": settings, "model_weight": state, **beside}
    path = given.folder.parent / "s3prl.pt"
    torch.save(content, path)
    expert = importlib.import_module(f"{place}.expert").UpstreamExpert(str(path))

    def forward(model: nn.Module, waveforms: Sequence[Tensor]) -> Sequence[Tensor]:
        weight = next(model.parameters())
        return model([one.to(weight.device, weight.dtype) for one in waveforms])["hidden_states"]

    return expert, forward, range(config.num_layers + 1)


def _speechbrain(given: Given) -> tuple[nn.Module, Forward, range]:
    """Its wrappers of transformers, which mask padding, normalise a batch with its padding, and lack the last norm."""
    wrappers = {"hubert": ("hubert", "HuBERT"), "wavlm": ("wavlm", "WavLM")}
    file, name = wrappers.get(given.family, ("wav2vec2", "Wav2Vec2"))
    _quieten()
    kind = getattr(importlib.import_module(f"speechbrain.integrations.huggingface.{file}"), name)
    model = kind(str(given.folder), str(given.folder.parent / "speechbrain"), output_all_hiddens=True)

    def forward(model: nn.Module, waveforms: Sequence[Tensor]) -> Sequence[Tensor]:
        batch, lengths = padded(model, waveforms)
        return model(batch, lengths / lengths.max() if len(waveforms) > 1 else None).unbind(0)

    return model, forward, range(given.config.num_layers + (0 if given.config.pre_norm else 1))


PEERS: dict[str, Callable[[Given], tuple[nn.Module, Forward, range]]] = {
    "transformers": _transformers,
    "torchaudio": _torchaudio,
    "s3prl": _s3prl,
    "speechbrain": _speechbrain,
}


def _quieten() -> None:
    """No bars and notes of other programs between the lines of ours."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("s3prl", "speechbrain"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _refuse(given: Given, name: str, families: Sequence[str]) -> None:
    if given.family not in families:
        raise NoPeer(f"no {given.family} of {name} is built here")
    if given.config.adapter_dim:
        raise NoPeer(f"{name} has no adapters")


def _convs(config: Config) -> list[tuple[int, int, int]]:
    return list(zip(config.conv_channels, config.conv_kernels, config.conv_strides, strict=True))


def _renamed(
    model: nn.Module, name_of: Callable[[str], str], state: Mapping[str, Tensor], own: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Weights of transformers under the names of another model; what begins with `own` it keeps."""
    result, unused = {}, set(state)
    for name, tensor in model.state_dict().items():
        theirs = name_of(name)
        if theirs not in state and not name.startswith(own):
            raise NoPeer(f"its weight {name} has no counterpart")
        result[name] = state.get(theirs, tensor)
        unused.discard(theirs)
    if unused:
        raise NoPeer(f"it has no place for {min(unused)}")
    return result
