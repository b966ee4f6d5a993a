"""`wavbench speed`: who takes part, what is measured, and that all contenders compute the same."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wavbench.benchmark import cli, peers, speed
from wavbench.benchmark.speed_parts import REST
from wavbench.benchmark.speed_report import _bounds, ratios
from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.export import export_hugging_face
from wavbench.upstream.models import wav2vec2

SMALL = {"conv_channels": (32,) * 7, "dim": 64, "num_layers": 2, "num_heads": 2, "inner_dim": 96, "position_kernel": 16}
INSTALLED = [name for name in peers.PEERS if importlib.util.find_spec(name)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a preset that runs in no time."""
    monkeypatch.setitem(wav2vec2.presets, "nano", wav2vec2.Config(**SMALL))
    return "wav2vec2_nano"


def run(*words: str) -> int:
    return cli.main(["speed", "rounds=1", "seconds=2", "seed=3", *words])


def test_every_toolkit_that_is_installed_is_measured_in_every_way(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(f"upstream={small}", "batches=1,3", f"results={tmp_path}") == 0
    printed = capsys.readouterr().out
    path = tmp_path / "speed" / "wav2vec2_nano_cpu.json"
    assert f"results: {path}" in printed
    result = json.loads(path.read_text())
    ways = {(row["contender"], row["precision"], row["how"], row["batch"]) for row in result["rows"]}
    casts = (("fp32", ""), ("bf16", "autocast"), ("bf16", "weights"))
    theirs = {(name, *cast, size) for name in INSTALLED for cast in casts for size in (1, 3)}
    assert ways == {("wavbench", "fp32", "", 0), ("wavbench", "bf16", "", 0)} | theirs
    for row in result["rows"]:
        known = [error for error in row["errors"] if error is not None]
        assert row["largest_error"] == max(known)
        assert len(row["errors"]) == 3
        assert row["per_cpu_second"] > 0 < row["per_wall_second"]
        exact = row["precision"] == "fp32" and row["batch"] < 2
        assert row["largest_error"] <= 1e-5 if exact else row["largest_error"] > 1e-4
    assert result["peaks_gflops"]["fp32"]["torch"] > 0
    for precision in ("fp32", "bf16"):
        parts = result["parts"][precision]
        assert [part["part"] for part in parts] == ["convolutions", "positions", "attention", "feed-forward", REST]
        assert sum(part["time_share"] for part in parts) == pytest.approx(1, abs=1e-3)
    page = path.with_suffix(".md").read_text()
    assert all(name in page for name in (*INSTALLED, "share of peak", "lost to the peak"))
    assert "s3prl" in INSTALLED or result["absent"] == {"s3prl": "not installed"}


def test_toolkits_that_cannot_take_part_are_said(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(given: peers.Given) -> None:
        raise ValueError("a weight\nis missing")

    def without_padding(given: peers.Given) -> tuple:
        model, forward, layers = peers.PEERS["transformers"](given)

        def one(model: torch.nn.Module, waveforms: list) -> list:
            if len(waveforms) > 1:
                raise NotImplementedError("one at a time")
            return forward(model, waveforms)

        return model, one, layers

    made = {"no_such_toolkit": broken, "json": broken, "torchaudio": without_padding}
    monkeypatch.setattr(peers, "PEERS", peers.PEERS | made)
    monkeypatch.setattr(speed, "PEERS", peers.PEERS)
    words = ("peers=no_such_toolkit,json,torchaudio", "precision=fp32", f"results={tmp_path}")
    assert run(f"upstream={small}", *words) == 0
    assert "note: without no_such_toolkit: not installed" in capsys.readouterr().out
    result = json.loads((tmp_path / "speed" / "wav2vec2_nano_cpu.json").read_text())
    assert result["absent"] == {
        "no_such_toolkit": "not installed",
        "json": "it cannot be built: ValueError: a weight",
        "torchaudio fp32 batches of 8": "NotImplementedError: one at a time",
    }
    assert [(row["contender"], row["batch"]) for row in result["rows"]] == [("wavbench", 0), ("torchaudio", 1)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["peers=transformer"], "did you mean transformers?"),
        (["precision=fp16"], "fp32, bf16 or both"),
        (["rounds=0"], "rounds=0 is not possible"),
        (["batches=0"], "batches are numbers of utterances"),
        (["upstream=fbank", "weights="], "a preset of wav2vec2, hubert, wavlm or data2vec"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], said: str, small: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = {"upstream": small, "rounds": "1", "results": str(tmp_path)} | dict(word.split("=") for word in words)
    assert cli.main(["speed", *(f"{key}={value}" for key, value in given.items())]) == 2
    assert said in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("family", "preset"),
    [("wav2vec2", "base"), ("wav2vec2", "large_lv60"), ("hubert", "large"), ("wavlm", "base"), ("wavlm", "large"),
     ("data2vec", "base")],
)  # fmt: skip
@pytest.mark.parametrize("name", INSTALLED)
def test_a_peer_with_our_weights_computes_our_states(family: str, preset: str, name: str, tmp_path: Path) -> None:
    config = dataclasses.replace(catalog.find_preset(f"{family}_{preset}")[1], **SMALL)
    model = catalog.build_random(family, config, 0)
    upstream = catalog.Upstream("small", model, config=catalog.describe(family, config), checkpoint="small")
    given = peers.Given(family, config, export_hugging_face(upstream, tmp_path / "hf"))
    if family == "data2vec" and name in ("torchaudio", "s3prl"):
        with pytest.raises(peers.NoPeer, match="no data2vec"):
            peers.open_peer(name, given)
        return
    peer = peers.open_peer(name, given)
    waveform = speed.noise(12.0, 0)[0][:16_000]
    ours = upstream.extract(waveform).states[0]
    with torch.inference_mode():
        states = peer.forward(peer.model, [waveform])
    assert set(peer.layers) >= set(range(1, config.num_layers))
    # s3prl and speechbrain normalise waveforms with another epsilon
    tolerance = 1e-3 if config.normalise and name in ("s3prl", "speechbrain") else 1e-5
    for layer, state in zip(peer.layers, states, strict=False):
        assert (state[0] - ours[layer]).norm() <= tolerance * ours[layer].norm()


def test_noise_has_the_lengths_of_librispeech_and_depends_on_the_seed_alone() -> None:
    waveforms = speed.noise(900.0, 0)
    seconds = torch.tensor([len(one) / 16_000 for one in waveforms])
    assert len(waveforms) == 75
    assert 2 <= seconds.min() < seconds.max() <= 17
    assert seconds.mean() == pytest.approx(12, abs=1.0)
    assert all(a.equal(b) for a, b in zip(waveforms[:3], speed.noise(900.0, 0)[:3], strict=True))
    assert not waveforms[0].equal(speed.noise(12.0, 1)[0])


def test_speech_is_taken_from_a_manifest_until_the_seconds_are_reached(
    build_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = build_corpus(tmp_path, count=6, shortest=1.0, longest=1.0)
    (tmp_path / "audio/u0001.wav").write_bytes(b"no audio")
    assert [len(one) for one in speed.speech_of(str(manifest), 2.5, 400)] == [16_000] * 3
    with pytest.raises(UserError, match="no utterance can be used"):
        speed.speech_of(str(manifest), 2.5, 20_000)


def test_ratios_are_to_the_fastest_peer_in_its_fastest_way() -> None:
    def row(contender: str, precision: str, batch: int, rate: float) -> dict:
        how = "autocast" if precision == "bf16" and batch else ""
        return {"contender": contender, "precision": precision, "how": how, "batch": batch, "per_cpu_second": rate}

    rows = [
        row("wavbench", "fp32", 0, 12.0), row("a", "fp32", 1, 6.0), row("a", "fp32", 8, 3.0), row("b", "fp32", 8, 4.0),
        row("wavbench", "bf16", 0, 24.0), row("a", "bf16", 1, 8.0), row("b", "bf16", 8, 2.0),
    ]  # fmt: skip
    found = ratios(rows, "per_cpu_second")
    assert {name: (one["ratio"], one["peer"]) for name, one in found["fp32"].items()} == {
        "fastest peer, fp32": (2.0, "a"),
        "fastest peer, fp32, padded batches of 8": (3.0, "b"),
    }
    assert [one["ratio"] for one in found["bf16"].values()] == [4.0, 3.0, 6.0, 12.0]


def test_a_share_of_the_peak_that_rounds_to_nothing_bounds_nothing() -> None:
    rows = [{"contender": name, "precision": "fp32", "peak_share": 0.0} for name in ("wavbench", "torchaudio")]
    assert _bounds({"ratios": {"fp32": {}}, "rows": rows, "parts": {}}) == []
