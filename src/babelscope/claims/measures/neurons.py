"""What claims about single neurons measure: who shares those that single out a language, or predict a concept.

Activations are means over a sentence's tokens. How well a neuron tells sentences apart is a share of pairs put in the
right order (area under the curve) or average precision; the top share of all neurons counts as those that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from babelscope.claims.case import Case
from babelscope.claims.measures.sweeps import of_items, recorded_ends
from babelscope.claims.verdict import Part, mean_part, same_point, spread_ends, unread
from babelscope.corpora import ParallelCorpus, load_corpus
from babelscope.latent.prompts import said_in
from babelscope.latent.words import load_words
from babelscope.models import Model
from babelscope.regions import generation
from babelscope.regions.masks import RegionSet, random_region_by_layer
from babelscope.regions.methods import localise
from babelscope.regions.recording import Recording
from babelscope.regions.treatments import Treatment

Array = NDArray[np.float64]
SHARE = 0.01
"""of all neurons: fewer than one in a hundred are tampered with"""
DRAWS = 8
"""resampled sets of sentences"""
RANDOM = 2
"""sets of random neurons that are set to the values of a language"""
PROMPT, WRITTEN = 5, 12
"""tokens of a prompt, and of what is written after it"""
LEAST_SENTENCES = 8
"""that have a concept, and that have it not"""
CONCEPTS = 40
"""the most frequent ones"""

# -- neurons of a language -----------------------------------------------------------------------------------------


def few_shared(case: Case) -> list[Part]:
    """Share of a language's neurons (by average precision) that another has too, with its sign turned (`not less`: at
    most the least effect are shared); how much larger the share is that the other half of the sentences finds again;
    and how much more often what is written after prompts of other languages is in the language to whose medians its
    neurons are set.

    Controls: random neurons of the same layers and number (of the first their share is printed beside: as few are
    shared by sets that single out nothing, which the second tells apart); of the third at their own medians, the
    largest of the draws. Sentences, and prompts, are the units.
    """
    model, recording = case.loaded(), case.recorded()
    regions = _singling_out(recording)
    rng = np.random.default_rng(case.seed)
    whole = [_singling_out(of_items(recording, rng.integers(0, case.n, case.n))) for _ in range(DRAWS)]
    order = rng.permutation(case.n)
    halves = order[: case.n // 2], order[case.n // 2 :]
    first, second = (_singling_out(of_items(recording, half)) for half in halves)
    again = [
        found_again(*(_singling_out(of_items(recording, rng.choice(half, len(half)))) for half in halves))
        for _ in range(DRAWS)
    ]
    random = [_random_sets(regions, model.widths, case.seed + draw) for draw in range(case.draws)]
    by_chance = [-_shared(one) for one in random]
    found_by_chance = [found_again(one, other) for one, other in pairwise(random)] or [float("nan")]
    return [
        _of_sets("overlap", -_shared(regions), [-_shared(one) for one in whole], by_chance, (-1.0, 0.0), case),
        _of_sets("own half", found_again(first, second), again, found_by_chance, (-1.0, 1.0), case),
        _written(model, regions, case),
    ]


PARTS = 3


def _of_sets(
    name: str, estimate: float, drawn: Sequence[float], null: Sequence[float], within: tuple[float, float], case: Case
) -> Part:
    """A share with its interval over resampled sentences. Where it is the same in every draw, a share of all sentences
    may be others, at worst at a bound."""
    low, high = spread_ends(estimate, drawn, case.n, PARTS)
    if np.isnan(low):
        others = 1 - (0.025 / PARTS) ** (1 / case.n)
        low, high = estimate - others * (estimate - within[0]), estimate + others * (within[1] - estimate)
    return Part(name, estimate, low, high, case.n, "sentences", float(np.quantile(null, 0.975)))


def _singling_out(recording: Recording) -> RegionSet:
    return localise(recording, "average-precision", share=SHARE)


def _random_sets(regions: RegionSet, widths: Sequence[int], seed: int) -> RegionSet:
    """As many random neurons of each layer as each language has."""
    drawn = {
        code: random_region_by_layer(sizes, widths, seed * len(regions.masks) + place)
        for place, (code, sizes) in enumerate(regions.by_layer().items())
    }
    return replace(regions, masks=drawn)


def _shared(regions: RegionSet) -> float:
    """Mean over ordered pairs of languages of the share of one's neurons that are the other's too."""
    masks = [regions[code] for code in regions.languages]
    return float(np.mean([_in_common(a, b) for a, b in permutations(masks, 2)]))


def found_again(first: RegionSet, second: RegionSet) -> float:
    """Mean share of a language's neurons that a second set gives it too, minus the mean share given to others."""
    codes = first.languages
    own = np.mean([_in_common(first[code], second[code]) for code in codes])
    return float(own - np.mean([_in_common(first[a], second[b]) for a, b in permutations(codes, 2)]))


def _in_common(mask: Tensor, other: Tensor) -> float:
    return float((mask & other).sum()) / float(mask.sum())


