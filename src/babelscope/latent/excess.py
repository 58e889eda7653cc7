"""Excess of a concept's own word over other words and other prompts (section 1), with the controls that need no model.

    row(i) = mean over j in V_i of Q[i,j]     random other words of k, same prompt
    col(i) = mean over j in V_i of Q[j,i]     same tokens, other prompts: frequency held exactly
    e(i,l) = Q[i,i] − (row + col) / 2

L layers + 1 · n item
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from babelscope.stats import spearman

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
NEAREST = 10
"""words next in frequency that control 1 compares with"""


@dataclass(frozen=True)
class Excess:
    """Means and excess by layer and item; NaN where an item has nothing to be compared with."""

    mass: Float[Array, "L n"]
    row: Float[Array, "L n"]
    col: Float[Array, "L n"]

    @property
    def value(self) -> Float[Array, "L n"]:
        """e."""
        return self.mass - (self.row + self.col) / 2

    @property
    def compared(self) -> Bool[Mask, " n"]:
        """Items that have an excess."""
        return np.asarray(~np.isnan(self.row).any(0))

    def strength(self) -> Float[Array, " n"]:
        """Mean of e over layers 1 … L−1: A is its mean over items. Layer 0 reads the input back, L is the output."""
        return self.value[1:-1].mean(0)


def excess(q: Float[Array, "L n n"], comparable: Bool[Mask, "n n"]) -> Excess:
    """Row, column and mass of every item against those it may be compared with."""
    weights = _shares(comparable)
    mass = np.diagonal(q, axis1=1, axis2=2).copy()
    row = np.einsum("lij,ij->li", q, weights)
    col = np.einsum("lji,ij->li", q, weights)
    return Excess(mass, _absent(row, comparable), _absent(col, comparable))


def _shares(comparable: Mask) -> Array:
    counts = comparable.sum(1, keepdims=True)
    return comparable / np.maximum(counts, 1)


def _absent(values: Array, comparable: Mask) -> Array:
    return np.where(comparable.any(1), values, np.nan)


def frequency_matched(
    q: Float[Array, "L n n"],
    comparable: Bool[Mask, "n n"],
    counts: Sequence[float] | None = None,
    nearest: int = NEAREST,
) -> Excess:
    """Control 1: `row` over the words of k nearest in log frequency only.

    Frequency is `counts` by item where a count file gives them, else mean over prompts of log Q[·,j] at that layer.
    """
    plain = excess(q, comparable)
    rows = np.full_like(plain.row, np.nan)
    for layer, table in enumerate(q):
        seen = np.log(np.maximum(table, 1e-300)).mean(0) if counts is None else np.log(np.maximum(counts, 0.5))
        gap = np.where(comparable, np.abs(seen[:, None] - seen[None, :]), np.inf)
        order = np.argsort(gap, axis=1, kind="stable")[:, :nearest]
        usable = np.take_along_axis(comparable, order, 1)
        chosen = np.where(usable, np.take_along_axis(table, order, 1), 0.0)
        rows[layer] = chosen.sum(1) / np.maximum(usable.sum(1), 1)
    return Excess(plain.mass, _absent(rows, comparable), plain.col)


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """1 − edit distance / longer length, of the most alike pair of alternatives, ignoring case.

    >>> similarity(["chat"], ["cat"]), similarity(["猫"], ["cat"])
    (0.75, 0.0)
    """
    pairs = [(a.casefold(), b.casefold()) for a in first for b in second]
    return max((1 - _distance(a, b) / max(len(a), len(b), 1) for a, b in pairs), default=0.0)


def _distance(a: str, b: str) -> int:
    before = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        now = [i]
        for j, other in enumerate(b, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (letter != other)))
        before = now
    return before[-1]


@dataclass(frozen=True)
class Overlap:
    """Control 4: does the excess go with how alike the words look?"""

    spearman: float
    less_similar: Mask
    """items in the half with the less similar words"""
    why: str = ""


def overlap(strength: Float[Array, " n"], alike: Float[Array, " n"]) -> Overlap:
    """Spearman correlation of an item's strength with the likeness of its words, and the less similar half."""
    known = ~np.isnan(strength)
    half = known & (alike <= np.median(alike[known])) if known.any() else known
    if known.sum() < 3 or len(set(alike[known])) < 2 or len(set(strength[known])) < 2:
        return Overlap(
            float("nan"), half, "the words are all equally alike" if known.sum() >= 3 else "under 3 concepts"
        )
    return Overlap(spearman(strength[known], alike[known]), half)


def handover(own: Float[Array, " L"], target: Float[Array, " L"]) -> int | None:
    """First layer from 1 on from which the target's mean excess stays above k's up to the last; None: it never does."""
    below = np.flatnonzero(~(target > own))
    first = max(int(below[-1]) + 1 if below.size else 1, 1)
    return first if first < len(own) else None
