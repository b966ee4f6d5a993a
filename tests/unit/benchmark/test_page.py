"""One file that shows everything, loads nothing and believes no name."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from wavbench.benchmark.collect import collect
from wavbench.benchmark.leaderboard import boards_of
from wavbench.benchmark.page import write_page
from wavbench.benchmark.report import write_report

NASTY = "</script><script>alert('x')</script>&\"{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "link", "input"}
PUBLISHED = Path(__file__).parents[3] / "results/published/superb.csv"


class Page(HTMLParser):
    """Tags, attributes, and whether every tag that opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_record: Callable, write_records: Callable) -> Path:
    results = tmp_path_factory.mktemp("results")
    config = {"budget": {"updates": 2000, "batch": 32}, "upstream": {"name": NASTY}, "trials": False}
    write_records(
        results,
        make_record(upstream=NASTY, synthetic=True, corpus=f"built {NASTY}", config=config),
        make_record(upstream=NASTY, synthetic=True, corpus=f"built {NASTY}", layers=0),
        make_record(upstream="near", value=55.0, commit="<b>", versions={"torch": "<i>"}),
        make_record(upstream="best", value=55.0),
    )
    write_report(results)
    return results


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "leaderboard.html").read_text()


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    parsed = Page(page)
    places = [value for _, name, value in parsed.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert places
    assert all(value.startswith(("data:", "#")) for value in places)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp|import\(|https?://(?!www\.w3\.org/2000/svg)", page)
    assert "iframe" not in parsed.tags


def test_its_policy_lets_only_its_own_style_and_script_through(page: str) -> None:
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    for rule in ("default-src 'none'", "base-uri 'none'", "form-action 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    names = {name for _, name, _ in Page(page).attributes}
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]


def test_every_tag_that_opens_closes(page: str) -> None:
    assert Page(page).open == []


def test_names_are_text_and_never_markup(page: str) -> None:
    parsed = Page(page)
    assert parsed.tags.count("script") == 2  # the page's own, and its data
    assert NASTY not in page
    assert html.escape("<script>alert(") in page
    assert any(NASTY in text for text in parsed.text)  # read back whole, and no template was filled in
    assert "<b>" not in page
    assert parsed.tags.count("i") == page.count("<i>=</i>") + page.count("<i>†")
    assert NASTY in {cell["of"] for cell in data_of(page)["cells"]}


def test_every_cell_with_a_value_opens_a_record_of_the_page(page: str) -> None:
    cells = data_of(page)["cells"]
    asked = {int(value) for tag, name, value in Page(page).attributes if (tag, name) == ("button", "data-k")}
    assert asked == set(range(len(cells)))
    assert len({cell["key"] for cell in cells}) == len(cells) == 4


def test_figures_are_drawn_in_the_page_itself_and_say_what_they_show(page: str, folder: Path) -> None:
    files = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert set(re.findall(r"Numbers: figures/(.*?)\.csv", html.unescape(page))) == files
    parsed = Page(page)
    assert parsed.tags.count("figure") == len(files)
    assert "img" not in parsed.tags
    drawings = re.findall(r"<figure>.*?<svg ([^>]*)>", page, re.S)
    assert all('role="img"' in given and re.search(r'aria-label="\w', given) for given in drawings)


def test_a_figure_of_a_kind_that_nobody_told_the_page_of_stands_with_the_layers(tmp_path: Path, folder: Path) -> None:
    records = collect(folder).records
    drawing = next((folder / "figures").glob("*.svg"))
    figures = {"scores": drawing, "moon_er": drawing, "cka_er": drawing, "cost_er": drawing}
    write_page(boards_of(records), records, figures, folder, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    panels = dict(re.findall(r'<section class="panel" id="(\w+)">(.*?)(?=<section class="panel"|</main>)', text, re.S))
    assert {name: panel.count("<figure>") for name, panel in panels.items()} == {
        "tasks": 1,
        "layers": 2,
        "cost": 1,
        "overall": 0,
        "about": 0,
    }
    assert "moon: er" in panels["layers"]


def test_synthetic_speech_has_a_badge_and_recorded_speech_none(page: str) -> None:
    headings = re.findall(r'<h3 id="board\d+">.*?</h3>', page, re.S)
    assert sorted(("badge" in heading, "built" in heading) for heading in headings) == [(False, False), (True, True)]


def test_the_best_is_marked_and_the_tie_is_said(page: str) -> None:
    assert re.search(r'<td class="s4 best"><button data-k="\d+">55\.00 <small>\[40\.00, 60\.00\]', page)
    assert re.search(r'<td class="s0"><button [^>]*>55\.00 <i>=</i> <small>\[40\.00, 60\.00\]', page)
    assert "not told apart from the best" in page


def test_the_page_of_boards_without_a_mix_stands(
    tmp_path: Path, make_record: Callable, write_records: Callable
) -> None:
    write_records(tmp_path, make_record(layers=1))
    assert Page(write_report(tmp_path).page.read_text()).open == []


def test_published_rows_have_a_part_of_their_own_and_rank_with_none(
    tmp_path: Path, page: str, make_record: Callable, write_records: Callable
) -> None:
    assert 'href="#published"' not in page
    write_records(tmp_path, make_record())
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "superb.csv").write_bytes(PUBLISHED.read_bytes())
    report = write_report(tmp_path)
    text = report.page.read_text()
    assert report.problems == []
    assert 'href="#published"' in text
    before, _, after = text.partition('<section class="panel" id="published">')
    assert "WavLM Large" not in before
    assert "published, not measured here" in after
    assert re.search(r"<td>WavLM Large</td><td>1,145</td><td>1,286</td>", after)
    assert "WavLM" not in (tmp_path / "leaderboard.csv").read_text()


def test_a_damaged_published_table_is_named_and_the_page_stands_without(
    tmp_path: Path, make_record: Callable, write_records: Callable
) -> None:
    write_records(tmp_path, make_record())
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "superb.csv").write_text("upstream,parameters\nx,much\n")
    report = write_report(tmp_path)
    assert len(report.problems) == 1
    assert 'href="#published"' not in report.page.read_text()


def test_a_page_is_written_whole_or_not_at_all(
    tmp_path: Path, make_record: Callable, write_records: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records(tmp_path, make_record())
    write_report(tmp_path)
    before = (tmp_path / "leaderboard.html").read_bytes()
    monkeypatch.setattr("wavbench.benchmark.page.write_text", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_report(tmp_path)
    assert (tmp_path / "leaderboard.html").read_bytes() == before
