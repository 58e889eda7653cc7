"""Which experts a mixture gives each language: routing of parallel sentences, and the distances between languages.

Divergence follows Bandarkar et al. (arXiv 2510.04694, equations 1, 2 and 6 to 8), the share of languages in an expert
Chen et al. (arXiv 2601.14050), both as `spec/models.md` states them.

L language · n sentence · M layer that is a mixture · E expert · K experts of a token
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.recording import Recording
from babelscope.regions.routed import Routing

SPECIALISED = 0.3
"""f − f of the reference above which an expert is specialised in a language"""
EXCLUSIVE = 0.4
"""language share from which an expert is a language's own"""
FAVOURITES = 15
"""experts of a layer whose choices count towards language shares, by language"""


def entropy(q: Float[Tensor, "*shape E"]) -> Float[Tensor, "*shape"]:
    """−Σ q log q, natural logarithm."""
    return torch.special.entr(q.double()).sum(-1)


def jensen_shannon(q: Float[Tensor, "*#shape E"], r: Float[Tensor, "*#shape E"]) -> Float[Tensor, "*#shape"]:
    """H((q + r)/2) − (H(q) + H(r))/2, in nats; from 0 to log 2."""
    return (entropy((q.double() + r.double()) / 2) - (entropy(q) + entropy(r)) / 2).clamp_min(0)


def divergence(
    q: Float[Tensor, "*#shape E"], r: Float[Tensor, "*#shape E"], experts: int | Float[Tensor, "*#shape"] | None = None
) -> Float[Tensor, "*#shape"]:
    """Jensen–Shannon divergence over the most that these two entropies allow: in [0, 1]; NaN where both are uniform.

    D(q, r) = [H((q + r)/2) − (H(q) + H(r))/2] / [log E − (H(q) + H(r))/2]. `experts` is E, where the last dimension is
    wider than that.

    >>> divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(1., dtype=torch.float64)
    """
    count = torch.as_tensor(q.shape[-1] if experts is None else experts, dtype=torch.float64)
    room = count.log() - (entropy(q) + entropy(r)) / 2
    # uniform up to the rounding of float32 probabilities
    return torch.where(room > 1e-6, (jensen_shannon(q, r) / room).clamp_max(1), torch.nan)


def pair_divergences(routing: Routing) -> Float[Tensor, "M n L L"]:
    """D of every pair of languages on every sentence, by layer; NaN in hashed layers."""
    p = routing.probabilities.double().permute(2, 1, 0, 3)
    counts = torch.tensor(routing.experts, dtype=torch.float64)[:, None, None, None]
    pairs = divergence(p[:, :, :, None], p[:, :, None], counts)
    pairs[[place for place in range(len(routing.layers)) if place not in routing.measured]] = torch.nan
    return pairs


@dataclass(frozen=True)
class Divergences:
    """How far each language's routing is from the reference's, by layer. [M, L], NaN for the reference itself."""

    reference: str
    same_sentence: Float[Tensor, "M L"]
    """Div: mean over sentences of D between translations"""
    other_sentence: Float[Tensor, "M L"]
    """mean of D between different sentences"""
    plain: Float[Tensor, "M L"]
    """mean over sentences of the Jensen–Shannon divergence, in nats"""
    pooled: Float[Tensor, "M L"]
    """Jensen–Shannon divergence, in nats, between the languages' q, means over all tokens"""

    @property
    def alignment(self) -> Float[Tensor, "M L"]:
        """1 − Div / divergence of different sentences: 1 where translations are routed alike, 0 where as any texts."""
        return 1 - self.same_sentence / self.other_sentence


def divergences(routing: Routing, reference: str) -> Divergences:
    """Divergence of every language from `reference`, of translations, of other sentences, and of whole languages.

    Raises InputError where the reference is not among the languages.
    """
    place = reference_place(routing, reference)
    p = routing.probabilities.double()
    counts = torch.tensor(routing.experts, dtype=torch.float64)
    shape = (len(routing.layers), len(routing.languages))
    same, others, plain = (torch.full(shape, torch.nan, dtype=torch.float64) for _ in range(3))
    n = len(routing.ids)
    apart = ~torch.eye(n, dtype=torch.bool)
    for layer in routing.measured:
        own = p[place, :, layer]
        for language in range(shape[1]):
            if language == place:
                continue
            q = p[language, :, layer]
            both = divergence(own[:, None], q[None], counts[layer])
            same[layer, language] = both.diagonal().nanmean()
            others[layer, language] = both[apart].nanmean() if n > 1 else torch.nan
            plain[layer, language] = jensen_shannon(own, q).mean()
    return Divergences(
        reference, same, others, plain, pooled_distance(routing.language_probabilities(), routing, place)
    )


