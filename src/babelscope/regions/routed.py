"""What the routers of a mixture did with parallel sentences: probabilities and choices, sentence by sentence.

L language · n sentence · M layer that is a mixture · E expert · K experts of a token
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from babelscope.models.routers import Scoring


@dataclass(frozen=True)
class Routing:
    """What the routers of a model did with parallel sentences."""

    languages: tuple[str, ...]
    ids: tuple[str, ...]
    layers: tuple[int, ...]
    """the model's layers that are mixtures"""
    probabilities: Float[Tensor, "L n M E"]
    """mean of p over a sentence's tokens; 0 for experts that a layer does not have"""
    choices: Float[Tensor, "L n M E"]
    """share of a sentence's tokens that were given to each expert; sums to K"""
    tokens: Int[Tensor, "L n"]
    experts: tuple[int, ...]
    """E of each layer, a class for skipping all of them counted"""
    units: tuple[int, ...]
    """F of each layer: neurons of one expert"""
    routed_experts: tuple[int, ...]
    """E of each layer without a class for skipping"""
    per_token: int
    """K"""
    hashed: tuple[int, ...]
    """layers whose experts follow from the token id alone: they are no part of any measure"""
    scoring: Scoring
    reproduced: bool
    """whether p reproduces the routing weights; else softmax was assumed"""

    @property
    def measured(self) -> list[int]:
        """Places of the layers whose routers choose by what they read."""
        return [place for place, layer in enumerate(self.layers) if layer not in self.hashed]

    def language_probabilities(self) -> Float[Tensor, "L M E"]:
        """q of each language: the mean of p over all its tokens."""
        return _token_means(self.probabilities, self.tokens)

    def routed_tokens(self) -> Float[Tensor, "L M E"]:
        """c: how many of a language's tokens every expert was given."""
        return torch.einsum("lnme,ln->lme", self.choices.double(), self.tokens.double())

    def language_choices(self) -> Float[Tensor, "L M E"]:
        """f of each language: the share of its tokens that each expert was given; sums to K."""
        return _token_means(self.choices, self.tokens)


def _token_means(values: Float[Tensor, "L n M E"], tokens: Int[Tensor, "L n"]) -> Float[Tensor, "L M E"]:
    weights = tokens.double()
    return torch.einsum("lnme,ln->lme", values.double(), weights / weights.sum(1, keepdim=True))
