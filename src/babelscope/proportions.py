"""Intervals of shares that are more than one count: a change over the same items, a mean over languages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from scipy.optimize import brentq

from babelscope.errors import InputError
from babelscope.stats import NAN, Interval, no_interval, wilson

SCORE = "score, paired"
Z = 1.959963984540054


def change_of_share(before: Bool[NDArray[np.bool_], " n"], after: Bool[NDArray[np.bool_], " n"]) -> Interval:
    """Share after minus share before, of the same items, with its 95 % score interval (Tango 1998, equation 3).

    It holds every change that the score test of paired shares does not reject: of few items that differ, or none, too.
    Raises InputError for arrays of other lengths; NaN of no items.

    >>> found = change_of_share(np.ones(20, bool), np.arange(20) > 1)
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (-0.1, -0.3, 0.08)
    """
    if before.shape != after.shape:
        raise InputError(f"{before.size} items before, {after.size} after: a change is one of the same items")
    n = before.size
    if n == 0:
        return no_interval(NAN, "no item", SCORE)
    won, lost = int((~before & after).sum()), int((before & ~after).sum())
    change = (won - lost) / n
    low = -1.0 if change == -1 else _root(lambda at: _score(won, lost, n, at) - Z, -1.0, change)
    high = 1.0 if change == 1 else _root(lambda at: _score(won, lost, n, at) + Z, change, 1.0)
    return Interval(change, low, high, SCORE)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    found = brentq(function, low, high)
    assert not isinstance(found, tuple)
    return float(found)


def _score(won: int, lost: int, n: int, change: float) -> float:
    """(ĉ − c) over its error, the shares that differ being the likeliest ones under a true change c."""
    linear = -won - lost + (2 * n - won + lost) * change
    root = sqrt(max(linear**2 + 8 * n * lost * change * (1 - change), 0.0))
    likeliest = (root - linear) / (4 * n)  # share of items lost
    variance = n * (2 * likeliest + change * (1 - change))
    distance = won - lost - n * change
    if variance <= 0:
        return 0.0 if distance == 0 else float("inf") * (1 if distance > 0 else -1)
    return distance / sqrt(variance)


def mean_share(right: Mapping[str, Mapping[str, bool]]) -> Interval:
    """Mean over languages of the share of right answers, given by language and item, with its 95 % interval.

    Wilson's, for an item is one observation in however many languages it is asked: whether it is hard in all of them or
    in some is not known, and the few that are hard in all may not be among those asked. Where languages were not asked
    the same, it is of as many items as their weights in the mean are worth (Kish 1965).

    >>> found = mean_share(dict.fromkeys(("en", "fr"), {"1": True, "2": True, "3": False, "4": True}))
    >>> found == wilson(3, 4)
    True
    """
    asked = [answers for answers in right.values() if answers]
    weights: dict[str, float] = {}
    for answers in asked:
        for item in answers:
            weights[item] = weights.get(item, 0.0) + 1 / len(answers) / len(asked)
    if not weights:
        return wilson(0, 0)
    value = sum(sum(answers.values()) / len(answers) for answers in asked) / len(asked)
    count = 1 / sum(weight**2 for weight in weights.values())
    return wilson(value * count, count)
