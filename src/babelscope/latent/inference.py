"""Intervals over concepts and the permutation null (section 1, "Intervals, null").

L layers + 1 · n item · draws
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from babelscope.stats import BOOTSTRAP_T, Interval, bootstrap_counts, bootstrap_mean, no_interval

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
DRAWS, PERMUTATIONS = 2000, 1000
LEAST = 3
"""items below which nothing is resampled"""


@dataclass(frozen=True)
class Band:
    """A curve over layers with ends that hold in all of them at once."""

    value: Float[Array, " L"]
    low: Float[Array, " L"]
    high: Float[Array, " L"]


def mean_interval(values: Float[Array, " n"], draws: int = DRAWS, seed: int = 0) -> Interval:
    """Mean over concepts (NaN left out) with its bootstrap t interval; none of fewer than three.

    >>> mean_interval(np.array([1.0, 2.0])).why
    'under 3 concepts'
    """
    known = values[~np.isnan(values)]
    if known.size < LEAST:
        return no_interval(float(known.mean()) if known.size else float("nan"), f"under {LEAST} concepts", BOOTSTRAP_T)
    return bootstrap_mean(known, draws, seed)


def simultaneous(values: Float[Array, "L n"], draws: int = DRAWS, seed: int = 0) -> Band:
    """Mean over items by layer, with ends that hold in all layers by a bootstrap of items (bootstrap t).

    Each end has the largest t over layers of its own side at 97.5 %, and is nowhere nearer than by the largest |t| at
    95 %: of masses skewed to the right the mean and its error are small together, so that one reach for both sides
    leaves the upper end too low. Layers in which every item has the same value have no ends (NaN). `values` are the
    layers the band is to hold in.
    """
    known = values[:, ~np.isnan(values).any(0)]
    count = known.shape[1]
    mean = known.mean(1) if count else np.full(len(values), np.nan)
    nothing = np.full(len(values), np.nan)
    if count < LEAST:
        return Band(mean, nothing, nothing.copy())
    centred = known - mean[:, None]
    error = known.std(1, ddof=1) / count**0.5
    moves = error > 1e-12 * np.abs(mean)  # what is left of equal numbers is rounding
    if not moves.any():
        return Band(mean, nothing, nothing.copy())
    weights = bootstrap_counts(count, draws, seed) / count
    drawn = weights @ centred[moves].T
    # each draw's own standard error: skewed masses have means that go with their errors
    spread = np.sqrt(np.maximum(weights @ np.square(centred[moves]).T - drawn**2, 0) / (count - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = drawn / spread
    t = np.where(np.isfinite(t), t, 0.0)
    both = float(np.quantile(np.abs(t).max(1), 0.95))
    down = max(both, float(np.quantile(t.max(1), 0.975)))
    up = max(both, -float(np.quantile(t.min(1), 0.025)))
    error = np.where(moves, error, np.nan)
    return Band(mean, mean - down * error, mean + up * error)


def derangements(count: int, draws: int = PERMUTATIONS, seed: int = 0) -> Int[NDArray[np.int64], "draws n"]:
    """Random permutations without fixed points.

    >>> bool((derangements(5, 20) == np.arange(5)).any())
    False
    """
    generator, identity = np.random.default_rng(seed), np.arange(count)
    found: list[NDArray[np.int64]] = []
    missing = draws
    while missing:
        some = generator.permuted(np.tile(identity, (3 * missing, 1)), axis=1)
        good = some[np.asarray((some != identity).all(1))][:missing]
        found.append(good)
        missing -= len(good)
    return np.concatenate(found)


def permutation_p(
    q: Float[Array, "L n n"],
    row: Float[Array, "L n"],
    col: Float[Array, "L n"],
    comparable: Bool[Mask, "n n"],
    chosen: Bool[Mask, " n"],
    permutations: Int[NDArray[np.int64], "draws chosen"],
) -> float:
    """p of A under permuted concepts: (1 + #{A^π ≥ A}) / (draws + 1).

    Each permutation of the `chosen` items puts Q[i,π(i)] in the place of Q[i,i] at every layer, with the row of i and
    the column of π(i), over the items whose π(i) they may be compared with. NaN where nothing can be compared.
    """
    mean = q[1:-1].mean(0)
    gain = mean - (row[1:-1].mean(0)[:, None] + col[1:-1].mean(0)[None, :]) / 2
    usable = np.asarray(comparable.any(1))[chosen]
    gain, possible = gain[np.ix_(chosen, chosen)], comparable[np.ix_(chosen, chosen)]
    if usable.sum() < LEAST:
        return float("nan")
    own = float(np.diagonal(gain)[usable].mean())
    items = np.arange(len(gain))
    valid = possible[items, permutations]
    values = np.where(valid, gain[items, permutations], 0.0).sum(1)
    counts = valid.sum(1)
    drawn = values[counts > 0] / counts[counts > 0]
    if not drawn.size:
        return float("nan")
    return float((1 + (drawn >= own - 1e-15).sum()) / (drawn.size + 1))


def adjusted(p: Float[Array, " k"]) -> Float[Array, " k"]:
    """Benjamini–Hochberg adjusted p-values over candidates; NaN stays NaN."""
    from scipy.stats import false_discovery_control

    known = ~np.isnan(p)
    result = np.full_like(p, np.nan)
    if known.any():
        result[known] = false_discovery_control(p[known])
    return result
