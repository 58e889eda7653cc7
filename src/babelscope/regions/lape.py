"""Language activation probability entropy (Tang et al. 2024, "Language-Specific Neurons", section 2.2).

A neuron that fires in few languages only has a low entropy of its activation probabilities.

L language · D neuron
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def lape(
    activity: Float[Tensor, "L D"], share: float = 0.01, quantile: float = 0.95
) -> tuple[Float[Tensor, "L D"], Bool[Tensor, "L D"]]:
    """Score and membership of each language and neuron, from the share of tokens at which the neuron is above zero.

    Kept are the `share` of all neurons with the lowest entropy, among those whose probability passes the `quantile` of
    all probabilities in some language; each belongs to every language in which it does. Of neurons with one entropy
    those with the larger greatest probability come first; where some that are equal in both would be too many, none of
    them is kept. The score is the language's part of the probability times (log L − entropy), high for a neuron of this
    language alone.

    >>> p = torch.full((3, 100), 0.1)
    >>> p[1, 7] = 0.9
    >>> lape(p, share=0.01)[1].nonzero()
    tensor([[1, 7]])
    """
    p = activity.double()
    total = p.sum(0)
    parts = p / total.clamp(min=1e-300)
    entropy = torch.special.entr(parts).sum(0)
    bar = _order_statistic(p, quantile)
    eligible = (p > bar).any(0)
    kept = _lowest(entropy, p.max(0).values, eligible, round(share * p.shape[1]))
    scores = parts * (torch.log(torch.tensor(float(len(p)))) - entropy)
    return scores, kept & (p > bar)


def _lowest(
    entropy: Float[Tensor, " D"], largest: Float[Tensor, " D"], eligible: Bool[Tensor, " D"], count: int
) -> Bool[Tensor, " D"]:
    """At most `count` of the eligible, by entropy (equal up to rounding), then by largest probability."""
    kept = torch.zeros_like(eligible)
    # of equal probabilities in another order it has other last digits
    keys = torch.stack([entropy.mul(1e9).round(), -largest], dim=1)[eligible]
    _, group, sizes = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    kept[eligible] = sizes.cumsum(0)[group] <= count
    return kept


def _order_statistic(p: Tensor, quantile: float) -> Tensor:
    """The value below which `quantile` of all entries lie: exact for any size, unlike torch.quantile."""
    flat = p.flatten()
    return flat.kthvalue(max(1, round(quantile * len(flat)))).values
