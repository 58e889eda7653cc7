"""What chance alone gives of everything that routing by language can show: labels of languages shuffled per sentence.

A draw gives each sentence's translations to the languages in a random order. With two languages the divergence of
translations is the same in every draw, since it is symmetric (the two-languages trap): only what is pooled over
sentences has a null there.

R draw · L language · n sentence · M layer · E expert
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.nulls import owners, permutations
from babelscope.regions.routed import Routing
from babelscope.regions.routing import (
    EXCLUSIVE,
    language_shares,
    pair_divergences,
    pooled_distance,
    reference_place,
    specialised,
)
from babelscope.stats import benjamini_hochberg

AT_ONCE = 50
"""draws whose sums are made by one product of matrices"""


@dataclass(frozen=True)
class RoutingNull:
    """Observed values stand beside those of the draws; draws are the first dimension."""

    pooled: Float[Tensor, "R M L"]
    """Jensen–Shannon divergence between the languages' mean routing, in nats"""
    same_sentence: Float[Tensor, "R M L"] | None
    """Div of translations; None with two languages, where it cannot move"""
    specialised: Int[Tensor, "R M"]
    """experts specialised in some language"""
    exclusive: Int[Tensor, "R M"]
    """experts that some language has for itself"""
    p: Float[Tensor, "L M E"]
    """of f − mean over languages: share of (draw, language) pairs, the observed counted in, that reach it; NaN in
    hashed layers and for experts that do not exist"""

    def chosen(self, rate: float = 0.05) -> Tensor:
        """Experts that a language is given more often than chance allows, at a false discovery rate. [L, M, E]"""
        known = self.p.isfinite()
        found = torch.zeros_like(known)
        found[known] = torch.from_numpy(benjamini_hochberg(self.p[known].numpy(), rate))
        return found


def routing_null(
    routing: Routing, reference: str, draws: int = 1000, seed: int = 0, documents: tuple[str, ...] = ()
) -> RoutingNull:
    """Shuffle the language labels of each sentence `draws` times and measure everything anew; alike in all sentences of
    one of the `documents`, where they are given.

    Raises InputError with one language, fewer than two sentences or no draw.
    """
    languages, n = len(routing.languages), len(routing.ids)
    if languages < 2 or n < 2 or draws < 1:
        raise InputError(f"a null needs two languages, two sentences and a draw; there are {languages}, {n}, {draws}")
    place = reference_place(routing, reference)
    permuted = permutations(draws, n, languages, seed, owners(documents))
    observed = routing.language_choices()
    effect = observed - observed.mean(0)
    reached = torch.ones_like(effect)  # the observed labelling is one of the draws
    reached += (_others(effect) >= _bound(effect)[None]).sum(0)
    pooled: list[Tensor] = []
    special: list[Tensor] = []
    exclusive: list[Tensor] = []
    for some in permuted.split(AT_ONCE):
        weights = _weights(some, routing.tokens)
        q = _relabelled(routing.probabilities, weights)
        f = _relabelled(routing.choices, weights)
        pooled.append(pooled_distance(q, routing, place))
        special.append(specialised(f, place).any(1).sum(-1))
        exclusive.append((language_shares(f).nan_to_num(0) >= EXCLUSIVE).any(1).sum(-1))
        drawn = (f - f.mean(1, keepdim=True)).flatten(0, 1)
        for language in range(languages):
            reached[language] += (drawn >= _bound(effect)[language]).sum(0)
    p = reached.double() / ((draws + 1) * languages)
    for layer, count in enumerate(routing.experts):
        p[:, layer, count:] = torch.nan
        if layer not in routing.measured:
            p[:, layer] = torch.nan
    return RoutingNull(
        torch.cat(pooled), _translations(routing, place, permuted), torch.cat(special), torch.cat(exclusive), p
    )


def _others(effect: Float[Tensor, "L M E"]) -> Float[Tensor, "L1 L M E"]:
    """The observed values of the other languages, set against each language's own."""
    languages = len(effect)
    return torch.stack([effect.roll(shift, 0) for shift in range(1, languages)])


def _bound(effect: Tensor) -> Tensor:
    # a hair below, so that equal values summed in another order count as equal
    return effect - 1e-9


def _weights(permuted: Int[Tensor, "R n L"], tokens: Int[Tensor, "L n"]) -> Float[Tensor, "R L items"]:
    """Weight of each (language, sentence) of the corpus in each relabelled language: its tokens over the language's."""
    draws, n, languages = permuted.shape
    items = permuted * n + torch.arange(n)[:, None]
    counts = tokens.double().flatten()[items].transpose(1, 2)
    weights = torch.zeros(draws, languages, languages * n, dtype=torch.float64)
    weights.scatter_(2, items.transpose(1, 2), counts)
    return weights / counts.sum(2, keepdim=True)


def _relabelled(values: Float[Tensor, "L n M E"], weights: Float[Tensor, "R L items"]) -> Float[Tensor, "R L M E"]:
    return (weights @ values.double().flatten(0, 1).flatten(1)).unflatten(2, values.shape[2:])


def _translations(routing: Routing, place: int, permuted: Int[Tensor, "R n L"]) -> Tensor | None:
    if len(routing.languages) < 3:
        return None
    pairs = pair_divergences(routing)
    sentences = torch.arange(len(routing.ids))
    own = permuted[:, :, place]
    found = [
        pairs[:, sentences, own, permuted[:, :, language]].nanmean(-1).T
        if language != place
        else torch.full((len(permuted), len(routing.layers)), torch.nan, dtype=torch.float64)
        for language in range(len(routing.languages))
    ]
    return torch.stack(found, dim=-1)
