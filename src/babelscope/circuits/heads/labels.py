"""When a head has earned a role: its score reaches a floor, and beats what the same head gives to others (section 7).

L layer · H head · P prompt (or word, or random sequence)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from babelscope.circuits.core.nodes import Head
from babelscope.circuits.core.skew import skewed_test
from babelscope.stats import benjamini_hochberg

if TYPE_CHECKING:
    from babelscope.circuits.heads.roles import Roles

Array = NDArray[np.float64]
CANDIDATE = "candidate: "
"""before a label that its number does not earn"""
TURNED = 19_999
"""random ways to turn signs"""
POSITIONS = 3
"""distinct positions of a role among the prompts, below which a head that looks at a place cannot be told from it"""


@dataclass(frozen=True)
class Null:
    """A score prompt by prompt against the same head's score for what does not play the role."""

    chance: Float[Array, "L H"]
    """mean score for the others"""
    p: Float[Array, "L H"]
    """one-sided paired t over prompts (copying: over distinct words), skewness reckoned with; NaN for fewer than six"""
    positions: int
    """how many distinct positions the role has among the prompts, or how many distinct words there are"""

    @classmethod
    def of(cls, own: Float[Array, "L H P"], others: Float[Array, "L H P"], positions: int) -> Null:
        """Prompts in which a head that was asked about has no number are left out."""
        asked = np.isfinite(own).any(-1)
        unknown = np.full(own.shape[:2], np.nan)
        known = (np.isfinite(own) & np.isfinite(others))[asked].all(0)
        if not asked.any() or not known.any():
            return cls(unknown, unknown, positions)
        chance, p = others[..., known].mean(-1), skewed_test((own - others)[..., known], "greater")
        return cls(np.where(asked, chance, np.nan), np.where(asked, p, np.nan), positions)

    @classmethod
    def by_turning(cls, own: Float[Array, "L H P"], others: Float[Array, "L H P"], positions: int) -> Null:
        """The same for shares of hits, which are all or nothing: p = (1 + k)/(1 + N), k of N random ways to turn the
        signs of the differences give as large a mean."""
        found = cls.of(own, others, positions)
        asked = np.isfinite(found.p)
        if not asked.any():
            return found
        known = np.isfinite(own - others)[asked].all(0)
        differences = (own - others)[asked][:, known]
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (TURNED, int(known.sum())))
        reached = (signs @ differences.T >= differences.sum(-1) - 1e-9).sum(0)
        p = found.p.copy()
        p[asked] = (1 + reached) / (1 + TURNED)
        return cls(found.chance, p, positions)

    @cached_property
    def beaten(self) -> Bool[NDArray[np.bool_], "L H"]:
        """Heads that pass, Benjamini–Hochberg over all heads at 0.05."""
        return benjamini_hochberg(self.p)


@dataclass(frozen=True)
class Evidence:
    """The score behind a label, and whether it earns it."""

    name: str
    score: float
    chance: float
    p: float
    why: str
    """why the label is not earned; empty where it is"""


def evidence(roles: Roles, name: str, node: Head, floor: float = -np.inf) -> Evidence:
    """What a head's score says for a label that needs at least `floor`, and to beat its own null."""
    if name not in roles.scores:
        return Evidence(name, np.nan, np.nan, np.nan, f"{name} was not measured")
    score = float(roles.scores[name][node.layer, node.head])
    null = roles.nulls.get(name)
    if null is None:
        return Evidence(name, score, np.nan, np.nan, f"{name} has no null")
    chance, p = (float(matrix[node.layer, node.head]) for matrix in (null.chance, null.p))
    why = ""
    if not np.isfinite(score):
        why = f"{name} has no value on these prompts"
    elif not score >= floor:
        why = f"score below {floor:g}"
    elif null.positions < POSITIONS:
        why = f"only {null.positions} distinct positions"
    elif not np.isfinite(p):
        why = "fewer than six prompts, or distinct words"
    elif not null.beaten[node.layer, node.head]:
        why = "no more than its own null"
    return Evidence(name, score, chance, p, why)