def pooled_distance(q: Float[Tensor, "*draw L M E"], routing: Routing, place: int) -> Float[Tensor, "*draw M L"]:
    """JS of each language's mean routing from that of the language at `place`; NaN for itself and for hashed layers.

    Not D: what D divides by shrinks as routing evens out, which it does when labels are shuffled, so that D of shuffled
    labels may exceed D of the languages by far.
    """
    found = jensen_shannon(q, q[..., place : place + 1, :, :]).transpose(-1, -2)
    found[..., place] = torch.nan
    found[..., [layer for layer in range(len(routing.layers)) if layer not in routing.measured], :] = torch.nan
    return found


def reference_place(routing: Routing, reference: str) -> int:
    if reference not in routing.languages:
        raise InputError(f"no language {reference!r} to compare with; there are {', '.join(routing.languages)}")
    return routing.languages.index(reference)


def specialised(
    choices: Float[Tensor, "*draw L M E"], place: int, least: float = SPECIALISED
) -> Bool[Tensor, "*draw L M E"]:
    """Experts that a language's tokens are given more often than the reference's, by more than `least`."""
    return choices - choices[..., place : place + 1, :, :] > least


def language_shares(
    choices: Float[Tensor, "*draw L M E"], favourites: int = FAVOURITES
) -> Float[Tensor, "*draw L M E"]:
    """s_l = f_l / Σ_m f_m of each expert, with f kept in each language's `favourites` of a layer and 0 elsewhere.

    NaN for an expert that is nobody's favourite.
    """
    kept = choices
    if choices.shape[-1] > favourites:
        best = choices.topk(favourites, dim=-1)
        kept = torch.zeros_like(choices).scatter(-1, best.indices, best.values)
    return kept / torch.where(kept.sum(-3, keepdim=True) > 0, kept.sum(-3, keepdim=True), torch.nan)


def owner(shares: Float[Tensor, "L M E"], least: float = EXCLUSIVE) -> Int[Tensor, "M E"]:
    """Place of the language that has an expert for itself (share ≥ `least`, the largest); −1 where none has."""
    best = shares.nan_to_num(0).max(0)
    return torch.where(best.values >= least, best.indices, -1)


def shared(
    shares: Float[Tensor, "L M E"], among: Int[Tensor, " languages"], least: float = EXCLUSIVE
) -> Bool[Tensor, "M E"]:
    """Experts that some of the languages `among` use and none of them has for itself."""
    some = shares[among].nan_to_num(0)
    return (some > 0).any(0) & (some < least).all(0)


def routing_recording(routing: Routing, centred: bool = True) -> Recording:
    """Routing as a recording whose neurons are experts: similarity, LRDS, SADS, regions and their nulls run on it.

    Probabilities are all positive, so that any two sentences are alike: centred, each expert's mean over all sentences
    and languages is taken off. Hashed layers are left out. Raises InputError where no layer is left, or layers differ
    in their number of experts.
    """
    places = routing.measured
    counts = {routing.experts[place] for place in places}
    if len(counts) != 1:
        raise InputError("similarity of routing needs layers with the same number of experts" if counts else
                         "no layer chooses experts by what it reads")  # fmt: skip
    p = routing.probabilities[:, :, places, : counts.pop()].double()
    if centred:
        p = p - p.mean((0, 1))
    return Recording(
        routing.languages, routing.ids, len(places), p.flatten(2).numpy(), routing.tokens, first_position_share=0.0
    )


def evenness(routing: Routing) -> Float[Tensor, "L M"]:
    """H(q) / log E of each language: 1 where its tokens are spread evenly over experts."""
    counts = torch.tensor([log(count) if count > 1 else float("nan") for count in routing.experts])
    return entropy(routing.language_probabilities()) / counts
