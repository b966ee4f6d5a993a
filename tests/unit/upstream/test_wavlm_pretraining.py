"""WavLM's objective: what is mixed into which crop, and what is predicted of it."""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_training import SMALL, SMALL_WAVLM, train, weights_of, write_corpus

from wavbench.upstream import catalog
from wavbench.upstream.batch_plan import Batch, generator_of
from wavbench.upstream.crops import Crops
from wavbench.upstream.decoded import SCALE, Speech
from wavbench.upstream.errors import UserError
from wavbench.upstream.pretrain import hubert, wavlm
from wavbench.upstream.units import Units

CONV = tuple(zip(SMALL.conv_kernels, SMALL.conv_strides, strict=True))
COUNT = 6_000  # samples of the crops here
FRAMES = (COUNT - 400) // 320 + 1


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


@pytest.fixture(scope="module")
def speech(make_speech) -> Speech:
    """Twelve utterances of 0.2 to 1.3 s; two are shorter than the crops."""
    parts = [np.rint(SCALE * make_speech(0.2 + 0.1 * k, k)).astype(np.int16) for k in range(12)]
    lengths = np.array([len(part) for part in parts])
    return Speech(
        tuple(f"c/{k}" for k in range(12)), ("train",) * 12, ("",) * 12, np.cumsum(lengths) - lengths, lengths,
        np.concatenate(parts), "", {},
    )  # fmt: skip


