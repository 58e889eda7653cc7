"""Count models to compare the pocket family with: how far word frequencies, and pairs of words, go by themselves.

V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
