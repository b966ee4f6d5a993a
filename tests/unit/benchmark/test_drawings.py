"""SVG files in a page: drawn alike, in fewer words, and nothing but a drawing."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wavbench.benchmark.drawings import Drawings
from wavbench.benchmark.figures import prepare
from wavbench.upstream.errors import UserError

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 10 10">'


@pytest.fixture
def drawing(tmp_path: Path) -> Callable[[str], Path]:
    """A function from what stands in an SVG to its file."""

    def write(inside: str, before: str = "") -> Path:
        path = tmp_path / "figure.svg"
        path.write_text(f"{before}{HEAD}{inside}</svg>")
        return path

    return write


@pytest.fixture
def plotted(tmp_path: Path) -> Callable[..., Path]:
    """A function from a title to a drawing of matplotlib."""

    def plot(title: str, name: str = "plot", picture: bool = False) -> Path:
        prepare(tmp_path)
        import matplotlib.pyplot as plt

        figure, axis = plt.subplots()
        axis.plot([0, 1, 2], [0.5, 0.25, 1.0], marker="o", color="black")
        if picture:
            axis.imshow([[0, 1], [1, 0]])
        axis.set_title(title)
        path = tmp_path / f"{name}.svg"
        figure.savefig(path)
        plt.close(figure)
        return path

    return plot


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<foreignObject><p/></foreignObject>",
        '<g onload="alert(1)"><path d="M0 0L1 1"/></g>',
        '<path d="M0 0L1 1" OnClick="alert(1)"/>',
        '<use href="https://example.org/a.svg#b"/>',
        '<use xlink:href="other.svg#b"/>',
        '<image href="https://example.org/a.png"/>',
        '<image href="data:image/svg+xml;base64,AAAA"/>',
        '<path d="M0 0L1 1" style="fill: url(https://example.org/#a)"/>',
        '<path d="M0 0L1 1" fill="url(data:text/plain,a)"/>',
        '<a href="javascript:alert(1)"><path d="M0 0L1 1"/></a>',
        "<animate/>",
    ],
)
def test_what_is_no_plain_drawing_is_refused(drawing: Callable, inside: str) -> None:
    with pytest.raises(UserError, match="no plain drawing"):
        Drawings().add(drawing(inside), "a figure")


def test_entities_and_torn_files_are_refused(drawing: Callable) -> None:
    with pytest.raises(UserError, match="no plain drawing"):
        Drawings().add(drawing("&a;", '<!DOCTYPE svg [<!ENTITY a "aaaa">]>'), "a figure")
    path = drawing("<g>")
    with pytest.raises(UserError, match="no plain drawing"):
        Drawings().add(path, "a figure")


def test_styles_become_attributes_and_black_and_white_the_pages_own(drawing: Callable) -> None:
    path = drawing('<path d="M 0 0 L 1.23456 -0.001" style="fill: #ffffff; stroke: #000000; stroke-width: 0.8; x: y"/>')
    drawn = Drawings().add(path, "a figure")
    assert '<path d="M0 0L1.23 0" fill="var(--paper)" stroke="var(--ink)" stroke-width="0.8"/>' in drawn
    assert "style" not in drawn


def test_a_drawing_with_a_picture_keeps_its_colours(drawing: Callable) -> None:
    path = drawing('<image href="data:image/png;base64,AAAA"/><path d="M0 0L1 1" fill="#000000"/>')
    drawn = Drawings().add(path, "a figure")
    assert 'class="plate"' in drawn
    assert 'fill="#000000"' in drawn


def test_letters_become_text_that_can_be_found(plotted: Callable) -> None:
    drawings = Drawings()
    drawn = drawings.add(plotted("wer of <b> & a fine title"), "a figure")
    texts = re.findall(r"<text [^>]*>(.*?)</text>", drawn)
    assert "wer of &lt;b&gt; &amp; a fine title" in texts
    assert "0.5" in texts
    assert not re.search(r'<use href="#p\d+" x="[\d.]+"/>', drawn)  # no letter is left as a drawing


def test_a_text_that_its_comment_cannot_tell_stays_drawn(plotted: Callable) -> None:
    drawings = Drawings()
    drawn = drawings.add(plotted("two--dashes"), "a figure")  # no comment of XML can hold them
    assert not re.search(r"<text [^>]*>two", drawn)
    assert len(re.findall(r'<use href="#p\d+" x=', drawn)) >= len("wo--dashes")


def test_a_text_keeps_its_place_and_length(plotted: Callable) -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    title = "a title of some length"
    drawn = Drawings().add(plotted(title), "a figure")
    found = re.search(rf'<text x="[\d.]+" y="[\d.]+" font-size="([\d.]+)" textLength="([\d.]+)">{title}<', drawn)
    font = FontProperties(size=float(found[1]))
    width, _, _ = TextToPath().get_text_width_height_descent(title, font, False)
    assert float(found[2]) == pytest.approx(width, abs=0.5)


def test_drawings_share_paths_and_no_other_ids(plotted: Callable) -> None:
    drawings = Drawings()
    drawn = [drawings.add(plotted(title, f"plot{title}", True), title) for title in ("one", "two")]
    page = "".join(drawn) + drawings.shared
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert asked == set(ids)
    shared = set(re.findall(r' id="([^"]+)"', drawings.shared))
    assert shared
    assert all(f'href="#{id}"' in drawn[0] and f'href="#{id}"' in drawn[1] for id in shared)


def test_a_drawing_is_a_fraction_of_its_file(plotted: Callable) -> None:
    path = plotted("a title of some length")
    drawings = Drawings()
    assert len(drawings.add(path, "a figure")) + len(drawings.shared) < path.stat().st_size / 2
