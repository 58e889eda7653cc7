"""Building reports: seconds, size of the page, and growth with sentences and neurons.

    python -m benchmarks.pages [--json FILE] [--repeat 2]

Invented runs of nine languages, written as a real one is; one thread, processor time. The page packs a similarity map
of (9 · n)² cells and draws layers, not neurons. The design sets no floor for reports.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.synthetic_runs import write_regions

from babelscope.report import write_report
from benchmarks._measure import best, result, slope, tell

SENTENCES = (25, 50, 100)
WIDTHS = (100, 400, 1600)
LAYERS = 12


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
    results.append(result("report, time with sentences: slope", grows(SENTENCES, cases[:3]), 2.0, "lower", ""))
    by_width = [cases[0], *cases[3:]]
    results.append(result("report, time with neurons: slope", grows(WIDTHS, by_width), 1.0, "lower", ""))
    tell(results, given.json)


if __name__ == "__main__":
    main()
