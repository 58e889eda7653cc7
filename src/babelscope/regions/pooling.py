"""Each layer's neurons reduced to what a recording keeps, while the model runs.

B batch · T position · N neurons of one layer
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.models.experts import Routed
from babelscope.regions.expert_pooling import pooled_pairs


class Enough(Exception):
    """The last layer's neurons are read; nothing behind them is wanted."""


class Pool:
    """Reduces each layer's h [B, T, N] to its mean over tokens, the first pooled token's part of v², counts of h > 0.

    Layers come in their order; after `last` of them the pass is broken off.
    """

    def __init__(
        self,
        weights: Float[Tensor, "B T"],
        shares: Float[Tensor, "B T"],
        activity: bool,
        last: int | None,
        first: int,
        weighted: bool,
    ) -> None:
        self.weights, self.shares, self.activity, self.last, self.first = weights, shares, activity, last, first
        self.weighted = weighted
        self.parts: list[tuple[Tensor, ...]] = []

    def __call__(self, h: Tensor) -> Tensor:
        self.done(self._reduced(h))
        return self.parts[-1][0]

    def pairs(self, pairs: Routed) -> tuple[Tensor, ...]:
        """The same of routed experts."""
        return pooled_pairs(pairs, self.weights, self.shares, self.first, self.activity, self.weighted)

    def beside(self, h: Tensor) -> tuple[Tensor, ...]:
        """The same of shared experts, which may see tokens as one row."""
        return self._reduced(h.reshape(*self.shares.shape, -1))

    def done(self, part: tuple[Tensor, ...]) -> None:
        """Keep what a layer was reduced to."""
        self.parts.append(part)
        if len(self.parts) == self.last:
            raise Enough

    def _reduced(self, h: Tensor) -> tuple[Tensor, ...]:
        shares = self.shares.to(h.device)
        values = h.to(shares.dtype)
        mean = torch.bmm(shares[:, None], values)[:, 0]
        # a batch may hold nothing at that position: its weight is 0 there
        place = min(self.first, values.shape[1] - 1)
        first = mean * values[:, place] * shares[:, place : place + 1]
        if not self.activity:
            return mean, first
        active = torch.bmm(self.weights.to(h.device)[:, None], (values > 0).to(shares.dtype))[:, 0]
        return mean, first, active
