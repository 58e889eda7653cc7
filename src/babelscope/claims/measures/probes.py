"""What claims about probes measure: neurons that encode a grammatical feature, who shares them, and what carries over.

Sentences are labelled by their ids, `NAME.FEATURE:…` as in the pocket corpus (past, present, future). A probe reads the
top share of a language's neurons, chosen and weighted on half of the sentences, and is tried on the other half, in its
own language and in the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray

from babelscope.claims.case import Case
from babelscope.claims.measures.neurons import SHARE
from babelscope.claims.verdict import Part, ends, spread_ends
from babelscope.errors import InputError
from babelscope.stats import pearson

Array = NDArray[np.float64]
FEATURE = "past"
DRAWS = 40
"""resampled sentences"""


def overlap_dips(case: Case) -> list[Part]:
    """Over the points of a training: Pearson of the share of neurons in common and of transfer, means over languages;
    and the largest fall of both between neighbouring points.

    Sentences are resampled, alike at every point. Controls: 97.5 % point with points permuted; of the falls that noise
    alone gives where nothing falls. Twin: labels permuted in each language by itself.
    """
    points = [_means(replace(case, models=(model,), twin="")) for model in case.models]
    corpus = replace(case, twin="").sentences()
    labels = feature_labels(corpus.ids, corpus.spec)
    rng = np.random.default_rng(case.seed)
    order = rng.permutation(len(labels))
    by_language = np.tile(labels, (len(corpus.languages), 1))
    if case.twin == "labels":
        by_language = np.array([labels[rng.permutation(len(labels))] for _ in corpus.languages])
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    found = _course(points, by_language, *halves)
    drawn = np.array(
        [_course(points, by_language, *(rng.choice(half, len(half)) for half in halves)) for _ in range(DRAWS)]
    )
    n, names = len(case.models), ("correlation", "dip")
    draws = [float(pearson(*one)) for one in drawn]
    low, high = ends([value for value in draws if np.isfinite(value)], 2)
    shuffled = [pearson(found[0], rng.permutation(found[1])) for _ in range(200)]
    correlation = Part(names[0], float(pearson(*found)), low, high, n, "points", float(np.nanquantile(shuffled, 0.975)))
    rising = np.maximum.accumulate(found, axis=1)
    null = [largest_fall(rising + one - drawn.mean(0)) for one in drawn]
    low, high = spread_ends(largest_fall(found), [largest_fall(one) for one in drawn], len(labels), 2)
    dip = Part(names[1], largest_fall(found), low, high, len(labels), "sentences", float(np.quantile(null, 0.975)))
    return [correlation, dip]


def largest_fall(course: Array) -> float:
    """Largest fall of all rows together between neighbouring points; below 0 where one always rises.

    >>> largest_fall(np.array([[0.0, 0.5, 0.25, 0.5], [0.0, 0.5, 0.125, 0.5]]))
    0.25
    """
    return max(float((before - after).min()) for before, after in pairwise(course.T))


def feature_labels(ids: Sequence[str], corpus: str) -> NDArray[np.bool_]:
    """Whether each sentence has the feature. Raises InputError where ids do not say, or all say the same.

    >>> feature_labels(["a.past:x", "b.present:y"], "").tolist()
    [True, False]
    """
    labels = np.array([name.partition(":")[0].rpartition(".")[2] == FEATURE for name in ids])
    if labels.all() or not labels.any():
        raise InputError(
            f"{corpus}: its ids do not tell sentences of the {FEATURE} from others; they are NAME.FEATURE:…"
        )
    return labels


@lru_cache(8)
def _means(case: Case) -> NDArray[np.float32]:
    """[language, sentence, neuron] of one point."""
    return np.asarray(case.recorded().means, dtype=np.float32)


def _course(
    points: Sequence[NDArray[np.float32]], labels: NDArray[np.bool_], train: NDArray[np.intp], test: NDArray[np.intp]
) -> Array:
    """[overlap and transfer, point]: means over ordered pairs of languages."""
    return np.array([probed(means, labels, train, test) for means in points]).T


def probed(
    means: NDArray[np.float32], labels: NDArray[np.bool_], train: NDArray[np.intp], test: NDArray[np.intp]
) -> tuple[float, float]:
    """Share of probing neurons in common, and balanced accuracy of a language's probe in another, over ordered pairs.

    Neurons are standardised in each language on the training half; weights are differences of means of the top share by
    absolute size (naive Bayes with one variance), and the threshold lies at 0.
    """
    probes: list[NDArray[np.float32]] = []
    scaled: list[NDArray[np.float32]] = []
    count = max(1, round(SHARE * means.shape[2]))
    for own, told in zip(means, labels):
        centre, spread = own[train].mean(0), own[train].std(0)
        z = (own - centre) / np.where(spread > 0, spread, 1)
        yes, no = train[told[train]], train[~told[train]]
        weight = z[yes].mean(0) - z[no].mean(0) if len(yes) and len(no) else np.zeros(z.shape[1], np.float32)
        kept = np.argpartition(-np.abs(weight), count - 1)[:count]
        probe = np.zeros_like(weight)
        probe[kept] = weight[kept]
        middle = (z[yes].mean(0) + z[no].mean(0)) / 2 if len(yes) and len(no) else np.zeros_like(weight)
        probes.append(probe)
        scaled.append(z[test] - middle)
    overlap: list[float] = []
    right: list[float] = []
    for a, b in permutations(range(len(probes)), 2):
        overlap.append(float(((probes[a] != 0) & (probes[b] != 0)).sum()) / count)
        told = labels[b][test]
        said = scaled[b] @ probes[a] > 0
        sides = [said[told].mean() if told.any() else 0.5, (~said[~told]).mean() if (~told).any() else 0.5]
        right.append(float(np.mean(sides)))
    return float(np.mean(overlap)), float(np.mean(right))
