"""What is passed on of a run: weights, card, curves."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from wavbench.benchmark import cli, pretraining
from wavbench.upstream import catalog
from wavbench.upstream.checkpoints import write_checkpoint
from wavbench.upstream.errors import UserError
from wavbench.upstream.kept import heard_of
from wavbench.upstream.pretraining import find_objective


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    stem, config = catalog.find_preset("hubert_tiny")
    write_checkpoint(
        folder / "checkpoint.safetensors", stem, config, catalog.build_random(stem, config, 3).state_dict()
    )
    data = [{"corpus": "mine", "language": "sw", "utterances": 12, "hours": 0.25}]
    about = {"hyperparameters": {"objective": "hubert", "peak_rate": 0.0015}, "data": data}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "train.csv").write_text("step,audio_hours,loss,accuracy\n50,0.5,4.5,0.05\n100,1.0,4.0,0.125\n")
    (folder / "dev.csv").write_text("step,audio_hours,loss,accuracy\n100,1.0,4.25,0.1\n")
    (folder / "probe.csv").write_text("step,audio_hours,phones_best,phones_best_layer\n100,1.0,44.4,7\n")
    return folder


def test_a_release_is_the_checkpoint_in_half_precision(run: Path, tmp_path: Path, capsys) -> None:
    words = [f"run={run}", "name=hubert_tiny", f"out={tmp_path}", "licence=CC0 for tests"]
    assert cli.main(["release", *words]) == 0
    path = tmp_path / "hubert_tiny.safetensors"
    assert capsys.readouterr().out.strip() == f"checkpoint: {path}"
    assert path.stat().st_size < 14 << 20
    kept, made = catalog.load(str(path)).model.state_dict(), catalog.load(str(run)).model.state_dict()
    assert all(torch.equal(kept[name], value.half().float()) for name, value in made.items())


def test_the_card_says_what_the_weights_come_from(run: Path, tmp_path: Path) -> None:
    cli.main(["release", f"run={run}", "name=hubert_tiny", f"out={tmp_path}", "licence=CC0 for tests", "notes=Second."])
    card = (tmp_path / "hubert_tiny.md").read_text()
    assert "heard audio of" not in card
    cli.main(["release", f"run={run}", "name=hubert_tiny", f"out={tmp_path}", "licence=x", "heard=mine,librispeech"])
    assert "- heard audio of: librispeech, mine" in (tmp_path / "hubert_tiny.md").read_text()
    assert heard_of(tmp_path / "hubert_tiny.safetensors") == ("librispeech", "mine")
    cli.main(["release", f"run={run}", "name=hubert_tiny", f"out={tmp_path}", "licence=x", "heard=timit"])
    assert heard_of(tmp_path / "hubert_tiny.safetensors") == ("timit",)  # nothing of the card that was there
    for fact in ("5.8 M parameters", "`hubert`", "Second.", "CC0 for tests", "| mine | sw | 12 | 0.25 |", "4.250"):
        assert fact in card
    for fact in ("steps: 100", "audio seen: 1.0 h", "| 100 | 1.0 | 44.4 | 7 |", '"peak_rate": 0.0015'):
        assert fact in card
    picture = tmp_path / "hubert_tiny.png"
    assert f"]({picture.name})" in card
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 100_000


def test_a_card_gives_what_the_objective_is_known_by(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    for column, title in (
        ("accuracy", "accuracy at hidden frames"),
        ("explained_variance", "explained variance at hidden frames"),
        ("predictions_per_frame,accuracy", "accuracy of predictions"),
    ):
        values = "6.0,0.125" if "," in column else "0.125"
        (run / "train.csv").write_text(f"step,audio_hours,loss,{column}\n100,1.0,4.0,{values}\n")
        (run / "dev.csv").write_text(f"step,audio_hours,loss,{column}\n100,1.0,4.25,{values}\n")
        cli.main(["release", f"run={run}", "name=hubert_tiny", f"out={tmp_path}", "licence=none"])
        card = (tmp_path / "hubert_tiny.md").read_text()
        assert f"- last train loss: 4.000, {title} 0.125" in card
        assert f"- dev loss: 4.250, {title} 0.125" in card


def test_what_chooses_tokens_is_not_rounded(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    stem, config = catalog.find_preset("vq_wav2vec_bert_tiny")
    model = catalog.build_random(stem, config, 3)
    write_checkpoint(run / "checkpoint.safetensors", stem, config, model.state_dict())
    assert cli.main(["release", f"run={run}", f"name={stem}_tiny", f"out={tmp_path}", "licence=none"]) == 0
    kept = catalog.load(str(tmp_path / f"{stem}_tiny.safetensors")).model
    assert float(kept.tokens.max()) == 4_099  # half precision counts to 2,048
    for name, value in model.state_dict().items():
        exact = name == "tokens" or name.startswith("codes.")
        assert torch.equal(kept.state_dict()[name], value if exact else value.half().float())


SHIPPED = sorted(catalog.WEIGHTS.glob("*.safetensors"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_has_a_card_and_says_what_it_has_heard(path: Path) -> None:
    card = path.with_suffix(".md").read_text()
    assert f"- heard audio of: {', '.join(heard_of(path))}" in card
    assert {"english_l2", "kichwa"} <= set(heard_of(path))  # whose train audio is in the data under another name
    assert (path.with_suffix(".png")).is_file()
    assert catalog.load(path.stem).pretraining == heard_of(path)
    assert sum(other.stat().st_size for other in SHIPPED) < 80e6


def test_a_run_of_another_preset_is_refused(run: Path, tmp_path: Path) -> None:
    from wavbench.benchmark.release import release

    with pytest.raises(UserError, match="did not train hubert_small") as caught:
        release(run, "hubert_small", tmp_path, licence="none")
    assert "dim=192, and the preset has 384" in caught.value.why
    with pytest.raises(UserError, match="did not train wavlm_tiny"):
        release(run, "wavlm_tiny", tmp_path, licence="none")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("objective", ["wav2vec2", "wavlm", "data2vec", "wav2vec", "vq_wav2vec"])
@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_what_a_recipe_trains_is_its_preset(objective: str, preset: str) -> None:
    given = pretraining.compose([f"objective={objective}", f"preset={preset}", "manifest=a.csv"])
    file = find_objective(objective)
    stem, shape = catalog.find_preset(f"{objective}_{preset}")
    config = file.Config(**{item.name: getattr(given, item.name) for item in dataclasses.fields(file.Config)})
    assert (file.shape(config, shape) if hasattr(file, "shape") else shape) == shape, stem


def test_a_folder_without_a_run_is_an_error_of_one_screen(tmp_path: Path, capsys) -> None:
    words = [f"run={tmp_path}", "name=hubert_tiny", f"out={tmp_path}", "licence=none"]
    assert cli.main(["release", *words]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_that_wrote_nothing_yet_is_refused(run: Path, tmp_path: Path) -> None:
    from wavbench.benchmark.release import release

    begun = Path(shutil.copytree(run, tmp_path / "run"))
    (begun / "train.csv").unlink()
    with pytest.raises(UserError, match=r"the run has no train\.csv"):
        release(begun, "hubert_tiny", tmp_path / "out", licence="none")


@pytest.mark.parametrize("text", ['{"hyperparam', "[]", '{"data": []}', ""], ids=["cut", "a list", "half", "empty"])
def test_settings_that_cannot_be_read_are_an_error_of_one_screen(
    text: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    damaged = Path(shutil.copytree(run, tmp_path / "run"))
    (damaged / "run.json").write_text(text)
    assert cli.main(["release", f"run={damaged}", "name=hubert_tiny", f"out={tmp_path / 'out'}", "licence=none"]) == 2
    said = capsys.readouterr().err
    assert "settings of the run cannot be read" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