def units_of(speech: Speech, clusters: int = 7) -> Units:
    random = np.random.default_rng(0)
    frames = [(int(length) - 400) // 320 + 1 for length in speech.lengths]
    ends = np.cumsum(frames).tolist()
    rows = {id: slice(end - count, end) for id, end, count in zip(speech.ids, ends, frames, strict=True)}
    return Units(
        Path(), {}, np.zeros((clusters, 39), np.float32), rows, random.integers(0, clusters, ends[-1], np.uint16)
    )


def crops_of(speech: Speech, config: hubert.Config, module=wavlm, **values) -> Crops:
    overlay = module.mixer(config, speech, np.arange(12)) if module is wavlm else None
    return Crops(
        speech, np.arange(12), CONV, lambda *arguments: module.targets(config, *arguments), units_of(speech),
        seed=3, overlay=overlay, **values,
    )  # fmt: skip


def batch(rows: tuple[int, ...] = tuple(range(3, 12)), epoch: int = 0) -> Batch:
    return Batch(epoch, 0, rows, (0,) * len(rows), COUNT)


def slices_of(speech: Speech, piece: np.ndarray) -> set[int]:
    """Utterances that the piece of sound is a louder or softer slice of."""
    found = set()
    for row in range(len(speech.ids)):
        whole = speech.crop(row, 0, int(speech.lengths[row])).astype(np.float64)
        if len(whole) < len(piece):
            continue
        products = np.correlate(whole, piece.astype(np.float64), "valid")
        norms = np.sqrt(np.convolve(whole**2, np.ones(len(piece)), "valid") * np.square(piece, dtype=np.float64).sum())
        if (products / np.maximum(norms, 1e-12)).max() > 1 - 1e-6:
            found.add(row)
    return found


def test_speech_is_added_as_often_as_long_and_as_loud_as_in_the_paper(speech: Speech) -> None:
    mixer = wavlm.mixer(wavlm.Config(mixing_share=0.2, noise_share=0.0), speech, np.arange(12))
    random, ratios, shares, places = np.random.default_rng(0), [], [], []
    for _ in range(3_000):
        laid = mixer(7, 1_280, COUNT, random)
        if laid is None:
            continue
        place, piece = laid
        assert 0 <= place <= COUNT - len(piece)
        assert 1 <= len(piece) <= COUNT // 2
        shares.append(len(piece) / COUNT)
        places.append(place / (COUNT - len(piece)))
    assert len(shares) / 3_000 == pytest.approx(0.2, abs=0.025)
    assert np.mean(shares) == pytest.approx(0.25, abs=0.025)
    assert np.mean(places) == pytest.approx(0.5, abs=0.05)
    # Where the other utterance is a constant, each of its pieces has the energy of the whole.
    flat = np.full(int(speech.lengths.sum()), 8_192, np.int16)
    flat[speech.offsets[7] : speech.offsets[7] + speech.lengths[7]] = 4_096
    even = Speech(
        *[getattr(speech, name) for name in ("ids", "splits", "languages", "offsets", "lengths")], flat, "", {}
    )
    mixer = wavlm.mixer(wavlm.Config(mixing_share=1.0, noise_share=0.0), even, np.arange(12))
    for _ in range(500):
        _, piece = mixer(7, 0, COUNT, random)
        ratios.append(20 * math.log10(4_096 / SCALE / float(np.abs(piece).mean())))
    assert -5 <= min(ratios) < -4.5
    assert 4.5 < max(ratios) <= 5
    assert np.mean(ratios) == pytest.approx(0, abs=0.5)


def test_added_speech_is_a_piece_of_another_utterance_and_of_each_in_turn(speech: Speech) -> None:
    mixer = wavlm.mixer(wavlm.Config(mixing_share=1.0, noise_share=0.0), speech, np.arange(1, 12))
    random, met = np.random.default_rng(1), set()
    for _ in range(120):
        _, piece = mixer(5, 0, COUNT, random)
        if len(piece) > 200:
            found = slices_of(speech, piece)
            assert len(found) == 1
            met |= found
    assert met == set(range(1, 12)) - {5}
    # An utterance that is not in the train split is mixed with all of it.
    others = {
        min(slices_of(speech, piece))
        for _, piece in (mixer(0, 0, 3_000, random) for _ in range(60))
        if len(piece) > 200
    }
    assert others <= set(range(1, 12))
    assert len(others) > 8


def test_noise_has_the_slope_of_its_colour_and_the_ratios_of_the_paper(speech: Speech) -> None:
    mixer = wavlm.mixer(wavlm.Config(mixing_share=1.0, noise_share=1.0), speech, np.array([5]))
    random, ratios = np.random.default_rng(0), []
    own = wavlm.energy(speech.crop(5, 0, COUNT))
    for _ in range(300):
        _, piece = mixer(5, 0, COUNT, random)
        if len(piece) > 2_000:
            ratios.append(10 * math.log10(own / wavlm.energy(piece)))
            assert slices_of(speech, piece) == set()
    assert -8 < min(ratios) < -2
    assert 17 < max(ratios) < 23
    slopes = set()
    for _ in range(30):
        power = np.abs(np.fft.rfft(wavlm.noise(16_000, random))) ** 2
        octaves = [power[low : 2 * low].mean() for low in (100, 200, 400, 800, 1_600, 3_200)]
        slopes.add(round(-np.polyfit(range(6), np.log2(octaves), 1)[0]))
    assert slopes == {0, 1, 2}


def test_masks_units_and_crops_are_those_of_hubert_and_only_sound_is_added(speech: Speech) -> None:
    mixed = crops_of(speech, wavlm.Config(mixing_share=0.5))[[batch()]][0]
    plain = crops_of(speech, hubert.Config(), hubert)[[batch()]][0]
    assert mixed.ids == plain.ids
    assert torch.equal(mixed.targets.masked, plain.targets.masked)
    assert torch.equal(mixed.targets.units, plain.targets.units)
    added = mixed.waveforms - plain.waveforms
    overlapped = mixed.targets.overlapped.view(-1, FRAMES)
    assert 0 < overlapped.any(dim=1).sum() < len(overlapped)
    for sound, marked in zip(added, overlapped, strict=True):
        seen = [bool(sound[320 * k : 320 * k + 400].abs().sum() > 0) for k in range(FRAMES)]
        assert marked.tolist() == seen


def test_a_crop_is_a_function_of_seed_epoch_and_utterance_whatever_its_batch(speech: Speech) -> None:
    crops = crops_of(speech, wavlm.Config(mixing_share=0.7))
    together = crops[[batch()]][0]
    for place, row in enumerate(range(3, 12)):
        alone = crops[[batch((row,))]][0]
        assert torch.equal(alone.waveforms[0], together.waveforms[place])
    other = crops[[batch(epoch=1)]][0]
    assert not torch.equal(other.targets.overlapped, together.targets.overlapped)


def test_a_batch_cut_on_the_device_gets_the_same_sound(speech: Speech) -> None:
    config = wavlm.Config(mixing_share=0.7)
    there = crops_of(speech, config, with_waveforms=False)[[batch()]][0]
    assert there.waveforms is None
    moved = there.to(torch.device("cpu"), torch.from_numpy(speech.samples))
    assert moved.overlay is None
    assert torch.equal(moved.waveforms, crops_of(speech, config)[[batch()]][0].waveforms)


def test_the_loss_on_mixed_crops_equals_a_plain_loop(speech: Speech) -> None:
    torch.manual_seed(0)
    config = wavlm.Config(mixing_share=0.6, unit_dim=8, unmasked_weight=0.5, mask_start_share=0.04)
    encoder = catalog.family("wavlm").build(SMALL_WAVLM)
    model = wavlm.build(encoder, config, units_of(speech))
    piece = crops_of(speech, config)[[batch()]][0]
    targets = piece.targets
    losses = model(piece.waveforms, piece.lengths, targets)
    losses.total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    gates = encoder.transformer.blocks[0].attention.gate
    assert float(gates.inner.weight.grad.abs().sum()) > 0
    assert float(encoder.transformer.relative.embedding.grad.abs().sum()) > 0

    with torch.no_grad():
        raw, frames = encoder.raw_latents(piece.waveforms, piece.lengths)
        x = encoder.project(encoder.projection_norm(raw))
        x[targets.masked] = model.mask.vector
        states = model.final(encoder.transformer(x, frames)[-1])
    hidden, rest, right, over, over_right = [], [], 0, 0, 0
    for k in range(len(states)):
        scores = [float(torch.cosine_similarity(states[k], unit, dim=0)) / 0.1 for unit in model.units.detach()]
        unit = int(targets.units[k])
        loss = math.log(sum(math.exp(score) for score in scores)) - scores[unit]
        (hidden if targets.masked[k] else rest).append(loss)
        if targets.masked[k]:
            correct = scores[unit] == max(scores)
            right, over = right + correct, over + bool(targets.overlapped[k])
            over_right += correct and bool(targets.overlapped[k])
    wanted = sum(hidden) + len(hidden) * (0.5 * np.mean(rest) + 10 * float(raw.square().mean()))
    assert losses.total.item() == pytest.approx(wanted, rel=1e-5)
    assert losses.terms["masked_loss"].item() == pytest.approx(sum(hidden), rel=1e-5)
    assert losses.terms["accuracy"].item() == right
    assert losses.terms["overlapped_share"].item() == over > 0
    assert losses.terms["overlapped_correct"].item() == over_right


def test_a_training_learns_and_writes_an_upstream_of_the_family(manifest: Path, tmp_path: Path) -> None:
    path = train("wavlm", manifest, tmp_path, steps=40, precision="fp32", log_every=10, mask_start_share=0.05)
    with open(tmp_path / "train.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows[-1]["masked_loss"] < 0.8 * rows[0]["masked_loss"]
    assert all(0 < row["overlapped_correct"] < row["overlapped_share"] < 0.4 for row in rows)
    upstream = catalog.load(str(path))
    assert upstream.config["family"] == "wavlm"
    state = torch.load(tmp_path / "last.pt", weights_only=True)["module"]
    for name, tensor in upstream.model.state_dict().items():
        assert torch.equal(tensor, state[f"encoder.{name}"])


def test_audio_on_the_device_gives_the_same_training(manifest: Path, tmp_path: Path) -> None:
    for name, there in (("host", False), ("device", True)):
        train("wavlm", manifest, tmp_path / name, steps=3, audio_on_device=there)
    assert weights_of(tmp_path / "host") == weights_of(tmp_path / "device")


def test_a_single_utterance_cannot_be_mixed_and_is_named(manifest: Path, tmp_path: Path) -> None:
    one = manifest.parent / "one.csv"
    pd.read_csv(manifest, dtype=str).iloc[:1].to_csv(one, index=False)
    with pytest.raises(UserError, match=r"cannot be mixed with another(.|\n)*one/u00(.|\n)*mixing_share=0\.6") as error:
        train("wavlm", one, tmp_path / "refused", steps=2)
    assert "noise_share=1" in error.value.remedy
    for number, way in enumerate(({"noise_share": 1.0}, {"mixing_share": 0.0})):
        assert train("wavlm", one, tmp_path / f"{number}", steps=2, **way).is_file()


def test_silence_adds_nothing_and_gets_nothing(speech: Speech) -> None:
    still = np.array(speech.samples)
    still[: speech.offsets[4]] = 0
    parts = [getattr(speech, name) for name in ("ids", "splits", "languages", "offsets", "lengths")]
    quiet = Speech(*parts, still, "", {})
    mixer = wavlm.mixer(wavlm.Config(mixing_share=1.0, noise_share=0.5), quiet, np.arange(4))
    random = generator_of(0, 0, "c/9", 0)
    pieces = [mixer(row, 0, 3_000, random)[1] for row in (2, 9) for _ in range(20)]
    assert all(np.isfinite(piece).all() for piece in pieces)
    assert all(not piece.any() for piece in pieces[:20])
    assert any(piece.any() for piece in pieces[20:])


@pytest.mark.parametrize("name", ["mixing_share", "noise_share"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_shares_that_cannot_be_are_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name}="):
        wavlm.Config(**{name: value})
