"""How much of the task a circuit does: one layer for circuits of nodes and of edges (section 6).

    f(C) = (F(C) − F(∅)) / (F(M) − F(∅)),   F = mean logit difference, ∅ = everything ablated, M = the whole model

A circuit is a mask over what may be in it; a `Space` says what that is and runs the model with the rest ablated.
Where the whole model scores as the empty circuit, f is not defined, and NaN.

P pair · C circuit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core.statistics import unit_of
from babelscope.stats import BOOTSTRAP_T, Interval, mean_ends

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges (or nodes), as in the MIB benchmark"""
Area = Literal["cpr", "cmd"]


@runtime_checkable
class Space(Protocol):
    """What circuits are chosen from (nodes, or edges), on some prompts, under some ablation."""

    @property
    def whole(self) -> Mask:
        """Everything: the whole model as a circuit."""
        ...

    def differences(self, circuits: Sequence[Mask]) -> Float[Array, "C P"]:
        """LD of every pair under each circuit, all that is outside it ablated."""
        ...


@dataclass(frozen=True)
class Scored:
    """Logit differences of every pair: of circuits, of nothing, and of the whole model."""

    circuits: Float[Array, "C P"]
    empty: Float[Array, " P"]
    whole: Float[Array, " P"]

    @property
    def defined(self) -> bool:
        """Whether ablating everything changes the mean logit difference, by more than rounding."""
        span = float((self.whole - self.empty).mean())
        return abs(span) > 1e-6 * max(1.0, float(np.abs(self.whole).max()))

    def faithfulness(self, weights: Float[Array, "*draws P"] | None = None) -> Float[Array, "*draws C"]:
        """f of each circuit, under bootstrap weights of the pairs if given; NaN where it is not defined."""
        weights = np.full(len(self.whole), 1 / len(self.whole)) if weights is None else weights
        span = np.asarray(weights @ (self.whole - self.empty))
        span = np.where((span != 0) & self.defined, span, np.nan)
        return (weights @ (self.circuits - self.empty).T) / span[..., None]

    def intervals(self, draws: int = 1000, seed: int = 0) -> list[Interval]:
        """f of each circuit with its 95 % bootstrap-t interval: a ratio of means, by each pair's part in it."""
        low, high = mean_ends(self.parts(), draws, seed)
        ends = zip(self.faithfulness(), low, high, strict=True)
        return [Interval(float(f), float(least), float(most), BOOTSTRAP_T) for f, least, most in ends]

    def parts(self) -> Float[Array, "C P"]:
        """Each pair's part in f, linearised: their mean is f, their spread its error."""
        f, span = self.faithfulness()[:, None], self.whole - self.empty
        return f + (self.circuits - self.empty - f * span) / (span.mean() or np.nan)


def score(space: Space, circuits: Sequence[Mask]) -> Scored:
    """Logit differences under each circuit, the empty one and the whole model.

    >>> score(NodeSpace(model, prompts), [circuit]).faithfulness()                       # doctest: +SKIP
    array([0.87])
    """
    found = space.differences([*circuits, np.zeros_like(space.whole), space.whole])
    return Scored(found[:-2], found[-2], found[-1])


@dataclass(frozen=True)
class Curve:
    """f over budgets, and the area under it, for circuits ranked in the way that the area is made for."""

    area: Area
    """cpr: circuits ranked by signed scores; cmd: by absolute ones"""
    budgets: tuple[float, ...]
    sizes: tuple[int, ...]
    """edges (or nodes) left after pruning, at each budget"""
    scored: Scored

    @property
    def faithfulness(self) -> Float[Array, " budgets"]:
        """f at each budget."""
        return self.scored.faithfulness()

    def interval(self, draws: int = 1000, seed: int = 0) -> Interval:
        """The area with its 95 % bootstrap-t interval, by each prompt's part in it.

        CPR = ∫ f: large when few edges do much for the answer. CMD = ∫ |1 − f|: small when few edges behave as the
        model does.
        """
        from scipy.integrate import trapezoid

        f, parts = self.faithfulness[:, None], self.scored.parts()
        if self.area == "cmd":  # |1 − f| moves against f below 1 and with it above
            parts = np.abs(1 - f) - np.sign(1 - f) * (parts - f)
        low, high = mean_ends(np.asarray(trapezoid(parts, self.budgets, axis=0)), draws, seed)
        return Interval(self.value, float(low), float(high), BOOTSTRAP_T)

    @property
    def value(self) -> float:
        """The area."""
        return float(self._areas(self.faithfulness))

    def _areas(self, f: Float[Array, "*draws budgets"]) -> Float[Array, "*draws"]:
        from scipy.integrate import trapezoid

        return np.asarray(trapezoid(f if self.area == "cpr" else np.abs(1 - f), self.budgets, axis=-1))


