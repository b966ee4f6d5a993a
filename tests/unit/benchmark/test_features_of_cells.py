"""Where a cell's features come from: stores of any type, one layer of them, or the upstream at work."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wavbench.benchmark import schemas
from wavbench.benchmark.cell import Cell, Paths, plan_cell
from wavbench.benchmark.estimates import Shape, Size, shape_of, store_bytes, streamed_seconds
from wavbench.benchmark.experiment import jobs_of, sweep
from wavbench.benchmark.plan import forecast, stores_to_make
from wavbench.benchmark.record import Record, read_record, read_scores
from wavbench.benchmark.run import missing, run_cell, store_for
from wavbench.benchmark.sources import source_of
from wavbench.downstream.spec import load_task
from wavbench.downstream.streamed import Streamed
from wavbench.upstream.catalog import Upstream, build_random, load
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract, fingerprint_of, store_path
from wavbench.upstream.listener import Listener
from wavbench.upstream.manifest import Manifest, read_manifest
from wavbench.upstream.models import wav2vec2

COUNT = 24
PHONES = ("pp a tt", "tt a", "a pp")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, build_corpus: Callable) -> Manifest:
    columns = {
        "speaker": [f"s{k // 3}" for k in range(COUNT)],
        "split": ["train"] * 12 + ["dev"] * 6 + ["test"] * 6,
        "emotion": [("joy", "calm")[k % 2] for k in range(COUNT)],
        "phones": [PHONES[k % 3] for k in range(COUNT)],
    }
    return read_manifest(build_corpus(tmp_path_factory.mktemp("corpus"), COUNT, 0.3, 0.5, **columns))


@pytest.fixture(scope="module")
def small() -> Upstream:
    sizes = {"dim": 24, "num_layers": 2, "num_heads": 2, "inner_dim": 48, "position_kernel": 16, "position_groups": 4}
    model = build_random("wav2vec2", wav2vec2.Config(conv_channels=(16,) * 7, **sizes), 0)
    return Upstream("small", model, config={}, checkpoint="small")


def run(cell: Cell, upstream: Upstream, manifest: Manifest, paths: Paths) -> Record:
    (path,) = run_cell(plan_cell(replace(cell, budget_share=0.01), upstream, manifest, paths), paths, Listener())
    return read_record(path)


@pytest.mark.parametrize("task", ["pr", "asv", "er"])
def test_a_streamed_cell_is_a_record_of_its_own_and_leaves_no_features(
    task: str, small: Upstream, manifest: Manifest, tmp_path: Path
) -> None:
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    ours = run(Cell(task=task, features="streamed"), small, manifest, paths)
    assert not list(paths.stores.rglob("*.h5"))
    theirs = run(Cell(task=task, dtype="float32"), small, manifest, paths)
    assert list(paths.stores.rglob("*.h5"))
    assert ours.key != theirs.key
    assert ours.config["features"] == "streamed"
    assert "features" not in theirs.config
    assert ours.store_fingerprint == theirs.store_fingerprint
    assert ours.cost["store_mb"] == 0 < ours.cost["extract_s"]
    assert ours.value == pytest.approx(theirs.value, abs=0.01)
    assert ours.n == theirs.n == len(read_scores(paths.results, ours.key))


def test_the_type_of_a_store_is_part_of_the_key_and_of_the_record(
    small: Upstream, manifest: Manifest, tmp_path: Path
) -> None:
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    plans = {dtype: plan_cell(Cell(task="pr", dtype=dtype), small, manifest, paths) for dtype in ("float16", "int8")}
    keys = {plan.key("mix") for plan in plans.values()}
    assert len(keys) == 2
    assert plan_cell(Cell(task="pr"), small, manifest, paths).key("mix") == plans["float16"].key("mix")
    record = run(Cell(task="pr", dtype="int8"), small, manifest, paths)
    assert record.config["dtype"] == "int8"
    assert store_for(plans["int8"], paths, Listener()).fingerprint.dtype == "int8"
    assert missing(plans["float16"], paths) == ["mix"]


def test_one_layer_is_extracted_where_all_do_not_fit(
    small: Upstream, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
    everything = store_for(plan_cell(Cell(task="pr", layers=(1,)), small, manifest, paths), paths, Listener())
    assert everything.layers == (0, 1, 2)
    other = Paths(tmp_path / "results", tmp_path / "small")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, everything.size_bytes // 2))
    one = store_for(plan_cell(Cell(task="pr", layers=(1,)), small, manifest, other), other, Listener())
    assert one.layers == (1,)
    kept = store_for(plan_cell(Cell(task="pr", layers=(1,)), small, manifest, paths), paths, Listener())
    assert kept.layers == (0, 1, 2)  # it is there already
    with pytest.raises(UserError, match="the disk has") as error:
        store_for(plan_cell(Cell(task="pr"), small, manifest, other), other, Listener())
    assert "features=streamed" in error.value.remedy
    frames = fingerprint_of(small, None, False, "float16")
    assert not store_path(other.stores, manifest, small, frames).exists()
    live = store_for(plan_cell(Cell(task="pr", features="streamed"), small, manifest, other), other, Listener())
    assert isinstance(live, Streamed)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"features": "cached"}, "features=cached is not known"),
        ({"dtype": "float8"}, "cannot be stored as 'float8'"),
        ({"features": "streamed", "dtype": "int8"}, "streamed features are float32"),
    ],
)
def test_features_that_there_are_not_are_refused(wrong: dict, said: str, manifest: Manifest, tmp_path: Path) -> None:
    paths = Paths(tmp_path / "results", tmp_path / "stores")
    for task in ("er", "pr"):
        with pytest.raises(UserError, match=said):
            plan_cell(Cell(task=task, **wrong), load("fbank"), manifest, paths)
    cell = schemas.SweepCell(task="pr", manifest=str(manifest.path), **wrong)
    with pytest.raises(UserError, match=said):
        sweep(_experiment(cell, tmp_path, dry=True))


def _experiment(*arguments, **more) -> schemas.Sweep:
    *cells, folder = arguments
    upstreams = [schemas.SweepUpstream(name="fbank")]
    return schemas.Sweep(
        experiment="mine",
        upstreams=upstreams,
        cells=cells,
        results=str(folder / "results"),
        stores=str(folder / "stores"),
        **more,
    )


def test_a_plan_counts_no_disk_for_streamed_cells_and_names_the_ways_out(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    cells = [
        schemas.SweepCell(task="pr", manifest=str(manifest.path), features=kind) for kind in ("stored", "streamed")
    ]
    assert sweep(_experiment(cells[0], tmp_path, dry=True)) == 0
    said = capsys.readouterr().out
    assert "too large for the disk" in said
    assert "features=streamed (0 kB)" in said
    assert "dtype=int8 (" in said
    assert sweep(_experiment(cells[1], tmp_path, dry=True)) == 0
    said = capsys.readouterr().out
    assert "to do: 0 kB of disk" in said
    assert "too large" not in said


def test_a_plan_knows_types_and_passes() -> None:
    shape = Shape(states=13, dim=768, frame_rate=50.0, parameters=94_000_000, flops=14.8e9, remark="")
    size, values = Size(utterances=100, hours=1.0, status="", there=True), 3_600 * 50 * 13 * 768
    assert store_bytes(shape, size, frames=True, dtype="int8") == pytest.approx(1.04 * values)
    assert store_bytes(shape, size, frames=True, dtype="float32") == pytest.approx(4.04 * values)
    assert streamed_seconds(load_task("er"), size) == 3_600
    pr = load_task("pr")
    assert streamed_seconds(pr, size) == pytest.approx(pr.budget.updates * pr.budget.batch * 36)


def test_a_sweep_runs_streamed_cells(manifest: Manifest, tmp_path: Path) -> None:
    cell = schemas.SweepCell(task="pr", manifest=str(manifest.path), features="streamed", budget=0.01)
    assert sweep(_experiment(cell, tmp_path)) == 0
    (path,) = (tmp_path / "results" / "runs").glob("*.json")
    assert read_record(path).config["features"] == "streamed"
    assert not list(tmp_path.rglob("*.h5"))


def test_what_a_store_has_already_is_not_planned(tmp_path: Path, build_corpus: Callable) -> None:
    """Of a store that was killed on its way only the rest is foretold, of a whole one nothing."""
    labels = {"emotion": ["joy", "fear"] * 6}
    manifest = read_manifest(build_corpus(tmp_path / "corpora", 12, duration=[1.0] * 12, **labels))
    config = schemas.Sweep(
        experiment="mine",
        corpora=str(tmp_path / "corpora"),
        upstreams=[schemas.SweepUpstream(name="fbank")],
        cells=[schemas.SweepCell(task="er", manifest="corpus.csv")],
        results=str(tmp_path / "results"),
        stores=str(tmp_path / "stores"),
    )
    source = source_of(config.cells[0], config)
    jobs, shapes = jobs_of(config, [source]), {"fbank": shape_of(config.upstreams[0], config)}

    def planned() -> list[tuple[str, float]]:
        stores = stores_to_make(config, [source], shapes, jobs, rate=1e9)
        return [(store.holds, store.bytes) for store in stores]

    ((_, whole),) = planned()
    upstream = load("fbank")
    path = store_path(Path(config.stores), manifest, upstream, fingerprint_of(upstream, None, True, "float16"))
    half = build_corpus(tmp_path / "half", 6, emotion=["joy", "fear"] * 3)
    extract(upstream, read_manifest(half), path, pooled=True)
    assert planned() == [("pooled, 50% there", whole / 2)]
    said = forecast(config, [source], jobs)
    assert "1 to do\nto extract: fbank over corpus, pooled, 50% there, " in said
    assert ", about 0 s\n" in said
    away = forecast(replace(config, device="cuda"), [source], jobs) if not torch.cuda.is_available() else ""
    assert "about" not in away  # only workers have one
    extract(upstream, manifest, path, pooled=True)
    assert planned() == []
    assert "to extract" not in forecast(config, [source], jobs)


def test_means_are_read_from_frames_and_not_from_single_layers(tmp_path: Path, build_corpus: Callable) -> None:
    corpora = tmp_path / "corpora"
    manifest = read_manifest(build_corpus(corpora, 6, duration=[1.0] * 6, emotion=["joy", "fear"] * 3))
    config = schemas.Sweep(
        experiment="mine",
        corpora=str(corpora),
        upstreams=[schemas.SweepUpstream(name="hubert_tiny", weights="random")],
        cells=[schemas.SweepCell(task="er", manifest="corpus.csv")],
        results=str(tmp_path / "results"),
        stores=str(tmp_path / "stores"),
    )
    source = source_of(config.cells[0], config)
    jobs, shapes = jobs_of(config, [source]), {"hubert_tiny random seed 0": shape_of(config.upstreams[0], config)}
    upstream = jobs[0].upstream()

    def planned(layers: list[int] | None, dtype: str = "float16") -> list[str]:
        fingerprint = fingerprint_of(upstream, layers, False, dtype)
        path = store_path(Path(config.stores), manifest, upstream, fingerprint)
        extract(upstream, manifest, path, layers=layers, dtype=dtype)
        return [store.holds for store in stores_to_make(config, [source], shapes, jobs, rate=1e9)]

    assert planned([3]) == ["pooled"]
    assert planned(None) == []
    framed = [replace(jobs[0], cell=replace(jobs[0].cell, keep_frames=True, dtype="float32"))]
    (store,) = stores_to_make(config, [source], shapes, framed, rate=1e9)
    assert store.holds == "frames"
    assert 0 < store.as_int8 < store.bytes / 2
    planned(None, "int8")
    (store,) = stores_to_make(config, [source], shapes, framed, rate=1e9)
    assert (store.holds, store.as_int8) == ("frames", 0.0)
