"""Tests over prompts, and correlations of head matrices against heads shuffled inside their layers.

What cannot be computed is NaN: a test of fewer than six prompts, a correlation with something that does not vary.

P prompt · L layer · H head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.stats import mean_ends, pearson, percentile

Array = NDArray[np.float64]
FEWEST = 6
"""prompts that a test needs"""


def drawn_ends(drawn: Float[Array, " draws"]) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws; NaN where they do not differ, or where one in twenty is undefined."""
    known = drawn[np.isfinite(drawn)]
    if known.size < 0.95 * drawn.size or known.size == 0 or np.ptp(known) < 1e-9:
        return float("nan"), float("nan")
    return percentile(known)


def unit_of(values: Float[Array, " P"]) -> float:
    """Mean over prompts that others are divided by; 0 where nothing but rounding is left of it.

    >>> unit_of(np.array([0.1, 0.2, -0.3])), unit_of(np.array([1.0, 2.0]))
    (0.0, 1.5)
    """
    mean = float(values.mean())
    return mean if abs(mean) > 1e-12 * float(np.abs(values).max()) else 0.0


def prompt_test(
    values: Float[Array, "*tests P"], alternative: Literal["two-sided", "greater"] = "two-sided"
) -> Float[Array, "*tests"]:
    """p that a mean over prompts is zero (or is not above it): one-sample t; NaN for fewer than six prompts.

    An effect that is the same on every prompt has the t of what rounding would spread it: p is next to 0, never 0; no
    effect at all has p = 1. Section 7 of the specification of statistics: at ten prompts 5 % of normal nulls pass,
    11 % with a bootstrap.

    >>> bool(0 < prompt_test(np.full(10, 0.3)) < 1e-9), float(prompt_test(np.zeros(10)))
    (True, 1.0)
    """
    from scipy.special import stdtr

    values = np.asarray(values, dtype=np.float64)
    count = values.shape[-1]
    if count < FEWEST:
        return np.full(values.shape[:-1], np.nan)
    mean, error = values.mean(-1), values.std(-1, ddof=1) / np.sqrt(count)
    error = np.maximum(error, 1e-12 * np.abs(mean))
    t = np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
    p = 2 * stdtr(count - 1, -np.abs(t)) if alternative == "two-sided" else stdtr(count - 1, -t)
    p = np.where(error == 0, 1.0, np.maximum(p, np.finfo(np.float64).tiny))
    return np.asarray(np.where(np.isfinite(mean), p, np.nan))


def prompt_interval(values: Float[Array, "*some P"]) -> tuple[Float[Array, "*some"], Float[Array, "*some"]]:
    """Ends of the 95 % interval of a mean over prompts (`stats.mean_ends`); NaN for a single prompt, or equal ones."""
    return mean_ends(values)


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

    Heads of late layers score higher everywhere; the null keeps the layer and shuffles the heads in it. Heads that have
    no number in one of them (no screen kept them) are in neither.
    """
    from scipy.stats import rankdata

    known = np.isfinite(first) & np.isfinite(second)
    own, layers = first[known], np.nonzero(known)[0]

    def both(other: Array) -> tuple[float, float]:
        return pearson(own, other), pearson(rankdata(own), rankdata(other))

    def shuffled(generator: np.random.Generator) -> Array:
        if known.all():
            return generator.permuted(second, axis=1)[known]
        drawn = second[known]
        for layer in np.unique(layers):
            drawn[layers == layer] = generator.permutation(drawn[layers == layer])
        return drawn

    generator = np.random.default_rng(seed)
    seen = both(second[known])
    null = np.array([both(shuffled(generator)) for _ in range(permutations)])
    p, spearman_p = (permutation_p(value, null[:, place]) for place, value in enumerate(seen))
    return Correlation(*seen, float(null[:, 0].mean()), float(null[:, 1].mean()), p, spearman_p)


def permutation_p(value: float, null: Float[Array, " draws"]) -> float:
    """(1 + draws that reach the value) / (1 + draws); NaN where the value or a draw is undefined."""
    if not (np.isfinite(value) and np.isfinite(null).all() and null.size):
        return float("nan")
    return float((1 + (null >= value - 1e-12).sum()) / (null.size + 1))
