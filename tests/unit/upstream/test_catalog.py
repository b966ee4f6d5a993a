"""Finding upstreams by name, and the doors that lead outside: files, folders, the Hub."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import wavbench
from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.features import Features


def test_the_listing_of_the_folder_is_the_registry() -> None:
    assert catalog.families() == sorted(path.stem for path in catalog.MODELS.glob("*.py") if path.stem != "__init__")
    assert {"fbank", "wav2vec2_tiny", "wav2vec2_base", "wav2vec2_large_lv60"} <= set(catalog.names())


def test_only_the_file_that_a_name_points_to_is_imported() -> None:
    code = (
        "import sys; from wavbench.upstream import catalog; catalog.load('wav2vec2_tiny', weights='random'); "
        "print([name for name in sys.modules if name.startswith('wavbench.upstream.models.')], "
        "'transformers' in sys.modules, 'torchaudio' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['wavbench.upstream.models.wav2vec2'] False False"


def test_the_longest_file_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stem in ("one", "one_two"):
        (tmp_path / f"{stem}.py").touch()
    presets = {"one": {"two_big": 1, "small": 2}, "one_two": {"big": 3, "": 4}}
    monkeypatch.setattr(catalog, "MODELS", tmp_path)
    monkeypatch.setattr(catalog, "family", lambda stem: type("", (), {"presets": presets[stem]}))
    assert catalog.find_preset("one_two_big") == ("one_two", 3)
    assert catalog.find_preset("one_two") == ("one_two", 4)
    assert catalog.find_preset("one_small") == ("one", 2)
    assert catalog.find_preset("one") is None


def test_a_preset_comes_before_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fbank").mkdir()
    monkeypatch.chdir(tmp_path)
    assert catalog.load("fbank").dim == 240
    with pytest.raises(UserError, match="this folder is no checkpoint"):
        catalog.load("./fbank")


@pytest.mark.parametrize("name", ["wav2vec2_tinny", "fbnk", "", "hub:wav2vec2_tiny", "a/b/c", "/no/such/folder"])
def test_an_unknown_name_is_answered_with_the_closest_ones(name: str) -> None:
    with pytest.raises(UserError, match="unknown upstream") as error:
        catalog.load(name)
    assert "fbank" in error.value.remedy


def test_weights_are_random_or_left_out() -> None:
    with pytest.raises(UserError, match="weights=zero is not known"):
        catalog.load("wav2vec2_tiny", weights="zero")


def test_the_hash_of_the_weights_sees_every_value_and_name() -> None:
    model = torch.nn.ParameterDict({"a": torch.zeros(3, 2), "b": torch.zeros(2)})
    for name, value in {"num_states": 1, "dim": 2, "frame_rate": 50.0, "min_samples": 1}.items():
        setattr(model, name, value)

    def digest() -> str:
        return catalog.Upstream("x", model, config={}, checkpoint="").weights_hash

    seen = {digest()}
    model["a"].data[2, 1] = 1e-30
    seen.add(digest())
    model["a"].data = model["a"].data.T.contiguous()
    seen.add(digest())
    model["c"] = model.pop("b")
    seen.add(digest())
    assert len(seen) == 4
    model["a"].data = model["a"].data.T.contiguous().T  # other strides, same values
    assert digest() in seen


def test_files_arrays_and_lists_of_them_are_extracted(tmp_path: Path, make_speech) -> None:
    upstream = wavbench.load("fbank")
    long, short = make_speech(0.5, 1), make_speech(0.3, 2)
    soundfile.write(tmp_path / "long.wav", long, 16_000, subtype="FLOAT")
    single = upstream.extract(tmp_path / "long.wav")
    assert isinstance(single, Features)
    assert single.states.shape == (1, 1, 48, 240)
    several = upstream.extract([str(tmp_path / "long.wav"), short, torch.from_numpy(short)])
    assert several.lengths.tolist() == [48, 28, 28]
    torch.testing.assert_close(several.states[:1], single.states)
    torch.testing.assert_close(several.states[1], several.states[2])


def test_what_cannot_be_extracted_is_named(tmp_path: Path) -> None:
    upstream = wavbench.load("fbank")
    with pytest.raises(UserError) as error:
        upstream.extract(tmp_path / "nothing.wav")
    assert error.value.where.endswith("nothing.wav")
    with pytest.raises(UserError) as error:
        upstream.extract([np.zeros(16_000), np.zeros(399)])
    assert error.value.where == "waveform 1"
    assert "too short" in error.value.what or "ms" in error.value.what


def test_the_hub_out_of_reach_is_an_error_of_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = {}

    def unreachable(name: str, **settings) -> str:
        asked.update(settings, name=name)
        raise LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match="some/model cannot be fetched") as error:
        catalog.load("some/model", revision="v2")
    assert "outgoing traffic" in error.value.why
    assert (asked["name"], asked["revision"]) == ("some/model", "v2")
    assert asked["allow_patterns"] == ["*.json", "*.safetensors"]


def test_a_model_of_the_hub_is_opened_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    catalog.load("hub_wavlm_tiny", weights="random").model.encoder.save_pretrained(tmp_path / "0123456789abcdef")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "0123456789abcdef"))
    upstream = catalog.load("hub:some/model")
    assert upstream.checkpoint == "some/model@01234567"
    assert upstream.weights_hash == catalog.load("hub_wavlm_tiny", weights="random").weights_hash
    twin = catalog.load("hub:some/model", weights="random", seed=1)
    assert twin.weights_hash == catalog.load("hub_wavlm_tiny", weights="random", seed=1).weights_hash
    assert twin.checkpoint == "some/model@01234567 random seed 1"


def test_missing_weights_are_never_drawn_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    catalog.load("hub_wavlm_tiny", weights="random").model.encoder.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    victim = next(name for name in state if "layers.1" in name)
    save_file({k: v for k, v in state.items() if k != victim}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="do not fit the model") as error:
        catalog.load(str(tmp_path))
    assert victim in error.value.why


def test_a_model_that_transformers_does_not_know_is_refused_and_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "mystery", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}})
    )
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="transformers cannot open this folder"):
        catalog.load(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_whisper_gives_the_states_of_its_encoder_for_valid_frames_only(tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    sizes = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "encoder_attention_heads": 2}
    config = WhisperConfig(
        **sizes, encoder_layers=2, decoder_layers=1, decoder_attention_heads=2, vocab_size=60, pad_token_id=1
    )
    model = WhisperModel(config).eval()
    model.save_pretrained(tmp_path)
    extractor = WhisperFeatureExtractor()
    extractor.save_pretrained(tmp_path)
    upstream = catalog.load(str(tmp_path))
    assert (upstream.num_states, upstream.dim, upstream.frame_rate) == (3, 16, 50.0)
    waveforms = 0.1 * torch.randn(2, 16_100)
    features = upstream(waveforms, torch.tensor([16_100, 8_000]))
    assert features.lengths.tolist() == [51, 25]
    mel = extractor(waveforms[1, :8_000].numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        reference = model.get_encoder()(**mel).last_hidden_state[0, :25]
    torch.testing.assert_close(features.states[1, -1, :25], reference)
    with pytest.raises(UserError, match="too long for this model"):
        upstream(torch.zeros(1, 480_001), torch.tensor([480_001]))


def test_a_model_that_sees_log_mel_spectra_is_measured_and_equals_its_direct_call(tmp_path: Path) -> None:
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    config = Wav2Vec2BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=10
    )
    model = Wav2Vec2BertModel(config).eval()
    model.save_pretrained(tmp_path)
    extractor = SeamlessM4TFeatureExtractor()
    extractor.save_pretrained(tmp_path)
    upstream = catalog.load(str(tmp_path))
    assert (upstream.num_states, upstream.frame_rate) == (3, 50.0)
    shortest = upstream.min_samples
    assert upstream(torch.randn(1, shortest), torch.tensor([shortest])).states.isfinite().all()
    waveforms = 0.1 * torch.randn(2, 9_000)
    features = upstream(waveforms, torch.tensor([9_000, 5_000]))
    inputs = extractor(waveforms[1, :5_000].numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        reference = model(**inputs, output_hidden_states=True).hidden_states
    frames = int(features.lengths[1])
    assert frames == reference[0].shape[1]
    torch.testing.assert_close(features.states[1, 1, :frames], reference[1][0])


def test_a_revision_of_what_has_none_is_refused(tmp_path: Path) -> None:
    for name in ("wav2vec2_tiny", str(tmp_path)):
        with pytest.raises(UserError, match="has no revision main"):
            catalog.load(name, revision="main")


@pytest.mark.parametrize("kind", ["UniSpeechSat", "SEW", "Wav2Vec2Conformer"])
def test_families_that_are_not_built_here_give_the_states_of_transformers(kind: str, tmp_path: Path) -> None:
    import transformers

    settings = {
        "conv_dim": [16] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    model.save_pretrained(tmp_path)
    upstream = catalog.load(str(tmp_path))
    assert upstream.config["family"] == "hub"
    waveforms = 0.1 * torch.randn(2, 9_000)
    features = upstream(waveforms, torch.tensor([9_000, 6_000]))
    with torch.inference_mode():
        output = model(waveforms[1:, :6_000], output_hidden_states=True)
    references = list(output.hidden_states)
    if kind != "SEW":  # whose last output is brought back to twice the rate of its blocks
        references[-1] = output.last_hidden_state
    assert upstream.num_states == len(references) == 3
    for layer, reference in enumerate(references):
        torch.testing.assert_close(features.states[1, layer, : int(features.lengths[1])], reference[0])
