"""Checkpoints of fairseq (`.pt`): wav2vec, vq-wav2vec, wav2vec 2.0, XLSR, HuBERT, data2vec, and Microsoft's WavLM.

A family of ours that has `fairseq_names` reads the weights itself. Those of the others are given the names of
transformers, and the settings become those of a `config.json`, so that one table of names per family is enough.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wavbench.upstream import catalog, checkpoints, hugging_face
from wavbench.upstream.checkpoints import Checkpoint
from wavbench.upstream.errors import UserError
from wavbench.upstream.layer_lists import layer_list

FAMILIES = {"wav2vec": "wav2vec", "wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec_audio": "data2vec"}
FINE_TUNED = ("w2v_encoder.w2v_model.", "encoder.w2v_model.")  # where CTC and attention models keep the encoder
LEFT_OUT = (  # what pretraining has beside the encoder
    "mask_emb",
    "quantizer.",
    "project_q.",
    "final_proj",
    "target_glu.",
    "label_embs_concat",
    "_ema",
)
NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
        (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
        (r"^layer_norm\.", "feature_projection.layer_norm."),
        (r"^post_extract_proj\.", "feature_projection.projection."),
        (r"^encoder\.pos_conv\.(\d+)\.0\.", r"encoder.pos_conv_embed.layers.\1.conv."),
        (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
        (r"\.self_attn_layer_norm\.", ".layer_norm."),
        (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
        (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
        (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
        (r"\.self_attn\.", ".attention."),
        (r"\.fc1\.", ".feed_forward.intermediate_dense."),
        (r"\.fc2\.", ".feed_forward.output_dense."),
    )
)


def is_fairseq(content: object) -> bool:
    """Whether an unpickled file has the layout of fairseq: weights, and settings beside them."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("model"), dict)
        and all(isinstance(name, str) for name in content["model"])
        and any(isinstance(content.get(key), dict) for key in ("cfg", "args"))
    )


def read_fairseq(content: Mapping, where: Path) -> Checkpoint:
    """The encoder of an unpickled checkpoint; pretraining heads, CTC layers and decoders are left out, and named.

    Waveforms are normalised as the task's settings say; where they do not say it, as the released models were
    trained: exactly where the convolutions have layer norms.

    Args:
        content: what `read_pickle` returned.
        where: the file, for errors.

    Raises:
        UserError: no native family covers the model, its settings are not in the file, or its weights do not fit.
    """
    weights, left_out = content["model"], []
    prefix = next((p for p in FINE_TUNED if any(str(name).startswith(p) for name in weights)), "")
    if prefix:
        left_out += [name for name in weights if not name.startswith(prefix)]
        weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    left_out += [prefix + name for name, value in weights.items() if not isinstance(value, Tensor)]
    state = {name: value for name, value in weights.items() if isinstance(value, Tensor)}

    settings, normalise = _settings(content, bool(prefix), where)
    family = _family(settings, state, where)
    module = catalog.family(family)
    own = hasattr(module, "fairseq_names")
    ignored = module.FAIRSEQ_LEFT_OUT if own else LEFT_OUT
    left_out += [prefix + name for name in state if name.startswith(ignored)]
    state = {name: tensor for name, tensor in state.items() if not name.startswith(ignored)}
    if own:
        config = _from_fairseq(module, settings, where)
        native, notes = checkpoints.joined(module.fairseq_names(config), state, where), ()
    else:
        try:
            theirs = hugging_face_settings(family, settings, where)
        except (TypeError, ValueError) as error:
            raise _unusable(error, where) from None
        config = hugging_face.config_of(family, theirs, normalise, where)
        if config is None:
            raise UserError(f"the native {family} does not cover these settings", where=where, remedy=_OTHERS)
        renamed = {hugging_face_name(name): tensor for name, tensor in state.items()}
        native, more = hugging_face.from_hugging_face(family, config, renamed, where)
        left_out += more
        notes = () if normalise is not None else (hugging_face.assumed_normalisation(config),)
    return Checkpoint(family=family, config=config, state=native, left_out=tuple(sorted(left_out)), notes=notes)


_OTHERS = "the same model as a Hugging Face folder, which transformers may open"


def hugging_face_name(name: str) -> str:
    """What transformers calls a weight of fairseq's wav2vec 2.0, HuBERT, data2vec or WavLM."""
    for pattern, replacement in NAMES:
        name = pattern.sub(replacement, name, count=1)
    return name


