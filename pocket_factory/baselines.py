"""Count models to compare the pocket family with: how far word frequencies, and pairs of words, go by themselves.

V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from babelscope.pocket.evaluate import PERPLEXITY_KINDS
from babelscope.pocket.heldout import examples
from babelscope.pocket.models import get, path
from babelscope.pocket.scoring import Scorer, perplexity
from pocket_factory.corpus import MIX, iter_documents

FITTED = 4000
"""training documents of each language that the count models are fitted on"""
DOCUMENTS = 60
"""held-out texts of each kind"""
ADDED = 0.1
"""count added to every word, so that none is impossible"""
DISCOUNT = 0.75
"""taken from every seen pair and given to the unseen ones (absolute discounting)"""


class CountModels:
    """A unigram and an interpolated bigram model of token ids, fitted on documents of one language.

    p(w) = (c(w) + a) / (N + aV); p(w | v) = max(c(vw) − D, 0) / c(v) + D·n(v) / c(v) · p(w), where n(v) is the number
    of different words seen after v (Ney, Essen & Kneser 1994, with the plain unigram below).
    """

    def __init__(self, documents: Sequence[Sequence[int]], words: int) -> None:
        self.words = words
        before = np.concatenate([np.asarray(row[:-1], dtype=np.int64) for row in documents])
        after = np.concatenate([np.asarray(row[1:], dtype=np.int64) for row in documents])
        frequencies = np.bincount(after, minlength=words) + ADDED
        self.unigram = np.asarray(frequencies / frequencies.sum(), dtype=np.float64)
        self._pairs, self._counts = np.unique(before * words + after, return_counts=True)
        self._history = np.bincount(before, minlength=words)
        self._kinds = np.bincount(self._pairs // words, minlength=words)

    def unigram_losses(self, row: Sequence[int]) -> NDArray[np.float64]:
        """−log p(w) of every token but the first, in nats."""
        return -np.log(self.unigram[np.asarray(row[1:])])

    def bigram_losses(self, row: Sequence[int]) -> NDArray[np.float64]:
        """−log p(w | v) of every token but the first, in nats."""
        before, after = np.asarray(row[:-1], dtype=np.int64), np.asarray(row[1:], dtype=np.int64)
        place = np.minimum(np.searchsorted(self._pairs, before * self.words + after), len(self._pairs) - 1)
        seen = np.where(self._pairs[place] == before * self.words + after, self._counts[place], 0)
        history = np.maximum(self._history[before], 1)
        backed = np.where(self._history[before] > 0, DISCOUNT * self._kinds[before] / history, 1.0)
        return -np.log(np.maximum(seen - DISCOUNT, 0) / history + backed * self.unigram[after])


def print_baselines(name: str) -> None:
    """A line per language: perplexity and its interval of a unigram and of a bigram model with this model's tokens."""
    scorer = Scorer(path(name))
    for language in get(name).shares:
        texts = [example.text for kind in PERPLEXITY_KINDS for example in examples(language, kind)[:DOCUMENTS]]
        fitted = [document.text for document in islice(iter_documents({language: 1.0}, mix=MIX), FITTED)]
        rows, counts = scorer.rows(texts), CountModels(scorer.rows(fitted), scorer.words)
        for kind, losses in {"unigram": counts.unigram_losses, "bigram": counts.bigram_losses}.items():
            found = perplexity([losses(row) for row in rows], texts)
            print(f"{language} {kind}: {found.perplexity:.2f} ({found.low:.2f}-{found.high:.2f}), {len(texts)} texts")
