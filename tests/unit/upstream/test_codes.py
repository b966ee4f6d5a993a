"""The codes that BERT reads: whose they are, what stands in their dictionary, and which ones are refused."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import SMALL_BERT, small_codes, train, write_corpus

from wavbench.upstream import catalog, codes
from wavbench.upstream.decoded import Speech, decode
from wavbench.upstream.errors import UserError
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.models import vq_wav2vec
from wavbench.upstream.models import vq_wav2vec_bert as family
from wavbench.upstream.unit_source import UnitSource
from wavbench.upstream.units import Units, read_units


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


@pytest.fixture(scope="module")
def speech(manifest: Path) -> Speech:
    return decode([read_manifest(manifest)], manifest.parent / "decoded")


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train("vq_wav2vec_bert", manifest, folder, steps=4, log_every=1)
    return folder


def source(**given) -> UnitSource:
    return UnitSource(**{"codes": small_codes(), **given})


def plain_pairs(model: torch.nn.Module, speech: Speech) -> dict[str, list[tuple[int, int]]]:
    """The pairs of every utterance, each computed by itself."""
    found = {}
    for row, id in enumerate(speech.ids):
        first, count = int(speech.offsets[row]), int(speech.lengths[row])
        waveform = torch.from_numpy(speech.samples[first : first + count].astype(np.float32) / np.float32(32_767))
        with torch.no_grad():
            numbers, _ = model.codes(waveform[None], torch.tensor([count]))
        found[id] = [tuple(pair) for pair in numbers[0].tolist()]
    return found


def test_codes_are_written_as_the_vq_wav2vec_gives_them_whole_by_how_often_pairs_occur(
    speech: Speech, run: Path
) -> None:
    pairs = plain_pairs(small_codes().model, speech)
    counts: dict[tuple[int, int], int] = {}
    for own in pairs.values():
        for pair in own:
            counts[pair] = counts.get(pair, 0) + 1
    ordered = sorted(counts, key=lambda pair: (-counts[pair], pair))
    assert len(ordered) > SMALL_BERT.vocabulary  # so that some are <unk>
    kept = ordered[: SMALL_BERT.vocabulary]
    found = read_units(run / "codes.h5", speech)
    assert found.centroids.tolist() == [[-1, -1], *map(list, kept)]
    for id, own in pairs.items():
        assert found[id].tolist() == [kept.index(pair) + 1 if pair in kept else 0 for pair in own]
    assert found.fingerprint["source"] == f"vq_wav2vec {small_codes().weights_hash}"
    total, rare = sum(counts.values()), sum(counts[pair] for pair in ordered[SMALL_BERT.vocabulary :])
    shares = [counts[pair] / total for pair in kept] + [rare / total]
    entropy = -sum(share * math.log(share) for share in shares)
    assert f"12 pairs have tokens, {100 * rare / total:.2f} % of the frames are <unk>" in codes.told(found)
    assert codes.told(found).endswith(f"a loss of {entropy:.3f}")


def test_codes_that_were_stopped_go_on_where_they_were(
    speech: Speech, manifest: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what == "codes" and done == 7:
            raise Stop

    asked: list[int] = []
    family_codes = vq_wav2vec.VqWav2Vec.codes

    def counted(self, waveforms, lengths):
        asked.append(int(lengths))
        return family_codes(self, waveforms, lengths)

    monkeypatch.setattr(vq_wav2vec.VqWav2Vec, "codes", counted)
    monkeypatch.setattr(codes, "SAVED_SECONDS", 0.0)
    with pytest.raises(Stop):
        train("vq_wav2vec_bert", manifest, tmp_path, steps=1, tell=stop)
    assert not (tmp_path / "codes.h5").exists()
    (part,) = tmp_path.glob(".codes-*.part")
    with open(part, "ab") as file:
        file.write(b"half of a frame")  # what a kill amid a write leaves
    train("vq_wav2vec_bert", manifest, tmp_path, steps=1)
    assert asked == speech.lengths.tolist()  # every utterance once
    found, whole = (read_units(folder / "codes.h5", speech) for folder in (tmp_path, run))
    assert found.fingerprint == whole.fingerprint
    assert np.array_equal(found.units, whole.units)
    assert not list(tmp_path.glob(".codes-*"))


def test_what_is_written_is_an_upstream_that_reads_the_tokens_it_was_trained_on(speech: Speech, run: Path) -> None:
    upstream, found = catalog.load(str(run)), read_units(run / "codes.h5", speech)
    assert upstream.config["family"] == "vq_wav2vec_bert"
    given = small_codes().model.state_dict()
    for name, tensor in upstream.model.codes.state_dict().items():
        assert torch.equal(tensor, given[name])  # to the last bit
    for id, own in plain_pairs(upstream.model.codes, speech).items():
        tokens = upstream.model.tokens_of(torch.tensor(own))
        assert tokens.tolist() == (found[id].astype(int) + 3).tolist()
    state = torch.load(run / "last.pt", weights_only=True)
    for name, tensor in upstream.model.state_dict().items():
        assert torch.equal(tensor, state["module"][f"encoder.{name}"])
    moved = len(state["optimizer"]["state"])
    names = [name for name, _ in upstream.model.bert.named_parameters()]
    assert moved == len(names) + 5  # and the prediction's; nothing is kept for what is not trained
    features = upstream(torch.randn(1, 8_000), torch.tensor([8_000]))
    assert features.states.isfinite().all()
    with open(run / "train.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert 0 < float(row["masked_share"]) < 1
    assert 0 <= float(row["unknown_share"]) < float(row["accuracy"]) + 1
    assert float(row["flop_utilisation"]) > 0


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"quantizer": "gumbel"}, None),
        ({"quantizer": "gumbel", "share_codebook": True}, True),
        ({"share_codebook": True}, None),
        ({}, False),
    ],
)
def test_the_model_has_the_codebook_and_the_positions_of_what_it_is_given(settings: dict, share: bool | None) -> None:
    given = small_codes(1, **settings)
    shape = codes.shape_of(SMALL_BERT, given, crop_seconds=0.5)
    assert shape.positions == 48  # 465 samples, and 160 for every further frame
    assert (shape.share_codebook, shape.overlap) == (share, 12)
    assert shape.quantizer == given.model.config.quantizer
    model = family.build(shape)
    codes.give_codebook(model, given)
    waveforms, lengths = torch.randn(2, 6_000, generator=torch.manual_seed(0)), torch.tensor([6_000, 5_000])
    with torch.no_grad():
        assert torch.equal(model.codes.codes(waveforms, lengths)[0], given.model.codes(waveforms, lengths)[0])
    assert not any(parameter.requires_grad for parameter in model.codes.parameters())
    fewer = codes.shape_of(SMALL_BERT, small_codes(1, entries=3), crop_seconds=0.5)
    assert (fewer.entries, fewer.vocabulary) == (3, 9)


def test_a_dictionary_is_read_from_a_table_of_tokens_with_gaps_in_it() -> None:
    table = family.token_table(["1-0 9", "madeupword0 0", "0-1 3"], 2)
    assert codes.dictionary_of(table).tolist() == [[-1, -1], [1, 0], [-1, -1], [0, 1]]
    model = family.build(SMALL_BERT)
    dictionary = codes.dictionary_of(family.token_table(["1-0 9", "madeupword0 0", "7-7 3"], 8))
    codes.fill_tokens(model, Units(Path(), {}, dictionary, {}, np.zeros(0, np.uint16)))
    assert (float(model.tokens[1, 0]), float(model.tokens[7, 7]), float(model.tokens.sum())) == (4, 6, 3 * 62 + 10)
    with pytest.raises(UserError, match="does not fit the codebook"):
        codes.fill_tokens(model, Units(Path(), {}, dictionary + 1, {}, np.zeros(0, np.uint16)))


def test_a_training_goes_on_with_the_dictionary_it_began_with(
    manifest: Path, run: Path, tmp_path: Path, make_speech
) -> None:
    other, given = write_corpus(tmp_path / "other", make_speech, 21), catalog.load(str(run))
    how = {"steps": 1, "peak_rate": 0.0, "precision": "fp32", "init": given}
    path = train("vq_wav2vec_bert", other, tmp_path / "on", **how)
    assert torch.equal(catalog.load(str(path)).model.tokens, given.model.tokens)
    one, two = (read_units(folder / "codes.h5", decode([read_manifest(table)], table.parent / "decoded"))
                for folder, table in ((run, manifest), (tmp_path / "on", other)))  # fmt: skip
    assert np.array_equal(one.centroids, two.centroids)
    assert {*np.unique(two.units)} <= {*range(13)}
    train("vq_wav2vec_bert", other, tmp_path / "fresh", steps=1)
    codes_of_it = {**how, "unit_source": source(file=tmp_path / "fresh/codes.h5")}
    with pytest.raises(UserError, match="codes with another dictionary"):
        train("vq_wav2vec_bert", other, tmp_path / "wrong", **codes_of_it)
    with pytest.raises(UserError, match=r"crop_seconds=1 is too long(.|\n)*98 frames, and there are 78 positions"):
        train("vq_wav2vec_bert", manifest, tmp_path / "long", crop_seconds=1.0, init=given)
    shorter = codes.shape_of(SMALL_BERT, small_codes(), 0.5, given)
    assert (shorter.positions, shorter.overlap) == (78, 19)
    with pytest.raises(UserError, match=r"codes from another codebook(.|\n)*was trained on codes of other weights"):
        train("vq_wav2vec_bert", manifest, tmp_path / "b", init=given, unit_source=source(codes=small_codes(1)))
    twin = catalog.build_random("vq_wav2vec_bert", given.model.config, 0)
    twin.codes.load_state_dict(given.model.codes.state_dict())
    random = catalog.Upstream("twin", twin, config=given.config, checkpoint="twin")
    with pytest.raises(UserError, match=r"several pairs of codes share a token"):
        train("vq_wav2vec_bert", manifest, tmp_path / "c", init=random)


def test_codes_that_cannot_be_read_are_refused_by_name(manifest: Path, tmp_path: Path) -> None:
    for settings, said in (
        ({"groups": 4}, "groups is 4 there, and 2 here"),
        ({"activation": "relu"}, "activation is relu there, and gelu here"),
        ({"conv_kernels": (10, 8, 4, 4, 4, 1, 1, 3)}, "conv_kernels is"),
        ({"quantizer": "gumbel", "logit_layers": 1}, "logit_layers is 1 there, and 2 here"),
    ):
        with pytest.raises(UserError, match=rf"these codes cannot be read(.|\n)*{said}"):
            train("vq_wav2vec_bert", manifest, tmp_path, unit_source=source(codes=small_codes(**settings)))
    codes.shape_of(SMALL_BERT, small_codes(logit_layers=1), 0.5)  # kmeans has no such layers
    wrong = catalog.load("fbank")
    with pytest.raises(UserError, match=r"codes= is no vq-wav2vec(.|\n)*its family is fbank"):
        train("vq_wav2vec_bert", manifest, tmp_path, unit_source=source(codes=wrong))
    with pytest.raises(UserError, match=r"codes= is missing(.|\n)*objective=vq_wav2vec"):
        train("vq_wav2vec_bert", manifest, tmp_path, unit_source=source(codes=None))
    with pytest.raises(UserError, match="codes= would change nothing"):
        train("hubert", manifest, tmp_path, unit_source=source())
    assert not any(tmp_path.iterdir())
