"""Neurons of experts pooled where they are computed: no [B, T, N] matrix of a layer is ever made.

A token leaves a trace in the K experts it was routed to; the mean of every other neuron over it is 0.

B batch · T position · E expert · F units of an expert · S (token, expert) pairs · N neurons of the layer
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from babelscope.models import Model
from babelscope.models.aside import Standing, standing
from babelscope.models.experts import Routed, attach
from babelscope.models.mixtures import Mixture

Reduced = tuple[Tensor, ...]
"""means, the first pooled token's part of v², and counts of h > 0 where they are wanted; [B, N] each"""


def pooled_pairs(
    pairs: Routed, weights: Float[Tensor, "B T"], shares: Float[Tensor, "B T"], first: int, activity: bool,
    weighted: bool = False,
) -> Reduced:  # fmt: skip
    """What a mean over tokens makes of routed neurons: the same as of the dense matrix with its zeros.

    `weights` are 1 for tokens that count, `shares` these over their number in the sentence; `first` is the position of
    the first that counts; `weighted` takes the neurons times their routing weight.
    """
    batch, length = shares.shape
    shares, weights = shares.to(pairs.values.device), weights.to(pairs.values.device)
    values = pairs.values.to(shares.dtype)
    if weighted:
        values = values * pairs.weights[:, None].to(shares.dtype)
    sentence, place = pairs.tokens // length, pairs.tokens % length
    rows = sentence * pairs.count + pairs.experts
    share = shares.flatten()[pairs.tokens]

    def summed(part: Tensor, where: Tensor) -> Tensor:
        return part.new_zeros(batch * pairs.count, part.shape[1]).index_add_(0, where, part).reshape(batch, -1)

    mean = summed(values * share[:, None], rows)
    # a batch may hold nothing at that position: its weight is 0 there
    opening = min(first, length - 1)
    there = place == opening
    beginning = mean * summed(values[there], rows[there]) * shares[:, opening : opening + 1]
    if not activity:
        return mean, beginning
    active = (values > 0).to(shares.dtype) * weights.flatten()[pairs.tokens][:, None]
    return mean, beginning, summed(active, rows)


@contextmanager
def mixtures_pooled(
    model: Model,
    pool: Callable[[Routed], Reduced],
    reduce: Callable[[Tensor], Reduced],
    done: Callable[[Reduced], None],
) -> Generator[None]:
    """Inside, `done` is told of every mixture a pass goes through, its parts in the order of the layer's neurons.

    `pool` reduces routed neurons, `reduce` the [B, T, N] of what stands beside them.
    """
    with ExitStack() as stack:
        for mixture in model.mixtures.values():
            together = _Together(mixture, done)
            stack.callback(attach(mixture, partial(_routed, together, pool)).remove)
            for part, columns in mixture.columns():
                hook = partial(_beside, together, columns.start, reduce, standing())
                stack.callback(part.projection.register_forward_pre_hook(hook).remove)
        yield


class _Together:
    """Hands on the parts of a layer as one once all are there."""

    def __init__(self, mixture: Mixture, done: Callable[[Reduced], None]) -> None:
        self.needed, self.done = 1 + len(mixture.parts), done
        self.parts: dict[int, Reduced] = {}

    def add(self, start: int, part: Reduced) -> None:
        self.parts[start] = part
        if len(self.parts) == self.needed:
            ordered = [self.parts[start] for start in sorted(self.parts)]
            self.parts.clear()
            self.done(tuple(torch.cat(columns, dim=1) for columns in zip(*ordered)))


def _routed(together: _Together, pool: Callable[[Routed], Reduced], pairs: Routed) -> None:
    together.add(0, pool(pairs))


def _beside(
    together: _Together, start: int, reduce: Callable[[Tensor], Reduced], owner: Standing,
    _: nn.Module, inputs: tuple[Tensor, ...],
) -> None:  # fmt: skip
    if standing() == owner:
        together.add(start, reduce(inputs[0]))
