"""Tables of faithfulness over budgets: of edges, and of heads and MLPs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypedDict

from babelscope.circuits.core.faithfulness import Area, Curve
from babelscope.results.schemas.circuit_edges import EdgeCurve, Faithful, NodeCurve


def edge_rows(
    code: str, curves: Mapping[Area, Curve], half: str, construction: str, counted: str, seed: int
) -> list[EdgeCurve]:
    """f at each budget of both rankings of edges, with the area that the ranking is made for and its interval."""
    return [
        EdgeCurve(
            **_budget(code, area, curve, half), construction=construction, edges_counted=counted, budget=share,
            edges=size, found=faithful,
        )
        for area, curve in curves.items()
        for share, size, faithful in _points(curve, seed)
    ]  # fmt: skip


def node_rows(code: str, curves: Mapping[Area, Curve], half: str, seed: int) -> list[NodeCurve]:
    """The same of circuits of heads and MLPs, ranked by attribution patching."""
    return [
        NodeCurve(**_budget(code, area, curve, half), budget=share, nodes=size, found=faithful)
        for area, curve in curves.items()
        for share, size, faithful in _points(curve, seed)
    ]


class _Budget(TypedDict):
    language: str
    area: str
    ranked_by: str
    half: str
    prompts: int


def _budget(code: str, area: Area, curve: Curve, half: str) -> _Budget:
    ranked = "signed scores" if area == "cpr" else "absolute scores"
    return {"language": code, "area": area, "ranked_by": ranked, "half": half, "prompts": len(curve.scored.whole)}


def _points(curve: Curve, seed: int) -> Iterator[tuple[float, int, Faithful]]:
    """Budget, size and faithfulness of each point of a curve, with the area of all."""
    whole, scored = curve.interval(seed=seed), curve.scored
    why = "" if scored.defined else "the whole model scores as the empty circuit"
    for share, size, f in zip(curve.budgets, curve.sizes, scored.intervals(seed=seed)):
        yield share, size, Faithful(
            faithfulness=f.value, low=f.low, high=f.high, value=whole.value, value_low=whole.low,
            value_high=whole.high, why=why,
        )  # fmt: skip
