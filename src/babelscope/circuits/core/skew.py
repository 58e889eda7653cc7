"""Student's t when effects are skewed: p-values of many heads at once that hold at ten prompts.

The t of a mean over skewed prompts has one heavy tail. Where few heads of many act, the smallest p-values of all are
read, far out in that tail, and prompts of an exponential distribution let some head pass in half of all searches at ten
prompts. A sample of ten shows too little of its own skewness to be mended alone (Johnson 1978, Hall 1992), so the heads
are taken together: how skewed they are towards the heavy tail, on average, names a gamma distribution of which samples
of that size look as skewed, and a head's t is held against the t of that.

P prompt · G values of t drawn
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core.statistics import prompt_test

Array = NDArray[np.float64]
SHAPES = tuple(float(shape) for shape in np.geomspace(0.1, 100, 16))
"""of the gamma distributions that are tried: from skewness 6.3 down to 0.2"""
DRAWS, TRIED = 200_000, 4_000
"""samples behind the tail of a reference, and behind the skewness that samples show"""


def skewed_test(
    values: Float[Array, "*tests P"], alternative: Literal["two-sided", "greater"] = "two-sided"
) -> Float[Array, "*tests"]:
    """p that a mean over prompts is zero (or is not above it), many heads at a time, with skewness reckoned with.

    Never below `prompt_test`. Each tail has its own reference, by the heads that are skewed the other way: their t
    falls too far on that side. At most 2 / `DRAWS` is resolved. Held rates: `python -m benchmarks.circuit_calls`.

    >>> values = np.random.default_rng(0).exponential(1, (48, 10)) - 1
    >>> skewed_test(values).min() > 1e-3 > prompt_test(values).min()
    True
    """
    values = np.asarray(values, dtype=np.float64)
    p, count = prompt_test(values, alternative), values.shape[-1]
    deviation = values - values.mean(-1, keepdims=True)
    spread = np.square(deviation).mean(-1)
    usable = np.isfinite(p) & (spread > 1e-24 * np.square(values).mean(-1))
    if not usable.any():
        return p
    skewness = (deviation[usable] ** 3).mean(-1) / spread[usable] ** 1.5
    t = values[usable].mean(-1) / np.sqrt(spread[usable] / (count - 1))
    sides = 2 if alternative == "two-sided" else 1
    above = sides * _tail(t, -skewness, count)
    found = np.where(t > 0, above, sides * _tail(-t, skewness, count)) if sides == 2 else above
    p = p.copy()
    p[usable] = np.maximum(p[usable], np.minimum(found, 1.0))
    return p


def _tail(t: Float[Array, " asked"], skewness: Float[Array, " tests"], count: int) -> Float[Array, " asked"]:
    """Share of samples whose −t is at least t, of a distribution that looks as skewed as the tests do on average.

    Only skewness above zero counts: samples that are skewed to the right have a heavy tail of t on the left.
    """
    adverse = skewness[skewness > 0]
    if adverse.size == 0:
        return np.zeros_like(t)
    shown = float(np.square(adverse).mean())
    low, high = 0, len(SHAPES)  # the last shape that looks at least as skewed
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _shown(SHAPES[middle], count) >= shown else (low, middle)
    if low == len(SHAPES):
        return np.zeros_like(t)  # less than the mildest: Student's own t stands
    drawn = _reference(SHAPES[max(low - 1, 0)], count)
    reached = len(drawn) - np.searchsorted(drawn, t, side="left")
    return (1 + reached) / (1 + len(drawn))


@lru_cache(maxsize=256)
def _shown(shape: float, count: int) -> float:
    """Mean square of the sample skewness, of samples that are skewed to the right."""
    sample = np.random.default_rng(1).gamma(shape, 1, (TRIED, count))
    deviation = sample - sample.mean(-1, keepdims=True)
    skewness = (deviation**3).mean(-1) / np.square(deviation).mean(-1) ** 1.5
    return float(np.square(skewness[skewness > 0]).mean())


@lru_cache(maxsize=32)
def _reference(shape: float, count: int) -> Float[Array, " G"]:
    """−t of samples whose true mean is taken off, sorted."""
    generator = np.random.default_rng(2)
    parts: list[Array] = []
    for _ in range(DRAWS // TRIED):
        sample = generator.gamma(shape, 1, (TRIED, count)) - shape
        parts.append(-sample.mean(-1) / (sample.std(-1, ddof=1) / np.sqrt(count)))
    return np.sort(np.concatenate(parts))
