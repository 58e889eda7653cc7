"""A claim's question put to a model and data: the original, or its twin.

The twin of a case destroys what the claim is about and leaves all else: labels permuted within sentences, ids permuted
within languages, first and last point of a sweep exchanged on half of the items.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babelscope.corpora import ParallelCorpus, load_corpus
from babelscope.errors import InputError
from babelscope.evaluation.items import ClozeStory, load_stories
from babelscope.models import Model, load_model
from babelscope.regions.recording import Recording, record

CORPUS_TWINS = ("labels", "ids")
"""twins whose sentences are other ones"""


@dataclass(frozen=True)
class Case:
    """Models, data, sizes and seed of one side of a replication."""

    models: tuple[str, ...]
    """one model, or the points of a sweep in order, first to last"""
    corpus: str
    texts: str
    """running text for perplexity"""
    n: int = 60
    """parallel sentences (prompts for circuits, concepts for the lens, pairs of prompts for patching)"""
    seed: int = 0
    draws: int = 40
    """of each control"""
    bootstrap: int = 500
    tokens: int = 512
    """of running text per language"""
    window: int = 64
    """tokens of a window of running text"""
    twin: str = ""
    """what is destroyed; empty: nothing"""
    languages: tuple[str, ...] = ()
    """of the corpus; empty: all that it has"""
    weight_hash: str = ""
    """of the run that the case is taken from; empty: of none"""
    stories: str = "pocket:"
    """of the cross-lingual story cloze"""

    def sentences(self) -> ParallelCorpus:
        """The parallel sentences, in the twin with what it destroys destroyed."""
        corpus = load_corpus(self.corpus, list(self.languages) or None).sample(self.n, self.seed)
        if self.twin == "labels":
            return permuted_labels(corpus, self.seed)
        return permuted_ids(corpus, self.seed) if self.twin == "ids" else corpus

    def told(self, languages: Sequence[str] | None = None) -> dict[str, Sequence[ClozeStory]]:
        """The stories that every language tells, n of each where they are the package's own.

        Raises InputError where there is none.
        """
        spec = f"{self.stories}?n={self.n}" if self.stories == "pocket:" else self.stories
        found = load_stories(spec, list(languages) if languages else list(self.languages) or None)
        common = set.intersection(*({story.id for story in own} for own in found.values()))
        if not common:
            raise InputError(f"{spec}: no story is told in all of {', '.join(found)}")
        return {code: [story for story in own if story.id in common] for code, own in found.items()}

    def loaded(self) -> Model:
        """The case's model. Raises InputError where it has several, or other weights than the run it is taken from."""
        if len(self.models) != 1:
            raise InputError(f"this claim takes one model, not {len(self.models)}")
        model = named_model(self.models[0])
        if self.weight_hash and model.weight_hash != self.weight_hash:
            raise InputError(f"{self.models[0]} has other weights than the run was made with")
        return model

    def recorded(self, activity: bool = False) -> Recording:
        """The sentences in the model; claims that ask for the same recording, one after the other, share it."""
        self.loaded()
        key = replace(
            self, twin=self.twin if self.twin in CORPUS_TWINS else "", draws=0, bootstrap=0, tokens=0, window=0
        )
        return _recorded(replace(key, texts="", stories=""), activity)

    def halves(self, items: int) -> list[tuple[float, NDArray[np.intp]]]:
        """Weights and items of a change from the first point of a sweep to the last: all items, with weight 1.

        In the twin first and last are exchanged on a random half of the items, so that what grows cancels out while
        models, items and noise stay: half the change of the one half minus half that of the other.
        """
        if self.twin != "order":
            return [(1.0, np.arange(items))]
        order = np.random.default_rng([self.seed, items]).permutation(items)
        return [(0.5, np.sort(order[: items // 2])), (-0.5, np.sort(order[items // 2 :]))]


@lru_cache(2)
def _recorded(case: Case, activity: bool) -> Recording:
    return record(case.loaded(), case.sentences(), activity=activity)


@lru_cache(1)
def named_model(name: str) -> Model:
    """A model by name, folder or `pocket:NAME`, with `@REVISION` after it for a checkpoint; the last one is kept."""
    hub, at, revision = name.partition("@")
    if not at or name.startswith("pocket:") or Path(name).exists():
        return load_model(name)
    return load_model(hub, revision)


def permuted_labels(corpus: ParallelCorpus, seed: int) -> ParallelCorpus:
    """The same sentences with the labels of the languages permuted within each."""
    rng = random.Random(f"labels {seed}")
    texts: dict[str, list[str]] = {code: [] for code in corpus.languages}
    for place in range(len(corpus)):
        order = rng.sample(corpus.languages, len(corpus.languages))
        for code, other in zip(corpus.languages, order):
            texts[code].append(corpus.texts[other][place])
    made = ParallelCorpus.from_texts(texts, ids=corpus.ids, spec=f"{corpus.spec} with labels permuted")
    return replace(made, groups=corpus.groups)


def permuted_ids(corpus: ParallelCorpus, seed: int) -> ParallelCorpus:
    """The same sentences with their order permuted in each language, so that no two are translations."""
    rng = random.Random(f"ids {seed}")
    texts = {code: rng.sample(corpus.texts[code], len(corpus)) for code in corpus.languages}
    return ParallelCorpus.from_texts(texts, ids=corpus.ids, spec=f"{corpus.spec} with ids permuted")


__all__ = ["Case", "named_model", "permuted_ids", "permuted_labels"]
