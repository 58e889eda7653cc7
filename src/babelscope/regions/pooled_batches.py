"""What a recording asks of the model: the sentences of a batch, pooled while it runs; a unit of work is a batch.

B batch · T position · D neurons of the whole model, layer-major
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from babelscope.models import Batch, Model, Site, capture
from babelscope.models.batches import halving
from babelscope.models.gelu import fused_gelu
from babelscope.models.hooks import hook_count
from babelscope.models.workers import Tell
from babelscope.regions.expert_pooling import mixtures_pooled
from babelscope.regions.pooling import Enough, Pool
from babelscope.regions.routing_recording import Passed, RoutingTally

Values = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Pooling:
    """How sentences are pooled."""

    sequences: Sequence[Sequence[int]]
    skipped: int
    """the first position that counts"""
    end: Int[Tensor, " rows"]
    """the position behind the last one that counts, by sentence"""
    activity: bool
    weighted: bool
    residual: bool
    """the stream before each block and behind the last, in the place of neurons"""


@dataclass(frozen=True)
class PooledBatch:
    """What is kept of a batch."""

    rows: tuple[int, ...]
    means: Float[Values, "B D"]
    first: Float[Values, "B D"]
    """what the first pooled token carries of each mean's square"""
    active: Float[Values, "B D"] | None
    """tokens with h > 0"""
    counts: Int[NDArray[np.int64], " B"]
    """tokens pooled"""
    routing: Passed | None
    per_token: int
    """experts of a token"""


class PooledBatches:
    """Work of `over_workers`: a batch by its rows, in several parts where it does not fit in memory at once."""

    def __init__(self, model: Model, asked: Pooling) -> None:
        self.model, self.asked = model, asked
        self.dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        # experts are pooled where they are computed, and their routers read in the same pass
        neurons = [Site("neurons", layer) for layer in model.neuron_layers if layer not in model.mixtures]
        stream = [Site("residual", layer) for layer in range(model.layers + 1)]
        self.sites = stream if asked.residual else neurons
        self.tally = RoutingTally(model, 0) if model.mixtures and not asked.residual else None
        self.last = _stopping_place(model, len(stream) if asked.residual else len(model.layout.with_neurons))

    def __call__(self, rows: tuple[int, ...], tell: Tell) -> list[PooledBatch]:
        found: list[PooledBatch] = []
        with torch.inference_mode(), fused_gelu(self.model):
            parts = halving(self.asked.sequences, rows, lambda batch: found.append(self._pooled(batch)),
                            self.model.device)  # fmt: skip
            for part in parts:
                tell(part)
        return found

    def _pooled(self, batch: Batch) -> PooledBatch:
        asked = self.asked
        weights = batch.mask.to(self.dtype)
        place = torch.arange(weights.shape[1], device=weights.device)
        weights *= (place >= asked.skipped) & (place < asked.end[list(batch.rows), None].to(weights.device))
        counts = weights.sum(1, keepdim=True)
        pool = Pool(weights, weights / counts, asked.activity, self.last, asked.skipped, asked.weighted)
        with suppress(Enough), capture(self.model, self.sites, keep=pool), self._experts(pool, weights):
            self.model.trunk(batch.ids, batch.mask)
        # one copy to the host for each kind of number
        kinds = [torch.cat(parts, dim=1).cpu() for parts in zip(*pool.parts)]
        return PooledBatch(
            batch.rows,
            kinds[0].numpy(),
            kinds[1].numpy(),
            kinds[2].float().numpy() if asked.activity else None,
            counts[:, 0].long().cpu().numpy(),
            None if self.tally is None else self.tally.passed,
            0 if self.tally is None else self.tally.per_token,
        )

    @contextmanager
    def _experts(self, pool: Pool, weights: Tensor) -> Generator[None]:
        if self.tally is None:
            yield
            return
        with self.tally.watch(weights), mixtures_pooled(self.model, pool.pairs, pool.beside, pool.done):
            yield


def _stopping_place(model: Model, layers: int) -> int | None:
    """Number of layers after which a pass may be broken off, or None where others watch or place the model's parts."""
    watched = hook_count(model.hf) > 0 or getattr(model.hf, "hf_device_map", None) is not None
    return None if watched else layers
