"""What circuits-overlap.md is argued from: halves, exchanged scenes, Mantel's test, drawn agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from babelscope.circuits.comparison.method_agreement import top_k_recall
from babelscope.circuits.core.graph import Wiring
from babelscope.circuits.edges.circuit import greedy_edges
from babelscope.stats import pearson, spearman

Array = NDArray[np.float64]
DRAWS, SPLITS, SEED = 500, 10, 0
FAMILIES = {
    "en": ("Indo-European", "Germanic"), "zh": ("Sino-Tibetan", ""), "fr": ("Indo-European", "Romance"),
    "es": ("Indo-European", "Romance"), "pt": ("Indo-European", "Romance"), "ar": ("Afro-Asiatic", ""),
    "vi": ("Austroasiatic", ""), "hi": ("Indo-European", "Indo-Aryan"), "id": ("Austronesian", ""),
}  # fmt: skip
LATIN = ("en", "fr", "es", "pt", "vi", "id")


def half_overlap(scores: Array, wiring: Wiring, size: int, splits: int = SPLITS) -> tuple[Array, Array]:
    """Edge IoU of circuits made from random halves of the blocks: [language, language2], mean and spread over splits.

    On the diagonal stand two halves of one language, elsewhere half of one against half of another, so that both are
    equally noisy.
    """
    rng, count, blocks = np.random.default_rng(SEED), len(scores), scores.shape[1]
    drawn: list[Array] = []
    for _ in range(splits):
        order = rng.permutation(blocks)
        halves = [order[: blocks // 2], order[blocks // 2 :]]
        made = [[greedy_edges(wiring, own[half].mean(0), size).edges for half in halves] for own in scores]
        one = np.array([[_iou(made[a][0], made[b][1]) for b in range(count)] for a in range(count)])
        drawn.append((one + one.T) / 2)
    return np.mean(drawn, axis=0), np.std(drawn, axis=0, ddof=1)


def _iou(first: Array, second: Array) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def one_circuit(first: Array, second: Array, wiring: Wiring, size: int, draws: int = 99) -> tuple[float, float, float]:
    """IoU of two languages' circuits, its mean when blocks change language at random (the same scene in both), and p.

    The null says that the languages differ by sampling alone; p is the share of exchanges with as small an IoU.
    """
    a, b = (scores / np.abs(scores.mean(0)).sum() for scores in (first, second))
    rng = np.random.default_rng(SEED)

    def value(swap: Array) -> float:
        left, right = (np.where(swap[:, None, None], y, x).mean(0) for x, y in ((a, b), (b, a)))
        return _iou(greedy_edges(wiring, left, size).edges, greedy_edges(wiring, right, size).edges)

    own = value(np.zeros(len(a), dtype=bool))
    null = np.array([value(rng.random(len(a)) < 0.5) for _ in range(draws)])
    return own, float(null.mean()), (1 + int((null <= own).sum())) / (draws + 1)


def mantel(values: Array, predictor: Array, draws: int = 1999) -> tuple[float, float]:
    """Pearson's r of two symmetric matrices above the diagonal, and the share of renamed languages with as much.

    Mantel 1967: rows and columns of one are permuted together, since pairs that share a language are not independent.
    """
    rng, above = np.random.default_rng(SEED), np.triu_indices(len(values), 1)
    own = pearson(values[above], predictor[above])
    drawn = []
    for _ in range(draws):
        order = rng.permutation(len(values))
        drawn.append(pearson(values[above], predictor[np.ix_(order, order)][above]))
    return own, (1 + int((np.array(drawn) >= own - 1e-12).sum())) / (draws + 1)


def related(first: str, second: str) -> float:
    """2 for languages of one branch, 1 of one family, 0 otherwise."""
    (family, branch), (family2, branch2) = FAMILIES[first], FAMILIES[second]
    return float(family == family2) + float(family == family2 and branch == branch2)


def drawn_agreement(methods: Mapping[str, Array], truth: Array, k: int = 10) -> dict[str, list[tuple[float, ...]]]:
    """Per method: Spearman of absolute scores and recall of the top k, each with its bootstrap interval over blocks."""
    rng, blocks = np.random.default_rng(SEED), len(truth)
    orders = [np.arange(blocks), *(rng.integers(0, blocks, blocks) for _ in range(DRAWS))]
    found: dict[str, list[tuple[float, ...]]] = {}
    for name, scores in methods.items():
        measures: list[Callable[[Array, Array], float]] = [
            lambda a, b: spearman(np.abs(a), np.abs(b)),
            lambda a, b: top_k_recall(a, b, k),
        ]
        values = [[one(scores[order].mean(0), truth[order].mean(0)) for order in orders] for one in measures]
        found[name] = [(drawn[0], *np.quantile(drawn[1:], [0.025, 0.975])) for drawn in values]
    return found


def reliability(effects: Array, rng: np.random.Generator) -> float:
    """Split-half correlation of mean effects, stepped up to all prompts (Spearman and Brown)."""
    count = effects.shape[-1]
    halves = []
    for _ in range(50):
        order = rng.permutation(count)
        halves.append(pearson(effects[..., order[: count // 2]].mean(-1), effects[..., order[count // 2 :]].mean(-1)))
    half = float(np.mean(halves))
    return 2 * half / (1 + half)
