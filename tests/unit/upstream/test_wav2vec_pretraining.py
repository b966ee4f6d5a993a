"""The objective of wav2vec: its loss against plain loops, and what a run of it leaves."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import batch_of, train, write_corpus
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.flops import forward_flops
from wavbench.upstream.models import vq_wav2vec
from wavbench.upstream.models.wav2vec import Config as Shape
from wavbench.upstream.models.wav2vec import Wav2Vec
from wavbench.upstream.objective import Targets
from wavbench.upstream.pretrain import wav2vec
from wavbench.upstream.pretrain.wav2vec import Config, Wav2VecPretraining


def model_of(**settings) -> Wav2VecPretraining:
    """In double precision, and with random norms."""
    torch.manual_seed(0)
    model = wav2vec.build(Wav2Vec(Shape(dim=12, num_layers=2, residual_scale=0.5)), Config(**settings), None).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def plain(model: Wav2VecPretraining, waveforms: Tensor, lengths: Tensor, targets: Targets) -> tuple[Tensor, list[int]]:
    """Loss and right answers per step: a loop over utterances, steps, frames and negatives, as equation 1 has them."""
    config, loss, correct, first = model.config, torch.zeros(()).double(), [0] * model.config.prediction_steps, 0
    maps = model.predict.maps.weight.view(config.prediction_steps, 12, 12)
    biases = model.predict.maps.bias.view(config.prediction_steps, 12)
    for row, size in enumerate(lengths.tolist()):
        states = model.encoder(waveforms[row : row + 1, :size], lengths[row : row + 1]).states[0]
        latents, context = states[0], states[-1]
        negatives = targets.negatives[first : first + len(latents)].tolist()
        for step in range(config.prediction_steps):
            for i in range(len(latents)):
                k = i + config.first_step + step
                if k < len(latents):
                    predicted = maps[step] @ context[i] + biases[step]
                    shift = model.predict.bias[step] if config.logit_bias else 0.0
                    true = latents[k] @ predicted + shift
                    others = [latents[other] @ predicted + shift for other in negatives[k]]
                    loss = loss - torch.log(torch.sigmoid(true))
                    for other in others:
                        loss = loss - torch.log(torch.sigmoid(-other))
                    correct[step] += all(bool(true > other) for other in others)
        first += len(latents)
    return loss, correct


@pytest.mark.parametrize("counts", [[20], [15, 15, 15], [9, 3, 14, 9, 1]])
@pytest.mark.parametrize(("first_step", "logit_bias"), [(1, False), (3, False), (2, True)])
def test_loss_accuracy_and_gradients_are_those_of_a_plain_loop(
    counts: list[int], first_step: int, logit_bias: bool
) -> None:
    model = model_of(prediction_steps=4, first_step=first_step, num_negatives=3, logit_bias=logit_bias)
    batch = batch_of(wav2vec, model, counts)
    found = model(*batch)
    expected, correct = plain(model, *batch)
    torch.testing.assert_close(found.total, expected)
    parameters = [*model.parameters()]
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (found.total, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().max() > 0
    count = int(batch[2].counts.sum())
    of_step = [sum(max(frames - first_step - step, 0) for frames in counts) for step in range(4)]
    assert count == sum(of_step)
    terms = {name: float(value) / count for name, value in found.terms.items()}
    assert terms["accuracy"] == pytest.approx(sum(correct) / count)
    assert terms["accuracy_first_step"] == pytest.approx(correct[0] / of_step[0])
    assert terms["accuracy_last_step"] == pytest.approx(correct[3] / of_step[3])


def test_what_lies_behind_the_end_of_a_crop_changes_nothing() -> None:
    model = model_of(prediction_steps=4, num_negatives=3)
    waveforms, lengths, targets = batch_of(wav2vec, model, [12, 7])
    louder = waveforms.clone()
    louder[1, int(lengths[1]) :] *= 50
    assert model(waveforms, lengths, targets).total == model(louder, lengths, targets).total


def test_a_model_that_knows_nothing_is_at_chance() -> None:
    model = model_of(prediction_steps=2, num_negatives=10)
    waveforms, lengths, targets = batch_of(wav2vec, model, [30])
    with torch.no_grad():
        model.predict.maps.weight.zero_()
        model.predict.maps.bias.zero_()
    found = model(waveforms, lengths, targets)
    assert float(found.total.detach()) / int(targets.counts.sum()) == pytest.approx(11 * math.log(2))
    assert float(found.terms["accuracy"]) == 0.0  # as likely as a negative is not above it
    best = min(math.log1p(math.exp(-x)) + 10 * math.log1p(math.exp(x)) for x in np.linspace(-5, 0, 2_001))
    assert best == pytest.approx(math.log(11) + 10 * math.log(1.1), abs=1e-6)
    assert best == pytest.approx(3.35, abs=0.005)
    predict = wav2vec.prediction(12, Config(logit_bias=True))
    assert predict.bias.shape == (12,)
    for x in predict.bias.tolist():  # the logit of chance
        assert math.log1p(math.exp(-x)) + 10 * math.log1p(math.exp(x)) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_crop_too_short_to_predict_anything_has_no_loss_and_no_gradient(frames: int) -> None:
    model = model_of(prediction_steps=4, first_step=2)
    waveforms, lengths, targets = batch_of(wav2vec, model, [frames])
    losses = model(waveforms, lengths, targets)
    losses.total.backward()
    assert losses.total.item() == 0
    assert int(targets.counts.sum()) == 0
    assert all(float(value) == 0 for value in losses.terms.values())
    assert all(bool((parameter.grad == 0).all()) for parameter in model.parameters())


@settings(max_examples=60)
@given(frames=st.integers(0, 60), negatives=st.integers(1, 30), steps=st.integers(1, 14), first=st.integers(1, 4))
def test_negatives_are_other_frames_of_the_crop(frames: int, negatives: int, steps: int, first: int) -> None:
    config = Config(num_negatives=negatives, prediction_steps=steps, first_step=first)
    made = wav2vec.targets(config, frames, None, np.random.default_rng(frames))
    again = wav2vec.targets(config, frames, None, np.random.default_rng(frames))
    np.testing.assert_array_equal(made["negatives"], again["negatives"])
    assert made["negatives"].shape == (frames, negatives)
    assert not made["masked"].any()
    pairs = [(i, i + first + step) for step in range(steps) for i in range(frames)]
    assert made["counts"].tolist() == [sum(later < frames for _, later in pairs)]
    assert (made["counts"][0] > 0) == (frames > first)
    if frames > 1:
        assert 0 <= made["negatives"].min() <= made["negatives"].max() < frames
        assert (made["negatives"] != np.arange(frames)[:, None]).all()


def test_every_other_frame_is_drawn_alike() -> None:
    made = wav2vec.targets(Config(num_negatives=4_000), 9, None, np.random.default_rng(0))
    for frame, row in enumerate(made["negatives"]):
        counts = np.bincount(row, minlength=9)
        assert counts[frame] == 0
        assert (np.abs(np.delete(counts, frame) - 500) < 6 * math.sqrt(500)).all()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_learns_and_leaves_a_wav2vec(manifest: Path, tmp_path: Path) -> None:
    path = train("wav2vec", manifest, tmp_path, steps=40, precision="fp32", log_every=10)
    written = rows(tmp_path / "train.csv")
    assert float(written[-1]["loss"]) < 0.9 * float(written[0]["loss"])
    assert all(0 < float(row["accuracy"]) < 1 for row in written)
    # 4 steps, less what would lie behind the end of a crop of at most 0.8 s
    assert all(3.4 < float(row["predictions_per_frame"]) < 4 for row in written)
    upstream = catalog.load(str(path))
    assert upstream.config["family"] == "wav2vec"
    assert type(upstream.model) is Wav2Vec
    state = torch.load(tmp_path / "last.pt", weights_only=True)["module"]
    for name, tensor in upstream.model.state_dict().items():
        assert torch.equal(tensor, state[f"encoder.{name}"])


def test_what_cannot_be_is_refused(manifest: Path, tmp_path: Path) -> None:
    for name in ("prediction_steps", "first_step", "num_negatives"):
        with pytest.raises(UserError, match=f"{name}=0 is not possible"):
            Config(**{name: 0})
    # 12 steps and the frame that they begin at: 13 frames of 10 ms, and 19 ms more that the last of them sees
    with pytest.raises(UserError, match=r"no room for predictions of 12 steps(.|\n)*at least 0\.149\d* s"):
        train("wav2vec", manifest, tmp_path, crop_seconds=0.14, prediction_steps=12)
    with pytest.raises(UserError, match=r"no train utterance is at least 1\.519"):
        train("wav2vec", manifest, tmp_path, crop_seconds=2, prediction_steps=149, min_seconds=0)


@pytest.mark.parametrize("quantizer", ["", "gumbel", "kmeans"])
def test_operations_are_those_that_torch_counts(quantizer: str) -> None:
    shape = {"dim": 24, "num_layers": 3, "context_growth": 1, "residual_scale": 0.5}
    model = vq_wav2vec.build(vq_wav2vec.Config(quantizer=quantizer, **shape)) if quantizer else Wav2Vec(Shape(**shape))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 64_000), torch.tensor([64_000]))
    counted = counter.get_total_flops()
    if quantizer == "kmeans":  # torch does not count distances
        counted += 2 * 398 * 24 * 320
    assert forward_flops(model, 4.0) * 4.0 == pytest.approx(counted, rel=0.03)
