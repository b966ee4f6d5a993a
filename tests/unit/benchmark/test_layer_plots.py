"""Figures of analyses show the numbers of their files, and need nothing else."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from wavbench.benchmark import layer_plots
from wavbench.benchmark.analysis_record import write_analysis
from wavbench.benchmark.layer_plots import analysis_figures
from wavbench.benchmark.record import write_record
from wavbench.benchmark.report import write_report

SINGLE = {"layers": [[0, 1], [0]], "values": {"cka": [[0.3], [0.2]], "debiased": [[0.3], [0.1]]}}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What is drawn, by file name, before it is written."""
    found, save = {}, layer_plots.save

    def keep(figure, table, stem, **given):
        found[stem.name] = figure
        return save(figure, table, stem, **given)

    monkeypatch.setattr(layer_plots, "save", keep)
    return found


@pytest.fixture
def analyses(make_analysis: Callable) -> list:
    found = [
        make_analysis("cka"),
        make_analysis("cka", "deep", "wide"),
        make_analysis("cka", "deep", "fbank", **SINGLE),
    ]
    for kind in ("cca", "norms", "tsne"):
        found += [make_analysis(kind, name) for name in ("deep", "wide")]
    return found


def test_every_figure_has_a_picture_a_drawing_and_its_numbers(tmp_path: Path, analyses: list) -> None:
    figures = analysis_figures(analyses, tmp_path)
    assert figures == {
        f"{kind}_emotions": tmp_path / f"{kind}_emotions.svg" for kind in ("cca", "cka", "norms", "tsne")
    }
    for path in figures.values():
        assert matplotlib.image.imread(path.with_suffix(".png")).std() > 0.01
        assert "<svg" in path.read_text()
        assert len(pd.read_csv(path.with_suffix(".csv")))


def test_the_numbers_beside_a_figure_are_those_of_the_analyses(tmp_path: Path, analyses: list) -> None:
    analysis_figures(analyses, tmp_path)
    cka = pd.read_csv(tmp_path / "cka_emotions.csv").set_index(["upstream", "layer", "other", "other_layer"])
    assert cka.loc[("deep", 0, "wide", 1), ["cka", "debiased"]].tolist() == [0.5, 0.45]
    assert cka.loc[("deep", 1, "fbank", 0), ["cka", "debiased"]].tolist() == [0.2, 0.1]
    cca = pd.read_csv(tmp_path / "cca_emotions.csv").set_index(["label", "upstream", "layer"])
    row = cca.loc[("phones", "deep", 1)]
    assert row[["cca", "part_0", "part_1", "plain", "fitted"]].tolist() == [0.65, 0.6, 0.7, 0.5, 0.8]
    assert row[["classes", "rows", "utterances"]].tolist() == [5, 400, 20]
    norms = pd.read_csv(tmp_path / "norms_emotions.csv").set_index(["upstream", "layer"])
    assert norms.loc[("wide", 1), ["norm", "deviation", "dim"]].tolist() == [8.0, 1.0, 8]
    points = pd.read_csv(tmp_path / "tsne_emotions.csv")
    assert points[points["upstream"] == "deep"][["x", "y", "label"]].to_numpy().tolist() == [
        [0.0, 0.0, "joy"], [1.0, 1.0, "joy"], [5.0, 6.0, "fear"],
    ]  # fmt: skip


@pytest.mark.parametrize("order", [("deep", "wide"), ("wide", "deep")])
def test_rows_of_a_heat_map_are_the_upstream_on_its_left(
    tmp_path: Path, make_analysis: Callable, drawn: dict, order: tuple
) -> None:
    values = {"cka": [[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]], "debiased": [[0.0] * 3] * 2}
    pair = make_analysis("cka", *order, layers=[[0, 1], [0, 1, 2]], values=values)
    analysis_figures([pair], tmp_path)
    (axis,) = (axis for axis in drawn["cka_emotions"].axes if axis.get_images())
    shown = {"x": axis.get_xlabel().split("\n")[1], "y": axis.get_ylabel().split("\n")[1]}
    values = np.array(axis.get_images()[0].get_array())  # [up, across]
    assert shown == {"x": "deep", "y": "wide"}
    expected = np.array([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])
    np.testing.assert_array_equal(values, expected.T if order[0] == "deep" else expected)
    dots = axis.get_lines()[0]
    assert list(dots.get_xdata()) == values.argmax(axis=1).tolist()


def test_all_heat_maps_share_one_scale_from_nothing_to_all(tmp_path: Path, analyses: list, drawn: dict) -> None:
    analysis_figures(analyses, tmp_path)
    images = [image for axis in drawn["cka_emotions"].axes for image in axis.get_images()]
    assert len(images) == 3
    assert {image.get_clim() for image in images} == {(0, 1)}
    assert {image.get_cmap().name for image in images} == {"viridis"}


