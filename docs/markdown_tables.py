"""Tables of the pages of this folder, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


def number(value: object, digits: int = 2) -> str:
    """A number as the pages write it; nothing for what is not known."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.{digits}f}".replace("-", "−")
    return str(value)


def p_value(value: float) -> str:
    """A p-value: three places, or the bound."""
    return "" if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def span(value: float, low: float, high: float, digits: int = 2) -> str:
    """A value with its interval."""
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], digits: int = 2) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(number(cell, digits) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def frame(values: pd.DataFrame, corner: str, digits: int = 2) -> str:
    """A frame with its index as the first column."""
    head = [corner, *(" ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in values.columns)]
    names = [" · ".join(map(str, i)) if isinstance(i, tuple) else str(i) for i in values.index]
    return table(head, ([name, *map(float, row)] for name, row in zip(names, values.to_numpy())), digits)
