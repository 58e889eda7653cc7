"""Intervals of the tables in docs/calibrated-regions.md: over languages, over draws, over continuations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd


def cell(value: float | int | str | None) -> str:
    """A number in three digits; a dash for none."""
    if isinstance(value, str | int) or value is None:
        return "–" if value is None else str(value)
    if value != value:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else "0" if value == 0 else f"{value:.3g}"


def between(low: float, high: float) -> str:
    return f"{cell(float(low))} to {cell(float(high))}"


def over(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; NaN bounds of fewer than two values."""
    from scipy.stats import t

    kept = np.array([value for value in values if value == value], dtype=float)
    if len(kept) == 0:
        return (float("nan"),) * 3
    mean = float(kept.mean())
    if len(kept) < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / len(kept) ** 0.5)
    return mean, mean - half, mean + half


def spread(values: Iterable[float]) -> str:
    """The mean of values with its interval, as a cell."""
    mean, low, high = over(values)
    return cell(mean) if low != low else f"{cell(mean)} ({between(low, high)})"


def wilson(hits: Sequence[bool]) -> str:
    """A share of successes with its Wilson interval, as a cell."""
    from babelscope.regions.generation import share

    found = share(list(hits))
    return f"{cell(found.value)} ({between(found.low, found.high)})"


def mantel(by_pair: pd.Series, other: pd.Series, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Rank correlation of two measures of language pairs, and how often permuted languages reach it either way.

    Pairs that share a language are not independent, so languages are permuted, not pairs.
    """
    codes = sorted({code for pair in by_pair.index for code in pair})
    first, second = _square(by_pair.rank(), codes), _square(other.reindex(by_pair.index).rank(), codes)
    upper = np.triu_indices(len(codes), 1)
    generator = np.random.default_rng(seed)

    def correlation(order: np.ndarray) -> float:
        return float(np.corrcoef(first[np.ix_(order, order)][upper], second[upper])[0, 1])

    observed = correlation(np.arange(len(codes)))
    reached = sum(abs(correlation(generator.permutation(len(codes)))) >= abs(observed) for _ in range(draws))
    return observed, (1 + reached) / (1 + draws)


def _square(values: pd.Series, codes: list[str]) -> np.ndarray:
    found = np.zeros((len(codes), len(codes)))
    for (one, other), value in values.items():  # pyright: ignore[reportGeneralTypeIssues]
        i, j = codes.index(one), codes.index(other)
        found[i, j] = found[j, i] = value
    return found
