"""How far two sets of regions agree: in which neurons they hold, and in how they rank all of them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from jaxtyping import Bool
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.masks import RegionSet
from babelscope.results.schemas.regions import Agreement
from babelscope.stats import spearman


def compare(one: RegionSet, other: RegionSet) -> list[Agreement]:
    """Agreement in every language that both sets have.

    Raises InputError when they are of models of different shape or have no language in common.
    """
    shared = [code for code in one.languages if code in other.masks]
    if not shared:
        raise InputError(f"no language in common: {', '.join(one.languages)} and {', '.join(other.languages)}")
    layouts = {regions.layout for regions in (one, other)}
    if len(layouts) > 1:
        raise InputError(f"the regions are of models of different shape: {' and '.join(sorted(map(str, layouts)))}")
    return [_row(one, other, code) for code in shared]


def agreement_matrix(sets: Mapping[str, RegionSet]) -> list[Agreement]:
    """Agreement of every two methods in every language.

    >>> agreement_matrix({"z-score": regions, "lape": others})         # doctest: +SKIP
    """
    return [row for one, other in combinations(sets.values(), 2) for row in compare(one, other)]


def _row(one: RegionSet, other: RegionSet, code: str) -> Agreement:
    a, b = one[code], other[code]
    layout = one.layout
    neurons = layout.neurons
    size, size2 = int(a.sum()), int(b.sum())
    ranked = code in one.scores and code in other.scores
    return Agreement(
        method=one.method,
        method2=other.method,
        language=code,
        size=size,
        size2=size2,
        jaccard=jaccard(a, b),
        chance=expected_jaccard(size, size2, neurons),
        spearman=spearman(layout.in_a_row(one.scores[code]).numpy(), layout.in_a_row(other.scores[code]).numpy())
        if ranked
        else float("nan"),
        neurons=neurons,
    )


def jaccard(a: Bool[Tensor, "P N"], b: Bool[Tensor, "P N"]) -> float:
    """Neurons in both over neurons in either; NaN where both are empty."""
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else float("nan")


def expected_jaccard(size: int, size2: int, neurons: int) -> float:
    """Jaccard index of random sets of these sizes, to first order."""
    shared = size * size2 / neurons
    return shared / (size + size2 - shared) if size + size2 else float("nan")
