"""Language regions by contrast: neurons whose mean in a language stands apart from that in reference languages.

    c_i = x[l,i] − mean of x[m,i] over the reference languages m            C = mean_i c_i
    s   = √(mean over l of the variance over i of x[l,·])                   d = C / s
    se² = (G−1)/G · Σ_g (C(g) − mean C(·))²,   C(g): C without document g
    d ± t(G−1; 0.975) · √(se²/s² + d²/(2nL))
    raised: p = P(t(G−1) > (C − δs)/se)        lowered: p = P(t(G−1) < (C + δs)/se)

Translations are compared with each other, so that what a sentence says drops out; variances may differ between
languages; and a language is judged by an effect size δ, so that regions do not grow with the number of sentences.

L language · n sentence · G document · D neuron · C neurons of a chunk
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.recording import Recording
from babelscope.stats import FEW_DOCUMENTS, benjamini_hochberg, t_ends
from babelscope.terms import Sign

_CHUNK = 4096


@dataclass(frozen=True)
class ContrastSettings:
    """Options of the method `contrast`."""

    effect: float = 0.5
    """δ, in standard deviations within languages"""
    rate: float = 0.05
    """false discovery rate over all 2 · L · K tests"""
    sign: Sign = "raised"
    """neurons that a language holds high, low, or both"""
    against: tuple[str, ...] | None = None
    """reference languages; None: all others"""


@dataclass(frozen=True)
class Contrast:
    """Effect sizes, intervals and p-values of every language and neuron; NaN where undefined."""

    languages: tuple[str, ...]
    d: Float[Tensor, "L D"]
    d_low: Float[Tensor, "L D"]
    d_high: Float[Tensor, "L D"]
    p_raised: Float[Tensor, "L D"]
    p_lowered: Float[Tensor, "L D"]
    raised: Bool[Tensor, "L D"]
    lowered: Bool[Tensor, "L D"]
    constant: Bool[Tensor, " D"]
    """neurons that do not vary within languages"""
    documents: int
    why: str
    """why there are no p-values; empty where there are"""

    def members(self, sign: Sign = "raised") -> Bool[Tensor, "L D"]:
        """Neurons of each language's region."""
        if sign == "raised":
            return self.raised
        return self.lowered if sign == "lowered" else self.raised | self.lowered


def contrast(recording: Recording, settings: ContrastSettings | None = None, seed: int = 0) -> Contrast:
    """Regions by contrast, streamed over neurons. `seed` puts more than 40 documents into 40 groups.

    Raises InputError for fewer than two languages or sentences, an unknown language in `against`, a negative effect.

    >>> contrast(recording).raised.sum(1).tolist()                    # doctest: +SKIP
    [38, 41, 27]
    """
    chosen = settings or ContrastSettings()
    if chosen.effect < 0:
        raise InputError(f"an effect of {chosen.effect:g} standard deviations: take 0 or more")
    against = reference_weights(recording.languages, chosen.against)
    parts = [
        _tested(stack, against, chosen.effect) for stack in document_stacks(recording, recording.groups(seed=seed))
    ]
    d, low, high, above, below, constant = (torch.cat(column, dim=-1) for column in zip(*parts))
    documents = int(recording.groups(seed=seed).max()) + 1
    why = "" if documents >= FEW_DOCUMENTS else f"regions need {FEW_DOCUMENTS} documents; there are {documents}"
    if why:
        above, below = torch.full_like(above, torch.nan), torch.full_like(below, torch.nan)
    kept = recording.kept()
    for one in (d, low, high, above, below):
        one[:, ~kept] = torch.nan
    members = torch.zeros(2, *d.shape, dtype=torch.bool)
    tests = torch.stack([above, below])[:, :, kept]
    members[:, :, kept] = torch.from_numpy(benjamini_hochberg(tests.numpy(), chosen.rate))
    return Contrast(recording.languages, d, low, high, above, below, members[0], members[1], constant, documents, why)


def reference_weights(languages: Sequence[str], against: Sequence[str] | None) -> Float[Tensor, "L L"]:
    """C = W @ means: 1 for the language itself, −1/m for each of its m reference languages; NaN rows without any."""
    count = len(languages)
    if count < 2:
        raise InputError(f"a contrast needs two languages; there is {', '.join(languages)}")
    unknown = [code for code in against or () if code not in languages]
    if unknown:
        raise InputError(f"against: {', '.join(unknown)} is not among {', '.join(languages)}")
    chosen = torch.tensor([against is None or code in against for code in languages], dtype=torch.float64)
    others = chosen.repeat(count, 1) * (1 - torch.eye(count, dtype=torch.float64))
    return torch.eye(count, dtype=torch.float64) - others / others.sum(1, keepdim=True)


