"""Recordings too large for memory and disk: means are computed anew, block of neurons by block of neurons.

n sentences of L languages and D neurons are 4 n L D bytes: 18 GB for a mixture with five million neurons. Instead, a
block is what fits a budget; asking for another block makes another pass over the corpus.

L language · n sentence · D neuron · C neurons of a block
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.localisation import check_threshold, standard_scores
from babelscope.regions.recording import Recording

BUDGET = 2**29
"""bytes of a block"""

Pass = Callable[[slice], Float[np.ndarray, "L n C"]]
"""the means of some neurons, from a pass over the corpus"""


class RecomputedMeans:
    """Stands for an array [L, n, D] of which one block exists at a time; read it in order, or it is made many times.

    >>> means = RecomputedMeans((2, 3, 8), lambda columns: np.ones((2, 3, columns.stop - columns.start), np.float32))
    >>> means[:, :, slice(2, 5)].shape, means.passes
    ((2, 3, 3), 1)
    """

    def __init__(self, shape: tuple[int, int, int], make: Pass, budget: int = BUDGET) -> None:
        self.shape, self.dtype, self._make = shape, np.dtype(np.float32), make
        self.width = min(shape[2], budget // (self.dtype.itemsize * shape[0] * shape[1]))
        if self.width < 1:
            raise InputError(f"a budget of {budget} bytes does not hold one neuron of {shape[0] * shape[1]} sentences")
        self.passes = 0
        self._start, self._block = -1, np.empty((0,), np.float32)

    def __getitem__(self, key: tuple[Any, Any, slice]) -> Float[np.ndarray, "L n C"]:
        start, stop, step = key[2].indices(self.shape[2])
        if step != 1:
            raise InputError("blocks of neurons are read without gaps")
        parts: list[np.ndarray] = []
        while start < stop:
            first = start // self.width * self.width
            self._load(first)
            last = min(stop, first + self.width)
            parts.append(self._block[:, :, start - first : last - first])
            # a part of the block that is given up below must not keep it in memory
            parts[-1] = parts[-1] if last == stop and len(parts) == 1 else parts[-1].copy()
            start = last
        whole = parts[0] if len(parts) == 1 else np.concatenate([*parts] or [self._block[:, :, :0]], axis=2)
        return whole[key[0], key[1]]

    def _load(self, first: int) -> None:
        if first == self._start:
            return
        # the old block goes before the new one comes
        self._start, self._block = first, np.empty((0,), np.float32)
        self._block = self._make(slice(first, min(first + self.width, self.shape[2])))
        self.passes += 1


def scores_in_blocks(
    recording: Recording, threshold: float = 2.0
) -> tuple[Float[Tensor, "L D"], Float[Tensor, "L D"], Bool[Tensor, "L D"]]:
    """Within-language scores (eq. 11), their z (eq. 12–14) and regions, in float32 and bool: 9 bytes for each entry.

    Two sweeps over the neurons: norms, then scores; each is worked out in float64. Raises UnattainableThreshold.
    """
    languages, n = len(recording.languages), len(recording.ids)
    check_threshold(threshold, languages)
    scores, z = (torch.empty(languages, recording.neurons) for _ in range(2))
    regions = torch.empty(languages, recording.neurons, dtype=torch.bool)
    for block, x in recording.unit_chunks():
        one = (x.sum(1).square() - x.square().sum(1)) / (n * (n - 1))
        scores[:, block] = one.float()
        standard = standard_scores(one)
        z[:, block], regions[:, block] = standard.float(), standard > threshold
    return scores, z, regions
