"""Which heads count: two rules over the effects of all senders (section 3).

S sender · P pair
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import Sender
from babelscope.circuits.core.skew import skewed_test
from babelscope.circuits.core.statistics import prompt_interval, prompt_test, unit_of
from babelscope.errors import InputError
from babelscope.stats import benjamini_hochberg
from babelscope.terms import Rule

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """The senders that passed, strongest first, and what decided."""

    nodes: tuple[Sender, ...]
    threshold: Float[Array, " S"]
    """smallest |effect| that passes, per sender"""
    p: Float[Array, " S"]
    """two-sided, over pairs; NaN under the rule that has none, and for fewer than six pairs"""
    rule: Rule


def select(
    effects: Effects,
    rule: Rule = "significance",
    null: Effects | None = None,
    distance: Sequence[int] | Mapping[Sender, int] | None = None,
    q: float = 0.05,
    sigmas: float = 2.0,
    floor: float = 0.02,
) -> Selection:
    """Senders whose effect stands out.

    `deviation`: |S| − |μ| > (2 + 0.1·distance)·σ and |S| > floor, with μ and σ over all senders and `distance` the
    layers between sender and receiver (the paper's own rule; what distance means there is our reading).
    `significance` (default): per-pair differences less those under `null` (a counterfactual with the same answer),
    paired t, Benjamini–Hochberg at `q`, and |S| ≥ `sigmas`·σ; with fewer than six pairs nothing is selected. Of a head
    that carries nothing of the answer both have one distribution, so their difference is symmetric and t holds however
    skewed effects are. Without a null, against zero, skewness is reckoned with (`skewed_test`). Senders that `null`
    leaves out, and those that a screen left unpatched, count as tests that were not passed; pairs for which it has no
    number (they have no counterfactual) are left out of the test.
    Raises InputError for an unknown rule, or a null over other senders or pairs.
    """
    strength = np.abs(effects.effect)
    sigma = effects.deviation
    p = np.full(len(strength), np.nan)
    if rule == "deviation":
        layers = _distances(effects, distance)
        threshold = np.maximum(abs(effects.mean) + (2 + 0.1 * layers) * sigma, floor)
        passed = strength > threshold
    elif rule == "significance":
        threshold = np.full(len(strength), sigmas * sigma)
        differences = effects.differences
        tested = np.ones(len(strength), dtype=bool)
        if null is not None:
            tested = np.array([node in null.senders for node in effects.senders])
            same = [node for node, there in zip(effects.senders, tested) if there] == list(null.senders)
            if not same or null.differences.shape[1] != differences.shape[1]:
                raise InputError("the null has other senders or another number of pairs than the effects")
            known = np.isfinite(null.differences).all(0)  # pairs that have a counterfactual
            differences = (differences[tested] - null.differences)[:, known]
        p[tested] = skewed_test(differences) if null is None else prompt_test(differences)
        # heads that nobody patched, or tested, count as tests that were not passed
        untested = effects.screening.left if effects.screening else 0
        found = benjamini_hochberg(np.append(p, np.full(untested, np.nan)), q)[: len(p)]
        passed = found & (strength >= threshold) & (strength > 0)
    else:
        raise InputError(f"no selection rule {rule!r}; there are deviation and significance")
    order = [int(place) for place in np.argsort(-strength) if passed[place]]
    return Selection(tuple(effects.senders[place] for place in order), threshold, p, rule)


def _distances(effects: Effects, distance: Sequence[int] | Mapping[Sender, int] | None) -> Array:
    if distance is None:
        last = effects.layers
        return np.array([last - 1 - getattr(node, "layer", -1) for node in effects.senders], dtype=float)
    if isinstance(distance, Mapping):
        return np.array([distance[node] for node in effects.senders], dtype=float)
    return np.array(distance, dtype=float)


GROWTH = 0.02
"""least growth of a backup's effect, as a share of the mean logit difference of the whole model"""


@dataclass(frozen=True)
class Growth:
    """How the effects of senders change when other heads are knocked out, in shares of the unablated mean LD."""

    senders: tuple[Sender, ...]
    before: Float[Array, " S"]
    after: Float[Array, " S"]
    growth: Float[Array, " S"]
    """mean of g = (LD patched − LD) after the knock-out − the same before it"""
    low: Float[Array, " S"]
    high: Float[Array, " S"]
    """ends of the 95 % t interval of the growth"""
    p: Float[Array, " S"]
    """of the growth, in the direction of the effect after the knock-out, doubled; NaN for fewer than six pairs"""
    backups: tuple[Sender, ...]
    """those whose effect grew, strongest after the knock-out first"""

    def row(self, sender: Sender) -> dict[str, float]:
        """The numbers of one sender."""
        place = self.senders.index(sender)
        values = {name: getattr(self, name)[place] for name in ("before", "after", "growth", "low", "high", "p")}
        return {name: float(value) for name, value in values.items()}


def growth(before: Effects, after: Effects, gone: Collection[Sender], q: float = 0.05) -> Growth:
    """Backups: heads that were not knocked out, and whose effect grows when others are (Wang et al. 2022, section 3.4).

    A backup passes a t on g in the direction of its effect after the knock-out (skewness reckoned with, and p doubled,
    because of a head that was silent before that direction is g's own; Benjamini–Hochberg at `q`), acts more after than
    before, and grows by at least `GROWTH`. Raises InputError for effects of other senders or pairs.
    """
    if before.senders != after.senders or before.differences.shape != after.differences.shape:
        raise InputError("effects before and after a knock-out are of other senders or another number of pairs")
    unit = unit_of(before.base)
    scale = abs(unit) if unit else float("nan")
    g = after.differences - before.differences
    then, now, grown = (values.mean(1) / scale for values in (before.differences, after.differences, g))
    p = np.minimum(1, 2 * skewed_test(g * np.sign(now)[:, None], "greater"))
    asked = np.array([node not in gone for node in after.senders])
    p = np.where(asked, p, np.nan)
    significant = np.zeros(len(p), dtype=bool)
    significant[asked] = benjamini_hochberg(p[asked], q)
    passed = significant & (np.abs(now) > np.abs(then)) & (np.abs(grown) >= GROWTH)
    low, high = (end / scale for end in prompt_interval(g))
    order = [int(place) for place in np.argsort(-np.abs(now)) if passed[place]]
    return Growth(after.senders, then, now, grown, low, high, p, tuple(after.senders[place] for place in order))
