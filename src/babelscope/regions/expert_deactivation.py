"""Switching off whole experts of a mixture, in three ways that differ in what becomes of their tokens.

`drop`: the expert's weight is 0 and nothing takes its place. `drop-renormalised`: a token's other experts take over its
weight. `reroute`: the expert cannot be chosen, so that the router chooses another.

K experts of a token · E expert
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from babelscope.errors import EditNeverFired, InputError
from babelscope.models import Model, Site, edit
from babelscope.models.experts import attach
from babelscope.models.routers import FORBIDDEN

Way = Literal["drop", "drop-renormalised", "reroute"]
WAYS: tuple[Way, ...] = ("drop", "drop-renormalised", "reroute")


@dataclass
class Dropped:
    """What happened to tokens while experts were off."""

    passes: int = 0
    without_expert: int = 0
    """(token, layer) pairs, padding included, all of whose experts were off: the layer's routed output is 0 there"""
    still_used: int = 0
    """choices of an expert that is off with a weight other than 0: none, or the deactivation failed"""


@contextmanager
def without_experts(model: Model, experts: Mapping[int, Collection[int]], way: Way = "drop") -> Generator[Dropped]:
    """Inside, the `experts` of each layer take no part in any pass.

    Raises InputError for a layer that is no mixture, an expert that it does not have, or too few experts left to
    choose from; EditNeverFired where no pass was run, or where an expert was used nevertheless.

    >>> with without_experts(model, {2: [0, 5]}, "reroute"):          # doctest: +SKIP
    ...     model.trunk(ids)
    """
    if way not in WAYS:
        raise InputError(f"no way {way!r} to switch experts off; there are {', '.join(WAYS)}")
    masks = {layer: _mask(model, layer, chosen) for layer, chosen in experts.items() if len(chosen)}
    told = Dropped()
    with ExitStack() as stack:
        if way == "reroute":
            changes = {Site("router", layer): partial(_forbid, mask) for layer, mask in masks.items()}
            stack.enter_context(edit(model, changes, exclusive=True))
        for layer, mask in masks.items():
            change = partial(_without, told, mask, way)
            stack.callback(attach(model.mixtures[layer], choose=change).remove)
        yield told
    if masks and told.passes == 0:
        raise EditNeverFired("experts were switched off, but no pass was run")
    if told.still_used:
        raise EditNeverFired(f"experts that were switched off were used {told.still_used} times")


def _mask(model: Model, layer: int, chosen: Collection[int]) -> Bool[Tensor, " E"]:
    mixture = model.mixtures.get(layer)
    if mixture is None:
        raise InputError(f"layer {layer} of {model.id} is no mixture of experts")
    wrong = [expert for expert in chosen if not 0 <= expert < mixture.count]
    if wrong:
        raise InputError(f"layer {layer} of {model.id} has experts 0 to {mixture.count - 1}, not {wrong[0]}")
    if len(set(chosen)) == mixture.count:
        raise InputError(f"layer {layer} of {model.id}: all {mixture.count} experts cannot be off")
    mask = torch.zeros(mixture.count, dtype=torch.bool)
    mask[list(chosen)] = True
    return mask


def _forbid(mask: Bool[Tensor, " E"], logits: Float[Tensor, "B T classes"]) -> Tensor:
    # a class for skipping all experts stays open
    off = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    off[: len(mask)] = mask
    return logits.masked_fill(off, FORBIDDEN)


def _without(
    told: Dropped,
    mask: Bool[Tensor, " E"],
    way: Way,
    index: Int[Tensor, "tokens K"],
    weights: Float[Tensor, "tokens K"],
) -> tuple[Tensor, Tensor]:
    off = mask.to(index.device)[index.clamp(max=len(mask) - 1)] & (index < len(mask))
    told.passes += 1
    if way == "reroute":
        # a correction bias may still choose an expert whose score is 0; its weight then is 0
        told.still_used += int((off & (weights != 0)).sum())
        return index, weights
    kept = weights.masked_fill(off, 0)
    told.without_expert += int(off.all(1).sum())
    if way == "drop-renormalised":
        left = kept.sum(1, keepdim=True)
        kept = torch.where(left > 0, kept * weights.sum(1, keepdim=True) / left, 0)
    return index, kept


def matched_experts(
    choices: Float[Tensor, "M E"], layer: int, experts: Collection[int], draws: int, seed: int = 0
) -> list[list[int]]:
    """For each draw, other experts of a layer in place of `experts`: as near in how often they are chosen as there are.

    `choices` is f over all languages. Of the three experts nearest in f to each, one is drawn, none twice.
    """
    generator = torch.Generator().manual_seed(seed)
    f = choices[layer]
    found: list[list[int]] = []
    for _ in range(draws):
        taken = set(experts)
        drawn: list[int] = []
        for expert in experts:
            free = [other for other in range(len(f)) if other not in taken]
            free.sort(key=lambda other: abs(float(f[other] - f[expert])))
            if not free:
                break
            one = free[int(torch.randint(0, min(3, len(free)), (1,), generator=generator))]
            taken.add(one)
            drawn.append(one)
        found.append(drawn)
    return found
