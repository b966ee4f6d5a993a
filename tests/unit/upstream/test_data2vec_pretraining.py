"""data2vec's objective: a teacher that follows the student, what it asks for, and what happens when it asks nothing."""

import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_training import SMALL_DATA2VEC, train, write_corpus
from torch import Tensor

from wavbench.upstream import catalog, export
from wavbench.upstream.errors import UserError
from wavbench.upstream.objective import Targets
from wavbench.upstream.pretrain import data2vec

FRAMES = 50
SAMPLES = 400 + (FRAMES - 1) * 320


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


@pytest.fixture(scope="module")
def crops(make_speech) -> tuple[Tensor, Tensor, Targets]:
    waveforms = torch.from_numpy(np.stack([make_speech(SAMPLES / 16_000, seed) for seed in range(3)]))
    random = np.random.default_rng(0)
    masked = np.concatenate([data2vec.targets(data2vec.Config(), FRAMES, None, random)["masked"] for _ in range(3)])
    return waveforms, torch.full((3,), SAMPLES), Targets(torch.from_numpy(masked))


def model_of(config: data2vec.Config | None = None, **shape) -> data2vec.Data2Vec:
    """A model whose teacher is not its student."""
    torch.manual_seed(0)
    small = type(SMALL_DATA2VEC)(**{**SMALL_DATA2VEC.__dict__, "num_layers": 3, **shape})
    model = data2vec.build(catalog.family("data2vec").build(small), config or data2vec.Config(top_blocks=2), None)
    with torch.no_grad():
        for weight in model.teacher.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def rows(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def wanted_by_a_plain_loop(model: data2vec.Data2Vec, projected: Tensor, blocks: int) -> np.ndarray:
    """For each frame the mean over blocks of what their feed-forward parts add, normalised over each crop."""
    teacher, lengths = model.teacher, [FRAMES] * 3
    x = projected + teacher.positions(projected, lengths)
    x = x if teacher.pre_norm else teacher.norm(x)
    kept = []
    for block in teacher.blocks:
        if block.pre_norm:
            x = x + block.attention(block.attention_norm(x), lengths)
            part = block.feed_forward(block.feed_forward_norm(x))
            x = x + part
        else:
            x = block.attention_norm(x + block.attention(x, lengths))
            part = block.feed_forward(x)
            x = block.feed_forward_norm(x + part)
        kept.append(part.double().numpy())
    total = np.zeros((3 * FRAMES, x.shape[1]))
    for part in kept[-blocks:]:
        for crop in range(3):
            for channel in range(x.shape[1]):
                values = part[crop * FRAMES : (crop + 1) * FRAMES, channel]
                centred = (values - values.mean()) / math.sqrt(values.var() + 1e-5)
                total[crop * FRAMES : (crop + 1) * FRAMES, channel] += centred / blocks
    return total


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize(("blocks", "smooth_l1"), [(1, 0.0), (2, 0.0), (3, 0.5)])
def test_the_loss_equals_a_plain_loop(blocks: int, smooth_l1: float, pre_norm: bool, crops: tuple) -> None:
    model = model_of(data2vec.Config(top_blocks=blocks, smooth_l1=smooth_l1), pre_norm=pre_norm)
    waveforms, lengths, targets = crops
    losses = model(waveforms, lengths, targets)
    encoder = model.encoder
    with torch.no_grad():
        latents, frames = encoder.convolve(waveforms, lengths)
        projected = encoder.project(latents)
        wanted = wanted_by_a_plain_loop(model, projected, blocks)
        x = projected.clone()
        x[targets.masked] = model.mask.vector
        predicted = model.final(encoder.transformer(x, frames)[-1]).double().numpy()
    total = 0.0
    hidden = targets.masked.nonzero()[:, 0].tolist()
    for frame in hidden:
        for error in np.abs(predicted[frame] - wanted[frame]):
            if smooth_l1 == 0:
                total += error**2
            else:
                total += error**2 / (2 * smooth_l1) if error < smooth_l1 else error - smooth_l1 / 2
    assert losses.total.item() == pytest.approx(total / math.sqrt(24), rel=1e-4)
    for name, values in (("target_deviation", wanted[hidden]), ("prediction_deviation", predicted[hidden])):
        assert losses.terms[name].item() == pytest.approx(len(hidden) * values.std(axis=0).mean(), rel=1e-4)
    errors = np.square(wanted[hidden] - predicted[hidden]).mean(axis=0).sum()
    share = 1 - errors / wanted[hidden].var(axis=0).sum()
    assert losses.terms["explained_variance"].item() == pytest.approx(len(hidden) * share, rel=1e-4)


def test_the_mean_explains_nothing_and_the_target_all() -> None:
    wanted = torch.randn(40, 6)
    assert data2vec.explained(wanted, wanted).item() == 1
    assert data2vec.explained(wanted, wanted.mean(dim=0).expand_as(wanted)).item() == pytest.approx(0, abs=1e-6)
    assert data2vec.explained(torch.ones(4, 6), torch.zeros(4, 6)).item() == 0


def test_targets_are_those_of_an_instance_norm(crops: tuple) -> None:
    x = torch.randn(3 * FRAMES + 20, 24) * 3 + 1
    found = data2vec.normalised(x, [FRAMES, FRAMES, 20, FRAMES])
    for part, own in zip(x.split([FRAMES, FRAMES, 20, FRAMES]), found.split([FRAMES, FRAMES, 20, FRAMES]), strict=True):
        torch.testing.assert_close(own, torch.nn.functional.instance_norm(part.T[None])[0].T)


def test_the_gradient_reaches_the_student_alone(crops: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    model(*crops).total.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert all(grad is None for name, grad in found.items() if name.startswith("teacher."))
    trained = {name: grad for name, grad in found.items() if not name.startswith("teacher.")}
    assert all(bool(grad.isfinite().all()) for grad in trained.values())
    assert float(trained["encoder.conv.convs.0.weight"].abs().sum()) > 0
    # The targets are numbers: given as such they change no gradient.
    kept = {}
    compute = model.wanted
    monkeypatch.setattr(model, "wanted", lambda *a: kept.setdefault("wanted", compute(*a)))
    model(*crops)
    assert not kept["wanted"].requires_grad
    model.zero_grad()
    monkeypatch.setattr(model, "wanted", lambda *a: kept["wanted"])
    model(*crops).total.backward()
    assert all(torch.equal(model.get_parameter(name).grad, grad) for name, grad in trained.items())


def test_the_teacher_is_whole_and_quiet_while_the_student_drops_out(crops: tuple) -> None:
    model = model_of(dropout=0.5, layerdrop=0.5, projection_dropout=0.5).train()
    assert not any(module.training for module in model.teacher.modules())
    projected = torch.randn(3 * FRAMES, 24)
    assert torch.equal(model.wanted(projected, [FRAMES] * 3), model.wanted(projected, [FRAMES] * 3))
    assert not torch.equal(model(*crops).total, model(*crops).total)


def test_the_teacher_is_the_running_average_of_the_student() -> None:
    config = data2vec.Config(top_blocks=2, decay_start=0.5, decay_end=0.9, decay_steps=4)
    model = model_of(config)
    assert [round(model.decay(step), 12) for step in (1, 2, 3, 4, 5, 99)] == [0.6, 0.7, 0.8, 0.9, 0.9, 0.9]
    averages = {name: weight.clone().double() for name, weight in model.teacher.named_parameters()}
    for step, decay in enumerate((0.6, 0.7, 0.8, 0.9, 0.9), start=1):
        with torch.no_grad():
            for weight in model.encoder.transformer.parameters():
                weight.add_(torch.randn_like(weight))
        model.after_update(step)
        for name, weight in model.encoder.transformer.named_parameters():
            averages[name] = decay * averages[name] + (1 - decay) * weight.detach().double()
    for name, weight in model.teacher.named_parameters():
        student = model.encoder.transformer.get_parameter(name)
        if name.startswith("positions."):
            assert torch.equal(weight, student)
        else:
            torch.testing.assert_close(weight.double(), averages[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(weight, student)


def test_a_training_learns_and_writes_the_student_as_an_upstream_of_the_family(manifest: Path, tmp_path: Path) -> None:
    how = {"steps": 60, "log_every": 10, "decay_start": 0.99, "decay_end": 0.999, "mask_start_share": 0.04}
    path = train("data2vec", manifest, tmp_path, precision="fp32", **how)
    written = rows(tmp_path / "train.csv")
    assert written[-1]["loss"] < 0.8 * written[0]["loss"]
    shares = [row["explained_variance"] for row in written]
    assert all(later > earlier - 0.02 for earlier, later in pairwise(shares))  # rows are of few crops
    assert shares[-1] > shares[0] + 0.3
    assert all(later > earlier - 0.02 for earlier, later in pairwise(shares))  # rows are of few crops
    assert shares[-1] > shares[0] + 0.3
    assert all(row["target_deviation"] > 0.1 and row["prediction_deviation"] > 0.01 for row in written)
    # A row is the mean over its steps, all of nearly as many hidden frames.
    assert written[0]["teacher_decay"] == pytest.approx(0.99 + 0.009 * 5.5 / 20, abs=3e-4)
    assert written[-1]["teacher_decay"] == pytest.approx(0.999, rel=1e-5)
    upstream = catalog.load(str(path))
    assert upstream.config["family"] == "data2vec"
    state = torch.load(tmp_path / "last.pt", weights_only=True)["module"]
    for name, tensor in upstream.model.state_dict().items():
        assert torch.equal(tensor, state[f"encoder.{name}"])
        if name.startswith("transformer.blocks."):
            assert not torch.equal(tensor, state[name.replace("transformer.", "teacher.", 1)])
    assert export.export_hugging_face(upstream, tmp_path / "exported").is_dir()


def test_the_teacher_stays_in_float32(manifest: Path, tmp_path: Path) -> None:
    train("data2vec", manifest, tmp_path, steps=2, precision="bf16")
    state = torch.load(tmp_path / "last.pt", weights_only=True)["module"]
    assert {tensor.dtype for name, tensor in state.items() if name.startswith("teacher.")} == {torch.float32}


def test_a_state_without_a_teacher_is_refused_by_name(manifest: Path, tmp_path: Path) -> None:
    train("data2vec", manifest, tmp_path, steps=2)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    state["module"] = {name: tensor for name, tensor in state["module"].items() if not name.startswith("teacher.")}
    torch.save(state, tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(
        UserError, match=r"is not whole: it lacks teacher\n(.|\n)*last\.pt(.|\n)*teacher\.(.|\n)*way out"
    ):
        train("data2vec", manifest, tmp_path, steps=2)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_collapse_stops_the_training_and_a_resumed_one_too(manifest: Path, tmp_path: Path) -> None:
    how = {"steps": 9, "log_every": 1, "save_every": 1, "min_target_deviation": 5.0, "collapse_steps": 4}
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"has collapsed: at step 4 (.|\n)*target_deviation 0\.\d+ < 5, for 4 steps"
        ):
            train("data2vec", manifest, tmp_path, **how)
        assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 3
        assert [row["step"] for row in rows(tmp_path / "train.csv")] == [1, 2, 3, 4]
    with pytest.raises(UserError, match=r"at step 6 (.|\n)*prediction_deviation \S+ < 7, for 6 steps"):
        train(
            "data2vec", manifest, tmp_path / "b", steps=9, log_every=3, min_prediction_deviation=7.0, collapse_steps=4
        )


def test_only_a_collapse_that_lasts_counts() -> None:
    model = model_of(data2vec.Config(top_blocks=1, collapse_steps=30))
    good, bad = (
        {"target_deviation": 0.4, "prediction_deviation": 0.2},
        {"target_deviation": 0.05, "prediction_deviation": 0.2},
    )
    for step, values in ((10, bad), (20, bad), (29, good), (40, bad), (50, bad), (58, bad)):
        model.watch(step, values)
    again = model_of(data2vec.Config(top_blocks=1, collapse_steps=30))
    again.load_state_dict(model.state_dict())
    with pytest.raises(UserError, match=r"target_deviation 0\.05 < 0\.1, for 30 steps"):
        again.watch(59, bad)


def test_a_batch_in_which_nothing_is_hidden_has_no_loss_and_no_nan(crops: tuple) -> None:
    model = model_of()
    losses = model(crops[0], crops[1], Targets(torch.zeros(3 * FRAMES, dtype=torch.bool)))
    losses.total.backward()
    assert losses.total.item() == 0
    assert all(float(value) == 0 for value in losses.terms.values())
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in model.parameters())


def test_silence_has_a_finite_loss(manifest: Path, tmp_path: Path) -> None:
    soundfile.write(manifest.parent / "audio/silence.wav", np.zeros(16_000, np.float32), 16_000)
    silent = manifest.parent / "silent.csv"
    silent.write_text("id,audio,split\na,audio/silence.wav,train\n")
    train("data2vec", silent, tmp_path, steps=2)
    state = torch.load(tmp_path / "last.pt", weights_only=True)["module"]
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())


def test_settings_that_cannot_be_are_named(manifest: Path, tmp_path: Path) -> None:
    for name, value in (
        ("decay_start", 1.1),
        ("decay_end", -0.1),
        ("top_blocks", 0),
        ("decay_steps", 0),
        ("smooth_l1", -1),
    ):
        with pytest.raises(UserError, match=f"{name}="):
            data2vec.Config(**{name: value})
    with pytest.raises(UserError, match="top_blocks=3 is more than the 2 blocks"):
        train("data2vec", manifest, tmp_path, top_blocks=3)
    assert json.loads(json.dumps(data2vec.Config().__dict__))["top_blocks"] == 8