def curve(space: Space, circuits: Sequence[Mask], area: Area, budgets: Sequence[float] = BUDGETS) -> Curve:
    """f of one circuit per budget."""
    return curves(space, {area: circuits}, budgets)[area]


def curves(
    space: Space, circuits: Mapping[Area, Sequence[Mask]], budgets: Sequence[float] = BUDGETS
) -> dict[Area, Curve]:
    """The same for several rankings, all run together: what they share is run once."""
    scored = score(space, [mask for masks in circuits.values() for mask in masks])
    found: dict[Area, Curve] = {}
    start = 0
    for area, masks in circuits.items():
        own = replace(scored, circuits=scored.circuits[start : start + len(masks)])
        found[area] = Curve(area, tuple(budgets), tuple(int(mask.sum()) for mask in masks), own)
        start += len(masks)
    return found


@dataclass(frozen=True)
class Completeness:
    """F(C∖K) against F(M∖K) for random subsets K of the circuit: they agree when nothing that matters is left out."""

    circuit_without: Float[Array, " draws"]
    whole_without: Float[Array, " draws"]
    gap: float
    """mean |F(C∖K) − F(M∖K)| / |F(M)|"""


def completeness(space: Space, circuit: Mask, draws: int = 10, seed: int = 0) -> Completeness:
    """Completeness (Wang et al. 2022, section 4.2) over random subsets K, each part in K with probability one half."""
    generator = np.random.default_rng(seed)
    removed = [circuit & (generator.random(circuit.shape) < 0.5) for _ in range(draws)]
    left, right = [circuit & ~part for part in removed], [space.whole & ~part for part in removed]
    found = space.differences([space.whole, *left, *right])
    without, whole = found[1 : draws + 1].mean(1), found[draws + 1 :].mean(1)
    return Completeness(without, whole, _share(float(np.abs(without - whole).mean()), unit_of(found[0])))


def minimality(
    space: Space, circuit: Mask, parts: Mapping[str, Mask], classes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, float]:
    """|F(C∖(K∪v)) − F(C∖K)| / |F(M)| for every part v, the larger of K = ∅ and K = the rest of v's class.

    Wang et al. 2022, section 4.3. `parts`: what is taken out at a time, by name; `classes`: names of parts that do the
    same; without them every part is a class of its own.
    """
    grouped = [list(names) for names in classes.values()] if classes is not None else [[name] for name in parts]
    questions: list[tuple[str, Mask, Mask]] = []
    for names in grouped:
        for name in names:
            rest = [parts[other] for other in names if other != name]
            for gone in [np.zeros_like(circuit), *([np.logical_or.reduce(rest)] if rest else [])]:
                questions.append((name, circuit & ~gone, circuit & ~gone & ~parts[name]))
    differences = space.differences([space.whole, *(mask for _, *both in questions for mask in both)])
    scores, unit = differences.mean(1), unit_of(differences[0])
    found: dict[str, float] = {}
    for place, (name, _, _) in enumerate(questions):
        change = _share(abs(float(scores[1 + 2 * place] - scores[2 + 2 * place])), unit)
        found[name] = max(found.get(name, change), change)  # NaN stays
    return found


def _share(change: float, whole: float) -> float:
    return change / abs(whole) if whole != 0 else float("nan")