@dataclass(frozen=True)
class Stack:
    """Sums of x and x² over the sentences of each document, for some neurons: all that contrasts need."""

    sums: Float[Tensor, "L G C"]
    squares: Float[Tensor, "L G C"]
    sizes: Float[Tensor, " G"]

    def estimates(self, against: Float[Tensor, "L L"]) -> tuple[Tensor, Tensor]:
        """C [L, C] and s [C]."""
        return _estimates(self.sums.sum(1), self.squares.sum(1), self.sizes.sum(), against)

    def errors(self, against: Float[Tensor, "L L"]) -> Float[Tensor, "L C"]:
        """The standard error of C, by leaving out each document in turn; NaN of one document."""
        groups = len(self.sizes)
        if groups < 2:
            return torch.full_like(self.sums[:, 0], torch.nan)
        left = (self.sums.sum(1)[:, None] - self.sums) / (self.sizes.sum() - self.sizes)[:, None]
        left = torch.einsum("lm,mgc->lgc", against, left)
        return ((groups - 1) / groups * (left - left.mean(1, keepdim=True)).square().sum(1)).sqrt()

    def estimates_without(self, against: Float[Tensor, "L L"]) -> tuple[Tensor, Tensor]:
        """C [L, G, C] and s [G, C] without each document in turn."""
        n = (self.sizes.sum() - self.sizes)[:, None]
        return _estimates(_others(self.sums), _others(self.squares), n, against)

    def errors_without(self, against: Float[Tensor, "L L"]) -> Float[Tensor, "L G C"]:
        """The standard errors of C without each document g in turn, of which each other h is left out; NaN of two.

        Without both, C differs from C without g by (n_h m_g − a_h) / (N − n_g − n_h), where a_h is the document's sum
        and m_g the mean without g, under the contrast: the sums over h of that and of its square are products of
        matrices, so the cost is O(L G C) with them instead of O(L G² C).
        """
        groups, total = len(self.sizes), self.sizes.sum()
        if groups < 3:
            return torch.full_like(self.sums, torch.nan)
        # about the mean of all, so that little cancels
        centred = self.sums - self.sizes[:, None] * (self.sums.sum(1, keepdim=True) / total)
        a = torch.einsum("lm,mgc->lgc", against, centred)
        m = -a / (total - self.sizes)[:, None]
        w = 1 / (total - self.sizes[:, None] - self.sizes)
        w = w.masked_fill(torch.eye(groups, dtype=torch.bool), 0.0)
        n = self.sizes[:, None]
        mean = (w @ a - m * (w @ n)) / (groups - 1)
        w = w.square()
        squares = w @ a.square() - 2 * m * (w @ (n * a)) + m.square() * (w @ n.square())
        spread = (squares - (groups - 1) * mean.square()).clamp(min=0)
        return ((groups - 2) / (groups - 1) * spread).sqrt()


def _estimates(
    total: Float[Tensor, "L *G C"], squares: Float[Tensor, "L *G C"], n: Float[Tensor, "..."], against: Tensor
) -> tuple[Tensor, Tensor]:
    effect = torch.tensordot(against, total / n, dims=1)
    spread = (squares - total.square() / n).clamp(min=0) / (n - 1)
    # what is left of equal values is rounding
    spread = torch.where(spread > 1e-13 * squares / n, spread, 0.0)
    return effect, spread.mean(0).sqrt()


def _others(sums: Float[Tensor, "L G C"]) -> Float[Tensor, "L G C"]:
    """The sum of all documents but one, for each: added up, since what a difference leaves of nothing is rounding."""
    nothing = torch.zeros_like(sums[:, :1])
    before = torch.cat([nothing, sums[:, :-1]], dim=1).cumsum(1)
    after = torch.cat([sums[:, 1:], nothing], dim=1).flip(1).cumsum(1).flip(1)
    return before + after


def document_stacks(recording: Recording, groups: Int[Tensor, " n"]) -> Iterator[Stack]:
    """Document sums of unit vectors, neurons by neurons; InputError with fewer than two sentences."""
    if len(recording.ids) < 2:
        raise InputError("a contrast needs at least two sentences")
    sizes = torch.bincount(groups).double()
    shape = (len(recording.languages), len(sizes))
    for _, x in recording.unit_chunks(_CHUNK):
        empty = torch.zeros(*shape, x.shape[-1], dtype=torch.float64)
        yield Stack(empty.index_add(1, groups, x), empty.index_add(1, groups, x.square()), sizes)


def _tested(stack: Stack, against: Tensor, effect: float) -> tuple[Tensor, ...]:
    """d, its ends, both p-values [L, C] and whether the neuron is constant [C]."""
    from scipy.stats import t

    (value, s), error = stack.estimates(against), stack.errors(against)
    constant = s == 0
    groups, items = len(stack.sizes), float(stack.sizes.sum()) * len(value)
    d = torch.where(constant, torch.nan, value / s)
    if groups < 2:
        nothing = torch.full_like(d, torch.nan)
        return d, nothing, nothing, nothing, nothing, constant
    half = ((error / s).square() + d.square() / (2 * items)).sqrt()
    low, high = t_ends(d.numpy(), half.numpy(), groups - 1)
    usable = ~constant & (error > 0)
    above = torch.where(usable, (value - effect * s) / error, torch.nan).numpy()
    below = torch.where(usable, (value + effect * s) / error, torch.nan).numpy()
    p = (np.asarray(t.sf(above, groups - 1)), np.asarray(t.cdf(below, groups - 1)))
    return d, torch.from_numpy(low), torch.from_numpy(high), torch.from_numpy(p[0]), torch.from_numpy(p[1]), constant
