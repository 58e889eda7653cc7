"""Circuits of edges: scored, and ranked over budgets for CPR and CMD (Mueller et al. 2025, the MIB benchmark).

W writer · R reader · P pair
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from babelscope.circuits.core.ablation import Ablation, ablation_kind, reference
from babelscope.circuits.core.faithfulness import BUDGETS, Area, Curve, Scored, curve, curves, score
from babelscope.circuits.core.graph import Mask, Wiring
from babelscope.circuits.edges.circuit import Circuit, greedy_edges, top_edges
from babelscope.circuits.edges.edge_ablation import logit_differences, optimal_reference
from babelscope.terms import Construction

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EdgeSpace:
    """All edges of a model as what a circuit is chosen from."""

    model: Model
    pairs: Sequence[PromptPair]
    ablation: Ablation | str = Ablation.RESAMPLE
    budget: int | None = None

    @property
    def whole(self) -> Bool[Mask, "W R"]:
        return Wiring.of(self.model).allowed

    def differences(self, circuits: Sequence[Bool[Mask, "W R"]]) -> Float[Array, "C P"]:
        """LD under each circuit; "optimal" constants are fitted to each by itself, on these very pairs."""
        if ablation_kind(self.ablation) is not Ablation.OPTIMAL:
            other = reference(self.model, self.pairs, self.ablation, self.budget)
            return logit_differences(self.model, self.pairs, circuits, other, self.budget)
        fitted = [optimal_reference(self.model, self.pairs, mask, budget=self.budget)[0] for mask in circuits]
        return np.concatenate(
            [logit_differences(self.model, self.pairs, [mask], own, self.budget) for mask, own in zip(circuits, fitted)]
        )


def score_circuits(
    model: Model,
    pairs: Sequence[PromptPair],
    circuits: Sequence[Circuit],
    ablation: Ablation | str = Ablation.RESAMPLE,
    budget: int | None = None,
) -> Scored:
    """Logit differences under each circuit, the empty one and the whole model.

    Raises InputError for circuits of another model.

    >>> score_circuits(model, prompts, [circuit]).faithfulness()                         # doctest: +SKIP
    array([0.87])
    """
    return score(EdgeSpace(model, pairs, ablation, budget), [circuit.edges for circuit in circuits])


def edge_curve(
    space: EdgeSpace,
    scores: Float[Array, "W R"],
    area: Area,
    construction: Construction = "greedy",
    budgets: Sequence[float] = BUDGETS,
) -> Curve:
    """f of the circuits that a ranking of edges gives at each share of all edges.

    The area decides the ranking: CPR asks how much few edges do for the answer, so they are ranked by signed scores;
    CMD how nearly they behave as the model does, so by absolute ones. `space` should hold prompts on which the scores
    were not taken. MIB's construction is "top".
    """
    return curve(space, _circuits(space, scores, area, construction, budgets), area, budgets)


def edge_curves(
    space: EdgeSpace,
    scores: Float[Array, "W R"],
    construction: Construction = "greedy",
    budgets: Sequence[float] = BUDGETS,
) -> dict[Area, Curve]:
    """Both areas' curves; circuits that their rankings share are run once."""
    areas: tuple[Area, ...] = ("cpr", "cmd")
    return curves(space, {area: _circuits(space, scores, area, construction, budgets) for area in areas}, budgets)


def _circuits(
    space: EdgeSpace, scores: Float[Array, "W R"], area: Area, construction: Construction, budgets: Sequence[float]
) -> list[Bool[Mask, "W R"]]:
    wiring = Wiring.of(space.model)
    build = greedy_edges if construction == "greedy" else top_edges
    total = int(wiring.allowed.sum())
    return [build(wiring, scores, int(share * total), area == "cmd").edges for share in budgets]


def minimal_size(found: Curve, faithful: float = 0.8) -> int | None:
    """Edges at the first budget whose circuit reaches `faithful`; None if none does."""
    return next((size for size, value in zip(found.sizes, found.faithfulness) if value >= faithful), None)


def node_parts(circuit: Circuit) -> dict[str, Bool[Mask, "W R"]]:
    """The edges out of each node of a circuit, by its name: the parts whose minimality is asked."""
    parts: dict[str, Mask] = {}
    for node in circuit.nodes:
        mask = np.zeros_like(circuit.edges)
        mask[circuit.wiring.writer(node)] = circuit.edges[circuit.wiring.writer(node)]
        parts[str(node)] = mask
    return parts
