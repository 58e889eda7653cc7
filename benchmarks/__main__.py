"""Run the speed benchmarks, each in a process of its own: `make bench`, or `python -m benchmarks NAME …`.

    python -m benchmarks [NAME …] [--save]     measure; --save puts the results into benchmarks/results.json
    python -m benchmarks --table               write the table of docs/benchmarks.md from that file
    python -m benchmarks --gate [--quick]      a minute of small ratios with generous bounds, for continuous integration

Each module `benchmarks/NAME.py` prints its own table and, with `--json FILE`, writes
`{"results": [{"name", "value", "unit", "bound", "better": "lower"|"higher"}]}`. Values are ratios, slopes or bytes from
one run; absolute times mean nothing on shared machines. Exit code 1 when a value misses its bound by more than a
quarter (machines are noisy; the table in the docs is strict).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import _table

HERE = Path(__file__).parent
SLACK = 1.25
SPEED: dict[str, tuple[str, ...]] = {
    "recording": (),
    "perplexity": (),
    "answers": (),
    "patching": (),
    "routes": (),
    "attribution": (),
    "permutation": ("--neurons", "500000"),
    "pages": (),
    "growth": (),
    "steering": (),
    "allocator": (),
    "peers": (),
}
"""benchmarks of speed and memory, and what each is given; others in this folder measure quality"""


def run(name: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *SPEED.get(name, ()), "--json", str(out)]
        done = subprocess.run(command, check=False)
        if done.returncode or not out.is_file():
            return [{"name": f"{name} failed", "value": float("nan"), "unit": "", "bound": None, "better": "lower"}]
        data = json.loads(out.read_text(encoding="utf-8"))
    return data["results"] if isinstance(data, dict) and "results" in data else []


def verdicts(results: list[dict[str, Any]]) -> bool:
    """Print each result with its verdict; whether all hold."""
    for result in results:
        bound = "" if result.get("bound") is None else f"  (bound {result['bound']:g})"
        verdict = "MISS" if _table.misses(result, SLACK) else "ok  "
        print(f"{verdict} {result['name']}: {result['value']:.4g} {result.get('unit', '')}{bound}")
    return not any(_table.misses(result, SLACK) for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"benchmarks to run; default: {', '.join(SPEED)}")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--save", action="store_true", help="put the results into benchmarks/results.json")
    parser.add_argument("--table", action="store_true", help="write the table of docs/benchmarks.md and stop")
    parser.add_argument("--gate", action="store_true", help="the small ratios only")
    parser.add_argument("--quick", action="store_true", help="with --gate: each measured twice")
    given = parser.parse_args()
    if given.table:
        _table.write()
        return
    results: list[dict[str, Any]] = []
    if given.gate:
        from benchmarks import _gate

        results = _gate.measure(given.quick)
    else:
        for name in given.names or SPEED:
            found = run(name)
            if given.save and not any(_table.misses({**row, "bound": None}) for row in found):
                _table.save(_table.RESULTS, name, found)
            results += found
    held = verdicts(results)
    if given.json:
        about = {"machine": _table.machine(), "versions": _table.versions()}
        given.json.write_text(json.dumps({**about, "results": results}, indent=1), encoding="utf-8")
    raise SystemExit(not held)


if __name__ == "__main__":
    main()
