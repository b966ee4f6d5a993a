"""Continued pretraining: which weights a training may begin with, and how several corpora share its batches."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_training import NARROW, OBJECTIVE, SMALL, train, write_corpus

from wavbench.benchmark.pretraining import DROPOUTS, compose
from wavbench.upstream import catalog, pretraining
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.decoded import decode
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.models import data2vec, wav2vec, wav2vec2
from wavbench.upstream.starting_encoder import begin_with, regularised
from wavbench.upstream.training import Settings


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


def upstream(family: str, config, seed: int = 1) -> Upstream:
    model = catalog.build_random(family, config, seed)
    return Upstream("given", model, config=catalog.describe(family, config), checkpoint="given")


def state_of(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)


def test_every_objective_has_a_small_training() -> None:
    assert set(OBJECTIVE) >= set(pretraining.objectives())


@pytest.mark.parametrize("objective", pretraining.objectives())
def test_a_training_goes_on_from_another_ones_weights_with_a_new_optimizer(
    objective: str, manifest: Path, tmp_path: Path
) -> None:
    path = train(objective, manifest, tmp_path / "first", steps=2, precision="fp32")
    given = catalog.load(str(path))
    train(objective, manifest, tmp_path / "still", steps=1, precision="fp32", peak_rate=0.0, init=given)
    still = catalog.load(str(tmp_path / "still"))  # nothing moved, so that what it began with is what it ends with
    assert still.weights_hash == given.weights_hash
    moments = state_of(tmp_path / "still")["optimizer"]["state"]
    assert {float(one["step"]) for one in moments.values()} == {1.0}
    train(objective, manifest, tmp_path / "second", steps=2, precision="fp32", init=given)
    assert catalog.load(str(tmp_path / "second")).weights_hash != given.weights_hash
    assert json.loads((tmp_path / "second" / "run.json").read_text())["hyperparameters"]["init"] == given.weights_hash
    with pytest.raises(UserError, match=r"init: began with \w+, now None"):
        train(objective, manifest, tmp_path / "second", steps=2, precision="fp32")


def test_another_family_of_the_same_shape_may_be_begun_with() -> None:
    encoder = wav2vec2.build(dataclasses.replace(SMALL, dropout=0.3))
    given = upstream("hubert", SMALL)
    begin_with(encoder, given, ("dropout",))
    for name, tensor in given.model.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor)


def test_a_data2vec_of_a_size_trained_here_may_begin_with_a_hubert() -> None:
    encoder = data2vec.build(data2vec.presets["tiny"])
    given = catalog.load("hubert_tiny")
    begin_with(encoder, given, ())
    waveform, lengths = 0.1 * torch.randn(1, 4_000, generator=torch.Generator().manual_seed(1)), torch.tensor([4_000])
    assert torch.equal(encoder.eval()(waveform, lengths).states, given.model(waveform, lengths).states)
    with pytest.raises(UserError, match="cannot begin with these weights"):  # the paper's positions are others
        begin_with(data2vec.build(dataclasses.replace(encoder.config, position_depth=5)), given, ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_heads": 4}, "num_heads is 4 there, and 2 here"),  # the weights would fit
        ({"normalise": not SMALL.normalise}, "normalise is"),
        ({"inner_dim": 64, "num_layers": 3}, "num_layers is 3 there, and 2 here; inner_dim is 64 there, and 48 here"),
    ],
)
def test_another_shape_is_refused_by_name(change: dict, said: str) -> None:
    given = upstream("wav2vec2", dataclasses.replace(SMALL, **change))
    with pytest.raises(UserError, match=rf"cannot begin with these weights(.|\n)*given(.|\n)*{said}(.|\n)*same preset"):
        begin_with(wav2vec2.build(SMALL), given, ())


def test_convolutions_that_compute_something_else_are_refused_though_their_weights_would_fit() -> None:
    encoder = wav2vec.build(wav2vec.Config(**NARROW))
    begin_with(encoder, upstream("wav2vec", encoder.config), ())
    for change, name in (({"activation": "gelu"}, "activation"), ({"residual_scale": None}, "residual_scale")):
        given = upstream("wav2vec", wav2vec.Config(**{**NARROW, **change}))
        with pytest.raises(UserError, match=f"{name} is"):
            begin_with(encoder, given, ())
    with pytest.raises(UserError, match="cannot begin with these weights"):
        begin_with(encoder, upstream("fbank", catalog.find_preset("fbank")[1]), ())


def test_dropouts_that_a_family_does_not_have_are_refused() -> None:
    config = wav2vec.Config(**NARROW)
    assert regularised("wav2vec", config, {"dropout": 0.0, "layerdrop": 0.0}) == config
    with pytest.raises(UserError, match=r"layerdrop=0\.05 would change nothing(.|\n)*wav2vec has no layerdrop"):
        regularised("wav2vec", config, {"dropout": 0.0, "layerdrop": 0.05})
    assert regularised("wav2vec2", SMALL, {"dropout": 0.2}).dropout == 0.2


RECIPES = [
    (objective, recipe)
    for objective in pretraining.objectives()
    for recipe in ("tiny", "small", "base", "large")
    if catalog.find_preset(f"{objective}_{recipe}")
]


@pytest.mark.parametrize(("objective", "recipe"), RECIPES)
def test_every_recipe_fits_the_preset_that_it_trains(objective: str, recipe: str) -> None:
    config = compose([f"objective={objective}", f"preset={recipe}", "manifest=speech.csv"])
    kind = pretraining.find_objective(objective).Config
    picked = [type_(**{field.name: getattr(config, field.name) for field in dataclasses.fields(type_)})
              for type_ in (Settings, pretraining.Data, kind)]  # fmt: skip
    stem, preset = pretraining.find_shape(f"{objective}_{recipe}")
    made = regularised(stem, preset, {name: getattr(config, name) for name in DROPOUTS})
    assert picked[0].steps >= 10_000
    assert getattr(made, "dropout", 0.0) == config.dropout


def two_corpora(folder: Path, make_speech) -> tuple:
    """Polish in both, German in the second alone, and a few utterances without a language."""
    first, second = (write_corpus(folder / name, make_speech, count) for name, count in (("a", 40), ("b", 50)))
    pd.read_csv(first).assign(language="pl").to_csv(first, index=False)
    languages = ["de"] * 12 + ["pl"] * 34 + [""] * 4
    pd.read_csv(second).assign(language=languages).to_csv(second, index=False)
    manifests = [read_manifest(first.rename(folder / "a/first.csv")), read_manifest(second.rename(folder / "b/b.csv"))]
    return decode(manifests, folder / "decoded"), manifests


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_languages_of_several_manifests_share_the_batches_by_their_hours(
    exponent: float, tmp_path: Path, make_speech
) -> None:
    speech, manifests = two_corpora(tmp_path, make_speech)
    assert {id.split("/")[0] for id in speech.ids} == {manifest.name for manifest in manifests} == {"first", "b"}
    train_rows, _ = pretraining.split_rows(speech, 0)
    data = pretraining.Data(batch_seconds=4, crop_seconds=2, language_exponent=exponent)
    plan = pretraining.planner(speech, train_rows, data, seed=0)
    drawn = [train_rows[row] for epoch in range(12) for batch in plan(epoch) for row in batch.rows]
    languages, lengths = np.array(speech.languages), np.minimum(speech.lengths, 2 * 16_000)
    hours = {code: lengths[train_rows][languages[train_rows] == code].sum() for code in ("pl", "de", "")}
    shares = {code: value**exponent / sum(other**exponent for other in hours.values()) for code, value in hours.items()}
    for code, share in shares.items():
        own = [row for row in drawn if languages[row] == code]
        assert lengths[own].sum() / lengths[drawn].sum() == pytest.approx(share, abs=0.03)
    # within a language the corpora stand by their hours, whatever the exponent
    polish = np.array([row for row in drawn if languages[row] == "pl"])
    corpus = np.array([speech.ids[row].split("/")[0] for row in range(len(speech.ids))])
    there = train_rows[languages[train_rows] == "pl"]
    wanted = lengths[there][corpus[there] == "first"].sum() / lengths[there].sum()
    assert lengths[polish][corpus[polish] == "first"].sum() / lengths[polish].sum() == pytest.approx(wanted, abs=0.03)
    several = [len({languages[train_rows[row]] for row in batch.rows}) > 1 for batch in plan(0)]
    assert np.mean(several) > 0.5  # languages lie in the same batches
    table = pretraining.describe(speech, train_rows)
    assert {(row["corpus"], row["language"]) for row in table} == {
        ("first", "pl"), ("b", "pl"), ("b", "de"), ("b", ""),
    }  # fmt: skip