def hugging_face_settings(family: str, settings: Mapping, where: Path) -> dict:
    """The `config.json` of a model of fairseq.

    Args:
        family: of ours.
        settings: of the model, as fairseq keeps them; an absent one has fairseq's default.
        where: the file, for errors.

    Raises:
        UserError: the settings ask for what no native family computes, or lack what cannot be assumed.
    """
    values = {name: value for name, value in settings.items() if value is not None}
    depth = int(values.get("pos_conv_depth", 1))
    plain = {
        "activation_fn": ("gelu",),
        "layer_type": ("transformer",),
        "quantize_input": (False,),
        "conv_pos_batch_norm": (False,),
        "attn_type": ("",),
        "adp_num": (-1, 0),
        "extractor_mode": ("layer_norm",) if family == "data2vec" else ("default", "layer_norm"),
    }
    if family == "wavlm":
        plain |= {"relative_position_embedding": (True,), "gru_rel_pos": (True,)}
    odd = [f"{name}={values[name]}" for name, known in plain.items() if values.get(name, known[0]) not in known]
    odd += [f"pos_conv_depth={depth}"] if (depth > 1) != (family == "data2vec") else []
    if odd:
        raise UserError(
            f"the native {family} cannot be {', '.join(odd)}",
            where=where,
            why="only the architectures of the released models are built here",
            remedy=_OTHERS,
        )
    absent = [name for name in _NEEDED if not isinstance(values.get(name), str if name.startswith("conv") else int)]
    if absent:
        raise UserError(
            f"the checkpoint's settings lack {', '.join(absent)}", where=where, remedy="fetch the checkpoint again"
        )
    channels, kernels, strides = zip(*_conv_layers(values["conv_feature_layers"], where), strict=True)
    width = int(values.get("conv_pos", 128))
    result = {
        "model_type": hugging_face.model_type(family),
        "conv_dim": list(channels),
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        "conv_bias": bool(values.get("conv_bias", False)),
        "feat_extract_norm": "layer" if values.get("extractor_mode") == "layer_norm" else "group",
        "do_stable_layer_norm": bool(values.get("layer_norm_first", False)),
        "num_conv_pos_embeddings": width,
        "num_conv_pos_embedding_groups": int(values.get("conv_pos_groups", 16)),
    }
    result |= {theirs: int(values[name]) for name, theirs in _NEEDED.items() if theirs}
    if family == "data2vec":
        result |= {"num_conv_pos_embeddings": depth, "conv_pos_kernel_size": max(3, width // depth)}
    if family == "wavlm":
        result |= {
            "num_buckets": int(values.get("num_buckets", 320)),
            "max_bucket_distance": int(values.get("max_distance", 1280)),
        }
    return result


_NEEDED = {
    "conv_feature_layers": "",
    "encoder_embed_dim": "hidden_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
    "encoder_ffn_embed_dim": "intermediate_size",
}


def _conv_layers(text: str, where: Path) -> list[tuple[int, int, int]]:
    """Channels, kernel and stride of each convolution."""
    try:
        return layer_list(text)
    except ValueError as error:
        raise UserError(
            f"this list of convolutions cannot be read: {str(text)[:100]!r}",
            where=where,
            why=str(error)[:200],
            remedy="it is written as [(512, 10, 5)] + [(512, 3, 2)] * 4",
        ) from None


def _settings(content: Mapping, fine_tuned: bool, where: Path) -> tuple[dict, bool | None]:
    """Settings of the encoder, and whether its waveforms are normalised (None where nothing says so)."""
    model, task = _model_and_task(next(v for v in (content.get("cfg"), content.get("args")) if isinstance(v, dict)))
    flags = [task.get("normalize"), model.get("normalize")]
    if fine_tuned:
        inner = model.get("w2v_args")
        if not isinstance(inner, dict):
            raise UserError(
                "the checkpoint does not hold the settings of its encoder",
                where=where,
                why=f"it was fine-tuned from {model.get('w2v_path') or 'another checkpoint'}, and names only that",
                remedy="load the checkpoint that it was fine-tuned from, or a Hugging Face folder of this one",
            )
        model, task = _model_and_task(inner)
        flags += [task.get("normalize"), model.get("normalize")]
    return model, next((flag for flag in flags if isinstance(flag, bool)), None)


def _model_and_task(settings: Mapping) -> tuple[dict, dict]:
    """Settings of Hydra have a group for each; a namespace of argparse and WavLM's have all in one."""
    if isinstance(settings.get("model"), dict):
        task = settings.get("task")
        return settings["model"], task if isinstance(task, dict) else {}
    return dict(settings), dict(settings)


def _family(settings: Mapping, state: Mapping[str, Tensor], where: Path) -> str:
    name = str(settings.get("_name") or settings.get("arch") or "")
    if not name and "relative_position_embedding" in settings:
        family = "wavlm"
    elif name == "wavlm":
        family = name
    else:
        family = FAMILIES.get(name, "")
    if family == "wav2vec" and any(weight.startswith("vector_quantizer.") for weight in state):
        family = "vq_wav2vec"
    if family not in catalog.families():
        known = sorted({*FAMILIES, "vq_wav2vec", "wavlm"})
        raise UserError(
            f"no native family reads a fairseq model {name!r}",
            where=where,
            why=f"known: {', '.join(known)}",
            remedy=_OTHERS,
        )
    return family


def _from_fairseq(module, settings: Mapping, where: Path) -> object:
    try:
        return module.from_fairseq(settings)
    except (TypeError, ValueError, KeyError, SyntaxError) as error:
        raise _unusable(error, where) from None


def _unusable(error: Exception, where: Path) -> UserError:
    return UserError("the settings of the model cannot be used", where=where, why=f"{error}", remedy="fetch it again")