def _written(model: Model, regions: RegionSet, case: Case) -> Part:
    name = "language written"
    recording = replace(case, twin="").recorded()
    codes = regions.languages
    found = [np.median(np.asarray(recording.means[place]), axis=0) for place in range(len(codes))]
    medians = [recording.layout.by_layer(torch.as_tensor(row), 0.0) for row in found]
    prompts = {code: _beginnings(model, case, code) for code in codes}
    conditions: list[tuple[str, int, Treatment | None]] = [(generation.BASE, -1, None)]
    for code, values in zip(codes, medians):
        conditions.append((code, -1, Treatment(regions[code], values)))
        sizes = regions[code].sum(1).tolist()
        conditions += [
            (code, draw, Treatment(random_region_by_layer(sizes, model.widths, case.seed + draw), values))
            for draw in range(RANDOM)
        ]
    rows = generation.generations(model, prompts, conditions, generation.Sampling(WRITTEN, seed=case.seed), codes)
    told = {(one.language, one.prompt, one.deactivated, one.draw): one.identified for one in rows}
    keys = sorted({(one.language, one.prompt) for one in rows})

    def gains(draw: int) -> Array:
        """By prompt, over the languages that it is not in: is the text in the wanted language, minus was it before?"""
        found: list[float] = []
        for key in keys:
            before = told[*key, generation.BASE, -1]
            moved = [(told[*key, code, draw] == code) - (before == code) for code in codes if code != key[0]]
            found.append(sum(moved) / len(moved))
        return np.array(found)

    control = max(float(gains(draw).mean()) for draw in range(RANDOM))
    return mean_part(name, gains(-1), "prompts", PARTS, control, (-1.0, 1.0))


def _beginnings(model: Model, case: Case, code: str) -> Tensor:
    texts = load_corpus(case.corpus, [code]).sample(case.n, case.seed + 1).texts[code]
    return generation.cut_prompts(model, texts, PROMPT, max(2, case.n // 16))


# -- neurons of a concept ------------------------------------------------------------------------------------------


def concept_overlap(case: Case) -> list[Part]:
    """Share of the neurons that predict a concept in one language that predict it in another, minus that of other
    concepts' neurons (those that fire for everything), last point minus first. Concepts are the unit.

    Control: 97.5 % point with concept labels permuted, alike in all languages and points. Twin: permuted in each
    language by itself.
    """
    name = "overlap"
    if case.models[0] == case.models[-1]:
        return [same_point(name, case.n, "sentences")]
    points = [_ranks(recording) for recording in recorded_ends(case)]
    labels = concept_labels(replace(case, twin="").sentences())
    if len(labels) < LEAST_SENTENCES:
        why = f"precondition: {len(labels)} concepts occur in {LEAST_SENTENCES} sentences and are absent from as many"
        return [unread(name, len(labels), "concepts", why)]
    rng = np.random.default_rng(case.seed)
    languages = points[0].shape[0]
    per_language = [labels] * languages
    if case.twin == "labels":
        per_language = [labels[:, rng.permutation(labels.shape[1])] for _ in range(languages)]
    change = beyond_others(points[1], per_language) - beyond_others(points[0], per_language)
    null: list[float] = []
    for _ in range(max(8, case.draws // 4)):
        moved = [labels[:, rng.permutation(labels.shape[1])]] * languages
        null.append(float((beyond_others(points[1], moved) - beyond_others(points[0], moved)).mean()))
    return [mean_part(name, change, "concepts", 1, float(np.quantile(null, 0.975)), (-2.0, 2.0))]


def concept_labels(corpus: ParallelCorpus) -> NDArray[np.bool_]:
    """[concept, sentence]: whether the English text has the concept's word, of the more frequent concepts."""
    words = load_words("pocket" if corpus.spec.startswith("pocket") else "concepts", ["en"])
    rows = np.array([
        [said_in(text, concept.words.get("en", ()), "en") for text in corpus.texts["en"]] for concept in words.concepts
    ])  # fmt: skip
    count = rows.sum(1)
    usable = np.flatnonzero((count >= LEAST_SENTENCES) & (count <= rows.shape[1] - LEAST_SENTENCES))
    return rows[usable[np.argsort(-count[usable], kind="stable")][:CONCEPTS]]


def _ranks(recording: Recording) -> NDArray[np.float32]:
    """[language, sentence, neuron]: rank of each sentence's activation among those of its language; equal ones share
    their mean rank, so that a neuron that is silent everywhere predicts nothing, whatever the order of sentences."""
    return np.stack([rankdata(own, axis=0).astype(np.float32) for own in np.asarray(recording.means)])


def predictors(ranks: NDArray[np.float32], labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[concept, neuron]: the neurons with the greatest area under the curve for each concept, in one language.

    The mean rank of a concept's sentences orders neurons as the area does: both are linear in each other.
    """
    mean_rank = labels.astype(np.float32) @ ranks / labels.sum(1, keepdims=True)
    count = max(1, round(SHARE * ranks.shape[1]))
    places = np.argpartition(-mean_rank, count - 1, axis=1)[:, :count]
    chosen = np.zeros(mean_rank.shape, dtype=bool)
    np.put_along_axis(chosen, places, True, axis=1)
    return chosen


def beyond_others(ranks: NDArray[np.float32], labels: list[NDArray[np.bool_]]) -> Array:
    """By concept, mean over ordered pairs of languages: share of neurons in common, minus that with other concepts."""
    chosen = [predictors(one, own).astype(np.float32) for one, own in zip(ranks, labels)]
    size = float(chosen[0][0].sum())
    total = np.zeros(len(chosen[0]))
    pairs = list(permutations(range(len(chosen)), 2))
    for a, b in pairs:
        shared = (chosen[a] @ chosen[b].T).astype(np.float64) / size
        own = np.diag(shared)
        total += own - (shared.sum(1) - own) / (len(shared) - 1)
    return total / len(pairs)
