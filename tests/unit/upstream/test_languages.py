"""Adapters per language (MMS): exchanged whole, as transformers exchanges them, or refused with what there is."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError

SMALL = {
    "conv_dim": [32] * 7,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "adapter_attn_dim": 8,
}
BATCH = 0.1 * torch.randn(1, 5_000, generator=torch.Generator().manual_seed(1)), torch.tensor([5_000])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as that of facebook/mms-1b-all: a CTC model and adapters of three languages."""
    import transformers

    folder = tmp_path_factory.mktemp("mms")
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**SMALL))
    model.save_pretrained(folder)
    for seed, code in enumerate(("eng", "deu", "azj-script_latin")):
        draw = torch.Generator().manual_seed(seed)
        adapters = {name: 0.3 * torch.randn(t.shape, generator=draw) for name, t in model._get_adapters().items()}
        save_file(adapters, folder / f"adapter.{code}.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "mms"))


@pytest.mark.parametrize("code", ["eng", "azj-script_latin"])
def test_the_states_of_a_language_are_those_of_transformers(code: str, folder: Path) -> None:
    import transformers

    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder, target_lang=code, ignore_mismatched_sizes=True).eval()
    upstream = catalog.load(str(folder), language=code)
    assert upstream.config["family"] == "wav2vec2"
    waveform = BATCH[0]
    if upstream.config["normalise"]:
        waveform = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
    with torch.inference_mode():
        output = model.wav2vec2(waveform, output_hidden_states=True)
    states = upstream(*BATCH).states
    for k, reference in enumerate([*output.hidden_states[:-1], output.last_hidden_state]):
        assert ((states[:, k] - reference).norm() / reference.norm()).item() <= 1e-5


def test_languages_are_exchanged_and_the_hash_goes_with_them(folder: Path) -> None:
    upstream = catalog.load(str(folder))
    plain, hashes, states = upstream.checkpoint, [upstream.weights_hash], [upstream(*BATCH).states]
    for code in ("eng", "deu", "eng"):
        upstream.set_language(code)
        assert upstream.checkpoint == f"{plain} language {code}"
        assert upstream.language == code
        hashes.append(upstream.weights_hash)
        states.append(upstream(*BATCH).states)
    assert len(set(hashes)) == 3
    assert hashes[1] == hashes[3] == catalog.load(str(folder), language="eng").weights_hash
    assert torch.equal(states[1], states[3])
    assert not torch.allclose(states[1], states[2])
    assert torch.equal(states[0][:, 0], states[2][:, 0])  # before the first block a language changes nothing


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("enh", "did you mean eng"),
        ("tlh", "azj-script_latin, deu, eng"),
        ("../mms/adapter.eng", "is no language code"),
        ("/etc/passwd", "is no language code"),
        ("eng/../eng", "is no language code"),
        ("*", "is no language code"),
        ("e\0g", "is no language code"),
        ("eng\n", "is no language code"),
    ],
)
def test_an_unknown_language_is_refused_with_those_that_are_there(folder: Path, code: str, said: str) -> None:
    upstream = catalog.load(str(folder), language="deu")
    before = upstream.weights_hash
    with pytest.raises(UserError) as error:
        upstream.set_language(code)
    assert said in str(error.value)
    assert (upstream.language, upstream.weights_hash) == ("deu", before)
    with pytest.raises(UserError):
        catalog.load(str(folder), language=code)


def test_a_thousand_languages_fit_one_screen(folder: Path) -> None:
    for number in range(1_000):
        (folder / f"adapter.q{number:03d}.safetensors").touch()
    with pytest.raises(UserError) as error:
        catalog.load(str(folder), language="enh")
    assert "did you mean eng" in error.value.remedy
    assert "1003 are known" in error.value.remedy
    assert len(str(error.value)) < 1_000


def test_damaged_adapters_change_nothing(folder: Path) -> None:
    upstream, path = catalog.load(str(folder), language="eng"), folder / "adapter.deu.safetensors"
    before, state = upstream.weights_hash, load_file(path)
    victim = "wav2vec2.encoder.layers.1.adapter_layer.linear_2.weight"
    assert victim in state
    for change, said in (
        ({victim: torch.zeros(3, 3)}, r"misshapen: transformer\.blocks\.1\.adapter"),
        ({victim: state[victim] * torch.nan}, "NaN"),
        ({"encoder.layers.0.surprise": torch.zeros(1)}, "1 unexpected"),
    ):
        save_file({**state, **change}, path)
        with pytest.raises(UserError, match=said):
            upstream.set_language("deu")
    save_file({name: tensor for name, tensor in state.items() if name != victim}, path)
    with pytest.raises(UserError, match="1 missing"):
        upstream.set_language("deu")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="is damaged"):
        upstream.set_language("deu")
    assert upstream.weights_hash == before


def test_a_model_without_adapters_says_so() -> None:
    for name in ("wav2vec2_tiny", "fbank"):
        with pytest.raises(UserError, match="no adapters per language"):
            catalog.load(name, language="eng")


def test_of_a_hub_id_only_the_adapters_asked_for_are_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((allow_patterns, ignore_patterns))
        if any(pattern.startswith("adapter.") for pattern in allow_patterns):
            (folder / "there.safetensors").rename(folder / "adapter.deu.safetensors")
        return str(folder)

    (folder / "adapter.deu.safetensors").rename(folder / "there.safetensors")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    upstream = catalog.load("org/mms", language="deu")
    assert upstream.language == "deu"
    assert asked == [(["*.json", "*.safetensors"], ["*/*", "adapter.*"]), (["adapter.deu.safetensors"], ["*/*"])]

    def files(name: str, revision: str | None) -> list[str]:
        return ["config.json", "adapter.eng.bin", "adapter.eng.safetensors", "adapter.fra.safetensors"]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", files)
    with pytest.raises(UserError, match="no adapters for language 'frb'") as error:
        catalog.load("org/mms", language="frb")
    assert "did you mean fra" in error.value.remedy
