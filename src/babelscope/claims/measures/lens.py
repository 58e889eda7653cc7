"""What claims about latent languages measure: a language's own words, over other words and prompts.

Concepts are resampled. The excess holds word frequency exactly (the same tokens on other prompts are taken off); the
control is the 97.5 % point of the same number with each concept's word taken from another concept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from babelscope.claims.case import Case, named_model
from babelscope.claims.verdict import Part, mean_part, unread
from babelscope.corpora import load_corpus
from babelscope.latent.census import keep
from babelscope.latent.excess import excess
from babelscope.latent.inference import derangements
from babelscope.latent.lens import items_of, read, solved, states
from babelscope.latent.prompts import sentence_prompts, word_prompts
from babelscope.latent.tokens import token_sets
from babelscope.latent.verdict import LEAST_ACCURACY
from babelscope.latent.words import load_words
from babelscope.stats import wilson

PIVOT, TARGET = "en", "zh"
LEAST_CONCEPTS = 10


def two_latent(case: Case) -> list[Part]:
    """Excess of the English word in the middle layers of every model but the last, where it is awaited, and of the last
    one, where it is not (`equal`)."""
    *trained, plain = case.models
    count = len(case.models)
    found = [_middle(model, case, f"model {place + 1}", count) for place, model in enumerate(trained)]
    return [*found, _middle(plain, case, "last model", count)]


def _middle(model: str, case: Case, name: str, parts: int) -> Part:
    found = _lens(model, case)
    layers = middle_layers(len(found.english) - 1)
    null = np.stack([np.nanmean(found.moved(PIVOT, order)[layers]) for order in found.orders[:-1]])
    return _part(name, found.english[layers].mean(0), null, parts, why=found.unsolved)


def english_pivot(case: Case) -> list[Part]:
    """Excess of the English word minus that of the target word (translation from a third language), in the middle
    layers and at the last one (`less`).

    Control in the middle: English words of other concepts; at the last layer: target words of other concepts.
    """
    found = _lens(case.models[0], case)
    parts: list[Part] = []
    last = len(found.english) - 1
    for name, layers, moved in (("middle", middle_layers(last), PIVOT), ("last", [last], TARGET)):
        values = (found.english - found.target)[layers].mean(0)
        null: list[float] = []
        for order in found.orders[:-1]:
            other = found.moved(moved, order)
            difference = other - found.target if moved == PIVOT else found.english - other
            null.append(float(np.nanmean(difference[layers])))
        parts.append(_part(name, values, np.array(null), 2, name == "last", found.unsolved))
    return parts


def middle_layers(last: int) -> list[int]:
    """Layers between the first third and the last layer, those the words may pass through.

    >>> middle_layers(4), middle_layers(6)
    ([2, 3], [3, 4])
    """
    third = max(1, last // 3)
    return list(range(third + 1, last - third + 1))


def _part(name: str, values: np.ndarray, null: np.ndarray, parts: int, less: bool = False, why: str = "") -> Part:
    concepts = len(values)
    if concepts < LEAST_CONCEPTS:
        why = f"precondition: {concepts} concepts can be compared, {LEAST_CONCEPTS} are needed"
    if why:
        return unread(name, concepts, "concepts", why)
    return mean_part(name, values, "concepts", parts, float(np.quantile(null, 0.025 if less else 0.975)), (-2.0, 2.0))


@dataclass(frozen=True)
class _Lens:
    """Excess by layer and concept, of concepts that have both; in the twin English words are of other concepts."""

    english: np.ndarray
    target: np.ndarray
    orders: np.ndarray
    q: Mapping[str, np.ndarray]
    comparable: Mapping[str, np.ndarray]
    used: np.ndarray
    unsolved: str
    """why nothing can be read: the words asked for are not given often enough"""

    def moved(self, code: str, order: np.ndarray) -> np.ndarray:
        """Excess of a language with each concept's word taken from another."""
        return excess(self.q[code][:, :, order], self.comparable[code][:, order]).value[:, self.used]


def english_mass(case: Case) -> Part:
    """Excess of the English word in the middle layers of translated sentences (French to Chinese), words of the pocket
    lexicon; control: English words of other concepts. In the twin they are."""
    found = _lens(case.models[0], replace(case, twin="concepts" if case.twin else ""), sentences=True)
    layers = middle_layers(len(found.english) - 1)
    null = np.stack([np.nanmean(found.moved(PIVOT, order)[layers]) for order in found.orders[:-1]])
    return _part("English mass", found.english[layers].mean(0), null, 2)


def _lens(name: str, case: Case, sentences: bool = False) -> _Lens:
    model = named_model(name)
    words = load_words("pocket" if sentences else case.corpus)
    source = "fr" if sentences else next(code for code in words.languages if code not in (PIVOT, TARGET))
    if sentences:
        prompts = sentence_prompts(words, load_corpus(case.corpus), source, TARGET, draws=1, seed=case.seed)
    else:
        prompts = word_prompts(words, "translation", source, TARGET, seed=case.seed)[: case.n]
    tokens = token_sets(model, words, prompts, [source, TARGET, PIVOT])
    hidden = states(model, [prompt.text for prompt in prompts])
    items = items_of(prompts, tokens)
    readings = read(model, hidden, items, tokens)
    right = solved(readings, items, tokens, TARGET)
    least = wilson(int(right.sum()), len(right)).low
    unsolved = "" if least >= LEAST_ACCURACY else f"precondition: accuracy may be as low as {least:.2f}"
    comparable = {code: keep(words, tokens, source, TARGET, code).comparable for code in (PIVOT, TARGET)}
    orders = derangements(len(tokens.concepts), case.draws + 1, case.seed)
    found = {code: excess(readings.q[code], comparable[code]).value for code in (PIVOT, TARGET)}
    if case.twin == "concepts":
        found[PIVOT] = excess(readings.q[PIVOT][:, :, orders[-1]], comparable[PIVOT][:, orders[-1]]).value
    used = np.asarray(~np.isnan(found[PIVOT]).any(0) & ~np.isnan(found[TARGET]).any(0))
    return _Lens(found[PIVOT][:, used], found[TARGET][:, used], orders, readings.q, comparable, used, unsolved)