def test_of_the_same_thing_the_latest_counts(tmp_path: Path, make_analysis: Callable) -> None:
    values = {"norm": [3.0, 4.0], "deviation": [0.0, 0.0]}
    old, new = make_analysis("norms"), make_analysis("norms", values=values, started="2026-02-01T00:00:00+00:00")
    analysis_figures([new, old], tmp_path)
    assert pd.read_csv(tmp_path / "norms_emotions.csv")["norm"].tolist() == [3.0, 4.0]


def test_two_weights_of_one_name_are_told_apart(tmp_path: Path, make_analysis: Callable) -> None:
    analysis_figures([make_analysis("norms", checkpoint_hashes=[h]) for h in ("aaaaaaaaa", "bbbbbbbbb")], tmp_path)
    assert set(pd.read_csv(tmp_path / "norms_emotions.csv")["upstream"]) == {"deep #aaaaaa", "deep #bbbbbb"}


def test_the_band_of_permuted_labels_is_of_means_over_parts(
    tmp_path: Path, make_analysis: Callable, drawn: dict
) -> None:
    one = make_analysis("cca")
    permuted = {"permuted": [[0.4, -0.4, 0.0, 0.0, 0.2, 0.2, 0.2, 0.2]] * 2}
    analysis_figures([make_analysis("cca", values=one.values | permuted)], tmp_path)
    (axis,) = drawn["cca_emotions"].axes
    (band,) = (patch for patch in axis.patches)
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.0, 0.2))
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["deep: 0.65 at layer 1", "permuted labels"]


def test_axes_say_what_is_up_and_where_layers_begin(tmp_path: Path, analyses: list, drawn: dict) -> None:
    analysis_figures(analyses, tmp_path)
    assert "higher: the layer says more" in drawn["cca_emotions"].axes[0].get_ylabel()
    assert "no unit" in drawn["norms_emotions"].axes[0].get_ylabel()
    for name in ("cca_emotions", "norms_emotions"):
        assert "0: input of the first block" in drawn[name].axes[0].get_xlabel()
    assert any("0: nothing in common" in axis.get_ylabel() for axis in drawn["cka_emotions"].axes)


def test_of_many_labels_the_most_frequent_have_a_colour(tmp_path: Path, make_analysis: Callable, drawn: dict) -> None:
    names = [f"s{k:02d}" for k in range(20) for _ in range(20 - k)] + [""]
    values = make_analysis("tsne").values | {"label": names, "utterance": [str(k) for k in range(len(names))]}
    values |= {axis: [float(k) for k in range(len(names))] for axis in ("x", "y")}
    analysis_figures([make_analysis("tsne", values=values)], tmp_path)
    legend = [text.get_text() for text in drawn["tsne_emotions"].axes[0].get_legend().get_texts()]
    assert legend == [*(f"s{k:02d}" for k in range(8)), "13 others"]


@pytest.mark.parametrize("name", ["../../up", "a$b_{c", "zażółć 1"])
def test_a_name_is_no_path_and_no_formula(tmp_path: Path, make_analysis: Callable, name: str) -> None:
    found = [make_analysis(kind, *[name] * (2 if kind == "cka" else 1), corpus=name) for kind in ("cka", "norms")]
    for figure in analysis_figures(found, tmp_path / "figures").values():
        assert figure.parent == tmp_path / "figures"
        assert figure.is_file()


def test_a_report_draws_analyses_and_names_the_damaged(tmp_path: Path, analyses: list, make_record: Callable) -> None:
    scores = pd.DataFrame({"utterance": ["0a", "0b"], "errors": [0, 1], "tokens": [1, 1]})
    write_record(tmp_path, make_record(n=2), scores, None)
    for analysis in analyses:
        write_analysis(tmp_path, analysis)
    damaged = tmp_path / "analysis/cka-cut.json"
    damaged.write_text("{")
    report = write_report(tmp_path)
    assert [problem.where for problem in report.problems] == [str(damaged)]
    assert (tmp_path / "figures/cka_emotions.png").is_file()
    page = report.page.read_text()
    assert 'aria-label="How alike layers are: emotions"' in page
    assert 'href="#layers"' in page


def test_analyses_of_other_samples_do_not_share_a_figure(tmp_path: Path, make_analysis: Callable) -> None:
    early = {"corpus_hash": "small", "started": "2025-01-01T00:00:00+00:00"}
    analyses = [make_analysis("norms", "deep", **early), make_analysis("norms", "wide", **early)]
    analyses.append(make_analysis("norms", "deep"))

    def drawn_with(*wanted: str) -> set[tuple]:
        table = pd.read_csv(analysis_figures(analyses, tmp_path, wanted)["norms_emotions"].with_suffix(".csv"))
        return set(table["upstream"])

    assert drawn_with() == {"deep"}  # the latest sample
    assert drawn_with(analyses[1].key) == {"deep", "wide"}  # the one that was asked for
