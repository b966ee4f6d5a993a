"""One file that shows everything, loads nothing and believes no name."""

import base64
import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from wavbench.benchmark.report import write_report

NASTY = "<script>alert('x')</script>&\"{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "link"}


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


@pytest.fixture
def page(tmp_path: Path, make_record: Callable, write_records: Callable) -> str:
    write_records(
        tmp_path,
        make_record(upstream=NASTY, synthetic=True, corpus=f"built {NASTY}"),
        make_record(upstream=NASTY, synthetic=True, corpus=f"built {NASTY}", layers=0),
        make_record(upstream="near", value=45.0, commit="<b>", versions={"torch": "<i>"}),
        make_record(upstream="best", value=55.0),
    )
    return write_report(tmp_path).page.read_text()


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    parsed = Page(page)
    places = [value for _, name, value in parsed.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert places
    assert all(value.startswith(("data:image/", "#")) for value in places)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp|import\(", page)
    assert "link" not in parsed.tags
    assert "iframe" not in parsed.tags


def test_every_tag_that_opens_closes(page: str) -> None:
    assert Page(page).open == []


def test_names_are_text_and_never_markup(page: str) -> None:
    parsed = Page(page)
    assert parsed.tags.count("script") == 1  # the page's own
    assert NASTY not in page
    assert html.escape("<script>alert(") in page
    assert any(NASTY in text for text in parsed.text)  # read back whole, and no template was filled in
    assert "<b>" not in page
    assert "<i>" not in page


def test_figures_are_in_the_page_itself(page: str, tmp_path: Path) -> None:
    sources = [value for tag, name, value in Page(page).attributes if (tag, name) == ("img", "src")]
    drawings = {base64.b64decode(source.partition(",")[2]) for source in sources}
    assert drawings == {path.read_bytes() for path in (tmp_path / "figures").glob("*.svg")}
    assert len(sources) == 3  # scores, single layers, the layers of mixes


def test_every_picture_has_words_for_those_who_cannot_see_it(page: str) -> None:
    parsed = Page(page)
    assert parsed.tags.count("img") == sum(name == "alt" and bool(value) for _, name, value in parsed.attributes)


def test_synthetic_speech_has_a_badge_and_recorded_speech_none(page: str) -> None:
    headings = re.findall(r"<h2 id=.board.*?</h2>", page, re.S)
    assert [("badge" in heading, "built" in heading) for heading in headings] in (
        [(True, True), (False, False)],
        [(False, False), (True, True)],
    )


def test_the_best_is_marked_and_the_tie_is_said(page: str) -> None:
    assert re.search(r'<td class="best">55\.00 \[40\.00, 60\.00\]</td>', page)
    assert re.search(r"<td>45\.00 \[40\.00, 60\.00\] =</td>", page)
    assert "**" not in page


def test_the_page_of_boards_without_a_mix_stands(
    tmp_path: Path, make_record: Callable, write_records: Callable
) -> None:
    write_records(tmp_path, make_record(layers=1))
    assert Page(write_report(tmp_path).page.read_text()).open == []


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
