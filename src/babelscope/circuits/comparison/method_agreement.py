"""Do fast methods find what true patching finds? Rank correlation and recall of the top k (section 7).

S whatever is ranked: heads, or edges
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from babelscope.circuits.core.ablation import Ablation, reference
from babelscope.circuits.edges.atp import NodeScores, input_effects
from babelscope.circuits.edges.eap import Attribution
from babelscope.circuits.edges.single_edges import edge_effects
from babelscope.results.schemas.circuit_edges import Agreed
from babelscope.stats import pearson, spearman

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]


def top_k_recall(found: Float[Array, "*shape"], true: Float[Array, "*shape"], k: int) -> float:
    """Share of the k truly strongest (by absolute value) that are among the k found strongest.

    Scores that are level where the k end say nothing of each other, as those of heads on every route: the recall is the
    mean over all orders that they may be taken in.

    >>> top_k_recall(np.array([3.0, 0.0, 1.0]), np.array([-2.0, 0.0, 0.1]), k=2)
    1.0
    >>> top_k_recall(np.ones(4), np.array([4.0, 3.0, 2.0, 1.0]), k=2)
    0.5
    """
    k = min(k, found.size)
    return float(_among(found, k) @ _among(true, k)) / k if k else float("nan")


def _among(values: Float[Array, "*shape"], k: int) -> Float[Array, " S"]:
    """Share of each in the k strongest: 1 or 0, and of what is left of k where they are level."""
    size = np.abs(values).ravel()
    border = np.sort(size)[-k]
    inside, level = size > border, size == border
    return inside + level * (k - inside.sum()) / level.sum()


def agreements(
    scores: Mapping[str, Float[Array, "*shape"]], k: int = 10, what: str = "heads", language: str = ""
) -> list[Agreed]:
    """Every pair of methods that scored the same things: Spearman of absolute scores, Pearson, recall of the top k.

    `method2` is the truth in a row of recall; pairs are given in the order of `scores`, so put patching last. What one
    of them has no number for (NaN) is left out; `n` says how many were compared.
    """
    return [
        Agreed(
            language=language, what=what, method=first, method2=second, spearman=spearman(np.abs(a), np.abs(b)),
            pearson=pearson(a, b), top_k_recall=top_k_recall(a, b, k), k=min(k, a.size), n=a.size,
        )
        for first, second in combinations(scores, 2)
        for a, b in [_known(scores[first], scores[second])]
    ]  # fmt: skip


def _known(first: Array, second: Array) -> tuple[Array, Array]:
    """What both have a number for: a screen leaves heads unpatched."""
    known = np.isfinite(first) & np.isfinite(second)
    return first[known], second[known]


def confirmed(
    model: Model,
    pairs: Sequence[PromptPair],
    attributions: Mapping[str, Attribution],
    top: int = 30,
    ablation: Ablation | str = Ablation.RESAMPLE,
    budget: int | None = None,
) -> tuple[dict[str, Float[Array, " S"]], list[tuple[int, int]]]:
    """True effects of the union of every method's strongest `top` edges, beside what each method said of them.

    Returns {method: scores, …, "edge patching": true effects} on those edges, and the edges as (row, column).
    """
    edges = sorted({edge for found in attributions.values() for edge in found.strongest(top)})
    true = edge_effects(model, pairs, edges, reference(model, pairs, ablation, budget), budget).mean(1)
    said = {name: np.array([found.scores[edge] for edge in edges]) for name, found in attributions.items()}
    return {**said, "edge patching": true}, edges


def input_agreements(
    model: Model, nodes: NodeScores, testing: Sequence[PromptPair], top: int, language: str = ""
) -> list[Agreed]:
    """AtP of queries and keys with its QK fix, and without, against patching those that either finds strongest."""
    rows: list[Agreed] = []
    kinds: tuple[tuple[Literal["q", "k"], str], ...] = (("q", "queries"), ("k", "keys"))
    for kind, what in kinds:
        if kind not in model.readings:
            continue
        scores: dict[str, Array] = {"atp": getattr(nodes, f"unfixed_{what}"), "atp, QK fix": getattr(nodes, what)}
        places = sorted({int(place) for each in scores.values() for place in _strongest(each, top)})
        chosen = [divmod(place, scores["atp"].shape[1]) for place in places]
        said = {name: each.ravel()[places] for name, each in scores.items()}
        said["patching"] = input_effects(model, testing, kind, chosen)
        rows += agreements(said, top, what, language)
    return rows


def _strongest(scores: Float[Array, "L H"], top: int) -> NDArray[np.int64]:
    """Places of the largest absolute scores, without layers that have none."""
    flat = np.abs(scores).ravel()
    return np.argsort(-np.nan_to_num(flat, nan=-1.0))[: min(top, int(np.isfinite(flat).sum()))]
