"""Whatever is wrong with what a training is given: one screen that names it and a way out, and the last state stays."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from small_training import SMALL, shrunk, small_codes, source_of, train, write_corpus

from wavbench.upstream import catalog, pretraining, training_state, units
from wavbench.upstream.checkpoints import write_checkpoint
from wavbench.upstream.errors import UserError
from wavbench.upstream.objective import Targets
from wavbench.upstream.pretrain import hubert, wav2vec2
from wavbench.upstream.pretraining import UnitSource

FRAMES = 30


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


@pytest.fixture
def refused(wavbench: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that gives `wavbench pretrain` what it must refuse, and returns the screen."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        with shrunk():
            done = wavbench("pretrain", *words, "workers=0", "threads=1")
        assert done.code == 2, done
        assert "Traceback" not in done.out + done.err
        assert done.err.startswith("error: ")
        assert "way out: " in done.err
        assert len(done.err.splitlines()) < 30
        return done.err

    return run


def part(manifest: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    path = manifest.parent / name
    change(pd.read_csv(manifest, dtype=str)).to_csv(path, index=False)
    return path


def test_words_that_are_not_known_are_named(refused: Callable, manifest: Path, tmp_path: Path) -> None:
    basis = ("objective=hubert", f"manifest={manifest}")
    assert "there is no objective 'hubart'" in refused("objective=hubart", f"manifest={manifest}")
    assert "objective" in refused(f"manifest={manifest}")
    assert "there is no pretrain 'huge'" in refused(*basis, "preset=huge")
    screen = refused(*basis, "peak_rat=1")
    assert "there is no key 'peak_rat'" in screen
    assert "did you mean peak_rate?" in screen
    assert "num_negatives" in refused(*basis, "num_negatives=5")  # of the other objective
    assert "steps=many" in refused(*basis, "steps=many")
    assert "precision=fp8 is not known" in refused(*basis, "precision=fp8")
    assert "log_every=0 is not possible" in refused(*basis, "log_every=0")
    assert "crop_seconds=-1 is not possible" in refused(*basis, "crop_seconds=-1")
    for word in ("seed=-1", "beta2=1.5", "dropout=1.2", "mask_span=-5", "mask_start_share=2", "temperature=0"):
        assert f"{word} is not possible" in refused(*basis, word)
    contrastive = ("objective=wav2vec2", f"manifest={manifest}")
    for word in ("num_negatives=-1", "groups=3", "entries=0", "gumbel_end=0"):
        assert f"{word} is not possible" in refused(*contrastive, word)
    assert "units_from=hubert_tiny would change nothing" in refused(*contrastive, "units_from=hubert_tiny")
    assert "clusters=70001 is not possible" in refused(*basis, "clusters=70001", f"out={tmp_path / 'many'}")
    assert "interpolation" in refused(*basis, "out=${oc.env:HOME}")
    assert "two manifests have the same name" in refused("objective=hubert", f"manifest={manifest},{manifest}")
    assert "probe_every needs a corpus" in refused(*basis, "probe_every=5")
    assert "units and units_from are both given" in refused(*basis, "units=a.h5", "units_from=b")
    (tmp_path / "other.yaml").write_text("steps: 5\npeak_rate: 1.0e-3\nbatch_seconds: 2\ncrop_seconds: 1\n")
    assert "there is no preset 'hubert_other' to train" in refused(*basis, "preset=other.yaml")
    (tmp_path / "tiny.yaml").write_text("steps: 5\nhubert: 3\n")
    assert "the section hubert of the recipe" in refused(*basis, "preset=tiny.yaml")
    assert not (tmp_path / "pretrained").exists()


def test_weights_to_begin_with_must_have_the_same_shape(refused: Callable, manifest: Path, tmp_path: Path) -> None:
    wider = catalog.family("wav2vec2").Config(**{**SMALL.__dict__, "inner_dim": 64})
    model = catalog.build_random("wav2vec2", wider, 0)
    write_checkpoint(tmp_path / "wider.safetensors", "wav2vec2", wider, model.state_dict())
    for name in ("fbank", "wider.safetensors"):
        screen = refused("objective=wav2vec2", f"manifest={manifest}", f"init={name}")
        assert "cannot begin with these weights" in screen
        assert f"where: {name}" in screen


def test_a_corpus_must_have_something_to_learn_from(manifest: Path, tmp_path: Path) -> None:
    no_train = part(manifest, "notrain.csv", lambda table: table.assign(split="test"))
    with pytest.raises(UserError, match=r"no train split(.|\n)*the splits are test"):
        train("wav2vec2", no_train, tmp_path / "a")
    with pytest.raises(UserError, match=r"no train utterance is at least 30 s long"):
        train("wav2vec2", manifest, tmp_path / "b", min_seconds=30)
    # a span of 60 frames is 1.2 s, longer than any utterance, whatever min_seconds says
    with pytest.raises(UserError, match=r"no train utterance is at least 1\.2"):
        train("wav2vec2", manifest, tmp_path / "c", min_seconds=0.0, mask_span=60, crop_seconds=2)
    with pytest.raises(UserError, match=r"crop_seconds=0\.1 has no room for hidden spans of 10 frames"):
        train("wav2vec2", manifest, tmp_path / "d", crop_seconds=0.1)
    with pytest.raises(UserError, match=r"too little speech for a step(.|\n)*accumulate=50"):
        train("wav2vec2", manifest, tmp_path / "e", accumulate=50)
    with pytest.raises(UserError, match="20000 clusters need as many frames"):
        train("hubert", manifest, tmp_path / "f", clusters=20_000)
    assert not (tmp_path / "f" / "units.h5").exists()


def test_what_is_left_out_is_told(manifest: Path, tmp_path: Path, make_speech) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        for name in ("broken", "short"):
            table = pd.concat([table, table.iloc[:1].assign(id=name, audio=f"audio/{name}.wav")])
        return table

    (manifest.parent / "audio/broken.wav").write_text("no sound")
    soundfile.write(manifest.parent / "audio/short.wav", make_speech(0.15, 5), 16_000)  # no hidden span fits
    path, told = part(manifest, "mixed.csv", change), []
    train("hubert", path, tmp_path / "run", steps=2, say=told.append, min_seconds=0.0)
    assert len(told) == 1
    assert "1 utterances that cannot be decoded (first: mixed/broken: " in told[0]
    assert "1 shorter than 0.2" in told[0]
    assert "mixed/short" in told[0]
    only = part(path, "only.csv", lambda table: table[table["id"] == "broken"])
    with pytest.raises(UserError, match=r"no audio could be decoded; first: only/broken: "):
        train("wav2vec2", only, tmp_path / "only")


def test_a_single_utterance_is_enough(manifest: Path, tmp_path: Path) -> None:
    one = part(manifest, "one.csv", lambda table: table.iloc[:1])
    train("hubert", one, tmp_path, steps=2)
    assert (tmp_path / "dev.csv").read_text().count("\n") == 2


def test_silence_has_a_finite_loss(manifest: Path, tmp_path: Path) -> None:
    soundfile.write(manifest.parent / "audio/silence.wav", np.zeros(16_000, np.float32), 16_000)
    silent = part(manifest, "silent.csv", lambda table: table.iloc[:1].assign(audio="audio/silence.wav"))
    for objective in ("hubert", "wav2vec2", "data2vec", "wav2vec", "vq_wav2vec", "vq_wav2vec_bert"):
        # wavlm mixes two utterances
        train(objective, silent, tmp_path / objective, steps=2, clusters=1)
        state = torch.load(tmp_path / objective / "last.pt", weights_only=True)
        assert all(bool(tensor.isfinite().all()) for tensor in state["module"].values())


@pytest.mark.parametrize("objective", ["hubert", "wav2vec2"])
def test_a_batch_in_which_nothing_is_hidden_has_no_loss_and_no_nan(objective: str, make_speech) -> None:
    encoder = catalog.family("wav2vec2").build(SMALL)
    if objective == "hubert":
        made_of = units.Units(Path(), {}, np.zeros((5, 39), np.float32), {}, np.zeros(0, np.uint16))
        module = hubert.build(encoder, hubert.Config(unit_dim=8), made_of)
        targets = Targets(torch.zeros(FRAMES, dtype=torch.bool), units=torch.zeros(FRAMES, dtype=torch.long))
    else:
        config = wav2vec2.Config(entries=4, code_dim=8, compare_dim=8)
        module = wav2vec2.build(encoder, config, None)
        made = wav2vec2.targets(config, 9, None, np.random.default_rng(0))  # shorter than a span
        assert not made["masked"].any()
        targets = Targets(
            torch.zeros(FRAMES, dtype=torch.bool),
            negatives=torch.from_numpy(made["negatives"]), counts=torch.from_numpy(made["counts"]),
        )  # fmt: skip
    samples = 400 + (FRAMES - 1) * 320
    waveform = torch.from_numpy(make_speech(samples / 16_000, 1))[None]
    losses = module(waveform, torch.tensor([samples]), targets, 0)
    losses.total.backward()
    assert losses.total.item() == 0
    assert all(float(value) == 0 for value in losses.terms.values())
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in module.parameters())


def test_fewer_hidden_frames_than_negatives_are_enough(manifest: Path, tmp_path: Path) -> None:
    train("wav2vec2", manifest, tmp_path, steps=2, num_negatives=200, mask_span=2)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert all(bool(tensor.isfinite().all()) for tensor in state["module"].values())


def test_other_settings_are_refused_on_resume_and_named(manifest: Path, tmp_path: Path) -> None:
    train("hubert", manifest, tmp_path, steps=2)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(UserError) as error:
        train("hubert", manifest, tmp_path, steps=3, peak_rate=1.0, unit_dim=12)
    for line in (
        "steps: began with 2, now 3",
        "peak_rate: began with 0.002, now 1.0",
        "unit_dim: began with 16, now 12",
    ):
        assert line in str(error.value)
    assert "seed" not in str(error.value)
    with pytest.raises(UserError, match=r"objective: began with hubert, now wav2vec2"):
        train("wav2vec2", manifest, tmp_path, steps=2)
    with pytest.raises(UserError, match=r"made with 6, now 7"):
        train("hubert", manifest, tmp_path, steps=2, clusters=7)
    train("hubert", manifest, tmp_path, steps=2, save_every=1, log_every=1)  # what only watches may change
    assert (tmp_path / "last.pt").read_bytes() == before


def test_other_splits_of_the_same_audio_are_refused_on_resume(manifest: Path, tmp_path: Path) -> None:
    text = manifest.read_text()
    train("wav2vec2", manifest, tmp_path, steps=2)
    try:
        part(manifest, manifest.name, lambda table: table.assign(split=["dev"] + ["train"] * (len(table) - 1)))
        with pytest.raises(UserError, match="splits: began with"):
            train("wav2vec2", manifest, tmp_path, steps=2)
    finally:
        manifest.write_text(text)


def test_units_of_other_audio_or_another_k_means_are_refused(manifest: Path, tmp_path: Path) -> None:
    train("hubert", manifest, tmp_path / "one", steps=2)
    own = tmp_path / "one" / "units.h5"
    other = part(manifest, "fewer.csv", lambda table: table.iloc[:9])
    with pytest.raises(UserError, match="made of other audio"):
        train("hubert", other, tmp_path / "two", steps=2, unit_source=UnitSource(file=own))
    train("hubert", manifest, tmp_path / "three", steps=2, clusters=5)
    with pytest.raises(UserError, match=r"units: began with .*'clusters': 6"):
        train("hubert", manifest, tmp_path / "one", steps=2, unit_source=UnitSource(file=tmp_path / "three/units.h5"))
    with pytest.raises(UserError, match="there is no such unit file"):
        train("hubert", manifest, tmp_path / "four", unit_source=UnitSource(file=tmp_path / "none.h5"))
    # another upstream of the same layer and clusters
    made = {"stores": dict, "layer": 1, "clusters": 6}
    (tmp_path / "one/last.pt").unlink()
    with pytest.raises(UserError, match="made otherwise") as caught:
        train("hubert", manifest, tmp_path / "one", unit_source=UnitSource(described=lambda: "a ab12 layer 1", **made))
    assert "units_from: made with MFCC, now states (a ab12 layer 1)" in caught.value.why
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(own.read_bytes()[:-2_000])
    with pytest.raises(UserError, match="damaged or is none"):
        train("hubert", manifest, tmp_path / "five", unit_source=UnitSource(file=damaged))


def test_codes_of_another_codebook_or_none_are_refused(refused: Callable, manifest: Path, tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    given = small_codes().model
    write_checkpoint(path, "vq_wav2vec", given.config, given.state_dict())
    words = (f"manifest={manifest}", "steps=1", "precision=fp32", "crop_seconds=0.8", "min_seconds=0.3")
    basis = ("objective=vq_wav2vec_bert", *words)
    screen = refused(*basis)
    assert "codes= is missing" in screen
    assert "codes=FOLDER of `wavbench pretrain objective=vq_wav2vec`" in screen
    screen = refused(*basis, "codes=fbank")
    assert "codes= is no vq-wav2vec" in screen
    assert "its family is fbank" in screen
    assert "codes= would change nothing" in refused("objective=hubert", *words, f"codes={path}")
    for word in ("units_from=fbank", "units_layer=2", "clusters=7"):
        assert "would change nothing" in refused(*basis, f"codes={path}", word)
    assert "layerdrop=0.1 would change nothing" in refused(*basis, f"codes={path}", "layerdrop=0.1")
    # The folder of a run and a file that is given, both made by another vq-wav2vec.
    train("vq_wav2vec_bert", manifest, tmp_path / "run", steps=1, precision="fp32")
    other = tmp_path / "other.safetensors"
    write_checkpoint(other, "vq_wav2vec", given.config, small_codes(1).model.state_dict())
    made = tmp_path / "run" / "codes.h5"
    for word in (f"out={tmp_path / 'run'}", f"units={made}"):
        screen = refused(*basis, f"codes={other}", word)
        assert "codes from another codebook" in screen
        assert str(made) in screen
        assert small_codes().weights_hash in screen
        assert small_codes(1).weights_hash in screen
    train("hubert", manifest, tmp_path / "units", steps=1)
    assert "these units are no codes" in refused(*basis, f"codes={path}", f"units={tmp_path / 'units/units.h5'}")
    assert "these units are codes of a vq-wav2vec" in refused("objective=hubert", *words, f"units={made}")
    fewer = part(manifest, "fewer.csv", lambda table: table.iloc[:9])
    with pytest.raises(UserError, match="made of other audio"):
        train("vq_wav2vec_bert", fewer, tmp_path / "two", unit_source=source_of("vq_wav2vec_bert", file=made))
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(made.read_bytes()[:-2_000])
    with pytest.raises(UserError, match="damaged or is none"):
        train("vq_wav2vec_bert", manifest, tmp_path / "three", unit_source=source_of("vq_wav2vec_bert", file=damaged))
    train("vq_wav2vec_bert", manifest, tmp_path / "again", steps=1, unit_source=source_of("vq_wav2vec_bert", file=made))


@pytest.mark.parametrize("what", ["torch.save", "os.fsync", "safetensors.torch.save"])
def test_a_full_disk_keeps_the_last_state(
    what: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_some = {"steps": 4, "save_every": 1, "log_every": 1, "dev_every": 4}

    class Stop(Exception):
        pass

    def stop(status) -> None:
        if status.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train("wav2vec2", manifest, tmp_path, report=stop, **train_some)
    before = {name: (tmp_path / name).read_bytes() for name in ("last.pt", "checkpoint.safetensors")}
    with monkeypatch.context() as patch:

        def full(*arguments, **values) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(what, full)
        with pytest.raises(UserError, match=r"cannot be saved(.|\n)*No space left(.|\n)*free some space"):
            train("wav2vec2", manifest, tmp_path, **train_some)
    assert (tmp_path / "last.pt").read_bytes() == before["last.pt"]
    assert not list(tmp_path.glob(".tmp-*"))
    train("wav2vec2", manifest, tmp_path, **train_some)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 4


def test_a_loss_that_is_not_finite_names_the_step_and_the_utterances(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = wav2vec2.Wav2Vec2Pretraining.forward

    def broken(self, waveforms, lengths, targets, step=0, noise=None):
        losses = forward(self, waveforms, lengths, targets, step, noise)
        return losses._replace(total=losses.total * (float("nan") if step == 3 and self.training else 1.0))

    monkeypatch.setattr(wav2vec2.Wav2Vec2Pretraining, "forward", broken)
    with pytest.raises(
        UserError, match=r"the loss is not finite at step 3(.|\n)*speech/u\d\d(.|\n)*way out: "
    ) as error:
        train("wav2vec2", manifest, tmp_path, steps=6, save_every=1)
    assert str(tmp_path) in str(error.value)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 3
    assert all(bool(t.isfinite().all()) for t in torch.load(tmp_path / "last.pt", weights_only=True)["module"].values())


def test_a_damaged_state_is_named_and_kept(manifest: Path, tmp_path: Path) -> None:
    train("hubert", manifest, tmp_path, steps=2)
    path = tmp_path / "last.pt"
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1  # amid some tensor, where torch would not notice
    for bad in (good[: len(good) // 2], b"", b"no state", bytes(flipped), good[:-30]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"cannot be read(.|\n)*last\.pt(.|\n)*way out: "):
            train("hubert", manifest, tmp_path, steps=2)
        assert path.read_bytes() == bad
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="does not say that it is wavbench-training"):
        train("hubert", manifest, tmp_path, steps=2)


class Code:
    """What runs a command when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_code_in_a_state_is_not_run(tmp_path: Path) -> None:
    torch.save({"format": training_state.FORMAT, "module": Code(tmp_path / "ran")}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="cannot be read"):
        training_state.load_state(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_hyperparameters_of_a_later_version_are_not_compared(tmp_path: Path) -> None:
    began = json.dumps({"a": 1, "b": [1, 2]})
    training_state.refuse_changes(tmp_path, began, {"a": 1, "b": (1, 2), "new": 3})
    with pytest.raises(UserError, match="b: began with"):
        training_state.refuse_changes(tmp_path, began, {"a": 1})


def test_every_fiftieth_train_utterance_is_held_out_where_there_is_no_dev_split(manifest: Path) -> None:
    train_rows, dev_rows = pretraining.split_rows(speech_of(["train"] * 120), 400)
    assert dev_rows.tolist() == [0, 50, 100]
    assert sorted([*train_rows, *dev_rows]) == list(range(120))
    train_rows, dev_rows = pretraining.split_rows(speech_of(["train", "dev", "test"]), 400)
    assert (train_rows.tolist(), dev_rows.tolist()) == ([0], [1])


def speech_of(splits: list[str]):
    from wavbench.upstream.decoded import Speech

    count = len(splits)
    lengths = np.full(count, 16_000)
    ids, languages = tuple(f"c/{k}" for k in range(count)), ("",) * count
    return Speech(ids, tuple(splits), languages, np.cumsum(lengths) - lengths, lengths, np.zeros(0, np.int16), "", {})
