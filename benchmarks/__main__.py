"""Run every benchmark in a process of its own and print one table: `make bench`, or `python -m benchmarks NAME …`.

Each module `benchmarks/NAME.py` prints its own table and, with `--json FILE`, writes
`{"results": [{"name", "value", "unit", "bound", "better": "lower"|"higher"}]}`. All values are ratios, or bytes, from
one run; absolute times mean nothing on shared machines. Exit code 1 when a value misses its bound by more than a
quarter (the gate is generous because machines are noisy).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SLACK = 1.25


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def run(name: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json", str(out)], check=False)
        if done.returncode or not out.is_file():
            return [{"name": f"{name} failed", "value": float("nan"), "bound": None}]
        data = json.loads(out.read_text())
    return data["results"] if isinstance(data, dict) and "results" in data else []


def misses(result: dict[str, Any]) -> bool:
    bound, value = result.get("bound"), result["value"]
    if bound is None:
        return value != value  # a benchmark that failed
    return value > bound * SLACK if result.get("better", "lower") == "lower" else value < bound / SLACK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="benchmarks to run; default: all")
    parser.add_argument("--json", type=Path, help="write everything here")
    given = parser.parse_args()
    results = [result for name in given.names or names() for result in run(name)]
    for result in results:
        bound = "" if result.get("bound") is None else f"  (bound {result['bound']:g})"
        print(f"{'MISS' if misses(result) else 'ok  '} {result['name']}: {result['value']:.4g}{bound}")
    if given.json:
        given.json.write_text(json.dumps({"results": results}, indent=1))
    raise SystemExit(any(misses(result) for result in results))


if __name__ == "__main__":
    main()
