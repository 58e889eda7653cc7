"""How a number is read off a layer for every pair of languages at once for many selections of sentences.

Every measure is a sum over sentences or over pairs of sentences, so leaving documents out takes sums away and never a
map of all pairs. What is centred is centred anew over the sentences that are kept.

    Σ over i, j of u_i · w_j = (Σ u) · (Σ w)                        LRDS, SADS and variants: no pair is formed
    rivals of i among the kept = rivals of i, less those left out   MEXA, and MEXA at fewer sentences, exactly

L language · n sentence · N neurons of a layer · R selection of sentences · G document
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Centre = Literal["none", "all", "language"]
"""what is taken off every vector: nothing, the mean over everything, or its language's own mean"""
RAREFY = 25
"""sentences that MEXA is brought down to"""
NAN = float("nan")


@dataclass(frozen=True)
class Layer:
    """Activations of one layer, and selections of its sentences: all of them first, then all but each document."""

    v: Float[Tensor, "L n N"]
    groups: Int[Tensor, " n"]
    centre: Centre = "none"
    """taken off before any measure that does not centre by itself"""

    @property
    def languages(self) -> int:
        return len(self.v)

    @cached_property
    def member(self) -> Float[Tensor, "n G"]:
        """1 where a sentence is of a document."""
        return torch.nn.functional.one_hot(self.groups).double()

    @cached_property
    def kept(self) -> Float[Tensor, "R n"]:
        """1 where a selection has a sentence."""
        return torch.cat([torch.ones(1, len(self.groups), dtype=torch.float64), 1 - self.member.T])

    @cached_property
    def sizes(self) -> Float[Tensor, " R"]:
        """Sentences of each selection."""
        return self.kept.sum(1)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Every two languages."""
        return ((one, other) for other in range(self.languages) for one in range(other))

    def left(self, by_document: Float[Tensor, "*some G"]) -> Float[Tensor, "R *some"]:
        """Sums over every selection, of sums by document."""
        total = by_document.sum(-1)
        return torch.cat([total[None], (total[..., None] - by_document).movedim(-1, 0)])

    def of_pairs(self, products: Float[Tensor, "n n"]) -> Float[Tensor, " R"]:
        """Σ over i and j of a selection of a number of each pair of sentences."""
        blocks = self.member.T @ products @ self.member
        both = blocks.sum() - blocks.sum(0) - blocks.sum(1) + blocks.diagonal()
        return torch.cat([blocks.sum()[None], both])


Measure = Callable[[Layer], Float[Tensor, "R L L"]]
Prepare = Callable[[Float[Tensor, "L n N"]], Float[Tensor, "L n N"]]


def _square(layer: Layer, of_pair: Callable[[int, int], Float[Tensor, " R"]], least: int = 2) -> Tensor:
    """[R, L, L] from the numbers of every two languages; NaN on the diagonal and in selections that are too small."""
    found = torch.full((len(layer.sizes), layer.languages, layer.languages), NAN, dtype=torch.float64)
    for one, other in layer.pairs():
        found[:, one, other] = found[:, other, one] = of_pair(one, other)
    return found.masked_fill((layer.sizes < least)[:, None, None], NAN)


# -- cosines -----------------------------------------------------------------------------------------------------------


class Cosines:
    """Unit vectors around a mean that is taken over the kept sentences only."""

    def __init__(self, layer: Layer, v: Float[Tensor, "L n N"], centre: Centre) -> None:
        # what every mean has in common is taken off first: little is left to cancel then
        self.layer, self.v = layer, v if centre == "none" else v - v.mean((0, 1))
        self.means: Float[Tensor, "L R N"] | None = None
        if centre != "none":
            means = layer.kept @ self.v / layer.sizes[:, None]
            self.means = means if centre == "language" else means.mean(0).expand_as(means)

    @cached_property
    def scales(self) -> Float[Tensor, "L n R"]:
        """1 / the length of every vector under every selection; 0 of what is nothing."""
        squares = self.v.square().sum(-1)
        if self.means is None:
            lengths = squares[..., None].expand(-1, -1, len(self.layer.sizes))
        else:
            lengths = squares[..., None] - 2 * self.v @ self.means.mT + self.means.square().sum(-1)[:, None]
        some = lengths > 1e-20 * squares.amax()
        return torch.where(some, lengths.where(some, 1.0).rsqrt(), 0.0)

    @cached_property
    def sums(self) -> Float[Tensor, "L R N"]:
        """Σ of the unit vectors of every selection."""
        weights = self.scales.mT * self.layer.kept
        found = weights @ self.v
        return found if self.means is None else found - weights.sum(-1, keepdim=True) * self.means

    def translations(self, one: int, other: int) -> Float[Tensor, "R n"]:
        """Cosine of every sentence with its translation (with itself: 1, or 0 of what is nothing)."""
        a, b = self.v[one], self.v[other]
        inner = (a * b).sum(-1)
        if self.means is not None:
            m, o = self.means[one], self.means[other]
            inner = inner - o @ a.T - m @ b.T + (m * o).sum(-1, keepdim=True)
        return inner * self.scales[one].T * self.scales[other].T

    def others(self, one: int, other: int) -> Float[Tensor, " R"]:
        """Mean cosine of sentences that are not translations."""
        same = (self.translations(one, other) * self.layer.kept).sum(1)
        whole = (self.sums[one] * self.sums[other]).sum(-1)
        return (whole - same) / (self.layer.sizes * (self.layer.sizes - 1))

    def same(self, one: int, other: int) -> Float[Tensor, " R"]:
        """Mean cosine of translations."""
        return (self.translations(one, other) * self.layer.kept).sum(1) / self.layer.sizes

    def of_pair(self, one: int, other: int, selection: int) -> Float[Tensor, "n n"]:
        """All cosines of two languages under one selection."""
        a, b = self.v[one], self.v[other]
        if self.means is not None:
            a, b = a - self.means[one, selection], b - self.means[other, selection]
        return (a * self.scales[one, :, selection, None]) @ (b * self.scales[other, :, selection, None]).T


def _own(layer: Layer, centre: Centre | None) -> Centre:
    return layer.centre if centre is None else centre


def lrds(layer: Layer, centre: Centre | None = None) -> Float[Tensor, "R L L"]:
    """A − C of each pair (eq. 8), A being the mean of the two languages' own."""
    cosines = Cosines(layer, layer.v, _own(layer, centre))
    own = [cosines.others(one, one) for one in range(layer.languages)]
    return _square(layer, lambda one, other: (own[one] + own[other]) / 2 - cosines.others(one, other))


