"""An upstream as a folder that `transformers.AutoModel` opens, with the same states."""

import json
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from wavbench.upstream import catalog, checkpoints, hugging_face
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError
from wavbench.upstream.models import data2vec, wav2vec2

# Fields of a config by what transformers calls them; those of training act on nothing else.
SETTINGS = wav2vec2.HUGGING_FACE_SETTINGS | {
    "adapter_dim": "adapter_attn_dim",
    "projection_dropout": "feat_proj_dropout",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "inner_dropout": "activation_dropout",
    "layerdrop": "layerdrop",
}
OWN = {  # where a family differs; "" for what transformers has no setting for
    "wavlm": {"buckets": "num_buckets", "max_distance": "max_bucket_distance"},
    "data2vec": {
        "position_kernel": "conv_pos_kernel_size",
        "position_depth": "num_conv_pos_embeddings",
        "pre_norm": "",
        "conv_norm": "",
    },
}
TRAINING = ("projection_dropout", "dropout", "attention_dropout", "inner_dropout", "layerdrop")


def refuse_place(folder: Path) -> None:
    """Raise if a folder cannot be written as a new one.

    Raises:
        UserError: it is a file, or holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} exists" + (" and is not empty" if folder.is_dir() else " and is a file"),
            where=folder,
            why="an export never overwrites",
            remedy="another folder, or delete that one",
        )


def export_hugging_face(upstream: Upstream, folder: Path, *, licence: str = "unknown") -> Path:
    """Write config.json, model.safetensors, preprocessor_config.json and a model card; all of them or nothing.

    Args:
        upstream: of a native family that transformers has too.
        folder: where to; new, or empty.
        licence: of the weights, for the card.

    Raises:
        UserError: transformers has no such model, or the folder holds something already.
    """
    from safetensors.torch import save

    refuse_place(folder)
    family, settings, kind = _settings(upstream)
    state = _state(upstream, family, settings)
    normalise = bool(upstream.config["normalise"])
    preprocessor = {
        "do_normalize": normalise,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": upstream.config["conv_norm"] == "layer",
        "sampling_rate": hugging_face.SAMPLE_RATE,
    }
    files = {
        "config.json": settings.to_json_string().encode(),
        "preprocessor_config.json": (json.dumps(preprocessor, indent=2) + "\n").encode(),
        "model.safetensors": save(state, {"format": "pt"}),
        "README.md": _card(upstream, family, kind, folder.name, licence).encode(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_in(folder.parent)
    temporary.mkdir()
    try:
        for name, content in files.items():
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, folder)  # fails where a folder that is not empty has come up meanwhile
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _settings(upstream: Upstream):
    """The family of transformers that has such a model, its configuration, and the model's name."""
    import transformers

    family = upstream.config["family"]
    module = catalog.family(family)
    if not hasattr(module, "hugging_face_names"):
        known = [name for name in catalog.families() if hasattr(catalog.family(name), "hugging_face_names")]
        raise UserError(
            f"{upstream.name} cannot be exported to the layout of transformers",
            why="it is opened through transformers already" if family == "hub" else f"no names are known for {family}",
            remedy="its folder can be copied as it is" if family == "hub" else f"families that can: {', '.join(known)}",
        )
    config = checkpoints.config_from(
        module.Config, {k: v for k, v in upstream.config.items() if k not in ("family", "precision")}
    )
    if family == "data2vec" and (plain := data2vec.as_wav2vec2(config)):
        family, config, module = "wav2vec2", plain, wav2vec2
    table = SETTINGS | OWN.get(family, {})
    values = {theirs: getattr(config, ours) for ours, theirs in table.items() if theirs and hasattr(config, ours)}
    values["adapter_attn_dim"] = values["adapter_attn_dim"] or None
    settings = transformers.AutoConfig.for_model(hugging_face.model_type(family), **values)
    # no vector for masked frames is at hand, and without masking the model has none
    settings.mask_time_prob = settings.mask_feature_prob = 0.0
    with torch.device("meta"):
        kind = type(transformers.AutoModel.from_config(settings)).__name__
    settings.architectures = [kind]
    settings.dtype = torch.float32
    again = module.from_hugging_face(json.loads(settings.to_json_string()), config.normalise)
    lost = [
        name
        for name in catalog.describe(family, config)
        if name not in ("family", *TRAINING) and (again is None or getattr(again, name) != getattr(config, name))
    ]
    if lost:
        raise UserError(
            f"{upstream.name} cannot be exported to the layout of transformers",
            why=f"its configuration has no place for {', '.join(f'{name}={getattr(config, name)}' for name in lost)}",
            remedy="the checkpoint of ours, which keeps every setting",
        )
    return family, settings, kind


def _state(upstream: Upstream, family: str, settings) -> dict[str, Tensor]:
    """The weights under the names of transformers, those of its released checkpoints."""
    import transformers

    with torch.device("meta"):
        theirs = transformers.AutoModel.from_config(settings).state_dict()
    sizes = {hugging_face.old_weight_norm(name): tensor.shape for name, tensor in theirs.items()}
    sources = catalog.family(family).hugging_face_names(upstream.model.config)
    ours, state = upstream.model.state_dict(), {}
    for name, parts in sources.items():
        tensor = ours[name].detach().cpu().float()
        pieces = tensor.split([sizes[part][0] for part in parts]) if len(parts) > 1 else [tensor]
        state |= {part: piece.contiguous() for part, piece in zip(parts, pieces, strict=True)}
    checkpoints.refuse_misfits(
        upstream.name,
        missing=sorted(set(sizes) - set(state)),
        unexpected=sorted(set(state) - set(sizes)),
        misshapen=sorted(name for name in state if name in sizes and state[name].shape != sizes[name]),
    )
    return state


def _card(upstream: Upstream, family: str, kind: str, title: str, licence: str) -> str:
    millions = upstream.num_parameters / 1e6
    does = "to zero mean and unit variance each" if upstream.config["normalise"] else "not normalised"
    return f"""---
library_name: transformers
tags:
- audio
- speech
---

# {title}

{family} encoder, {millions:.1f} M parameters, {upstream.num_states} states of width {upstream.dim}, \
{upstream.frame_rate:g} frames per second. Exported by wavbench; `transformers` computes the same states.

- source checkpoint: {upstream.checkpoint}
- weights hash (BLAKE2b of wavbench's names and values): {upstream.weights_hash}
- licence of the weights: {licence}
- input: {hugging_face.SAMPLE_RATE} Hz mono, {does}

## How to load

```python
from transformers import AutoFeatureExtractor, {kind}

extractor = AutoFeatureExtractor.from_pretrained("{title}")
model = {kind}.from_pretrained("{title}").eval()
inputs = extractor(waveform, sampling_rate={hugging_face.SAMPLE_RATE}, return_tensors="pt")
states = model(**inputs, output_hidden_states=True).hidden_states
```

The checkpoint holds the encoder alone: no head, and no vector for masked frames (`mask_time_prob` is 0, set it to
train with masking). Give utterances one at a time: padding changes the features of models whose first convolution
has a group norm.
"""
