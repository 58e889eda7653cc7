"""How much two circuits share: nodes, edges, weights and scores, each against chance (section 6).

Chance twice over: drawn at random among all (hypergeometric), and the other circuit with its heads renamed inside their
layers, which keeps its size, its layers and how it is joined up. Late layers attract every circuit, so the second is
the stricter one.

W writer · R reader
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from babelscope.circuits.comparison.head_frequency import pearson, spearman
from babelscope.circuits.core.graph import Mask, Wiring
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.edges.circuit import Circuit
from babelscope.errors import InputError

Array = NDArray[np.float64]
Order = NDArray[np.intp]
Measure = Callable[[Circuit, Circuit], float]


@dataclass(frozen=True)
class Shared:
    """One measure of overlap, with what chance gives."""

    measure: str
    value: float
    null: float
    """mean over circuits with their heads renamed inside their layers"""
    p: float
    """share of those with at least this overlap"""
    hypergeometric: float
    """P(X ≥ x) when as many were drawn at random among all; NaN for what is not counted"""


class Overlap(list[Shared]):
    """Every measure of one pair of circuits."""

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        headers = ["measure", "value", "by chance", "p", "hypergeometric"]
        rows = [(one.measure.replace("_", " "), one.value, one.null, one.p, one.hypergeometric) for one in self]
        return table("Overlap of two circuits", headers, rows)


def circuit_overlap(
    first: Circuit,
    second: Circuit,
    permutations: int = 200,
    seed: int = 0,
    measures: Sequence[str] | None = None,
) -> Overlap:
    """Measures (all of them, unless named) of one pair of circuits; raises InputError for circuits of different models.

    node and edge IoU |A∩B| / |A∪B|; directional overlap |A∩B| / |A|; weighted Jaccard Σ min / Σ max of the edges'
    absolute scores; Pearson and Spearman of the scores of all edges.

    >>> wiring = Wiring(layers=2, heads=4, kv_heads=4)
    >>> circuit = Circuit(wiring, wiring.allowed, wiring.allowed * 1.0)
    >>> circuit_overlap(circuit, circuit)[0].value
    1.0
    """
    if first.wiring != second.wiring:
        raise InputError(
            "two circuits of different models have no node in common to compare: match heads by role first"
        )
    generator = np.random.default_rng(seed)
    renamed = [relabelled(second, generator) for _ in range(permutations)]
    found = Overlap()
    for name in measures or MEASURES:
        measure = MEASURES[name]
        value = measure(first, second)
        null = np.array([measure(first, other) for other in renamed])
        p = (1 + int((null >= value - 1e-12).sum())) / (permutations + 1)
        mean = float(null.mean()) if permutations else float("nan")
        found.append(Shared(name, value, mean, p, _hypergeometric(name, first, second)))
    return found


def rows(language: str, language2: str, shared: list[Shared]) -> list[dict[str, Any]]:
    """Rows for the table of overlaps."""
    return [
        {
            "language": language,
            "language2": language2,
            "measure": one.measure,
            "value": one.value,
            "null": one.null,
            "p": one.p,
            "hypergeometric": one.hypergeometric,
        }
        for one in shared
    ]


# -- measures -------------------------------------------------------------------------------------------------------


def node_iou(first: Circuit, second: Circuit) -> float:
    """Intersection over union of the heads and MLPs."""
    return _iou(_nodes(first), _nodes(second))


def edge_iou(first: Circuit, second: Circuit) -> float:
    """Intersection over union of the edges."""
    return _iou(first.edges, second.edges)


def node_share(first: Circuit, second: Circuit) -> float:
    """Share of the first circuit's heads and MLPs that the second has too."""
    return _share(_nodes(first), _nodes(second))


def edge_share(first: Circuit, second: Circuit) -> float:
    """Share of the first circuit's edges that the second has too."""
    return _share(first.edges, second.edges)


def weighted_jaccard(first: Circuit, second: Circuit) -> float:
    """Σ min / Σ max of the edges' absolute scores, each circuit's scaled to sum to 1."""
    a, b = (_scaled(np.where(circuit.edges, np.abs(circuit.scores), 0)) for circuit in (first, second))
    union = float(np.maximum(a, b).sum())
    return float(np.minimum(a, b).sum()) / union if union > 0 else 0.0