def sads(layer: Layer, centre: Centre | None = None, prepare: Prepare | None = None) -> Float[Tensor, "R L L"]:
    """B − C of each pair (eq. 9)."""
    cosines = Cosines(layer, layer.v if prepare is None else prepare(layer.v), _own(layer, centre))
    return _square(layer, lambda one, other: cosines.same(one, other) - cosines.others(one, other))


def binary(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """The states h > 0 of the pooled activations."""
    return (v > 0).to(v.dtype)


def ranks(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Ranks of neurons within each sentence, centred, equal ones sharing theirs: cosines are Spearman correlations."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(v.numpy(), axis=-1)).to(v.dtype) - (v.shape[-1] + 1) / 2


def sads_against(chosen: Callable[[int, int], Float[Tensor, "n n"]], layer: Layer) -> Float[Tensor, "R L L"]:
    """SADS with the cosines to chosen sentences in the place of those to all other sentences.

    Sentences are chosen in either language for those of the other: the order of languages changes nothing.
    """
    cosines = Cosines(layer, layer.v, "none")

    def of_pair(one: int, other: int) -> Float[Tensor, " R"]:
        similar = cosines.of_pair(one, other, 0)
        there, back = chosen(one, other), chosen(other, one)
        means = [
            layer.of_pairs(s * picked) / layer.of_pairs(picked) for s, picked in ((similar, there), (similar.T, back))
        ]
        return cosines.same(one, other) - (means[0] + means[1]) / 2

    return _square(layer, of_pair)


# -- nearest neighbours ------------------------------------------------------------------------------------------------


def rivals(similarity: Float[Tensor, "n n"]) -> Bool[Tensor, "n n"]:
    """Sentences j at least as near to sentence i as its translation is, in either direction; never i itself."""
    own = similarity.diagonal()[:, None]
    itself = torch.eye(len(similarity), dtype=torch.bool)
    nearest = torch.maximum(similarity, similarity.T)
    return (nearest >= own) & ~itself


def _neighbours(layer: Layer, of_pair: Callable[[int, int, int], Tensor], moves: bool, at: int | None) -> Tensor:
    """Share of sentences without a rival; `moves`: similarities depend on the selection. `at`: among so many."""

    def shares(one: int, other: int) -> Float[Tensor, " R"]:
        if moves:
            counts = torch.stack(
                [
                    rivals(of_pair(one, other, selection)).double() @ layer.kept[selection]
                    for selection in range(len(layer.sizes))
                ]
            )
        else:
            counts = layer.left(rivals(of_pair(one, other, 0)).double() @ layer.member)
        hits = (counts == 0).double() if at is None else _unrivalled(counts, layer.sizes[:, None], at)
        return (hits * layer.kept).sum(1) / layer.sizes

    return _square(layer, shares, 2 if at is None else at)


def _unrivalled(counts: Float[Tensor, "R n"], sizes: Float[Tensor, "R 1"], at: int) -> Float[Tensor, "R n"]:
    """Probability that none of a sentence's rivals is among the `at` − 1 that are drawn beside it."""
    free = sizes - 1 - counts - torch.arange(at - 1)[:, None, None]
    return (free.clamp(min=0) / (sizes - 1 - torch.arange(at - 1)[:, None, None]).clamp(min=1)).prod(0)


def mexa(layer: Layer, at: int | None = None) -> Float[Tensor, "R L L"]:
    """Share of sentences nearer to their translation than to any other sentence, strictly, in both directions."""
    cosines = Cosines(layer, layer.v, layer.centre)
    return _neighbours(layer, cosines.of_pair, layer.centre != "none", at)


def neuron_matching(layer: Layer) -> Float[Tensor, "R L L"]:
    """`mexa` by the Jaccard index of active neurons."""
    states = binary(layer.v)
    active = states.sum(-1)

    def jaccard(one: int, other: int, _selection: int) -> Float[Tensor, "n n"]:
        shared = states[one] @ states[other].T
        either = active[one][:, None] + active[other] - shared
        return torch.where(either > 0, shared / either, 0.0)

    return _neighbours(layer, jaccard, False, None)


# -- what centres by itself --------------------------------------------------------------------------------------------


def kernel_alignment(layer: Layer) -> Float[Tensor, "R L L"]:
    """Linear CKA from unbiased estimates of the Hilbert–Schmidt independence criterion (Song et al. 2012).

    NaN where an estimate of a language with itself is not above zero.
    """
    v = layer.v - layer.v.mean(1, keepdim=True)  # to which it is blind
    n = layer.sizes
    itself = torch.eye(v.shape[1], dtype=torch.bool)

    def kernel(one: int) -> Float[Tensor, "n n"]:
        return (v[one] @ v[one].T).masked_fill(itself, 0)

    rows = [layer.left(kernel(one) @ layer.member) for one in range(layer.languages)]  # [R, n] each
    totals = [(one * layer.kept).sum(1) for one in rows]

    def independence(one: int, other: int, k: Tensor, m: Tensor) -> Float[Tensor, " R"]:
        crossed = (rows[one] * rows[other] * layer.kept).sum(1)
        return layer.of_pairs(k * m) + totals[one] * totals[other] / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed

    found = torch.full((len(n), layer.languages, layer.languages), NAN, dtype=torch.float64)
    for one in range(layer.languages):
        k = kernel(one)
        for other in range(one, layer.languages):
            m = k if other == one else kernel(other)
            found[:, one, other] = found[:, other, one] = independence(one, other, k, m)
    own = found.diagonal(dim1=1, dim2=2)
    own = torch.where(own > 0, own, NAN)
    return _square(layer, lambda one, other: found[:, one, other] / (own[:, one] * own[:, other]).sqrt(), 4)


def correlation(layer: Layer) -> Float[Tensor, "R L L"]:
    """Mean over neurons of the correlation over sentences; without neurons that are constant in one of the two."""
    v = layer.v - layer.v.mean(1, keepdim=True)
    n = layer.sizes[:, None]
    sums = [layer.kept @ one for one in v]
    squares = [layer.kept @ one.square() for one in v]
    spreads = [square - total.square() / n for square, total in zip(squares, sums)]
    # what is left of equal numbers is rounding, of the numbers themselves and of what is taken off in a selection
    moving = [
        spread > torch.maximum(1e-24 * n * one.abs().amax(0).square(), 1e-13 * square)
        for spread, square, one in zip(spreads, squares, layer.v)
    ]

    def of_pair(one: int, other: int) -> Float[Tensor, " R"]:
        crossed = layer.kept @ (v[one] * v[other]) - sums[one] * sums[other] / n
        usable = moving[one] & moving[other]
        scale = (spreads[one] * spreads[other]).where(usable, 1.0).sqrt()
        return torch.where(usable, crossed / scale, 0.0).sum(1) / usable.sum(1)

    return _square(layer, of_pair)


@dataclass(frozen=True)
class Summed:
    """A measure that is made of sums, for all selections at once."""

    of: Measure
    least: int = 2
    """sentences that it needs"""


MEASURES: dict[str, Summed] = {
    "lrds": Summed(lrds),
    "sads": Summed(sads),
    "sads-centred": Summed(partial(sads, centre="all")),
    "sads-language-centred": Summed(partial(sads, centre="language")),
    "sads-binary": Summed(partial(sads, centre="none", prepare=binary)),
    "sads-rank": Summed(partial(sads, centre="none", prepare=ranks)),
    "mexa": Summed(mexa),
    f"mexa-at-{RAREFY}": Summed(partial(mexa, at=RAREFY)),
    "cka": Summed(kernel_alignment, 4),
    "anc": Summed(correlation),
    "neuron-matching": Summed(neuron_matching),
}
