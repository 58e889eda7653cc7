"""Three numbers of how much language a model's neurons hold that do not grow with the number of sentences.

    language share   a = C(L−1)/L;  V_k = Σ_l a²/(L−1) − Σ_l (se(L−1)/L)²/(L−1);  mean over k of V_k/(V_k + s_k²)
    N(d > δ)         ρ = max(0, 1 − mean_k(se²/s²)/Var_k d);  d* = mean d + √ρ (d − mean d);  count of d* > δ
    excess SKLR      at 25 sentences: mean over random subsets of the corpus, the null made anew in each

C, se and s are those of regions.contrast, against all other languages.

L language · G document · D neuron · C neurons of a chunk · R the whole, then each document left out
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.contrast import Stack, document_stacks, reference_weights
from babelscope.regions.localisation import largest_z
from babelscope.regions.nulls import excess_sklr
from babelscope.regions.recording import Recording
from babelscope.stats import JACKKNIFE, Interval, jackknife_t, no_interval

RAREFIED, SUBSETS, NULL_DRAWS = 25, 20, 8


@dataclass(frozen=True)
class Headlines:
    """Language share in percent and N(d > δ), each with its leave-one-document-out interval."""

    language_share: Interval
    strong_neurons: Interval
    """N(d > δ), added over languages: a number, not a set"""
    effect: float


def headlines(recording: Recording, effect: float = 0.5, seed: int = 0) -> Headlines:
    """Language share and N(d > `effect`) of a recording, in two passes over its neurons.

    Cost O(L · G · D) beside products with matrices of G × G. NaN with the reason `one document` where there is but one.
    Raises InputError as contrast does.

    >>> headlines(recording).language_share                           # doctest: +SKIP
    Interval(value=48.4, low=46.9, high=49.9, method='leave-one-document-out t', why='')
    """
    groups = recording.groups(seed=seed)
    if int(groups.max()) == 0:
        nothing = no_interval(float("nan"), "one document", JACKKNIFE)
        return Headlines(nothing, nothing, effect)
    against = reference_weights(recording.languages, None)
    share_sum = share_count = moments = torch.zeros(())
    for part in _effects(recording, against, groups):
        share_sum = share_sum + part.shares.nansum(1)
        share_count = share_count + (~part.shares.isnan()).sum(1)
        known = ~part.d.isnan()
        d, noise = part.d.nan_to_num(0.0), part.noise.nan_to_num(0.0)
        sums = [known.double().sum(2), d.sum(2), d.square().sum(2), noise.sum(2)]
        moments = moments + torch.stack(sums)
    count, total, squares, noise = moments
    mean = total / count
    variance = squares / count - mean.square()
    shrunk = (1 - (noise / count) / variance).clamp(min=0).sqrt()
    strong = torch.zeros(len(mean), dtype=torch.float64)
    for stack, kept in _stacks(recording, groups):
        d, _ = _standardised(stack, against, kept)
        best = mean[..., None] + shrunk[..., None] * (d - mean[..., None])
        strong += (best > effect).sum((1, 2))
    # of one sentence no neuron has a d, which is not none above δ
    strong = torch.where(count.sum(1) > 0, strong, torch.nan)
    share = 100 * share_sum / share_count
    return Headlines(_jackknife(share), _jackknife(strong), effect)


def _jackknife(values: Float[Tensor, " R"]) -> Interval:
    value, left = float(values[0]), values[1:]
    if bool(left.isnan().any()):
        return no_interval(value, "two documents: nothing is left to compare when one is left out", JACKKNIFE)
    return jackknife_t(value, left.numpy())


@dataclass(frozen=True)
class _Effects:
    """Of some neurons, for the whole corpus and with each document left out."""

    d: Float[Tensor, "R L C"]
    noise: Float[Tensor, "R L C"]
    """se² / s²"""
    shares: Float[Tensor, "R C"]
    """V / (V + s²)"""


def _effects(recording: Recording, against: Float[Tensor, "L L"], groups: Int[Tensor, " n"]) -> Iterator[_Effects]:
    for stack, kept in _stacks(recording, groups):
        value, s = _estimates(stack, against)
        error = torch.stack([stack.errors(against), *stack.errors_without(against).unbind(1)])
        languages = value.shape[1]
        scale = (languages - 1) / languages
        between = ((scale * value).square().sum(1) - (scale * error).square().sum(1)) / (languages - 1)
        whole = between + s.square()
        # what is left of a neuron that is the same everywhere is rounding
        some = whole.abs() > 1e-26 * stack.squares.sum((0, 1)) / stack.sizes.sum()
        share = torch.where(kept & some & _active(stack), between / whole, torch.nan)
        d, varies = _standardised(stack, against, kept)
        yield _Effects(d, torch.where(varies, (error / s[:, None]).square(), torch.nan), share)


def _stacks(recording: Recording, groups: Int[Tensor, " n"]) -> Iterator[tuple[Stack, Bool[Tensor, " C"]]]:
    """The documents' sums of some neurons, and which of the neurons are kept."""
    kept = recording.kept()
    start = 0
    for stack in document_stacks(recording, groups):
        stop = start + stack.sums.shape[-1]
        yield stack, kept[start:stop]
        start = stop


