"""Which heads count: two rules over the effects of all senders (section 3).

S sender · P pair
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core.effects import Effects
from babelscope.circuits.core.nodes import Sender
from babelscope.circuits.core.statistics import benjamini_hochberg, bootstrap_p
from babelscope.errors import InputError
from babelscope.terms import Rule

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """The senders that passed, strongest first, and what decided."""

    nodes: tuple[Sender, ...]
    threshold: Float[Array, " S"]
    """smallest |effect| that passes, per sender"""
    p: Float[Array, " S"]
    """bootstrap p-values; NaN under the rule that has none"""
    rule: Rule


def select(
    effects: Effects,
    rule: Rule = "significance",
    null: Effects | None = None,
    distance: Sequence[int] | Mapping[Sender, int] | None = None,
    q: float = 0.05,
    sigmas: float = 2.0,
    floor: float = 0.02,
    seed: int = 0,
) -> Selection:
    """Senders whose effect stands out.

    `deviation`: |S| − |μ| > (2 + 0.1·distance)·σ and |S| ≥ floor, with μ and σ over all senders and `distance` the
    layers between sender and receiver (the paper's own rule; what distance means there is our reading).
    `significance` (default): per-pair differences against those under `null` (a counterfactual with the same answer;
    without one, against zero), bootstrap p, Benjamini–Hochberg at `q`, and |S| ≥ `sigmas`·σ.
    Raises InputError for an unknown rule, or a null over other senders or pairs.
    """
    strength = np.abs(effects.effect)
    sigma = float(effects.effect.std())
    p = np.full(len(strength), np.nan)
    if rule == "deviation":
        layers = _distances(effects, distance)
        threshold = np.maximum(abs(float(effects.effect.mean())) + (2 + 0.1 * layers) * sigma, floor)
        passed = strength > threshold
    elif rule == "significance":
        threshold = np.full(len(strength), sigmas * sigma)
        differences = effects.differences
        if null is not None:
            if null.senders != effects.senders or null.differences.shape != differences.shape:
                raise InputError("the null has other senders or another number of pairs than the effects")
            differences = differences - null.differences
        p = bootstrap_p(differences, seed=seed)
        passed = benjamini_hochberg(p, q) & (strength >= threshold) & (strength > 0)
    else:
        raise InputError(f"no selection rule {rule!r}; there are deviation and significance")
    order = [int(place) for place in np.argsort(-strength) if passed[place]]
    return Selection(tuple(effects.senders[place] for place in order), threshold, p, rule)


def _distances(effects: Effects, distance: Sequence[int] | Mapping[Sender, int] | None) -> Array:
    if distance is None:
        last = int(effects.settings["layers"])
        return np.array([last - 1 - getattr(node, "layer", -1) for node in effects.senders], dtype=float)
    if isinstance(distance, Mapping):
        return np.array([distance[node] for node in effects.senders], dtype=float)
    return np.array(distance, dtype=float)
