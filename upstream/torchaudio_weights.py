"""State dicts of torchaudio's wav2vec 2.0, HuBERT and WavLM models, whose settings are read off names and shapes.

Three things leave no trace in names and shapes, and are taken from torchaudio's own models: attention heads are 64
wide (WavLM's are counted); where every convolution has a layer norm, blocks are pre-norm and waveforms normalised
(large_lv60k, xlsr, hubert_large, wavlm_large), otherwise neither (base, large); strides are those of the only
kernels that torchaudio's models have.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wavbench.upstream import catalog, hugging_face
from wavbench.upstream.checkpoints import Checkpoint
from wavbench.upstream.errors import UserError

HEAD_WIDTH = 64
STRIDES = {(10, 3, 3, 3, 3, 2, 2): (5, 2, 2, 2, 2, 2, 2)}  # input steps, by kernels
ENCODER = ("feature_extractor.", "encoder.")
WRAPPED = "wav2vec2."  # where HuBERT's model for pretraining keeps the encoder
PROJECTION = "encoder.feature_projection.projection.weight"
POSITIONS = "encoder.pos_conv_embed.conv.weight_v"


def is_torchaudio(state: Mapping[str, Tensor]) -> bool:
    """Whether a table of tensors has the names of torchaudio."""
    return any(name.removeprefix(WRAPPED) == PROJECTION for name in state)


def read_torchaudio(state: Mapping[str, Tensor], where: Path) -> Checkpoint:
    """The encoder of a `state_dict()`; its CTC layer and what pretraining has beside it are left out, and named.

    wav2vec 2.0 and HuBERT have the same weights: without HuBERT's pretraining head, wav2vec 2.0 is assumed, which
    computes the same.

    Args:
        state: the file's content.
        where: the file, for errors.

    Raises:
        UserError: weights are missing, unknown, or of shapes that no model of torchaudio has.
    """
    prefix = WRAPPED if any(name.startswith(WRAPPED) for name in state) else ""
    encoder = tuple(prefix + part for part in ENCODER)
    left_out = tuple(sorted(name for name in state if not name.startswith(encoder)))
    weights = {
        hugging_face_name(name.removeprefix(prefix)): tensor
        for name, tensor in state.items()
        if name.startswith(encoder)
    }
    family = "wav2vec2"
    if any(name.endswith("gru_rel_pos_const") for name in weights):
        family = "wavlm"
        weights = _apart(weights)
    elif any(name.startswith("logit_generator.") for name in left_out):
        family = "hubert"
    if family not in catalog.families():
        raise UserError(f"there is no native {family}", where=where, remedy="a Hugging Face folder of the same model")
    settings = _settings(family, weights, where)
    normalise = settings["feat_extract_norm"] == "layer"
    config = hugging_face.config_of(family, settings, normalise, where)
    native, more = hugging_face.from_hugging_face(family, config, weights, where)
    notes = (
        "a state dict does not hold all settings; as in torchaudio's own models these are taken: "
        f"{settings['num_attention_heads']} heads, {'pre' if normalise else 'post'}-norm blocks, waveforms "
        f"{'' if normalise else 'not '}normalised",
    )
    return Checkpoint(family=family, config=config, state=native, left_out=left_out + more, notes=notes)


def hugging_face_name(name: str) -> str:
    """What transformers calls a weight of torchaudio's encoder; the weight norm gets its old names."""
    for outer, inner in (("encoder.feature_projection.", "feature_projection."), ("encoder.transformer.", "encoder.")):
        name = name.replace(outer, inner)
    return hugging_face.old_weight_norm(name)


def _apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """WavLM's attention is one of torch's, with queries, keys and values in one matrix."""
    result = {}
    for name, tensor in weights.items():
        name = name.replace(".attention.attention.", ".attention.")
        if match := re.fullmatch(r"(.*\.attention\.)in_proj_(weight|bias)", name):
            for part, piece in zip("qkv", torch.chunk(tensor, 3), strict=False):
                result[f"{match[1]}{part}_proj.{match[2]}"] = piece
        else:
            result[name] = tensor
    return result


def _settings(family: str, weights: Mapping[str, Tensor], where: Path) -> dict:
    """The `config.json` that names and shapes tell of."""
    convs = _numbered("feature_extractor.conv_layers.{}.conv.weight", weights)
    blocks = _numbered("encoder.layers.{}.final_layer_norm.weight", weights)
    inner = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    dims = {PROJECTION.removeprefix("encoder."): 2, POSITIONS: 3, inner: 2}
    dims |= dict.fromkeys(convs, 3)
    wrong = [name for name, dim in dims.items() if name not in weights or weights[name].dim() != dim]
    if wrong or not convs or not blocks:
        raise UserError(
            "this looks like a state dict of torchaudio, but is none",
            where=where,
            why=f"missing, or of another shape: {', '.join(wrong[:8]) or 'convolutions or blocks'}",
            remedy="torch.save(model.state_dict(), FILE) of a model of torchaudio.models",
        )
    width = weights[PROJECTION.removeprefix("encoder.")].shape[0]
    kernels = tuple(weights[name].shape[2] for name in convs)
    heads = width // HEAD_WIDTH
    result: dict = {}
    if family == "wavlm":
        counted = weights.get("encoder.layers.0.attention.rel_attn_embed.weight")
        if counted is None or counted.dim() != 2:
            raise UserError("the state dict lacks rel_attn_embed.weight", where=where, remedy="write it again")
        heads = counted.shape[1]
        result = {"num_buckets": counted.shape[0], "max_bucket_distance": 800}
    if kernels not in STRIDES or not heads or width % heads:
        raise UserError(
            "the settings cannot be read off this state dict",
            where=where,
            why=f"kernels {kernels} and width {width} are those of no model of torchaudio",
            remedy="a Hugging Face folder or a fairseq checkpoint of the model, which hold settings",
        )
    layer_norms = "feature_extractor.conv_layers.1.layer_norm.weight" in weights
    positions = weights[POSITIONS]
    return result | {
        "model_type": hugging_face.model_type(family),
        "conv_dim": [weights[name].shape[0] for name in convs],
        "conv_kernel": list(kernels),
        "conv_stride": list(STRIDES[kernels]),
        "conv_bias": convs[0].replace(".weight", ".bias") in weights,
        "feat_extract_norm": "layer" if layer_norms else "group",
        "do_stable_layer_norm": layer_norms,
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": heads,
        "intermediate_size": weights[inner].shape[0],
        "num_conv_pos_embeddings": positions.shape[2],
        "num_conv_pos_embedding_groups": positions.shape[0] // positions.shape[1],
    }


def _numbered(pattern: str, weights: Mapping[str, Tensor]) -> list[str]:
    """The names of a pattern with 0, 1, 2, ... in it, as far as there are any."""
    names = []
    while (name := pattern.format(len(names))) in weights:
        names.append(name)
    return names