def _estimates(stack: Stack, against: Tensor) -> tuple[Float[Tensor, "R L C"], Float[Tensor, "R C"]]:
    value, s = stack.estimates(against)
    values, each = stack.estimates_without(against)
    return torch.stack([value, *values.unbind(1)]), torch.cat([s[None], each])


def _standardised(
    stack: Stack, against: Tensor, kept: Bool[Tensor, " C"]
) -> tuple[Float[Tensor, "R L C"], Bool[Tensor, "R 1 C"]]:
    """d, NaN where a neuron does not vary, and where it does."""
    value, s = _estimates(stack, against)
    varies = (kept & (s > 0))[:, None]
    return torch.where(varies, value / s[:, None], torch.nan), varies


def _active(stack: Stack) -> Bool[Tensor, "R C"]:
    """Whether a neuron is other than zero in any document that is not left out."""
    some = (stack.sums != 0).any(0)
    count = some.sum(0)
    return torch.cat([count[None] > 0, count > some.long()])


def rarefied_excess(recording: Recording, threshold: float = 2.0, rarefy: int = RAREFIED, seed: int = 0) -> Interval:
    """Excess SKLR at `rarefy` sentences: observed minus permuted, mean over 20 random subsets (8 draws each).

    NaN with the reason where there are fewer sentences or z > `threshold` cannot be reached; it has no interval, since
    subsets of one corpus share sentences.
    """
    if rarefy < 2:
        raise InputError(f"rarefy {rarefy}: a similarity within a language needs two sentences")
    sentences, languages = len(recording.ids), len(recording.languages)
    if threshold >= largest_z(languages):
        return no_interval(float("nan"), z_reason(threshold, languages))
    if sentences < rarefy:
        return no_interval(float("nan"), f"needs {rarefy} sentences; there are {sentences}")
    generator = torch.Generator().manual_seed(seed)
    found: list[float] = []
    for subset in range(SUBSETS):
        places = torch.randperm(sentences, generator=generator)[:rarefy].sort().values.tolist()
        found.append(excess_sklr(recording.subset(places), NULL_DRAWS, threshold, seed + subset))
    return no_interval(sum(found) / len(found), f"mean over {SUBSETS} subsets of {rarefy} sentences of one corpus")


def z_reason(threshold: float, languages: int) -> str:
    """Why z says nothing with so few languages.

    >>> z_reason(2.0, 5)
    'z > 2 needs six languages'
    """
    if languages == 2:
        return "z is ±1 for every neuron with two languages"
    needed = int(threshold**2 + 1) + 1
    words = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
    return f"z > {threshold:g} needs {words.get(needed, str(needed))} languages"
