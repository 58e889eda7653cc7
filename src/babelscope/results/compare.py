"""What differs between two runs: in how they were made, and in the numbers that came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from babelscope.results.reader import Run

_OF_THE_MOMENT = {"wall_time_s", "started", "finished"}


def compare_runs(first: Run, second: Run) -> pd.DataFrame:
    """Every entry of the two manifests that is not equal: `entry` (a dotted path), `first`, `second`, `difference`."""
    one, two = dict(_leaves(first.manifest)), dict(_leaves(second.manifest))
    rows = [
        {
            "entry": entry,
            "first": one.get(entry),
            "second": two.get(entry),
            "difference": _minus(one.get(entry), two.get(entry)),
        }
        for entry in sorted({*one, *two})
        if one.get(entry) != two.get(entry) and entry not in _OF_THE_MOMENT
    ]
    return pd.DataFrame(rows, columns=["entry", "first", "second", "difference"])


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _minus(first: object, second: object) -> float | None:
    if isinstance(first, int | float) and isinstance(second, int | float) and bool not in (type(first), type(second)):
        return second - first
    return None
