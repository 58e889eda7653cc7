"""How much two circuits share: nodes, edges, weights and scores, each against chance (section 6).

Chance is the other circuit with its heads renamed inside their layers, which keeps its size, its layers and how it is
joined up. (Drawing at random among all edges, the hypergeometric null, calls 22 % of independent circuits alike at 5 %:
embedding and MLP edges are strong in all.)

W writer · R reader
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from babelscope.circuits.core.graph import Mask, Wiring
from babelscope.circuits.core.nodes import Head
from babelscope.circuits.core.statistics import permutation_p
from babelscope.circuits.edges.circuit import Circuit, sized_circuit
from babelscope.errors import InputError
from babelscope.results.schemas.circuit_edges import Overlap as OverlapRow
from babelscope.stats import pearson, spearman
from babelscope.terms import Construction

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
    """share of those with at least this overlap; NaN where fewer than `FEWEST` renamings differ"""
    why: str = ""
    """why there is no p"""


class Overlap(list[Shared]):
    """Every measure of one pair of circuits."""

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        headers = ["measure", "value", "by chance", "p"]
        rows = [(one.measure.replace("_", " "), one.value, one.null, one.p) for one in self]
        return table("Overlap of two circuits", headers, rows)


def circuit_overlap(
    first: Circuit,
    second: Circuit,
    permutations: int = 1000,
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
    names = list(measures or MEASURES)
    null: dict[str, list[float]] = {name: [] for name in names}
    seen: dict[str, set[bytes]] = {name: set() for name in names}
    for _ in range(permutations):  # one at a time: a large model's circuits would fill memory
        other = relabelled(second, generator)
        for name in names:
            null[name].append(MEASURES[name](first, other))
            if len(seen[name]) < FEWEST:
                seen[name].add(_looked_at(name, other))
    found = Overlap()
    for name in names:
        value, drawn = MEASURES[name](first, second), np.array(null[name])
        few = len(seen[name]) < FEWEST
        p = float("nan") if few else permutation_p(value, drawn)
        mean = float(drawn.mean()) if permutations else float("nan")
        found.append(Shared(name, value, mean, p, f"{len(seen[name])} distinct renamings" if few else _why(value)))
    return found


FEWEST = 20
"""distinct renamings that a p-value needs"""


def _looked_at(measure: str, circuit: Circuit) -> bytes:
    """What a measure sees of a circuit."""
    if measure.startswith("node"):
        return _nodes(circuit).tobytes()
    if measure.startswith("edge"):
        return circuit.edges.tobytes()
    return (circuit.scores if measure.startswith("score") else circuit.edges * circuit.scores).tobytes()


def _why(value: float) -> str:
    return "" if np.isfinite(value) else "one of the two does not vary, or is empty"


def rows(language: str, language2: str, shared: list[Shared]) -> list[OverlapRow]:
    """Rows for the table of overlaps."""
    return [
        OverlapRow(
            language=language, language2=language2, measure=one.measure, value=one.value, null=one.null, p=one.p,
            why=one.why,
        )
        for one in shared
    ]  # fmt: skip


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
    return float(np.minimum(a, b).sum()) / union if union > 0 else float("nan")


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
    return float((first & second).sum()) / union if union else float("nan")


def _share(first: Mask, second: Mask) -> float:
    return float((first & second).sum()) / int(first.sum()) if first.any() else float("nan")


def _scaled(weights: Array) -> Array:
    total = float(weights.sum())
    return weights / total if total > 0 else weights


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
    for layer in (layer for layer in range(wiring.layers) if wiring.has(layer, "a")):
        groups = generator.permutation(wiring.kv_heads)
        inside = np.array([generator.permutation(group) for _ in range(wiring.kv_heads)])
        heads = (groups[:, None] * group + inside).ravel()  # new name of head g·group + i
        first = wiring.writer(Head(layer, 0))
        rows[first : first + wiring.heads] = first + heads
        for reader in wiring.first_readers(layer):
            if reader.kind in ("q", "k", "v", "gate"):
                own = groups if reader.kind in ("k", "v") else heads
                start = wiring.reader(reader)
                columns[start : start + len(own)] = start + own
    return rows, columns


def random_scores(wiring: Wiring, generator: np.random.Generator) -> Float[Array, "W R"]:
    """Scores that say nothing, to build random circuits by the same rule as the real ones."""
    return np.where(wiring.allowed, -generator.random(wiring.allowed.shape), 0.0)


def random_circuit(
    wiring: Wiring, size: int, generator: np.random.Generator, construction: Construction = "greedy"
) -> Circuit:
    """A circuit of `size` edges (within 5 %), all on paths, made from random scores by the rule of the real ones."""
    return sized_circuit(wiring, random_scores(wiring, generator), size, construction, {"random": True})
