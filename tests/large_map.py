"""How a report with a map of 9 × 1000 sentences behaves in a browser: `python -m tests.large_map [SENTENCES]`.

Prints the size of the page, and the processor time of the page's own thread, which another program on the machine
does not change, for opening it and for each movement on the map.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from babelscope.report import write_report

from .browser import launched
from .synthetic_runs import LANGUAGES, write_regions

KEYS = """([key, times]) => {
  const cells = document.querySelector("canvas.cells");
  cells.focus();
  for (let k = 0; k < times; k++) cells.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
}"""
ORDER = "place => document.querySelectorAll('.map input[type=radio]')[place].click()"
DRAG = """async () => {
  const cells = document.querySelector("canvas.cells"), box = cells.getBoundingClientRect();
  cells.setPointerCapture = () => {};
  const send = (kind, x, y) => cells.dispatchEvent(new PointerEvent(kind, {clientX: x, clientY: y, bubbles: true}));
  send("pointerdown", box.x + 300, box.y + 300);
  for (let k = 1; k <= 20; k++) {
    send("pointermove", box.x + 300 - 4 * k, box.y + 300 - 3 * k);
    await new Promise(requestAnimationFrame);
  }
  send("pointerup", box.x + 220, box.y + 240);
}"""


def main(sentences: int = 1000) -> None:
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        run = write_regions(Path(folder) / "run", n=sentences, layers=30, width=100)
        path = write_report([run], Path(folder) / "page.html")
        print(f"{len(LANGUAGES)} × {sentences} sentences: {path.stat().st_size / 1e6:.1f} MB")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(600_000)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def spent() -> float:
            return {it["name"]: it["value"] for it in session.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

        page.goto(path.as_uri(), timeout=600_000)
        page.wait_for_selector("html[data-ready=yes]")
        print(f"{'opening the page':34}{1000 * spent():8.0f} ms")
        steps = [("moving by a cell", KEYS, ["ArrowDown", 1], 1)]
        steps += [(f"zooming in, step {step}", KEYS, ["+", 1], 1) for step in range(1, 9)]
        steps += [("the whole map again", KEYS, ["Escape", 1], 1), ("by meaning, the first time", ORDER, 1, 1)]
        steps += [("by language", ORDER, 0, 1), ("by meaning, again", ORDER, 1, 1)]
        steps += [("zooming in by three steps", KEYS, ["+", 3], 1), ("a frame of a drag", DRAG, None, 20)]
        for name, script, argument, parts in steps:
            before = spent()
            page.evaluate(script, argument)
            page.evaluate("new Promise(requestAnimationFrame)")
            print(f"{name:34}{1000 * (spent() - before) / parts:8.1f} ms")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*map(int, sys.argv[1:2]))
