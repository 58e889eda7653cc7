"""Building reports: seconds, size of the page, growth with sentences and neurons; and how soon a browser answers.

    python -m benchmarks.pages [--json FILE] [--repeat 2]

Invented runs of nine languages, written as a real one is; one thread, processor time. The page packs a similarity map
of (9 · n)² cells and draws layers, not neurons. The page of 9 × 100 shall be at most 8 MB and answer within 2 s: its
sentences can be read and its contents opened then, while charts are still being drawn one by one. Needs Chromium and
`pip install 'babelscope[browser]'` for that part; without them it is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.synthetic_runs import write_regions

from babelscope.report import write_report
from benchmarks._measure import best, result, slope, tell

SENTENCES = (25, 50, 100)
WIDTHS = (100, 400, 1600)
LAYERS = 12
ANSWERS = """addEventListener("DOMContentLoaded", () => setTimeout(() => requestAnimationFrame(() => {
  window.answered = performance.now();
})));"""
"""when the page has been parsed and a first frame is shown behind its scripts"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--repeat", type=int, default=2)
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        cases = [(n, WIDTHS[0]) for n in SENTENCES] + [(SENTENCES[0], width) for width in WIDTHS[1:]]
        pages = {case: Path(folder) / f"{case[0]}-{case[1]}.html" for case in cases}
        runs = {
            case: write_regions(Path(folder) / f"run-{case[0]}-{case[1]}", case[0], LAYERS, case[1]) for case in cases
        }
        named = {str(case): (lambda c=case: write_report([runs[c].path], pages[c])) for case in cases}
        seconds = best(named, given.repeat)

        def grows(sizes: tuple[int, ...], chosen: list[tuple[int, int]]) -> float:
            return slope(sizes, [seconds[str(case)] for case in chosen])

        largest = (SENTENCES[-1], WIDTHS[0])
        megabytes = pages[largest].stat().st_size / 1e6
        title = f"report of 9 × {largest[0]} sentences"
        results.append(result(f"{title}, processor time", seconds[str(largest)], None, "lower", "s"))
        results.append(result(f"{title}, size of the page", megabytes, None, "lower", "MB"))
        for what, waited in opening(pages[largest]).items():
            results.append(result(f"{title}, {what}", waited, None, "lower", "s"))
    results.append(result("report, time with sentences: slope", grows(SENTENCES, cases[:3]), 2.0, "lower", ""))
    by_width = [cases[0], *cases[3:]]
    results.append(result("report, time with neurons: slope", grows(WIDTHS, by_width), 1.0, "lower", ""))
    tell(results, given.json)


def opening(page: Path) -> dict[str, float]:
    """Seconds from the address to a page that answers, and to the last chart; the better of two. Empty: no browser."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None or find_spec("playwright") is None:
        return {}
    from playwright.sync_api import sync_playwright

    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    seconds: dict[str, float] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=flags, timeout=180_000)
        for _ in range(2):
            opened = browser.new_page()
            opened.add_init_script(ANSWERS)
            opened.goto(page.resolve().as_uri(), wait_until="commit")
            opened.wait_for_selector("html[data-ready=yes]", timeout=180_000)
            for what, script in (("until it answers", "window.answered"), ("until all is drawn", "performance.now()")):
                waited = float(opened.evaluate(script)) / 1000
                seconds[what] = min(waited, seconds.get(what, waited))
            opened.close()
        browser.close()
    return seconds


if __name__ == "__main__":
    main()
