"""What claims of no gain measure: accuracy with a language's neurons turned up, minus that of the model as it is."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from babelscope.claims.case import Case
from babelscope.claims.measures.regions import LAPE_SHARE
from babelscope.claims.measures.sweeps import right_endings
from babelscope.claims.verdict import Part, mean_part
from babelscope.regions.deactivation import deactivate
from babelscope.regions.masks import random_region_by_layer
from babelscope.regions.methods import localise

Array = NDArray[np.float64]
FACTOR, POINTS, PIVOT = 2.0, 100.0, "en"
PLANTED = 2
"""points that the twin's answers are improved by: twice the margin of the claim"""


def no_gain(case: Case) -> list[Part]:
    """Change of the story cloze's accuracy in points, one part a language, with LAPE's neurons of it doubled (`equal`).

    The control beside it is the change with as many random neurons of each layer doubled. Twin: answers are improved by
    two points, the first of the wrong ones.
    """
    found = _accuracies(replace(case, twin=""))
    parts: list[Part] = []
    for code, (base, amplified, random) in found.items():
        after = improved(amplified) if case.twin == "planted" else amplified
        control = POINTS * float((random - base).mean())
        gain = POINTS * (after - base)
        parts.append(mean_part(code, gain, "stories", len(found), control, within=(-POINTS, POINTS)))
    return parts


def improved(right: Array) -> Array:
    """The first wrong answers made right, twice the margin of one point.

    >>> improved(np.array([1.0, 0.0, 0.0] * 40)).sum()
    42.0
    """
    better = right.copy()
    better[np.flatnonzero(right == 0)[: round(PLANTED * len(right) / POINTS)]] = 1.0
    return better


@lru_cache(2)
def _accuracies(case: Case) -> dict[str, tuple[Array, Array, Array]]:
    """By language and story: right as the model is, with its neurons doubled, with random ones doubled."""
    model = case.loaded()
    regions = localise(case.recorded(activity=True), "lape", share=LAPE_SHARE)
    found: dict[str, tuple[Array, Array, Array]] = {}
    for code, stories in case.told().items():
        if code == PIVOT or code not in regions.languages:
            continue
        own = regions[code]
        random = random_region_by_layer(own.sum(1).tolist(), model.widths, case.seed)
        base = right_endings(model, [stories])[0]
        turned: list[Array] = []
        for mask in (own, random):
            if not bool(mask.any()):
                turned.append(base)
                continue
            with deactivate(model, mask, scale=FACTOR):
                turned.append(right_endings(model, [stories])[0])
        found[code] = (base, turned[0], turned[1])
    return found
