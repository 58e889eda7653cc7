"""How much of the task a circuit does: faithfulness, and its curve over numbers of edges (CPR, CMD).

    f(C) = (F(C) − F(∅)) / (F(M) − F(∅)),   F = mean logit difference, ∅ = everything ablated, M = the whole model

P pair
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.core.statistics import Interval, resampled_weights
from babelscope.circuits.edges.circuit import Circuit, greedy_edges, top_edges
from babelscope.circuits.edges.edge_ablation import logit_differences, optimal_reference
from babelscope.circuits.edges.references import ablation_kind, reference
from babelscope.circuits.heads.ablation import Ablation
from babelscope.errors import NonFinite

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges, as in the MIB benchmark"""
Construction = Literal["greedy", "top"]


@dataclass(frozen=True)
class Scored:
    """Logit differences of every pair: of circuits, of nothing, and of the whole model."""

    circuits: Float[Array, "circuits P"]
    empty: Float[Array, " P"]
    whole: Float[Array, " P"]

    def faithfulness(self, weights: Float[Array, " P"] | None = None) -> Float[Array, " circuits"]:
        """f of each circuit; raises NonFinite where ablating everything changes nothing."""
        weights = np.full(len(self.whole), 1 / len(self.whole)) if weights is None else weights
        span = float((self.whole - self.empty) @ weights)
        if not abs(span) > 1e-6 * max(1.0, float(np.abs(self.whole).max())):  # rounding, or NaN
            raise NonFinite("the whole model and the empty circuit score the same, so faithfulness is undefined")
        return ((self.circuits - self.empty) @ weights) / span

    def intervals(self, draws: int = 1000, seed: int = 0) -> list[Interval]:
        """f of each circuit with its 95 % bootstrap interval over pairs."""
        weights = resampled_weights(len(self.whole), draws, seed)
        span = weights @ (self.whole - self.empty)
        drawn = ((self.circuits - self.empty) @ weights.T) / np.where(span == 0, np.nan, span)
        low, high = np.nanquantile(drawn, [0.025, 0.975], axis=1)
        return [Interval(float(f), float(a), float(b)) for f, a, b in zip(self.faithfulness(), low, high)]


def score_circuits(
    model: Model,
    pairs: Sequence[PromptPair],
    circuits: Sequence[Circuit],
    ablation: Ablation | str = Ablation.RESAMPLE,
    budget: int | None = None,
) -> Scored:
    """Logit differences under each circuit, the empty one and the whole model.

    "optimal" constants are fitted to each circuit by itself (and to the empty one), on these very pairs.
    Raises InputError for circuits of another model.

    >>> score_circuits(model, prompts, [circuit]).faithfulness()                         # doctest: +SKIP
    array([0.87])
    """
    wiring = Wiring.of(model)
    ends = [np.zeros_like(wiring.allowed), wiring.allowed]
    masks = [*(circuit.edges for circuit in circuits), *ends]
    if ablation_kind(ablation) is Ablation.OPTIMAL:
        fitted = [optimal_reference(model, pairs, mask, budget=budget) for mask in masks]
        found = np.concatenate(
            [logit_differences(model, pairs, [mask], own, budget) for mask, own in zip(masks, fitted)]
        )
    else:
        found = logit_differences(model, pairs, masks, reference(model, pairs, ablation, budget), budget)
    return Scored(found[:-2], found[-2], found[-1])


@dataclass(frozen=True)
class Curve:
    """Faithfulness over budgets, and its two areas."""

    budgets: tuple[float, ...]
    edges: tuple[int, ...]
    """edges left after pruning, at each budget"""
    faithfulness: Float[Array, " budgets"]

    @property
    def cpr(self) -> float:
        """∫ f over budgets (made for signed scores): large when few edges do much for the answer."""
        from scipy.integrate import trapezoid

        return float(trapezoid(self.faithfulness, self.budgets))

    @property
    def cmd(self) -> float:
        """∫ |1 − f| over budgets (made for absolute scores): small when few edges behave as the model does."""
        from scipy.integrate import trapezoid

        return float(trapezoid(np.abs(1 - self.faithfulness), self.budgets))


def edge_curve(
    model: Model,
    pairs: Sequence[PromptPair],
    scores: Float[Array, "W R"],
    absolute: bool = True,
    construction: Construction = "greedy",
    ablation: Ablation | str = Ablation.RESAMPLE,
    budgets: Sequence[float] = BUDGETS,
    budget: int | None = None,
) -> Curve:
    """f of the circuits that a ranking of edges gives at each share of all edges."""
    wiring = Wiring.of(model)
    build = greedy_edges if construction == "greedy" else top_edges
    total = int(wiring.allowed.sum())
    circuits = [build(wiring, scores, int(share * total), absolute) for share in budgets]
    found = score_circuits(model, pairs, circuits, ablation, budget)
    return Curve(tuple(budgets), tuple(circuit.size for circuit in circuits), found.faithfulness())


def minimal_size(curve: Curve, faithful: float = 0.8) -> int | None:
    """Edges at the first budget whose circuit reaches `faithful`; None if none does."""
    return next((edges for edges, value in zip(curve.edges, curve.faithfulness) if value >= faithful), None)


def completeness(
    model: Model, pairs: Sequence[PromptPair], circuit: Circuit, ablation: Ablation | str = Ablation.RESAMPLE
) -> float:
    """1 − f of everything but the circuit: 1 when nothing outside it does the task."""
    rest = Circuit(circuit.wiring, circuit.wiring.allowed & ~circuit.edges, circuit.scores)
    return 1 - float(score_circuits(model, pairs, [rest], ablation).faithfulness()[0])


def minimality(
    model: Model, pairs: Sequence[PromptPair], circuit: Circuit, ablation: Ablation | str = Ablation.RESAMPLE
) -> dict[str, float]:
    """By node of the circuit, the change of f when all its edges are taken out of it (Wang et al. 2022, section 4)."""
    reduced: list[Circuit] = []
    for node in circuit.nodes:
        edges = circuit.edges.copy()
        edges[circuit.wiring.writer(node)] = False
        reduced.append(Circuit(circuit.wiring, edges, circuit.scores))
    found = score_circuits(model, pairs, [circuit, *reduced], ablation).faithfulness()
    return {str(node): float(value - found[0]) for node, value in zip(circuit.nodes, found[1:])}
