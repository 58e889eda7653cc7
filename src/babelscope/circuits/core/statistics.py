"""Intervals, tests and correlations for scores over prompts and over heads.

P prompt · L layer · H head
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

Array = NDArray[np.float64]


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


def wilson(successes: int, trials: int) -> Interval:
    """Share of successes with Wilson's 95 % interval.

    >>> round(wilson(8, 10).low, 3), round(wilson(8, 10).high, 3)
    (0.49, 0.943)
    """
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    z, share = 1.959963984540054, successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * ((share * (1 - share) / trials + z * z / (4 * trials**2)) ** 0.5) / scale
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def benjamini_hochberg(p: Float[Array, " tests"], q: float = 0.05) -> Bool[NDArray[np.bool_], " tests"]:
    """Tests rejected at false discovery rate q (Benjamini and Hochberg 1995)."""
    flat = np.asarray(p, dtype=np.float64).ravel()
    order = np.argsort(flat)
    passed = flat[order] <= q * np.arange(1, flat.size + 1) / flat.size
    rejected = np.zeros(flat.size, dtype=bool)
    if passed.any():
        rejected[order[: int(np.flatnonzero(passed).max()) + 1]] = True
    return rejected.reshape(np.shape(p))


def bootstrap_p(differences: Float[Array, "S P"], draws: int = 10_000, seed: int = 0) -> Float[Array, " S"]:
    """Two-sided p-value that the mean over prompts is zero: the share of bootstrap means on the other side, doubled.

    It is never below 2 / (draws + 1), and 1 where there is only one prompt.
    """
    count = differences.shape[1]
    if count < 2:
        return np.ones(len(differences))
    weights = resampled_weights(count, draws, seed)
    above, below = np.zeros(len(differences)), np.zeros(len(differences))
    for part in np.array_split(weights, max(1, len(weights) * len(differences) // 2_000_000)):
        means = differences @ part.T
        above, below = above + (means >= 0).sum(1), below + (means <= 0).sum(1)
    return np.minimum(1.0, 2 * (1 + np.minimum(above, below)) / (draws + 1))


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
        return _pearson(first.ravel(), other.ravel()), _pearson(rankdata(first), rankdata(other))

    generator = np.random.default_rng(seed)
    pearson, spearman = both(second)
    null = np.array([both(generator.permuted(second, axis=1)) for _ in range(permutations)])
    return Correlation(
        pearson,
        spearman,
        float(null[:, 0].mean()),
        float(null[:, 1].mean()),
        float((1 + (null[:, 0] >= pearson - 1e-12).sum()) / (permutations + 1)),
        float((1 + (null[:, 1] >= spearman - 1e-12).sum()) / (permutations + 1)),
    )


def _pearson(first: Array, second: Array) -> float:
    a, b = first.ravel() - first.mean(), second.ravel() - second.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0
