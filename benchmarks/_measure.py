"""What the benchmarks share: fair timing, peak memory, and the form of a result.

A result is `{"name", "value", "unit", "bound", "better": "lower"|"higher"}`; `bound` None: told, not judged.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Clock = Callable[[], float]


def result(
    name: str, value: float, bound: float | None = None, better: str = "higher", unit: str = "×"
) -> dict[str, Any]:
    return {"name": name, "value": float(value), "unit": unit, "bound": bound, "better": better}


def best(ways: Mapping[str, Callable[[], object]], repeat: int, clock: Clock = time.process_time) -> dict[str, float]:
    """Least time of each way in seconds, taken in turns so that a busy machine slows all alike."""
    found = dict.fromkeys(ways, math.inf)
    for _ in range(repeat):
        for name, way in ways.items():
            start = clock()
            way()
            found[name] = min(found[name], clock() - start)
    return found


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Least-squares slope of log time over log size.

    >>> round(slope([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y))
    return rise / sum((a - middle_x) ** 2 for a in x)


def peak() -> float:
    """Highest resident memory of this process in bytes, since `forget_peak` where the system can say so (Linux)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def forget_peak() -> None:
    """Start counting the peak anew: making a random model takes more memory than keeping it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def in_own_process(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """What `python -m benchmarks.MODULE ARGUMENTS` printed as its last line, a JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def tell(results: Sequence[dict[str, Any]], path: Path | None = None, **more: Any) -> None:
    """Print the results, and write them as JSON where asked."""
    for row in results:
        bound = "" if row["bound"] is None else f"   bound {row['bound']:g}"
        print(f"{row['name']:<78}{row['value']:>10.3g} {row['unit']:<6}{bound}")
    if path:
        path.write_text(json.dumps({"results": list(results), **more}), encoding="utf-8")
