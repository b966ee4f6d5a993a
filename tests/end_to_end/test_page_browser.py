"""The page in a browser: it sorts, filters and opens records, asks nobody for anything, and believes no name."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from made_results import Shape, write_results

from wavbench.benchmark.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NASTY = "</script><img src=x onerror=\"document.title='x'\">&{{ 7 * 7 }}"
TABS = ["tasks", "layers", "cost", "overall", "published", "about"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PUBLISHED = Path(__file__).parents[2] / "results/published/superb.csv"


@dataclass
class Seen:
    """A page, and what it did."""

    page: object
    said: list[str] = field(default_factory=list)  # errors and lines of the console
    asked: list[str] = field(default_factory=list)  # addresses of requests


@pytest.fixture(scope="module")
def browser() -> Iterator:
    found = os.environ.get("WAVBENCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("no Chromium: apt-get install chromium, or set WAVBENCH_CHROMIUM to one")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has none
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=root)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, make_nasty: Callable) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_results(folder, Shape(upstreams=4, boards=6, layers=3, seeds=2, utterances=60, trials=200))
    make_nasty(folder, NASTY)
    (folder / "published").mkdir()
    shutil.copy(PUBLISHED, folder / "published")
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def make_nasty() -> Callable[[Path, str], None]:
    """A function that gives the first upstream of made results a name that somebody else might have thought of."""

    def rename(folder: Path, name: str) -> None:
        for path in (folder / "runs").glob("*.json"):
            text = path.read_text()
            if '"checkpoint": "upstream_01_base"' in text:
                escaped = name.replace('"', '\\"')
                path.write_text(text.replace('"upstream_01_base"', f'"{escaped}"'))

    return rename


@pytest.fixture
def seen(browser, results: Path) -> Iterator[Callable[..., Seen]]:
    """A function that opens the page from disk; in the end nothing may have gone wrong and nothing been asked for."""
    opened: list[Seen] = []
    address = (results / "leaderboard.html").as_uri()

    def look(size: dict = DESKTOP, hash: str = "", **options) -> Seen:
        page = browser.new_page(viewport=size, **options)
        found = Seen(page)
        page.on("console", lambda message: found.said.append(message.text))
        page.on("pageerror", lambda error: found.said.append(str(error)))
        page.on("request", lambda request: found.asked.append(request.url))
        page.goto(address + hash)
        opened.append(found)
        return found

    yield look
    for found in opened:
        assert found.said == []
        assert {url.partition("#")[0] for url in found.asked} == {address}
        assert found.page.title() == "wavbench leaderboard"
        found.page.close()


def column(page, table: str, place: int) -> list[str]:
    """What the rows that are shown have in a column."""
    texts = page.locator(f"{table} tbody tr:not([hidden]) td:nth-child({place})").all_inner_texts()
    return [text.strip() for text in texts]


def test_headings_sort_both_ways_and_say_so(seen: Callable) -> None:
    page = seen().page
    table, heading = "#tasks .matrix", page.locator("#tasks .matrix th").nth(2)
    numbers = [float(text.split()[0]) for text in column(page, table, 3)]
    assert len(numbers) == 4
    assert heading.get_attribute("aria-sort") == "none"
    heading.get_by_role("button").click()
    order = heading.get_attribute("aria-sort")
    assert order in ("ascending", "descending")
    found = [float(text.split()[0]) for text in column(page, table, 3)]
    assert found == sorted(numbers, reverse=order == "descending")
    heading.get_by_role("button").click()
    assert {order, heading.get_attribute("aria-sort")} == {"ascending", "descending"}
    assert [float(text.split()[0]) for text in column(page, table, 3)] == found[::-1]
    names = page.locator(f"{table} th").first
    names.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "none"
    assert column(page, table, 1) == sorted(column(page, table, 1), key=str.lower)


def test_the_better_direction_comes_first(seen: Callable) -> None:
    page = seen().page
    for place, heading in enumerate(page.locator("#tasks .matrix th").all()[1:], 2):
        heading.get_by_role("button").click()
        best = page.locator(f"#tasks .matrix tbody tr:first-child td:nth-child({place})")
        assert "best" in best.get_attribute("class").split()


def test_the_filter_keeps_rows_and_boards_that_hold_all_words(seen: Callable) -> None:
    page = seen().page
    whole = len(column(page, "#tasks .matrix", 1))
    page.fill("#filter", "asr upstream_02")
    assert column(page, "#tasks .matrix", 1) == ["upstream_02_base"]
    headings = page.locator("#tasks .matrix th:not([hidden])").all_inner_texts()
    assert len(headings) == 2
    assert "WER" in headings[1]
    shown = page.locator("#tasks .board:visible")
    assert [text.partition("\n")[0] for text in shown.locator("h3").all_inner_texts()] == ["asr on corpus_0"]
    assert page.inner_text("#found") == "1 row"
    page.fill("#filter", "WER")
    assert [text.partition("\n")[0] for text in shown.locator("h3").all_inner_texts()] == ["asr on corpus_0"]
    page.fill("#filter", "nothing of the kind")
    assert shown.count() == 0
    assert page.inner_text("#found") == "0 rows"
    page.fill("#filter", "")
    assert len(column(page, "#tasks .matrix", 1)) == whole
    assert page.inner_text("#found") == ""


def test_a_cell_opens_its_record_and_escape_closes_it(seen: Callable, results: Path) -> None:
    page = seen().page
    row = page.locator("#tasks .matrix tbody tr", has_text="upstream_02_base")
    cell = row.locator("button", has_text=re.compile(r"\d")).first
    value = cell.inner_text().split()[0]
    cell.click()
    dialog = page.locator("dialog[open]")
    told = dialog.inner_text()
    assert "upstream_02_base, er on corpus_0" in told or "upstream_02_base, asr on corpus_0" in told
    for part in ("Result", "Learning rate", "Weights of the mix", "Spread of", "Provenance", "Cost", "Config"):
        assert part in told
    key = re.search(r"runs/(\w+)\.json", told)[1]
    assert (results / "runs" / f"{key}.json").is_file()
    assert page.evaluate("location.hash") == f"#record={key}"
    assert abs(float(value) - float(re.search(r"\)\s+([\d.]+)\s+\[", told)[1])) < 1  # a row is the mean of its seeds
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert cell.evaluate("button => document.activeElement === button")


def test_a_record_shows_its_confusions_and_its_other_seed(seen: Callable) -> None:
    page = seen().page
    board = page.locator("#tasks .board", has_text="er on corpus_0")
    board.locator("td button").first.click()
    dialog = page.locator("dialog[open]")
    assert dialog.locator(".confusion tbody tr").count() == 6
    assert dialog.locator(".confusion thead th").all_inner_texts()[1:3] == ["anger", "fear"]
    before = page.evaluate("location.hash")
    dialog.locator(".seeds button[aria-pressed=false]").click()
    assert page.evaluate("location.hash") != before
    assert dialog.locator(".seeds button[aria-pressed=true]").inner_text() == "1"
    dialog.get_by_role("button", name="Close").click()
    assert page.locator("dialog[open]").count() == 0


def test_the_address_of_a_record_opens_it(seen: Callable) -> None:
    first = seen().page
    first.locator("#tasks .matrix td button").first.click()
    hash = first.evaluate("location.hash")
    assert hash.startswith("#record=")
    assert hash[8:] in seen(hash=hash).page.locator("dialog[open]").inner_text()
    for odd in ("#record=none", "#record=constructor", "#layers", "#%3Cimg%3E"):
        assert seen(hash=odd).page.locator("dialog[open]").count() == 0
    there = seen(hash="#%").page  # what no address can mean leaves the page whole
    assert there.locator("#tasks .matrix td button").first.is_visible()
    there.evaluate("hash => { location.hash = hash; }", hash)
    there.locator("dialog[open]").wait_for(timeout=5_000)
    assert hash[8:] in there.locator("dialog[open]").inner_text()


def test_tabs_go_by_mouse_and_by_keyboard(seen: Callable) -> None:
    page = seen().page
    for tab in TABS:
        page.click(f"#tab-{tab}")
        assert [panel.get_attribute("id") for panel in page.locator(".panel:visible").all()] == [tab]
        assert page.locator("[role=tab][aria-selected=true]").get_attribute("id") == f"tab-{tab}"
    page.keyboard.press("Home")
    assert page.locator(".panel:visible").get_attribute("id") == "tasks"
    page.keyboard.press("ArrowLeft")
    assert page.locator(".panel:visible").get_attribute("id") == "about"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".panel:visible").get_attribute("id") == "layers"
    assert page.evaluate("document.activeElement.id") == "tab-layers"
    assert page.evaluate("document.querySelectorAll('[role=tab][tabindex=\"0\"]').length") == 1


def test_everything_is_reached_by_keyboard(seen: Callable) -> None:
    page = seen().page
    page.focus("#filter")
    found = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        found.add(page.evaluate("document.activeElement.closest('nav, th, td, .tools, .wide')?.nodeName"))
        if {"NAV", "TH", "TD"} <= found:
            break
    assert {"NAV", "TH", "TD"} <= found
    page.keyboard.press("Enter")
    assert page.locator("dialog[open], th[aria-sort=ascending], th[aria-sort=descending]").count() == 1


def test_names_of_strangers_stay_text(seen: Callable) -> None:
    page = seen().page
    assert page.locator("img").count() == 0
    assert NASTY in column(page, "#tasks .matrix", 1)
    page.locator("#tasks .matrix tr", has_text="onerror").locator("td button").first.click()
    assert NASTY in page.locator("dialog h2").inner_text()
    assert page.locator("img").count() == 0


def test_nothing_is_wider_than_a_phone(seen: Callable) -> None:
    page = seen(PHONE).page
    for tab in TABS:
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.click("#tab-tasks")
    page.locator("#tasks .matrix td button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    inside = page.evaluate(
        "(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)(document.querySelector('dialog'))"
    )
    assert inside


@pytest.mark.parametrize(("scheme", "theme"), [("light", "light"), ("dark", "dark")])
def test_the_page_is_as_dark_as_the_reader_likes(seen: Callable, scheme: str, theme: str) -> None:
    page = seen(color_scheme=scheme).page
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") != theme
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(seen: Callable, scheme: str) -> None:
    page = seen(color_scheme=scheme).page
    low = page.evaluate(
        """() => {
          const light = (text) => {
            const part = text.match(/[\\d.]+/g).slice(0, 3).map((own) => own / 255)
              .map((own) => (own <= 0.03928 ? own / 12.92 : ((own + 0.055) / 1.055) ** 2.4));
            return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
          };
          const ground = (node) => {
            for (; node; node = node.parentElement) {
              const colour = getComputedStyle(node).backgroundColor;
              if (!colour.startsWith("rgba(0, 0, 0, 0")) return light(colour);
            }
            return 1;
          };
          return [...document.querySelectorAll("#tasks td, #tasks small, #tasks i, #tasks p, nav a, #tasks h2, .badge")]
            .filter((node) => node.textContent.trim()).map((node) => {
              const [one, other] = [light(getComputedStyle(node).color), ground(node)].sort((a, b) => b - a);
              return [(one + 0.05) / (other + 0.05), node.outerHTML.slice(0, 120)];
            }).filter(([ratio]) => ratio < 4.5);
        }"""
    )
    assert low == []  # WCAG 2.2, success criterion 1.4.3


def test_in_print_all_parts_are_there_on_white(seen: Callable) -> None:
    page = seen(color_scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".panel:visible").count() == len(TABS)
    assert page.locator("nav:visible, .tools:visible").count() == 0
    grounds = page.evaluate(
        "['body', '.s0', '.s4'].map(own => getComputedStyle(document.querySelector(own)).backgroundColor)"
    )
    assert all(min(map(int, re.findall(r"\d+", ground)[:3])) > 180 for ground in grounds)


def test_without_its_script_the_page_reads(seen: Callable, browser, results: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((results / "leaderboard.html").as_uri())
    assert page.locator(".panel:visible").count() == len(TABS)
    assert page.locator("#filter:visible, #theme:visible").count() == 0
    assert page.locator("figure svg:visible").count() > 5
    page.close()


def test_the_policy_holds_what_a_changed_file_would_run(browser, results: Path, tmp_path: Path) -> None:
    text = (results / "leaderboard.html").read_text()
    changed = tmp_path / "page.html"
    changed.write_text(
        text.replace("</main>", "<script>document.title = 'run'</script><img src='http://127.0.0.1:9/a'></main>")
    )
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(changed.as_uri())
    assert page.title() == "wavbench leaderboard"
    assert any("script" in text for text in said)
    assert any("127.0.0.1" in text for text in said)
    page.close()
