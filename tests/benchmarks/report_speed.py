"""How long a report of a thousand records takes, how large its page is, and how soon a browser paints it.

    python tests/benchmarks/report_speed.py [--out FOLDER] [--rounds 3] [--shape wide|deep]

Two results folders are made up: `wide`, 40 upstreams on 25 boards, and `deep`, nine upstreams on eight boards with 13
layers and two seeds. The first report of a folder verifies scores and compares rows; a later one finds that kept.
Paint times are those of headless Chromium, medians, where there is one.
"""

import argparse
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from made_results import Shape, write_results

from wavbench.benchmark.report import write_report

SHAPES = {"wide": Shape(), "deep": Shape(upstreams=9, boards=8, layers=13, seeds=2)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAINTS = "performance.getEntriesByType('paint').map(entry => entry.startTime)"
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="", help="folder for the results; left there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    given = parser.parse_args()
    folder = Path(given.out or tempfile.mkdtemp())
    for name in SHAPES if given.shape == "both" else [given.shape]:
        results = folder / name
        if not (results / "runs").is_dir():
            write_results(results, SHAPES[name])
        count = len(list((results / "runs").glob("*.json")))
        shutil.rmtree(results / ".cache", ignore_errors=True)
        for round_, what in enumerate(["first", *["later"] * given.rounds]):
            wall, cpu = time.monotonic(), _cpu_seconds()
            page = write_report(results).page
            seconds, cpu = time.monotonic() - wall, _cpu_seconds() - cpu
            print(f"{name}: {count} records, report {round_} ({what}): {seconds:.1f} s, {cpu:.1f} CPU s")
        print(f"{name}: page {page.stat().st_size / 1e6:.2f} MB; {_painted(page, given.rounds)}")
    if not given.out:
        shutil.rmtree(folder)


def _cpu_seconds() -> float:
    """Of this process and those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


def _painted(page: Path, rounds: int) -> str:
    """When a browser painted first and had loaded all, in milliseconds."""
    browser = os.environ.get("WAVBENCH_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        return "no Chromium to paint it"
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    paints, loads = [], []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=root)
        for _ in range(rounds):
            tab = chromium.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.as_uri())
            paints.append(min(tab.evaluate(PAINTS)))
            loads.append(tab.evaluate(LOADED))
            tab.close()
        chromium.close()
    return f"first paint {statistics.median(paints):.0f} ms, loaded {statistics.median(loads):.0f} ms"


if __name__ == "__main__":
    main()
