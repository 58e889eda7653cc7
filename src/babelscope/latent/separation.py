"""What patching says (section 3, "Verdict"): separable, language first, shared, or not decidable.

G trial · L layers · masses: c2 in d, c2 in b, c1 in d, c1 in b
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from babelscope.latent.inference import DRAWS
from babelscope.latent.patching import SOURCES, Patched
from babelscope.stats import Interval, bootstrap_counts, bootstrap_mean, document_parts, mean_ends, no_interval

Array = NDArray[np.float64]
LEAST_PAIRS, LEAST_RECOVERY, LEAST_SHARED, SHARE_OF_DRAWS = 30, 0.5, -0.05, 0.95


@dataclass(frozen=True)
class Recovery:
    """How far a kind of source brings the target to what it says when asked for c1; layers chosen on other concepts."""

    source: str
    share: Interval
    """(patched − unpatched) / (ceiling − unpatched)"""
    layers: tuple[int, int]
    """chosen on either half of the concepts"""


@dataclass(frozen=True)
class Separation:
    """The verdict of both experiments."""

    pairs: int
    """with both prompts solved"""
    decidable: bool
    recoveries: tuple[Recovery, ...]
    above_other: Interval
    """recovery minus that of another concept"""
    languages_over_demonstrations: Interval
    """recovery of the mean over languages minus the mean over demonstrations"""
    language_layer: int | None
    """first layer from which E1 moves the language"""
    concept_layer: int | None
    language_first: float
    """share of bootstrap draws in which the language moves before the concept"""
    separable: bool | None
    shared: bool | None
    why: str = ""

    def recovery(self, source: str) -> Recovery:
        """That of one kind of source."""
        return next(found for found in self.recoveries if found.source == source)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if not self.decidable:
            return f"Whether concept and language separate cannot be decided: {self.why}."
        main = self.recovery(SOURCES[0]).share
        if self.separable is None:
            return f"Whether concept and language separate cannot be decided: {main.why or self.above_other.why}."
        apart = "separable" if self.separable else "not separable"
        ends = f"({main.low:.2f} to {main.high:.2f})" if main.low == main.low else f"({main.why})"
        parts = [
            f"Concept and language are {apart}: the concept alone, put in, recovers {main.value:.2f} {ends} "
            "of the asked word",
            self._order_said,
        ]
        if self.shared is not None and self.separable:
            parts.append(f"a mean over languages serves {'as well as' if self.shared else 'worse than'} one language's")
        return "; ".join(parts) + "."

    @property
    def _order_said(self) -> str:
        if self.language_first >= SHARE_OF_DRAWS:
            return "the language moves before the concept"
        if self.language_first <= 1 - SHARE_OF_DRAWS:
            return "the language does not move before the concept"
        return f"whether the language moves before the concept is open ({self.language_first:.0%} of draws say so)"


def separation(found: Patched, draws: int = DRAWS, seed: int = 0, least: int = LEAST_PAIRS) -> Separation:
    """Recoveries, order of layers and verdict over the trials with both prompts solved; concepts are resampled."""
    use = found.solved & ~np.isnan(found.word).any((1, 2))
    pairs = int(use.sum())
    concepts, place = np.unique(found.concepts[use], return_inverse=True)
    decidable = pairs >= least and len(concepts) >= 4
    if not decidable:
        return _undecidable(pairs, len(concepts), least)
    last, word = (_by_concept(values[use], place) for values in (found.last, found.word))
    base, ceiling = _by_concept(found.unpatched[use][:, 2], place), _by_concept(found.ceiling[use], place)
    halves = np.arange(len(concepts)) % 2
    gained: dict[str, Array] = {}
    recoveries: list[Recovery] = []
    main_layers = _chosen(word[:, 0], halves)
    for kind, source in enumerate(SOURCES):
        # a control is read where the concept itself is: at the layers chosen for it
        layers = _chosen(word[:, kind], halves) if source in AVERAGES else main_layers
        gained[source] = _shares(word[:, kind], base, ceiling, halves, layers)
        recoveries.append(Recovery(source, _interval(gained[source], draws, seed), layers))
    language, concept, first = _order(last, draws, seed)
    above = _interval(gained[SOURCES[0]] - gained["other concept"], draws, seed)
    several = len(found.languages.averaged) > 1
    over = _interval(gained[SOURCES[0]] - gained["mean of demonstrations"], draws, seed)
    over = over if several else no_interval(float("nan"), "one language pair only")
    value = recoveries[0].share.value
    return Separation(
        pairs,
        True,
        tuple(recoveries),
        above,
        over,
        language,
        concept,
        first,
        None if np.isnan(value) or np.isnan(least_of(above)) else bool(value >= LEAST_RECOVERY and least_of(above) > 0),
        None if not several or np.isnan(least_of(over)) else bool(least_of(over) >= LEAST_SHARED),
    )


AVERAGES = ("mean of languages", "first alone", "mean of demonstrations")
"""sources of c1 itself, each read at its own best layer"""


SAME = "the same in every concept"
FEW_CONCEPTS, FEW = 20, "few concepts: too narrow, as layers are chosen on half of them each"


def least_of(found: Interval) -> float:
    """The lower end; the value itself where every concept gives the same."""
    return found.value if found.why == SAME else found.low


def _undecidable(pairs: int, concepts: int, least: int) -> Separation:
    why = f"{pairs} pairs of {concepts} concepts with both prompts solved, {least} pairs of 4 concepts are needed"
    nothing = no_interval(float("nan"), why)
    empty = tuple(Recovery(source, nothing, (-1, -1)) for source in SOURCES)
    return Separation(pairs, False, empty, nothing, nothing, None, None, float("nan"), None, None, why)


def _by_concept(values: Array, place: Int[NDArray[np.int64], " G"]) -> Array:
    """Means over the trials of each concept."""
    totals = np.zeros((int(place.max()) + 1, *values.shape[1:]))
    np.add.at(totals, place, values)
    return totals / np.bincount(place).reshape(-1, *[1] * (values.ndim - 1))


def _chosen(curves: Float[Array, "C L"], halves: NDArray[np.int64]) -> tuple[int, int]:
    """The best layer of either half of the concepts."""
    first, second = (int(curves[halves == half].mean(0).argmax()) for half in (0, 1))
    return first, second


def _shares(
    curves: Float[Array, "C L"],
    base: Array,
    ceiling: Array,
    halves: NDArray[np.int64],
    layers: tuple[int, int],
) -> Float[Array, " C"]:
    """Each concept's part of the recovery, whose mean it is: each half is read at the layer that the other half chose.

    One ratio of both halves' sums: a mean of their two ratios would hang on the half with little room. NaN where the
    ceiling is not surely above the unpatched prompt.
    """
    patched = np.where(halves == 0, curves[:, layers[1]], curves[:, layers[0]])
    room = ceiling - base
    if not room.mean() > 0 or mean_ends(room)[0] <= 0:
        return np.full(len(room), np.nan)
    return document_parts(patched - base, room)


def _interval(parts: Float[Array, " C"], draws: int, seed: int) -> Interval:
    if np.isnan(parts).any():
        return no_interval(float("nan"), "the ceiling is not surely above the unpatched prompt")
    if np.ptp(parts) <= 1e-12:
        return no_interval(float(parts.mean()), SAME)
    found = bootstrap_mean(parts, draws, seed)
    return found if len(parts) >= FEW_CONCEPTS else replace(found, why=FEW)


def _order(last: Float[Array, "C L masses"], draws: int, seed: int) -> tuple[int | None, int | None, float]:
    """l_lang and l_concept of the data, and the share of bootstrap draws in which the language is first."""
    counts = np.vstack([np.ones((1, len(last))), bootstrap_counts(len(last), draws, seed).astype(np.float64)])
    mean = np.einsum("dc,clm->dlm", counts, last)
    language = _first(mean[..., 1] + mean[..., 3] > mean[..., 0] + mean[..., 2])
    concept = _first(mean[..., 2] + mean[..., 3] > mean[..., 0] + mean[..., 1])
    layers = last.shape[1]
    own = [int(value[0]) + 1 if value[0] < layers else None for value in (language, concept)]
    return own[0], own[1], float((language[1:] < concept[1:]).mean())


def _first(holds: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(holds.any(1), holds.argmax(1), holds.shape[1])


def head_start(last: Float[Array, "G L masses"]) -> Float[Array, " G"]:
    """By how many layers the language is ahead of the concept in E1: Σ_l (share in b − share of c1), by trial.

    Where both change at one layer each this is the concept's layer minus the language's.

    >>> both, language, none = [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]
    >>> head_start(np.array([[none, language, language, both]])).tolist()
    [2.0]
    """
    shares = last / np.maximum(last.sum(2, keepdims=True), 1e-12)
    return (shares[..., 1] + shares[..., 3] - shares[..., 2] - shares[..., 3]).sum(1)


def matched_gain(first: Float[Array, "C L"], second: Float[Array, "C L"]) -> Float[Array, " C"]:
    """First minus second by concept, each read at the layer that is its best on the other half of the concepts."""
    halves = np.arange(len(first)) % 2
    found = np.zeros(len(first))
    for half in (0, 1):
        own = halves == half
        for sign, curves in ((1, first), (-1, second)):
            found[own] += sign * curves[own, int(curves[~own].mean(0).argmax())]
    return found
