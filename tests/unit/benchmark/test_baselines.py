"""Official checkpoints: every description is whole, and describes a model of the size it says."""

import re
from pathlib import Path

import pytest
import torch

from wavbench.benchmark.baselines import Baseline, baseline_names, find_baseline, place_of
from wavbench.benchmark.loading import load_upstream
from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.export import _settings, export_hugging_face
from wavbench.upstream.models import wav2vec2

NAMES = baseline_names()
ASKED = {
    "wav2vec_large", "vq_wav2vec_gumbel", "wav2vec2_base", "wav2vec2_large_lv60", "wav2vec2_xlsr_53",
    "wav2vec2_xls_r_300m", "wav2vec2_mms_300m", "hubert_base", "hubert_large", "wavlm_base", "wavlm_base_plus",
    "wavlm_large", "data2vec_base", "data2vec_large", "whisper_small", "whisper_medium", "w2v_bert_2",
}  # fmt: skip
SMALL = {"conv_channels": (32,) * 7, "dim": 64, "num_layers": 2, "num_heads": 2, "inner_dim": 96, "position_kernel": 16}
# of transformers, by family: the parameters of its encoder are counted beside ours
THEIRS = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "wavlm": "WavLMModel", "data2vec": "Data2VecAudioModel"}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_all_the_checkpoints_of_the_field_are_there() -> None:
    assert set(NAMES) >= ASKED


def test_a_description_says_where_what_and_under_which_licence(name: str) -> None:
    baseline = find_baseline(name)
    assert bool(baseline.id) != bool(baseline.url)
    assert bool(baseline.preset) != bool(baseline.model_type)
    assert re.fullmatch(r"[0-9a-f]{40}|main", baseline.revision)
    assert not baseline.url or baseline.url.startswith("https://")
    assert baseline.licence.strip()
    assert baseline.pretraining
    assert baseline.hours > 0
    assert baseline.normalisation in ("none", "zero mean and unit variance", "log mel spectra")
    assert not baseline.preset or name == baseline.preset


def test_a_model_of_that_shape_has_as_many_parameters(name: str) -> None:
    baseline = find_baseline(name)
    with torch.device("meta"):
        if baseline.preset:
            stem, config = catalog.find_preset(baseline.preset)
            model = catalog.family(stem).build(config)
            if "spectra" not in baseline.normalisation:
                assert baseline.normalisation in getattr(model, "normalisation", "none")
        else:
            from transformers import AutoConfig, AutoModel

            model = AutoModel.from_config(AutoConfig.for_model(baseline.model_type))
    assert sum(parameter.numel() for parameter in model.parameters()) == baseline.parameters


@pytest.mark.parametrize("name", [name for name in NAMES if name.rpartition("_")[0].split("_")[0] in THEIRS])
def test_transformers_counts_the_same_for_the_same_shape(name: str) -> None:
    """But for the vector that stands for masked frames, which only pretraining needs."""
    import transformers

    stem, config = catalog.find_preset(find_baseline(name).preset)
    upstream = catalog.Upstream.__new__(catalog.Upstream)  # without weights: LARGE would take a gigabyte
    upstream.name, upstream.config = name, catalog.describe(stem, config)
    _, settings, _ = _settings(upstream)
    with torch.device("meta"):
        model = getattr(transformers, THEIRS[stem])(settings)
    theirs = sum(p.numel() for n, p in model.named_parameters() if not n.endswith("masked_spec_embed"))
    assert theirs == find_baseline(name).parameters


def stand_in(folder: Path, name: str) -> Path:
    """A small model with random weights in the layout of an official checkpoint."""
    stem = name.partition("_")[0]
    config = wav2vec2.Config(**SMALL)
    model = catalog.build_random(stem, config, 0)
    upstream = catalog.Upstream(name, model, config=catalog.describe(stem, config), checkpoint="random")
    return export_hugging_face(upstream, folder)


@pytest.mark.parametrize("place", ["hubert_base", "facebook/hubert-base-ls960", "hubert-base-ls960"])
def test_a_checkpoint_is_found_in_a_folder_by_its_name_here_or_on_the_hub(place: str, tmp_path: Path) -> None:
    stand_in(tmp_path / place, "hubert_base")
    upstream = load_upstream("hubert_base", checkpoints=str(tmp_path))
    assert upstream.name == "hubert_base"
    assert upstream.num_states == 3
    assert upstream.pretraining == ("librispeech",)


def test_differences_from_the_description_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stand_in(tmp_path / "wav2vec2_base", "wav2vec2_base")
    load_upstream("wav2vec2_base", checkpoints=str(tmp_path))
    assert "parameters where 94,370,944 are published" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_in_the_folder_is_named_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there") as caught:
        load_upstream("hubert_base", checkpoints=str(tmp_path))
    assert "facebook/hubert-base-ls960" in caught.value.why


def test_without_a_folder_it_is_the_pinned_revision_of_the_hub() -> None:
    baseline = find_baseline("hubert_base")
    assert place_of("hubert_base", baseline, "") == ("facebook/hubert-base-ls960", baseline.revision)


def test_a_random_twin_needs_no_checkpoint() -> None:
    class Twin:
        weights, seed, revision, language = "random", 0, "", ""

    upstream = load_upstream("wav2vec2_tiny", Twin())
    assert upstream.pretraining == ()


def test_a_file_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wavbench.upstream import fetch

    asked = []

    def download(url: str, path: Path, *_: object, **__: object) -> str:
        asked.append(url)
        path.write_bytes(b"weights")
        return "0" * 64

    monkeypatch.setattr(fetch, "download", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    baseline = find_baseline("wav2vec_large")
    for _ in range(2):
        place, revision = place_of("wav2vec_large", baseline, "")
        assert (Path(place).name, Path(place).read_bytes(), revision) == ("wav2vec_large.pt", b"weights", None)
    assert asked == [baseline.url]


def test_a_description_with_an_unknown_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wavbench.benchmark import baselines, config

    (tmp_path / "upstream").mkdir()
    (tmp_path / "upstream/mine.yaml").write_text("title: mine\nlicense: MIT\n")
    monkeypatch.setattr(baselines, "FOLDER", tmp_path / "upstream")
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    with pytest.raises(UserError, match="unknown or missing keys"):
        find_baseline("mine")


def test_a_baseline_is_plain_data() -> None:
    assert isinstance(find_baseline("hubert_base"), Baseline)
    assert find_baseline("no such") is None