def score_pearson(first: Circuit, second: Circuit) -> float:
    """Pearson's r of the scores of all edges of the model, in the circuits or not."""
    mask = first.wiring.allowed
    return pearson(first.scores[mask], second.scores[mask])


def score_spearman(first: Circuit, second: Circuit) -> float:
    """Spearman's ρ of the absolute scores of all edges of the model."""
    mask = first.wiring.allowed
    return spearman(np.abs(first.scores[mask]), np.abs(second.scores[mask]))


MEASURES: Mapping[str, Measure] = {
    "node_iou": node_iou,
    "edge_iou": edge_iou,
    "node_share": node_share,
    "edge_share": edge_share,
    "weighted_jaccard": weighted_jaccard,
    "score_pearson": score_pearson,
    "score_spearman": score_spearman,
}


DIRECTED = ("node_share", "edge_share")
"""Measures that differ between A against B and B against A"""


def _nodes(circuit: Circuit) -> Mask:
    """Heads and MLPs as a mask: the embedding is in every circuit and says nothing."""
    present = set(circuit.nodes)
    return np.array([node in present for node in circuit.wiring.writers[1:]])


def _iou(first: Mask, second: Mask) -> float:
    union = int((first | second).sum())
    return float((first & second).sum()) / union if union else 0.0


def _share(first: Mask, second: Mask) -> float:
    return float((first & second).sum()) / int(first.sum()) if first.any() else 0.0


def _scaled(weights: Array) -> Array:
    total = float(weights.sum())
    return weights / total if total > 0 else weights


def _hypergeometric(measure: str, first: Circuit, second: Circuit) -> float:
    if measure.startswith("node_"):
        a, b = _nodes(first), _nodes(second)
    elif measure.startswith("edge_"):
        a, b = first.edges[first.wiring.allowed], second.edges[first.wiring.allowed]
    else:
        return float("nan")
    return hypergeometric(int((a & b).sum()), a.size, int(a.sum()), int(b.sum()))


def hypergeometric(shared: int, universe: int, first: int, second: int) -> float:
    """P(X ≥ shared) when `second` of `universe` are drawn at random and `first` of them count: sf(shared − 1).

    >>> hypergeometric(0, 10, 3, 3)
    1.0
    """
    from scipy.stats import hypergeom

    return float(hypergeom.sf(shared - 1, universe, first, second))


# -- the null -------------------------------------------------------------------------------------------------------


def relabelled(circuit: Circuit, generator: np.random.Generator) -> Circuit:
    """The circuit with its heads renamed at random inside each layer (key/value groups as wholes, heads inside them).

    Size, layers and connections stay; which head plays which part is drawn.
    """
    rows, columns = _renaming(circuit.wiring, generator)
    edges, scores = np.empty_like(circuit.edges), np.empty_like(circuit.scores)
    edges[np.ix_(rows, columns)] = circuit.edges
    scores[np.ix_(rows, columns)] = circuit.scores
    return Circuit(circuit.wiring, edges, scores, about={**circuit.about, "relabelled": True})


def _renaming(wiring: Wiring, generator: np.random.Generator) -> tuple[Int[Order, " W"], Int[Order, " R"]]:
    """New row of every writer and new column of every reader."""
    group = wiring.heads // wiring.kv_heads
    rows, columns = np.arange(len(wiring.writers)), np.arange(len(wiring.readers))
    for layer in range(wiring.layers):
        groups = generator.permutation(wiring.kv_heads)
        inside = np.array([generator.permutation(group) for _ in range(wiring.kv_heads)])
        heads = (groups[:, None] * group + inside).ravel()  # new name of head g·group + i
        first = wiring.writer(Head(layer, 0))
        rows[first : first + wiring.heads] = first + heads
        q, k, v, _ = (wiring.reader(reader) for reader in wiring.first_readers(layer))
        columns[q : q + wiring.heads] = q + heads
        columns[k : k + wiring.kv_heads] = k + groups
        columns[v : v + wiring.kv_heads] = v + groups
    return rows, columns


def random_scores(wiring: Wiring, generator: np.random.Generator) -> Float[Array, "W R"]:
    """Scores that say nothing, to build random circuits by the same rule as the real ones."""
    return np.where(wiring.allowed, -generator.random(wiring.allowed.shape), 0.0)
