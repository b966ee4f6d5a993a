"""State dicts of torchaudio's own models: loaded without any settings, the states are theirs."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wavbench as wb
from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError

TOLERANCE = 1e-5  # relative L2, float32
CONVS = [(32, 10, 5), *[(32, 3, 2)] * 4, *[(32, 2, 2)] * 2]
SHAPE = {
    "extractor_conv_layer_config": CONVS,
    "encoder_embed_dim": 128,
    "encoder_projection_dropout": 0.0,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 96,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_drop": 0.0,
}


def theirs(kind: str, large: bool, **settings) -> nn.Module:
    """A model of torchaudio whose every weight is random."""
    import torchaudio.models

    shape = SHAPE | {"aux_num_out": None}
    shape |= {"extractor_mode": "layer_norm" if large else "group_norm", "extractor_conv_bias": large}
    if kind == "wavlm":
        shape |= {"encoder_layer_norm_first": large, "encoder_num_buckets": 32, "encoder_max_distance": 800}
    else:
        shape |= {"encoder_layer_norm_first": large}
    torch.manual_seed(0)
    model = getattr(torchaudio.models, f"{kind}_model")(**shape | settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def assert_parity(upstream: catalog.Upstream, model: nn.Module, pre_norm: bool) -> None:
    """Every state that torchaudio has is ours: it has none before the first block."""
    waveform = 0.1 * torch.randn(1, 5_000, generator=torch.Generator().manual_seed(1))
    states = upstream(waveform, torch.tensor([5_000])).states
    if upstream.config["normalise"]:
        waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
    with torch.inference_mode():
        references, _ = model.extract_features(waveform)
        if pre_norm:  # its last state is before the final norm, ours after it
            references[-1] = model.encoder.transformer.layer_norm(references[-1])
    assert len(references) == upstream.num_states - 1
    for k, reference in enumerate(references):
        assert distance(states[:, k + 1], reference) <= TOLERANCE


def distance(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_the_states_are_those_of_torchaudio(kind: str, large: bool, suffix: str, tmp_path: Path) -> None:
    model = theirs(kind, large, aux_num_out=7)
    path = tmp_path / f"model.{suffix}"
    torch.save(model.state_dict(), path)
    upstream = wb.load(str(path))
    assert upstream.config["family"] == kind
    assert upstream.config["normalise"] is large
    assert upstream.left_out == ("aux.bias", "aux.weight")
    assert "2 heads" in " ".join(upstream.remarks())
    assert_parity(upstream, model, pre_norm=large)


@pytest.mark.parametrize("large", [False, True])
def test_hubert_in_pretraining_leaves_its_head_out(large: bool, tmp_path: Path) -> None:
    import torchaudio.models

    encoder = theirs("wav2vec2", large)
    mask = dict.fromkeys(("mask_prob", "mask_selection"), 0.8) | {"mask_selection": "static"}
    mask |= {"mask_other": 0.0, "mask_length": 10, "no_mask_overlap": False, "mask_min_space": 1}
    mask |= {"mask_channel_prob": 0.0, "mask_channel_selection": "static", "mask_channel_other": 0.0}
    mask |= {"mask_channel_length": 10, "no_mask_channel_overlap": False, "mask_channel_min_space": 1}
    shape = SHAPE | {"extractor_mode": "layer_norm" if large else "group_norm", "extractor_conv_bias": large}
    shape |= {"encoder_layer_norm_first": large, **mask, "skip_masked": False, "skip_nomask": False}
    shape |= {"num_classes": 10, "final_dim": 8, "feature_grad_mult": None}
    whole = torchaudio.models.hubert_pretrain_model(**shape)
    whole.wav2vec2.load_state_dict(encoder.state_dict())
    torch.save(whole.state_dict(), tmp_path / "hubert.pt")
    upstream = wb.load(str(tmp_path / "hubert.pt"))
    assert upstream.config["family"] == "hubert"
    assert any(name.startswith("logit_generator.") for name in upstream.left_out)
    assert_parity(upstream, encoder, pre_norm=large)


def test_old_names_of_the_weight_norm_load_alike(tmp_path: Path) -> None:
    state = theirs("wav2vec2", False).state_dict()
    torch.save(state, tmp_path / "new.pt")
    pairs = [("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")]
    old = {name.replace(*pairs[0]).replace(*pairs[1]): tensor for name, tensor in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pt")
    assert wb.load(str(tmp_path / "new.pt")).weights_hash == wb.load(str(tmp_path / "old.pt")).weights_hash


def test_a_state_dict_that_cannot_be_read_off_says_why(tmp_path: Path) -> None:
    state = theirs("wav2vec2", False).state_dict()
    path = tmp_path / "model.pt"

    def refused(change: dict[str, Tensor | None]) -> str:
        changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        torch.save(changed, path)
        with pytest.raises(UserError) as error:
            wb.load(str(path))
        return str(error.value)

    assert "(10, 3, 3, 4, 3, 2, 2)" in refused({"feature_extractor.conv_layers.3.conv.weight": torch.zeros(32, 32, 4)})
    lost = "encoder.transformer.layers.1.attention.k_proj.bias"
    assert "1 missing: encoder.layers.1.attention.k_proj.bias" in refused({lost: None})
    assert "1 unexpected: encoder.surprise" in refused({"encoder.surprise": torch.zeros(1)})
    assert "but is none" in refused({"encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1": None})
    assert "NaN" in refused({lost: torch.full((128,), torch.nan)})
