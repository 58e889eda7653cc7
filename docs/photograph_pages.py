"""Photographs of report pages, to be looked at one by one: `python docs/photograph_pages.py RUN... --out FOLDER`.

Each run's page (without its static twins) at 1400 and 400 pixels, light and dark, cut into screens; a line a page says
how large it is, after how many seconds everything is drawn, and what is wider than the window. Needs Chromium and
`pip install 'babelscope[browser]'`.
"""

from __future__ import annotations

import argparse
import time
from io import BytesIO
from pathlib import Path

from make_screenshots import browser
from PIL import Image

from babelscope.report import write_report

WIDTHS = (1400, 400)
SCREEN = 2400
"""pixels of one picture, from top to bottom"""
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((it) => it.getBoundingClientRect().right > innerWidth + 1)
  .filter((it) => !it.closest(".across, .wide, .scroll, nav, .skip"))
  .slice(0, 5).map((it) => it.tagName + "." + it.className)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--theme", choices=("light", "dark"), action="append")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with browser() as opened:
        for run in given.runs:
            path = write_report([run], given.out / f"{run.name}.html", static=False)
            for theme in given.theme or ("light", "dark"):
                for width in given.width or WIDTHS:
                    photograph(opened, path, width, theme)


def photograph(opened: object, path: Path, width: int, theme: str) -> None:
    """The whole page in pictures of one screen each, and a line about it."""
    page = opened.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)  # type: ignore[attr-defined]
    page.set_default_timeout(180_000)
    began = time.perf_counter()
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    seconds = time.perf_counter() - began
    sideways = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    page.evaluate("document.querySelectorAll('details.facts').forEach((it) => { it.open = true; })")
    page.wait_for_timeout(500)
    whole = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
    for place, top in enumerate(range(0, whole.height, SCREEN)):
        part = whole.crop((0, top, width, min(top + SCREEN, whole.height)))
        part.save(path.with_name(f"{path.stem}-{theme}-{width}-{place}.png"))
    megabytes = path.stat().st_size / 1e6
    print(f"{path.stem:12} {theme:5} {width:4} px: {megabytes:.1f} MB, {seconds:.1f} s", end="")
    print(f", {sideways} px too wide: {page.evaluate(TOO_WIDE)}" if sideways > 0 else "", flush=True)
    page.close()


if __name__ == "__main__":
    main()
