"""What a success is worth: intervals over documents, p against controls, Holm over pairs, and the front of settings.

G document · R draw
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray

from babelscope.errors import InputError
from babelscope.stats import Interval, bootstrap_counts, group_items, jackknife_t, wilson

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """A number for each answer, with the document of its prompt; NaN where an answer does not count."""

    values: Sequence[float]
    documents: Sequence[str]

    def mean(self) -> float:
        known = [value for value in self.values if value == value]
        return sum(known) / len(known) if known else float("nan")


def document_interval(scores: Scores) -> Interval:
    """Mean over answers with its leave-one-document-out t interval; Wilson with n = documents at 0 and 1.

    >>> document_interval(Scores([1.0, 1.0], ["a", "b"])).method
    'Wilson, n = documents'
    """
    kept = [(value, name) for value, name in zip(scores.values, scores.documents) if value == value]
    if not kept:
        return Interval(float("nan"), float("nan"), float("nan"), "", "no answer counts")
    values, groups = np.array([value for value, _ in kept]), group_items([name for _, name in kept])
    mean = float(values.mean())
    if mean in (0.0, 1.0):
        documents = len({name for _, name in kept})
        ends = wilson(round(mean * documents), documents)
        return Interval(mean, ends.low, ends.high, "Wilson, n = documents", "all answers alike")
    found = jackknife_t(mean, _left_out(values, groups))
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0), found.method, found.why)


def paired_interval(first: Scores, second: Scores) -> Interval:
    """Mean of first minus mean of second over the same documents, with its leave-one-document-out t interval."""
    documents = sorted({*first.documents} & {*second.documents})
    one, other = _by_document(first, documents), _by_document(second, documents)
    usable = (one[:, 1] > 0) & (other[:, 1] > 0)
    one, other = one[usable], other[usable]
    if not len(one):
        return Interval(float("nan"), float("nan"), float("nan"), "", "no document counts in both")

    def value(rows: NDArray[np.int64] | slice) -> float:
        return float(one[rows, 0].sum() / one[rows, 1].sum() - other[rows, 0].sum() / other[rows, 1].sum())

    groups = group_items([str(place) for place in range(len(one))])
    left = [value(np.flatnonzero(groups != group)) for group in range(int(groups.max()) + 1)] if len(one) > 1 else []
    return jackknife_t(value(slice(None)), left)


def _by_document(scores: Scores, documents: Sequence[str]) -> Float[Array, "G 2"]:
    place = {name: row for row, name in enumerate(documents)}
    found = np.zeros((len(documents), 2))
    for value, name in zip(scores.values, scores.documents):
        if value == value and name in place:
            found[place[name]] += (value, 1.0)
    return found


def _left_out(values: Float[Array, " n"], groups: NDArray[np.int64]) -> list[float]:
    if len(set(groups.tolist())) < 2:
        return []
    return [float(values[groups != group].mean()) for group in sorted(set(groups.tolist()))]


def p_of_draws(steered: float, draws: Sequence[float]) -> float:
    """p = (1 + #{S_r ≥ S}) / (R + 1); NaN without draws. Over a grid of settings each draw gives its greatest S.

    >>> p_of_draws(0.9, [0.0] * 19)
    0.05
    """
    known = [draw for draw in draws if draw == draw]
    if not known or steered != steered:
        return float("nan")
    return (1 + sum(draw >= steered for draw in known)) / (len(known) + 1)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values (1979); NaN stays NaN and is no test.

    >>> holm({"a": 0.01, "b": 0.04})
    {'a': 0.02, 'b': 0.04}
    """
    ordered = sorted((value, name) for name, value in p.items() if value == value)
    adjusted, highest = dict.fromkeys(p, float("nan")), 0.0
    for place, (value, name) in enumerate(ordered):
        highest = max(highest, min(1.0, value * (len(ordered) - place)))
        adjusted[name] = highest
    return adjusted


def on_front(success: ArrayLike, damage: ArrayLike) -> Bool[NDArray[np.bool_], " n"]:
    """Settings with none of higher success and lower damage; NaN is never on it.

    >>> on_front([0.9, 0.5, 0.4], [1.0, 0.1, 0.2]).tolist()
    [True, True, False]
    """
    s, d = np.asarray(success, dtype=np.float64), np.asarray(damage, dtype=np.float64)
    better = (s[None] > s[:, None]) & (d[None] < d[:, None])
    return ~better.any(1) & ~np.isnan(s) & ~np.isnan(d)


def front_shares(
    success: Float[Array, "n G"], damage: Float[Array, "n H"], draws: int = 200, seed: int = 0, sizes: ArrayLike = 1
) -> Float[Array, " n"]:
    """How often each setting is on the front when documents are drawn anew; rows are settings, columns documents.

    `sizes`: tokens of the documents of `damage`, which is a loss per token, as the headline is.
    """
    if success.shape[0] != damage.shape[0]:
        raise InputError(f"{success.shape[0]} settings with success, {damage.shape[0]} with damage")
    drawn = [bootstrap_counts(table.shape[1], draws, seed + place) for place, table in enumerate((success, damage))]
    hits = np.zeros(len(success))
    for one, other in zip(*drawn):
        hits += on_front(_weighted(success, one), _weighted(damage, other * np.asarray(sizes)))
    return hits / draws


def _weighted(table: Float[Array, "n G"], counts: NDArray[np.int64] | Array) -> Float[Array, " n"]:
    known = ~np.isnan(table)
    weight = (known * counts).sum(1)
    total = (np.nan_to_num(table) * counts).sum(1)
    return np.divide(total, weight, out=np.full(len(table), np.nan), where=weight > 0)


LIMITS = (0.1, 0.3, 1.0)
"""ΔNLL of the target's text, nats a token, up to which the best success is named"""


def best_within(success: Sequence[float], damage: Sequence[float], limit: float) -> int | None:
    """The setting of greatest success with damage up to a limit, the least damaging of equal ones; None of none."""
    usable = [(-s, d, place) for place, (s, d) in enumerate(zip(success, damage)) if s == s and d <= limit]
    return min(usable)[2] if usable else None


def harmonic(success: float, fidelity: float) -> float:
    """Harmonic mean of S and F, both cut to 0–1."""
    s, f = min(max(success, 0.0), 1.0), min(max(fidelity, 0.0), 1.0)
    if not (s == s and f == f):
        return float("nan")
    return 2 * s * f / (s + f) if s + f else 0.0
