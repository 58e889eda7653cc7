"""Two languages' head activation frequencies against each other (section 5).

Correlation alone says little: late heads are busy everywhere, and two samples of one language do not agree perfectly
either. So beside each correlation stand its interval, what heads shuffled inside their layers give, what two halves of
the same language give, and what another task in the same language gives.

P prompt · L layer · H head
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from babelscope.circuits.core.statistics import Correlation, correlate, drawn_ends
from babelscope.results.schemas.circuit_edges import Overlap
from babelscope.stats import pearson

Array = NDArray[np.float64]
Used = NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """How two languages' frequencies correlate."""

    correlation: Correlation
    low: float
    high: float
    """95 % bootstrap interval of Pearson's r over prompts, languages resampled apart"""
    ceiling: float
    """Pearson's r that two samples of this size from the same source would give: √(reliability · reliability)"""
    control: float | None
    """mean Pearson's r of each language with its own control task"""


def compare(
    first: Bool[Used, "P L H"],
    second: Bool[Used, "P2 L H"],
    controls: tuple[Float[Array, "L H"], Float[Array, "L H"]] | None = None,
    draws: int = 500,
    seed: int = 0,
) -> Agreement:
    """Correlate the head frequencies of two sets of prompts.

    >>> rng = np.random.default_rng(0)
    >>> used = rng.random((50, 3, 4)) < np.linspace(0, 1, 12).reshape(3, 4)
    >>> compare(used, used).correlation.pearson
    1.0
    """
    a, b = first.mean(0), second.mean(0)
    rng = np.random.default_rng(seed)
    drawn = [pearson(_resampled(first, rng), _resampled(second, rng)) for _ in range(draws)]
    low, high = drawn_ends(np.array(drawn))
    ceiling = float(np.sqrt(np.prod([np.maximum(0.0, reliability(used, seed=seed)) for used in (first, second)])))
    control = None
    if controls is not None:
        control = (pearson(a, controls[0]) + pearson(b, controls[1])) / 2
    return Agreement(correlate(a, b, seed=seed), low, high, ceiling, control)


def reliability(used: Bool[Used, "P L H"], splits: int = 50, seed: int = 0) -> float:
    """Split-half correlation of the frequencies, stepped up to the full number of prompts (Spearman and Brown)."""
    if len(used) < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    halves: list[float] = []
    for _ in range(splits):
        order = rng.permutation(len(used))
        middle = len(used) // 2
        halves.append(pearson(used[order[:middle]].mean(0), used[order[middle : 2 * middle]].mean(0)))
    known = [half for half in halves if np.isfinite(half)]
    half = float(np.mean(known)) if known else float("nan")
    return 2 * half / (1 + half) if half > -1 else float("nan")


def rows(agreements: Mapping[tuple[str, str], Agreement], measure: str = "head_frequency") -> list[Overlap]:
    """One row per pair of languages for the table of overlaps."""
    found: list[Overlap] = []
    for (language, language2), agreement in agreements.items():
        one = agreement.correlation
        control = float("nan") if agreement.control is None else agreement.control
        found += [
            Overlap(
                language=language, language2=language2, measure=f"{measure}_pearson", value=one.pearson,
                null=one.pearson_null, p=one.p, low=agreement.low, high=agreement.high, ceiling=agreement.ceiling,
                control=control,
            ),
            Overlap(
                language=language, language2=language2, measure=f"{measure}_spearman", value=one.spearman,
                null=one.spearman_null, p=one.spearman_p, control=control,
            ),
        ]  # fmt: skip
    return found


def _resampled(used: Used, rng: np.random.Generator) -> Array:
    return used[rng.integers(0, len(used), len(used))].mean(0)
