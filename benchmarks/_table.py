"""The file of measured results (`results.json`), and the table made of it in docs/benchmarks.md."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
PACKAGES = ("torch", "transformers", "numpy", "zarr", "transformer-lens", "nnsight")


def machine() -> dict[str, Any]:
    """What a reader must know of the machine; nothing that names it."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}".strip(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def save(path: Path, name: str, results: list[dict[str, Any]]) -> None:
    """Put one benchmark's results into the file, beside those of the others measured before."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"benchmarks": {}}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    data["benchmarks"][name] = {"date": today, "machine": machine(), "versions": versions(), "results": results}
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def misses(result: dict[str, Any], slack: float = 1.0) -> bool:
    """Whether a value is beyond its bound, `slack` times over; one that is not a number always is."""
    bound, value = result.get("bound"), result["value"]
    if value != value:
        return True
    if bound is None:
        return False
    return value > bound * slack if result.get("better", "lower") == "lower" else value < bound / slack


def markdown(data: dict[str, Any]) -> str:
    """One table of every result, its bound, and whether it holds."""
    lines: list[str] = []
    for about, names in _alike(data["benchmarks"]).items():
        lines += [about, "", "| measured | value | bound | |", "|---|---|---|---|"]
        lines += [_row(row) for name in names for row in data["benchmarks"][name]["results"]]
        lines.append("")
    return "\n".join(lines)


def _alike(benchmarks: dict[str, Any]) -> dict[str, list[str]]:
    """Names of benchmarks by what was the same: date, machine and versions, in words."""
    groups: dict[str, list[str]] = {}
    for name, run in sorted(benchmarks.items()):
        held, tools = run["machine"], ", ".join(f"{key} {value}" for key, value in run["versions"].items())
        about = (
            f"{run['date']}, {held['processor']}, {held['cores']} cores, {held['memory_gb']} GB, {held['system']}, "
            f"Python {held['python']}, {tools}:"
        )
        groups.setdefault(about, []).append(name)
    return groups


def _row(row: dict[str, Any]) -> str:
    value, bound = row["value"], row["bound"]
    sign = "≤" if row["better"] == "lower" else "≥"
    shown = "–" if bound is None else f"{sign} {_number(bound)}"
    verdict = "" if bound is None else "**missed**" if misses(row) else "holds"
    return f"| {row['name']} | {_number(value)} {row['unit']} | {shown} | {verdict} |"


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 100 else f"{value:.3g}"


def write(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Replace the table between the page's two marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    table = markdown(json.loads(results.read_text(encoding="utf-8")))
    page.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")
