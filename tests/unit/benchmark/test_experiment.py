"""Experiments: cells and corpora to jobs, and what they would take."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from corpus_trees import fleurs, librispeech, write_text

from wavbench.benchmark import schemas
from wavbench.benchmark.display import Display
from wavbench.benchmark.estimates import Shape, Size, shape_of, size_of, store_bytes
from wavbench.benchmark.experiment import _chosen, jobs_of, sweep, upstream_name
from wavbench.benchmark.plan import print_plan, stores_to_make
from wavbench.benchmark.sources import ready, rooted, source_of, with_lexicons
from wavbench.upstream.catalog import WEIGHTS, load
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract, fingerprint_of, store_path
from wavbench.upstream.importing import import_corpus
from wavbench.upstream.lexicon import read_lexicon
from wavbench.upstream.manifest import read_manifest


def cell(task: str = "asr", **more: object) -> schemas.SweepCell:
    return schemas.SweepCell(task=task, **more)


def config(tmp_path: Path, *cells: schemas.SweepCell, upstreams: tuple[str, ...] = ("fbank",), **more: object):
    return schemas.Sweep(
        experiment="mine",
        corpora=str(tmp_path / "manifests"),
        root=str(tmp_path / "root"),
        upstreams=[schemas.SweepUpstream(name=name) for name in upstreams],
        cells=list(cells),
        results=str(tmp_path / "results"),
        stores=str(tmp_path / "stores"),
        **more,
    )


@pytest.mark.parametrize("wrong", [{}, {"manifest": "a.csv", "corpus": "librispeech"}])
def test_a_cell_names_a_manifest_or_a_corpus(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no corpus|both a manifest"):
        source_of(cell(**wrong), config(tmp_path))


def test_a_misspelt_option_of_a_reader_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no option 'langauges'") as caught:
        source_of(cell(corpus="fleurs", options={"langauges": "de_de"}), config(tmp_path))
    assert "languages" in caught.value.remedy


def test_options_are_taken_as_yaml_has_them(tmp_path: Path) -> None:
    given = config(tmp_path)
    for corpus, name, value, text in (("iemocap", "classes", 4, "4"), ("speech_commands", "version", 0.01, "0.01")):
        source = source_of(cell(corpus=corpus, options={name: value}), given)
        assert dict(source.options)[name] == text
    assert dict(source_of(cell(corpus="ravdess", options={"song": True}), given).options)["song"] is True


@pytest.mark.parametrize(
    ("corpus", "options"),
    [
        ("fleurs", {"languages": ["de_de", "en_us"]}),
        ("fleurs", {"languages": {"de_de": 1}}),
        ("fleurs", {"languages": None}),
        ("fleurs", {"languages": True}),
        ("ravdess", {"song": "maybe"}),
    ],
)
def test_an_option_of_another_kind_is_named(corpus: str, options: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be"):
        source_of(cell(corpus=corpus, options=options), config(tmp_path))


def test_manifests_are_named_after_corpus_and_options_or_as_the_cell_says(tmp_path: Path) -> None:
    given = config(tmp_path)
    names = [
        source_of(one, given).manifest.name
        for one in (
            cell(corpus="librispeech"),
            cell(corpus="voxceleb1", options={"use": "identification"}),
            cell(corpus="fleurs", name="two", options={"languages": "de_de,en_us"}),
            cell(manifest="mine.csv"),
        )
    ]
    assert names == ["librispeech.csv", "voxceleb1-identification.csv", "two.csv", "mine.csv"]
    hub = source_of(cell(corpus="hugging_face", options={"id": "../../google/fleurs"}), given)
    assert hub.manifest.parent == tmp_path / "manifests"


def test_a_corpus_is_looked_for_under_its_readers_name_and_its_own(tmp_path: Path) -> None:
    given = config(tmp_path)
    assert source_of(cell(corpus="librispeech"), given).place == tmp_path / "root"
    (tmp_path / "root/librispeech").mkdir(parents=True)
    assert source_of(cell(corpus="librispeech"), given).place == tmp_path / "root/librispeech"


def test_tasks_that_read_phones_and_those_that_do_not_share_a_manifest(tmp_path: Path) -> None:
    given = config(tmp_path)
    cells = cell("pr", corpus="librispeech", lexicon="words.txt"), cell("asr", corpus="librispeech")
    first, second = with_lexicons([source_of(one, given) for one in cells])
    assert first == second
    assert first.lexicon == tmp_path / "root/words.txt"


def test_two_lexicons_need_two_manifests(tmp_path: Path) -> None:
    given = config(tmp_path)
    cells = cell("pr", corpus="librispeech", lexicon="a.txt"), cell("pr", corpus="librispeech", lexicon="b.txt")
    with pytest.raises(UserError, match="two lexicons"):
        with_lexicons([source_of(one, given) for one in cells])
    named = replace(cells[1], name="other")
    sources = with_lexicons([source_of(one, given) for one in (cells[0], named)])
    assert [source.lexicon.name for source in sources] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("seeds", [-1, 4])
def test_more_seeds_than_there_are_is_no_choice(tmp_path: Path, seeds: int) -> None:
    given = config(tmp_path, cell("er", manifest="a.csv", seeds=seeds), head_seeds=[0, 1, 2])
    with pytest.raises(UserError, match=f"seeds={seeds} of the cell er") as caught:
        _chosen(given)
    assert "seeds: 1 to 3" in caught.value.remedy
    given.cells[0].seeds = 3
    assert len(jobs_of(_chosen(given), [source_of(given.cells[0], given)])) == 3


def test_a_plan_calls_corpora_by_their_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = config(tmp_path, cell("er", manifest="mine/manifest.csv"), dry=True)
    sources = [source_of(one, given) for one in given.cells]
    assert print_plan(given, sources, jobs_of(given, sources)) == 0
    said = capsys.readouterr().out.splitlines()
    named = [line.split()[0] for line in said if line.startswith(("mine", "manifest"))]
    assert named == ["mine", "mine"]
    assert "missing: mine; the same command without --dry runs once they are there" in said


def test_weights_are_known_by_their_file_before_they_are_loaded(tmp_path: Path) -> None:
    run, file = tmp_path / "hubert_tiny", tmp_path / "own.safetensors"
    run.mkdir()
    file.write_bytes(b"")
    names = ("fbank", "hubert_tiny", str(run), str(file), "microsoft/wavlm-base")
    given = config(tmp_path, cell("er", manifest="a.csv"), upstreams=names)
    jobs = jobs_of(given, [source_of(one, given) for one in given.cells])
    shipped = WEIGHTS / "hubert_tiny.safetensors"
    assert [one.weights for one in jobs] == [None, shipped, run / "checkpoint.safetensors", file, None]
    twin = schemas.SweepUpstream(name="hubert_tiny", weights="random")
    precise = schemas.SweepUpstream(name=str(file), precision="bf16")
    jobs = jobs_of(replace(given, upstreams=[twin, precise]), [source_of(one, given) for one in given.cells])
    assert [one.weights for one in jobs] == [None, file]


def test_jobs_go_upstream_by_upstream_with_every_protocol(tmp_path: Path) -> None:
    given = config(
        tmp_path, cell("er", manifest="a.csv", protocols=["clean", "superb"]), cell("ks", manifest="a.csv"),
        upstreams=("fbank", "fbank_raw"), budget=0.5,
    )  # fmt: skip
    jobs = jobs_of(given, [source_of(one, given) for one in given.cells])
    assert [(j.upstream_name, j.cell.task, j.cell.protocol) for j in jobs] == [
        (name, task, protocol)
        for name in ("fbank", "fbank_raw")
        for task, protocol in (("er", "clean"), ("er", "superb"), ("ks", "clean"))
    ]
    assert {j.cell.budget_share for j in jobs} == {0.5}
    assert jobs[1].name == "er on a with fbank (protocol superb)"


def test_a_share_of_tasks_and_upstreams_can_be_asked_for(tmp_path: Path) -> None:
    cells = [cell("er", manifest="a.csv"), cell("ks", manifest="a.csv")]
    chosen = _chosen(config(tmp_path, *cells, upstreams=("fbank", "fbank_raw"), tasks=["ks"], only=["fbank_raw"]))
    assert [c.task for c in chosen.cells] == ["ks"]
    assert [u.name for u in chosen.upstreams] == ["fbank_raw"]
    for wrong in ({"tasks": ["sk"]}, {"only": ["fbnk"]}):
        with pytest.raises(UserError, match="the experiment has no"):
            _chosen(config(tmp_path, *cells, **wrong))


def test_all_that_there_is_not_is_named_at_once(tmp_path: Path) -> None:
    cells = [cell("er", manifest="a.csv"), cell("ks", manifest="a.csv")]
    with pytest.raises(UserError) as caught:
        _chosen(config(tmp_path, *cells, tasks=["sk", "re", "er"], only=["fbnk"]))
    for name in ("task 'sk'", "task 're'", "upstream 'fbnk'"):
        assert f"the experiment has no {name}" in caught.value.why
    assert "one of: er, ks" in caught.value.why
    wrong = [
        cell("rr", manifest="a.csv", protocols=["clean", "superb"]),
        cell("sk", manifest="a.csv"),
        cell("er", manifest="a.csv", head="bigger", protocols=["clean", "sperb"]),
        cell("er", manifest="a.csv", features="stroed", seeds=7),
        cell("lid", manifest="a.csv", protocols=[]),
    ]
    with pytest.raises(UserError, match="asks for 6 things") as caught:
        _chosen(config(tmp_path, *wrong))
    for said in ("no task 'rr'", "no task 'sk'", "no head 'bigger'", "no protocol 'sperb'", "seeds=7", "no protocols"):
        assert caught.value.why.count(said) == 1
    with pytest.raises(UserError, match="there is no task 'rr'"):
        _chosen(config(tmp_path, wrong[0]))


def test_corpora_and_upstreams_that_there_are_not_are_named_together(tmp_path: Path) -> None:
    cells = [cell("er", corpus="nope1"), cell("ks", corpus="nope2"), cell("lid"), cell("er", manifest="a.csv")]
    with pytest.raises(UserError, match="asks for 3 things") as caught:
        sweep(config(tmp_path, *cells))
    for said in ("nope1", "nope2", "the cell lid names no corpus"):
        assert said in caught.value.why
    with pytest.raises(UserError, match="asks for 2 things") as caught:
        sweep(config(tmp_path, cells[-1], cell("sk", manifest="a.csv"), upstreams=("fbankk", "fbank", "org/name")))
    assert "unknown upstream 'fbankk'" in caught.value.why


def test_what_a_task_has_no_protocol_for_is_said_before_anything(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no protocol superb"):
        sweep(config(tmp_path, cell("phones", manifest="a.csv", protocols=["superb"])))


def test_upstreams_are_told_apart_by_all_that_makes_them(tmp_path: Path) -> None:
    twin = schemas.SweepUpstream(name="wav2vec2_base", weights="random", seed=1, precision="bf16", language="deu")
    assert upstream_name(twin) == "wav2vec2_base random seed 1 language deu bf16"


def test_a_corpus_is_imported_once_and_found_again(tmp_path: Path) -> None:
    librispeech.build(tmp_path / "root")
    given = config(tmp_path, cell(corpus="librispeech"), partial=True)
    source = source_of(given.cells[0], given)
    with Display() as display:
        first = ready(source, given, display)
        before = first.manifest.stat().st_mtime_ns
        assert ready(source, given, display) == first
    assert first.manifest.stat().st_mtime_ns == before
    manifest = read_manifest(first.manifest, first.root)
    assert all(manifest.audio_path(row).is_file() for row in range(len(manifest)))
    assert rooted(source) == first  # as `status` and --dry find its audio, who import nothing
    assert rooted(source_of(cell("er", manifest="a.csv"), given)).root is None
    upstream = load("fbank")
    path = store_path(Path(given.stores), manifest, upstream, fingerprint_of(upstream, None, False, "float16"))
    jobs, shapes = jobs_of(given, [first]), {"fbank": shape_of(given.upstreams[0], given)}
    assert [store.holds for store in stores_to_make(given, [source], shapes, jobs, rate=1e9)] == ["frames"]
    extract(upstream, manifest, path)
    for asked in (source, first):  # --dry knows the one, the sweep the other
        assert stores_to_make(given, [asked], shapes, jobs, rate=1e9) == []


@pytest.mark.parametrize("change", ["options", "root", "description"])
def test_a_manifest_of_other_options_or_another_folder_is_not_taken_for_this_one(change: str, tmp_path: Path) -> None:
    librispeech.build(tmp_path / "root")
    given = config(tmp_path, cell(corpus="librispeech"), partial=True)
    source = source_of(given.cells[0], given)
    with Display() as display:
        ready(source, given, display)
        if change == "options":
            source = replace(source, options=(("train", "train-other-500"),))
        elif change == "root":
            (tmp_path / "elsewhere").mkdir()
            source = replace(source, place=tmp_path / "elsewhere")
        else:
            source.manifest.with_suffix(".json").unlink()
        with pytest.raises(UserError, match="imported with other options"):
            ready(source, given, display)


def test_a_manifest_of_a_part_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    librispeech.build(tmp_path / "root")
    given = config(tmp_path, cell(corpus="librispeech"), partial=True)
    source = source_of(given.cells[0], given)
    with Display() as display:
        ready(source, given, display)
        with pytest.raises(UserError, match="imported with other options") as caught:
            ready(source, replace(given, partial=False), display)
    assert "partial=true" in caught.value.why


@pytest.mark.parametrize("change", ["phones", "stress", "name"])
def test_a_manifest_with_the_phones_of_another_lexicon_is_not_taken(change: str, tmp_path: Path) -> None:
    librispeech.build(tmp_path / "root")
    lexicon = write_text(tmp_path / "root/words.txt", "THE DH AH0\nA AH0\n")
    given = config(tmp_path, cell("pr", corpus="librispeech", lexicon="words.txt"), partial=True)
    source = source_of(given.cells[0], given)
    with Display() as display:
        if change == "stress":
            without = read_lexicon(lexicon, stress=False)
            import_corpus("librispeech", source.place, source.manifest, options=dict(source.options), lexicon=without,
                          partial=True)  # fmt: skip
        else:
            first = ready(source, given, display)
            assert ready(source, given, display) == first
        if change == "phones":
            write_text(lexicon, "THE DH IY0\nA AH0\n")
        elif change == "name":
            source = replace(source, lexicon=write_text(tmp_path / "root/others.txt", "THE DH AH0\nA AH0\n"))
        with pytest.raises(UserError, match="imported with other options"):
            ready(source, given, display)


def test_a_corpus_that_is_not_complete_is_refused_with_the_way_to_run_the_rest(tmp_path: Path) -> None:
    librispeech.build(tmp_path / "root")
    given = config(tmp_path, cell(corpus="librispeech"))
    with Display() as display, pytest.raises(UserError, match="not as it is published") as caught:
        ready(source_of(given.cells[0], given), given, display)
    assert "tasks=NAME" in caught.value.remedy
    assert not (tmp_path / "manifests/librispeech.csv").exists()


def test_the_size_of_a_store_is_hours_by_rate_by_states() -> None:
    shape = Shape(states=13, dim=768, frame_rate=50.0, parameters=0, flops=0.0, remark="")
    size = Size(utterances=100, hours=1.0, status="", there=True)
    assert store_bytes(shape, size, frames=True) == pytest.approx(1.02 * 3_600 * 50 * 13 * 768 * 2)
    assert store_bytes(shape, size, frames=False) == 100 * 13 * 768 * 8
    assert store_bytes(shape, replace(size, utterances=0), frames=False) == 360 * 13 * 768 * 8


def test_a_corpus_is_sized_by_its_manifest_else_its_lists_else_what_is_published(
    tmp_path: Path, build_corpus: Callable
) -> None:
    given = config(tmp_path)
    missing = size_of(source_of(cell(corpus="librispeech"), given))
    assert (missing.utterances, missing.hours, missing.there) == (0, 111.4, False)
    assert "wavbench corpus fetch librispeech" in missing.status
    fleurs.build(tmp_path / "root/fleurs")
    listed = size_of(source_of(cell(corpus="fleurs"), given))
    assert (listed.utterances, listed.there) == (11, True)
    assert listed.hours == pytest.approx(11 * 6_400 / 16_000 / 3_600)
    path = build_corpus(tmp_path / "manifests", count=4)
    ready = size_of(source_of(cell(manifest=path.name), given))
    assert (ready.utterances, ready.there) == (4, True)
    assert 0.3 * 4 < ready.hours * 3_600 < 1.2 * 4


def test_a_lexicon_that_is_not_there_is_part_of_the_plan(tmp_path: Path) -> None:
    librispeech.build(tmp_path / "root")
    given = config(tmp_path)
    source = source_of(cell("pr", corpus="librispeech", lexicon="words.txt"), given)
    assert size_of(source).status.startswith("the lexicon is missing")
    write_text(tmp_path / "root/words.txt", "A AH\n")
    assert size_of(source).there


def test_an_upstream_is_described_without_its_weights(tmp_path: Path) -> None:
    shape = shape_of(schemas.SweepUpstream(name="hubert_large"), config(tmp_path))
    assert (shape.states, shape.dim, shape.frame_rate, shape.parameters) == (25, 1024, 50.0, 315_437_696)
    assert shape.remark == "Apache-2.0; libri_light (60,000 h)"
    published = shape_of(schemas.SweepUpstream(name="w2v_bert_2"), config(tmp_path))
    assert (published.states, published.dim, published.parameters) == (25, 1024, 580_493_120)
    assert shape_of(schemas.SweepUpstream(name="fbank"), config(tmp_path)).states == 1


def test_a_checkpoint_that_is_not_in_its_folder_is_part_of_the_plan(tmp_path: Path) -> None:
    shape = shape_of(schemas.SweepUpstream(name="hubert_base"), config(tmp_path, checkpoints=str(tmp_path)))
    assert shape.remark.endswith(f"missing in {tmp_path}")
    assert shape.parameters == 94_370_944


def test_an_upstream_with_tasks_of_its_own_runs_these_alone_and_stores_what_they_read(tmp_path: Path) -> None:
    cells = [cell("er", manifest="a.csv"), cell("pr", manifest="a.csv")]
    given = config(tmp_path, *cells, upstreams=("fbank", "fbank_raw"))
    given.upstreams[1].tasks = ["er"]
    jobs = jobs_of(given, [source_of(one, given) for one in given.cells])
    assert [(j.upstream_name, j.cell.task, j.cell.keep_frames) for j in jobs] == [
        ("fbank", "er", True),
        ("fbank", "pr", True),
        ("fbank_raw", "er", False),
    ]
    given.upstreams[1].tasks = ["err"]
    with pytest.raises(UserError, match="no task 'err'"):
        _chosen(given)
