"""Intervals, tests and correlations for scores over prompts and over heads.

What cannot be computed is NaN: a correlation with something that does not vary, a test of fewer than six prompts.

P prompt · L layer · H head
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

Array = NDArray[np.float64]
FEWEST = 6
"""prompts that a test needs"""


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def resampled_weights(count: int, draws: int, seed: int) -> Float[Array, "draws P"]:
    """Bootstrap weights: how often each prompt is drawn, divided by their number; rows sum to 1."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws) / count


def bootstrap_mean(values: Sequence[float] | Float[Array, " P"], draws: int = 2000, seed: int = 0) -> Interval:
    """Mean over prompts with its percentile bootstrap interval.

    >>> bootstrap_mean([1.0, 1.0, 1.0])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    means = resampled_weights(array.size, draws, seed) @ array
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(array.mean()), float(low), float(high))


def quantiles(drawn: Sequence[float] | Float[Array, " draws"]) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws; NaN where fewer than nineteen in twenty draws are defined."""
    values = np.asarray(drawn, dtype=np.float64)
    known = values[np.isfinite(values)]
    if known.size == 0 or known.size < 0.95 * values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def wilson(successes: int, trials: int) -> Interval:
    """Share of successes with Wilson's 95 % interval.

    >>> round(wilson(8, 10).low, 3), round(wilson(8, 10).high, 3)
    (0.49, 0.943)
    """
    if trials == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    z, share = 1.959963984540054, successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * ((share * (1 - share) / trials + z * z / (4 * trials**2)) ** 0.5) / scale
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def benjamini_hochberg(p: Float[Array, "*tests"], q: float = 0.05) -> Bool[NDArray[np.bool_], "*tests"]:
    """Tests rejected at false discovery rate q (Benjamini and Hochberg 1995); NaN is no test, and never rejected."""
    from scipy.stats import false_discovery_control

    values = np.asarray(p, dtype=np.float64)
    known = np.isfinite(values)
    rejected = np.zeros(values.shape, dtype=bool)
    if known.any():
        rejected[known] = np.asarray(false_discovery_control(values[known])) <= q
    return rejected


def t_test(
    values: Float[Array, "*tests P"], alternative: Literal["two-sided", "greater"] = "two-sided"
) -> Float[Array, "*tests"]:
    """p that a mean over prompts is zero (or is not above it): one-sample t; NaN for fewer than six prompts.

    Section 7 of the specification of statistics: at ten prompts 5 % of normal nulls pass, 11 % with a bootstrap.
    """
    from scipy.special import stdtr

    values = np.asarray(values, dtype=np.float64)
    count = values.shape[-1]
    if count < FEWEST:
        return np.full(values.shape[:-1], np.nan)
    mean, error = values.mean(-1), values.std(-1, ddof=1) / np.sqrt(count)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / error
    t = np.where(np.isnan(t) & np.isfinite(mean), 0.0, t)  # nothing at all happened on any prompt
    return 2 * stdtr(count - 1, -np.abs(t)) if alternative == "two-sided" else stdtr(count - 1, -t)


def t_interval(values: Float[Array, "*some P"]) -> tuple[Float[Array, "*some"], Float[Array, "*some"]]:
    """Ends of the 95 % t interval of a mean over prompts; NaN for a single prompt."""
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=np.float64)
    count = values.shape[-1]
    if count < 2:
        unknown = np.full(values.shape[:-1], np.nan)
        return unknown, unknown
    half = stdtrit(count - 1, 0.975) * values.std(-1, ddof=1) / np.sqrt(count)
    return values.mean(-1) - half, values.mean(-1) + half


@dataclass(frozen=True)
class Correlation:
    """Agreement of two head matrices, with the null in which heads are shuffled inside their layer."""

    pearson: float
    spearman: float
    pearson_null: float
    """mean over permutations"""
    spearman_null: float
    p: float
    """share of permutations with at least this Pearson correlation"""
    spearman_p: float


def correlate(
    first: Float[Array, "L H"], second: Float[Array, "L H"], permutations: int = 1000, seed: int = 0
) -> Correlation:
    """Pearson and Spearman correlation of two L × H matrices against the layer-stratified permutation null.

    Heads of late layers score higher everywhere; the null keeps the layer and shuffles the heads in it.
    """
    from scipy.stats import rankdata

    def both(other: Array) -> tuple[float, float]:
        return pearson(first, other), pearson(rankdata(first), rankdata(other))

    generator = np.random.default_rng(seed)
    own = both(second)
    null = np.array([both(generator.permuted(second, axis=1)) for _ in range(permutations)])
    p, spearman_p = (permutation_p(value, null[:, place]) for place, value in enumerate(own))
    return Correlation(*own, float(null[:, 0].mean()), float(null[:, 1].mean()), p, spearman_p)


def permutation_p(value: float, null: Float[Array, " draws"]) -> float:
    """(1 + draws that reach the value) / (1 + draws); NaN where the value or a draw is undefined."""
    if not (np.isfinite(value) and np.isfinite(null).all() and null.size):
        return float("nan")
    return float((1 + (null >= value - 1e-12).sum()) / (null.size + 1))


def pearson(first: Float[Array, "*shape"], second: Float[Array, "*shape"]) -> float:
    """Pearson's r of two arrays; NaN where one does not vary.

    >>> pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0]))
    nan
    """
    a, b = np.ravel(first) - np.mean(first), np.ravel(second) - np.mean(second)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    floor = 1e-14 * (float(np.square(first).sum()) * float(np.square(second).sum())) ** 0.5
    return float(a @ b) / scale if scale > floor else float("nan")


def spearman(first: Float[Array, "*shape"], second: Float[Array, "*shape"]) -> float:
    """Spearman's ρ of two arrays; NaN where one does not vary."""
    from scipy.stats import rankdata

    return pearson(rankdata(np.ravel(first)), rankdata(np.ravel(second)))
