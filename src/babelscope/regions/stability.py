"""How much of a region would be found again: in the other half of the sentences, in a resampled corpus, with one
language fewer.

A sentence drawn w times counts w times, and pairs are weighted by both members' counts, a sentence never with itself:
score = ((Σ w x)² − Σ w² x²) / ((Σ w)² − Σ w²). One pass over the recording, whatever the number of draws.

R draw · L language · n sentence · C neurons of a chunk
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.localisation import largest_z, reachable, standard_scores
from babelscope.regions.recording import Recording
from babelscope.stats import bootstrap_counts, percentile

_CHUNK = 256


@dataclass(frozen=True)
class Spread:
    """A value over draws: mean and middle 95 %."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Overlaps:
    """Regions of draws, compared: with the whole corpus' regions (bootstrap) or with the other half's (split half)."""

    languages: tuple[str, ...]
    sizes: Int[Tensor, "R L"]
    """region sizes in each draw; of both halves, added, for split halves"""
    shared: Int[Tensor, "R L"]
    """neurons in both regions compared"""
    either: Int[Tensor, "R L"]
    """neurons in at least one"""
    chance: Float[Tensor, "R L"]
    """Jaccard index expected of random regions of the two sizes"""

    def jaccard(self) -> Float[Tensor, "R L"]:
        """Shared over either; NaN where both regions are empty."""
        return self.shared.double() / self.either.double()

    def by_language(self) -> dict[str, Spread]:
        """Jaccard of each language over draws."""
        return {code: spread(column) for code, column in zip(self.languages, self.jaccard().T)}

    def chance_by_language(self) -> dict[str, float]:
        return dict(zip(self.languages, self.chance.nanmean(0).tolist()))


def bootstrap_regions(recording: Recording, draws: int = 200, threshold: float = 2.0, seed: int = 0) -> Overlaps:
    """Regions at z > `threshold` of `draws` corpora resampled by document, against the regions of the whole corpus.

    Resampling noise creates spurious neurons, so that bootstrap sizes are biased upwards; their mean shows by how much.
    A draw of one sentence alone has no pair and is left out, which happens with a handful of sentences.

    >>> bootstrap_regions(recording).by_language()["zh"].mean          # doctest: +SKIP
    0.81
    """
    groups = recording.groups(most=len(recording.ids))
    counts = torch.from_numpy(bootstrap_counts(int(groups.max()) + 1, draws, seed)).double()
    counts = counts[:, groups]
    counts = counts[counts.sum(1).square() > counts.square().sum(1)]
    weights = torch.cat([torch.ones(1, len(groups), dtype=torch.float64), counts])
    return _compare(recording, weights, threshold, halves=False)


def split_half_regions(recording: Recording, draws: int = 50, threshold: float = 2.0, seed: int = 0) -> Overlaps:
    """Regions of two random halves of the sentences, against each other, `draws` times; of the documents, where they
    are known. A draw in which a half is one sentence alone is left out.

    Raises InputError with fewer than four sentences, or one document: each half needs a pair.
    """
    sentences, documents = len(recording.ids), recording.document_count
    if sentences < 4 or documents < 2:
        raise InputError(
            f"split halves need at least four sentences and two documents; there are {sentences} and {documents}"
        )
    order = torch.rand(draws, documents, generator=torch.Generator().manual_seed(seed)).argsort(-1)
    first = (order < documents // 2).double()[:, recording.groups(most=sentences)]
    first = first[(first.sum(1) > 1) & (first.sum(1) < sentences - 1)]
    return _compare(recording, torch.stack([first, 1 - first], dim=1).flatten(0, 1), threshold, halves=True)


def _compare(recording: Recording, weights: Float[Tensor, "R n"], threshold: float, halves: bool) -> Overlaps:
    one = slice(0, None, 2) if halves else slice(0, 1)
    other = slice(1, None, 2) if halves else slice(1, None)
    bound = reachable(threshold, len(recording.languages))
    sizes = torch.zeros(len(weights), len(recording.languages), dtype=torch.long)
    shared = torch.zeros_like(sizes[other])
    for block, x in recording.unit_chunks():
        for start in range(0, block.stop - block.start, _CHUNK):
            regions = standard_scores(weighted_scores(x[..., start : start + _CHUNK], weights)) > bound
            regions = regions.transpose(0, 1)
            sizes += regions.sum(2)
            shared += (regions[one] & regions[other]).sum(2)
    a, b = sizes[one].double(), sizes[other].double()
    expected = a * b / recording.neurons
    drawn = sizes[one] + sizes[other] if halves else sizes[other]
    return Overlaps(recording.languages, drawn, shared, (a + b).long() - shared, expected / (a + b - expected))


def weighted_scores(x: Float[Tensor, "L n C"], weights: Float[Tensor, "R n"]) -> Float[Tensor, "L R C"]:
    """Within-language scores (eq. 11) with weighted sentences."""
    pairs = (weights.sum(1).square() - weights.square().sum(1))[:, None]
    whole, itself = (weights @ x).square(), weights.square() @ x.square()
    # of a neuron that one sentence alone uses, however often it is drawn, what is left is rounding
    return torch.where((whole - itself).abs() > 1e-13 * itself, whole - itself, 0.0) / pairs


def without_each_language(scores: Float[Tensor, "L D"], threshold: float = 2.0) -> dict[int, Bool[Tensor, "L1 D"]]:
    """Regions of the other languages when one is left out, by the left-out language's place.

    Empty where L − 1 languages cannot reach the threshold: that is why sizes have no interval over languages.
    """
    languages = len(scores)
    if threshold >= largest_z(languages - 1):
        return {}
    kept = [[other for other in range(languages) if other != left] for left in range(languages)]
    return {left: standard_scores(scores[rows]) > threshold for left, rows in enumerate(kept)}


def spread(values: Float[Tensor, " R"]) -> Spread:
    """Mean and middle 95 % of the finite values; NaN where there is none."""
    values = values[~values.isnan()]
    if len(values) == 0:
        return Spread(float("nan"), float("nan"), float("nan"))
    return Spread(float(values.mean()), *percentile(values.numpy()))
