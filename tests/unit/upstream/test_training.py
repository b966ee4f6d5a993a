"""The loop: the same weights to the last bit whatever stops it and however its batches are made."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import SMALL, train, weights_of, write_corpus

from wavbench.upstream import catalog, pretraining, training, training_log
from wavbench.upstream.batch_plan import Batch
from wavbench.upstream.crops import Crops, loader
from wavbench.upstream.decoded import open_decoded
from wavbench.upstream.errors import UserError
from wavbench.upstream.processes import make_fabric
from wavbench.upstream.training import Settings

OBJECTIVES = ["hubert", "wav2vec2", "wavlm", "data2vec", "wav2vec", "vq_wav2vec", "vq_wav2vec_bert"]


class Stopped(Exception):
    """What a kill is in these tests."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


def stop_at(step: int):
    def report(status) -> None:
        if status.step == step:
            raise Stopped

    return report


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run_stopped(objective: str, manifest: Path, folder: Path, stops: list[int], **values) -> str:
    for step in stops:
        with pytest.raises(Stopped):
            train(objective, manifest, folder, report=stop_at(step), **values)
    train(objective, manifest, folder, **values)
    return weights_of(folder)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_stopped_at_any_step_ends_with_the_weights_of_one_that_was_not(
    objective: str, manifest: Path, tmp_path: Path
) -> None:
    how = {"precision": "fp32", "log_every": 1, "save_every": 2, "steps": 5, "layerdrop": 0.3}
    train(objective, manifest, tmp_path / "whole", **how)
    whole = weights_of(tmp_path / "whole")
    for step in range(1, 6):  # before the first checkpoint, between two, and after the last row
        folder = tmp_path / f"stopped{step}"
        assert run_stopped(objective, manifest, folder, [step], **how) == whole
        steps = [row["step"] for row in rows(folder / "train.csv")]
        assert steps == [str(step) for step in range(1, 6)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_in_bfloat16_that_is_stopped_often_ends_with_the_same_weights(
    objective: str, manifest: Path, tmp_path: Path
) -> None:
    how = {"precision": "bf16", "log_every": 1, "save_every": 2, "steps": 5}
    train(objective, manifest, tmp_path / "whole", **how)
    assert run_stopped(objective, manifest, tmp_path / "often", [1, 3, 5, 5], **how) == weights_of(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_number_of_workers_changes_nothing(objective: str, manifest: Path, tmp_path: Path) -> None:
    found = set()
    for workers in (0, 2, 4):
        train(objective, manifest, tmp_path / f"{workers}", workers=workers, accumulate=2, steps=3)
        found.add(weights_of(tmp_path / f"{workers}"))
    assert len(found) == 1
    # Stopped with two workers, gone on without.
    stopped = {"accumulate": 2, "steps": 3}
    with pytest.raises(Stopped):
        train(objective, manifest, tmp_path / "stopped", workers=2, report=stop_at(2), **stopped)
    train(objective, manifest, tmp_path / "stopped", **stopped)
    assert weights_of(tmp_path / "stopped") in found


def test_a_training_learns_and_exports_what_it_learned(manifest: Path, tmp_path: Path) -> None:
    path = train("hubert", manifest, tmp_path, steps=40, precision="fp32", log_every=10, mask_start_share=0.05)
    written = rows(tmp_path / "train.csv")
    assert [int(row["step"]) for row in written] == list(range(10, 41, 10))
    assert float(written[-1]["masked_loss"]) < 0.8 * float(written[0]["masked_loss"])
    assert all(0 < float(row["accuracy"]) < 1 and 0 < float(row["masked_share"]) < 1 for row in written)
    upstream = catalog.load(str(path))
    assert upstream.config["family"] == "hubert"
    state = torch.load(tmp_path / "last.pt", weights_only=True)["module"]
    for name, tensor in upstream.model.state_dict().items():
        assert torch.equal(tensor, state[f"encoder.{name}"])
    dev = [float(row["loss"]) for row in rows(tmp_path / "dev.csv")]
    assert len(dev) == 10
    best = catalog.load(str(tmp_path / "best.safetensors")).weights_hash
    assert (best == upstream.weights_hash) == (min(dev) == dev[-1])


def test_the_checkpoint_is_there_when_the_state_says_that_it_is_finished(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path, state: dict) -> None:
        if state["step"] == 4:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("wavbench.upstream.training.save_state", killed)
        with pytest.raises(Stopped):
            train("hubert", manifest, tmp_path, steps=4)
    assert train("hubert", manifest, tmp_path, steps=4).is_file()
    done = weights_of(tmp_path)
    train("hubert", manifest, tmp_path, steps=4)  # nothing is left to do
    assert weights_of(tmp_path) == done


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_batches_of_a_step_have_the_gradient_of_both_together(
    objective: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    update = training.Training._update

    def spy(self, pieces) -> None:
        clip = self.fabric.clip_gradients

        def keep(module, optimizer, **how):
            seen["gradients"] = [parameter.grad.clone() for parameter in trained(module)]
            return clip(module, optimizer, **how)

        before = {name: value.clone() for name, value in self.module.state_dict().items()}
        monkeypatch.setattr(self.fabric, "clip_gradients", keep)
        update(self, pieces)
        seen.update(pieces=pieces, before=before, module=self.module)

    monkeypatch.setattr(training.Training, "_update", spy)
    # Without noise: the dropouts and the Gumbel noise of each batch are its own.
    how = {"quantizer_dropout": 0.0} if objective == "wav2vec2" else {}
    monkeypatch.setattr("small_training.pretraining.pretrain", without_dropout(pretraining.pretrain))
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.fill_(1.0))
    train(objective, manifest, tmp_path, steps=1, accumulate=2, precision="fp32", batch_seconds=1.0, **how)

    module = seen["module"].module
    module.load_state_dict(seen["before"])
    module.train()
    module.zero_grad()
    sums = [module(piece.waveforms, piece.lengths, piece.targets, 0).total for piece in seen["pieces"]]
    hidden = sum(piece.hidden for piece in seen["pieces"])
    assert seen["pieces"][0].hidden != seen["pieces"][1].hidden
    (sum(sums) / hidden).backward()
    for found, parameter in zip(seen["gradients"], trained(module), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)


def trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """All but the weights of a teacher."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def without_dropout(pretrain):
    def call(*arguments, regularisation, **values):
        return pretrain(*arguments, regularisation=dict.fromkeys(regularisation, 0.0), **values)

    return call


def test_the_learning_rate_rises_holds_and_falls() -> None:
    settings = Settings(steps=10, peak_rate=1.0, warmup=0.2, hold=0.3)
    wanted = [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    np.testing.assert_allclose([settings.rate(step) for step in range(10)], wanted, rtol=1e-12)
    square = Settings(steps=4, peak_rate=2.0, warmup=0.0, decay_power=2.0)
    np.testing.assert_allclose([square.rate(step) for step in range(4)], [2, 2 * 0.75**2, 0.5, 2 * 0.25**2])
    flat = Settings(steps=3, peak_rate=1.0, warmup=0.0, hold=1.0)
    assert [flat.rate(step) for step in range(3)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("accumulate", 0),
        ("log_every", 0),
        ("save_every", -1),
        ("peak_rate", float("nan")),
        ("hold", -0.1),
        ("seed", -1),
        ("beta1", 1.0),
        ("epsilon", -1e-8),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name):
        Settings(**{"steps": 10, "peak_rate": 1.0, name: value})


def test_warmup_and_hold_are_no_more_than_all_steps() -> None:
    with pytest.raises(UserError, match="more than all steps"):
        Settings(steps=10, peak_rate=1.0, warmup=0.6, hold=0.5)


def test_tables_that_are_not_the_trainings_own_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "speech.csv").write_text("id,audio,split\n1,a.wav,train\n2,b.wav,train\n")
    (tmp_path / "train.csv").write_text("step,loss\n1,2.0\n2,1.0\n3,0.5\n4,0.")
    (tmp_path / "dev.csv").write_text("step,loss\n")
    log = training_log.Log(tmp_path, 2)
    log.write("train", 3, {"loss": 0.75})
    log.write("dev", 3, {"loss": 0.125})
    log.close()
    assert len((tmp_path / "speech.csv").read_text().splitlines()) == 3
    assert (tmp_path / "train.csv").read_text().split() == ["step,loss", "1,2.0", "2,1.0", "3,0.75"]
    assert (tmp_path / "dev.csv").read_text().split() == ["step,loss", "3,0.125"]


@pytest.mark.parametrize("first", ["id,audio,split", "utt1", "\ufeffid,audio", "steps,loss"])
def test_a_table_of_a_name_that_a_training_writes_is_refused_and_left(tmp_path: Path, first: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(f"{first}\n0001,a.wav,train\n")
    with pytest.raises(UserError, match=r"another train\.csv"):
        training_log.Log(tmp_path, 0)
    assert path.read_text() == f"{first}\n0001,a.wav,train\n"


def test_samples_reach_a_module_with_all_their_bits() -> None:
    class Ear(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.heard = x
            return super().forward(x)

    fabric = make_fabric("cpu", 1, 1, "bf16", unused=False)
    ear = Ear(4, 2)
    module = fabric.setup_module(ear)
    given = torch.tensor([[1.0 + 2.0**-20, 0.1, 0.2, 0.3]])
    with torch.no_grad():
        assert module(given).dtype in (torch.bfloat16, torch.float32)
        plain = torch.nn.functional.linear(given, ear.weight, ear.bias)
    assert torch.equal(ear.heard, given)
    assert not torch.equal(module(given).float(), plain)  # the product is in bf16 all the same


def test_a_loader_gives_the_planned_batches_in_order(manifest: Path, tmp_path: Path) -> None:
    train("hubert", manifest, tmp_path, steps=1)
    speech = open_decoded(next((manifest.parent / "decoded").iterdir()))
    steps = [(Batch(0, i, (i, i + 1), (0, 0), 6_000),) for i in range(9)]

    def made(workers: int) -> list:
        def targets(frames, units, generator) -> dict:
            return {"masked": generator.random(frames) < 0.5}

        crops = Crops(speech, np.arange(12), SMALL_CONV, targets, seed=1)
        return [piece for (piece,) in loader(crops, iter(steps), workers)]

    alone, several = made(0), made(2)
    assert [piece.position for piece in several] == [(0, i) for i in range(9)]
    for one, other in zip(alone, several, strict=True):
        assert one.ids == other.ids
        assert torch.equal(one.waveforms, other.waveforms)
        assert torch.equal(one.targets.masked, other.targets.masked)
        assert one.waveforms.shape == (2, int(one.lengths[0]))


def test_audio_on_the_device_gives_the_same_crops(manifest: Path, tmp_path: Path) -> None:
    for name, there in (("host", False), ("device", True)):
        train("wav2vec2", manifest, tmp_path / name, steps=3, audio_on_device=there)
    assert weights_of(tmp_path / "host") == weights_of(tmp_path / "device")


SMALL_CONV = tuple(zip(SMALL.conv_kernels, SMALL.conv_strides, strict=True))
