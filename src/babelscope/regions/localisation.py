"""Which neurons serve one language: the paper's key linguistic regions (Zeng et al. 2024, section 3.3; eq. 10–14).

A neuron belongs to a language when its contribution to the similarity *within* that language stands out from its
contribution within the others. Everything here needs two sums per language and neuron, so a corpus of any size
streams through in O(language × neuron) memory.

L language · n sentence · D neuron
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError, UnattainableThreshold
from babelscope.regions.recording import Recording


@dataclass(frozen=True)
class WithinLanguageSums:
    """Sums over the sentences of each language of unit activation vectors x (eq. 6): all that the scores need."""

    total: Float[Tensor, "L D"]
    """Σ_s x_s"""
    squares: Float[Tensor, "L D"]
    """Σ_s x_s²"""
    sentences: int
    """n, the same for every language; at least 2"""


def within_language_sums(recording: Recording) -> WithinLanguageSums:
    """Σx and Σx² of each language and neuron, in float64, streamed over neurons.

    Raises InputError with fewer than two sentences: a similarity within a language needs a pair.
    """
    if len(recording.ids) < 2:
        raise InputError("a similarity within a language needs at least two sentences")
    parts = [(x.sum(1), x.square().sum(1)) for _, x in recording.unit_chunks()]
    total, squares = (torch.cat(column, dim=1) for column in zip(*parts))
    return WithinLanguageSums(total, squares, len(recording.ids))


def within_language_scores(sums: WithinLanguageSums) -> Float[Tensor, "L D"]:
    """Share of each neuron in the mean cosine similarity between two sentences of one language (eq. 11).

    The mean over all pairs in closed form: ((Σx)² − Σx²) / n(n−1). Summed over neurons it is that mean similarity.
    """
    n = sums.sentences
    return (sums.total.square() - sums.squares) / (n * (n - 1))


def standard_scores(scores: Float[Tensor, "L *shape"]) -> Float[Tensor, "L *shape"]:
    """z of each neuron across languages (eq. 12–14), population deviation; −∞ where a neuron does not vary.

    >>> standard_scores(torch.tensor([[1.0], [0.0], [0.0], [0.0], [0.0]]))[0].item()
    2.0
    """
    spread = scores.std(dim=0, correction=0)
    # equal scores leave a spread of rounding errors, not of zero
    constant = spread <= 1e-12 * scores.abs().amax(dim=0)
    z = (scores - scores.mean(dim=0)) / spread
    return z.masked_fill(constant, -torch.inf)


def largest_z(languages: int) -> float:
    """√(L − 1), the largest z among L languages: reached when one language alone has a neuron."""
    return (languages - 1) ** 0.5


def reachable(threshold: float, languages: int) -> float:
    """The threshold; ∞ where z cannot exceed it, so that what rounding leaves above it counts nowhere.

    >>> reachable(2.0, 6), reachable(2.0, 5)
    (2.0, inf)
    """
    return threshold if threshold < largest_z(languages) else torch.inf


def check_threshold(threshold: float, languages: int) -> None:
    """Raises UnattainableThreshold when z can never exceed `threshold`."""
    if threshold >= largest_z(languages):
        raise UnattainableThreshold(threshold, largest_z(languages), languages)


def key_regions(scores: Float[Tensor, "L D"], threshold: float = 2.0) -> Bool[Tensor, "L D"]:
    """Neurons of each language whose z exceeds `threshold`, strictly (eq. 14).

    Raises UnattainableThreshold when no neuron could pass: among L languages z never exceeds √(L − 1), so z > 2
    needs six. Up to ten languages, regions at z > 2 cannot overlap: two equal languages reach √((L − 2) / 2).
    """
    check_threshold(threshold, len(scores))
    return standard_scores(scores) > threshold


def sklr(regions: Bool[Tensor, "L D"]) -> int:
    """Size of the key linguistic regions, summed over languages."""
    return int(regions.sum())
