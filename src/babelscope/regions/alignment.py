"""Measures of how alike translations are, behind one interface: per layer and pair of languages, from one recording.

A metric prepares the activations of a layer, takes all inner products once, and reads its number for each pair of
languages off that map. Intervals are cheap then: sentences are left out of the map, not recorded anew.

    lrds, sads          eq. 8, 9 on cosines; sads-centred, sads-language-centred, sads-binary, sads-rank are variants
    mexa                share of sentences whose translation is the strict mutual nearest neighbour (Kargaran et al.)
    cka                 linear centred kernel alignment without its bias (Nguyen et al. 2021)
    anc                 mean over neurons of the correlation over sentences (Del and Fishel 2022)
    neuron-matching     mexa on binary states h > 0, by Jaccard index (after NeuronXA)

An installed package adds further ones (docs/extending.md).

L language · n sentence · N neurons of a layer · P layer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.outside import Rows
from babelscope.regions.recording import Recording
from babelscope.regions.similarity import pair_means, unit

GROUPS = 10
"""of sentences, left out in turn for the interval"""
Prepare = Callable[[Float[Tensor, "L n N"]], Float[Tensor, "L n N"]]
Reduce = Callable[[Float[Tensor, "L n L n"]], Float[Tensor, "L L"]]


@dataclass(frozen=True)
class Metric:
    """What is compared, and how a pair's number is read off the map of inner products."""

    prepare: Prepare
    reduce: Reduce
    least: int = 2
    """sentences that are needed"""


@dataclass(frozen=True)
class Alignment:
    """Values of one metric with 95 % intervals, [P, L, L]; NaN on the diagonal."""

    metric: str
    values: Float[Tensor, "P L L"]
    low: Float[Tensor, "P L L"]
    high: Float[Tensor, "P L L"]


@dataclass(frozen=True)
class Negatives:
    """For each sentence and other language, which sentences to compare it with instead of all the others."""

    name: str
    chosen: Float[Tensor, "L n L n"]
    """1 where the sentence of the second language is a fair stand-in for the translation, else 0"""
    facts: Mapping[str, float] = field(default_factory=dict)


def alignment(
    recording: Recording,
    metrics: Sequence[str] | None = None,
    negatives: Sequence[Negatives] = (),
    layers: Sequence[int] | None = None,
) -> list[Alignment]:
    """Every metric in every layer and for every pair of languages, with intervals over sentences.

    The interval is value ± 1.96 standard errors of a jackknife that leaves out a tenth of the sentences at a time
    (centring stays that of all). `negatives` add `sads-<name>` for each control. Raises InputError for an unknown
    metric or too few sentences.

    >>> [one.metric for one in alignment(recording, ["mexa", "cka"])]  # doctest: +SKIP
    ['mexa', 'cka']
    """
    names = list(METRICS) if metrics is None else list(metrics)
    for name in names:
        if name not in METRICS:
            raise InputError(f"no alignment metric {name!r}; there are {', '.join(METRICS)}")
    sentences = len(recording.ids)
    least = max([METRICS[name].least for name in names], default=2)
    if sentences - _group_size(sentences) < least:
        raise InputError(f"{sentences} sentences are too few for {', '.join(names)}: leave-out needs more than {least}")
    chosen = recording.layout.with_neurons if layers is None else layers
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for layer in chosen:
        for name, found in _layer(recording.layer(layer), layer, names, negatives).items():
            parts.setdefault(name, []).append(found)
    return [_result(name, found) for name, found in parts.items()]


def _layer(
    v: Float[Tensor, "L n N"], layer: int, names: Sequence[str], negatives: Sequence[Negatives]
) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, tuple[Tensor, Tensor]] = {}
    maps: dict[Prepare, Tensor] = {}
    v = v.double()
    if bool((v == 0).all(-1).any()):
        unit(v, layer)  # says which sentence is silent
    for name in names:
        metric = METRICS[name]
        with METRICS.running(name):
            if metric.prepare not in maps:
                maps[metric.prepare] = inner_products(metric.prepare(v))
            found[name] = _jackknife(maps[metric.prepare], metric.reduce)
            if found[name][0].shape != (len(v), len(v)):
                raise ValueError(f"values must be [language, language], here {[len(v)] * 2}")
    for control in negatives:
        cosines = maps.get(cosine)
        cosines = inner_products(cosine(v)) if cosines is None else cosines
        found[f"sads-{control.name}"] = _jackknife(cosines, _against(control.chosen), control.chosen)
    return found


def inner_products(x: Float[Tensor, "L n N"]) -> Float[Tensor, "L n L n"]:
    """All inner products of prepared activations."""
    languages, sentences, _ = x.shape
    flat = x.reshape(languages * sentences, -1)
    return (flat @ flat.T).reshape(languages, sentences, languages, sentences)


def _group_size(sentences: int) -> int:
    return -(-sentences // min(GROUPS, sentences))


def _jackknife(similarity: Tensor, reduce: Reduce, beside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Value and standard error of each pair, leaving out every tenth sentence in turn."""
    sentences = similarity.shape[1]
    groups = min(GROUPS, sentences)
    value = reduce(similarity) if beside is None else _against(beside)(similarity)
    left: list[Tensor] = []
    for group in range(groups):
        kept = torch.arange(sentences) % groups != group
        part = similarity[:, kept][:, :, :, kept]
        left.append(reduce(part) if beside is None else _against(beside[:, kept][:, :, :, kept])(part))
    draws = torch.stack(left)
    error = ((groups - 1) / groups * (draws - draws.mean(0)).square().sum(0)).sqrt()
    return value, error


def _result(name: str, parts: Sequence[tuple[Tensor, Tensor]]) -> Alignment:
    values, errors = (torch.stack(column) for column in zip(*parts))
    return Alignment(name, values, values - 1.96 * errors, values + 1.96 * errors)


# -- what is compared --------------------------------------------------------------------------------------------------


def cosine(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Unit vectors."""
    return _unit(v)


def centred(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Unit vectors after the mean over everything is taken off: what all texts share says nothing of meaning."""
    return _unit(v - v.mean((0, 1)))


def language_centred(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Unit vectors after each language's own mean is taken off."""
    return _unit(v - v.mean(1, keepdim=True))


def binary(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Unit vectors of the states h > 0 of the pooled activations."""
    return _unit((v > 0).to(v.dtype))


def states(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """The states h > 0 themselves: inner products count the neurons that two sentences share."""
    return (v > 0).to(v.dtype)


def ranks(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Ranks of neurons within each sentence, centred and of unit length: inner products are Spearman correlations."""
    order = v.argsort(-1).argsort(-1).to(v.dtype)
    return _unit(order - (v.shape[-1] - 1) / 2)


def plain(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Activations as they are, around each language's mean (which CKA is blind to)."""
    return v - v.mean(1, keepdim=True)


def standardised(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Each neuron centred and scaled within each language; inner products of translations add up to correlations."""
    x = v - v.mean(1, keepdim=True)
    spread = x.square().mean(1, keepdim=True).sqrt()
    moves = spread > 1e-12 * v.abs().amax(1, keepdim=True)
    x = torch.where(moves, x / spread, 0.0)
    # neurons that are constant in some language have no correlation there and leave the mean
    return x / moves.to(v.dtype).mean().clamp(min=1e-300).sqrt() / v.shape[-1] ** 0.5


def _unit(x: Tensor) -> Tensor:
    norms = x.norm(dim=-1, keepdim=True)
    return torch.where(norms > 0, x / norms, 0.0)


# -- how a pair's number is read off -----------------------------------------------------------------------------------


def lrds(similarity: Float[Tensor, "L n L n"]) -> Float[Tensor, "L L"]:
    """A − C of each pair (eq. 8)."""
    return pair_means(similarity).lrds


def sads(similarity: Float[Tensor, "L n L n"]) -> Float[Tensor, "L L"]:
    """B − C of each pair (eq. 9)."""
    return pair_means(similarity).sads


def mutual_neighbours(similarity: Float[Tensor, "L n L n"]) -> Float[Tensor, "L L"]:
    """Share of sentences nearer to their translation than to any other sentence, strictly, in both directions."""
    by_pair = similarity.permute(0, 2, 1, 3)
    same = by_pair.diagonal(dim1=2, dim2=3)
    itself = torch.eye(similarity.shape[1], dtype=torch.bool)
    others = by_pair.masked_fill(itself, -torch.inf)
    nearest = (same > others.amax(3)) & (same > others.amax(2))
    return _no_diagonal(nearest.double().mean(-1))


def matching_states(shared: Float[Tensor, "L n L n"]) -> Float[Tensor, "L L"]:
    """`mutual_neighbours` by the Jaccard index of active neurons."""
    languages, sentences = shared.shape[:2]
    active = shared.reshape(languages * sentences, -1).diagonal().reshape(languages, sentences)
    either = active[:, :, None, None] + active - shared
    return mutual_neighbours(torch.where(either > 0, shared / either, 0.0))


def kernel_alignment(products: Float[Tensor, "L n L n"]) -> Float[Tensor, "L L"]:
    """Linear CKA from unbiased estimates of the Hilbert–Schmidt independence criterion (Song et al. 2012).

    NaN where an estimate of a language with itself is not above zero.
    """
    languages, n = products.shape[:2]
    kernels = torch.stack([products[one, :, one] for one in range(languages)])
    kernels = kernels * (1 - torch.eye(n, dtype=kernels.dtype))
    sums, totals = kernels.sum(1), kernels.sum((1, 2))
    traces = torch.einsum("lij,mij->lm", kernels, kernels)
    independence = traces + torch.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (sums @ sums.T)
    own = independence.diagonal()
    return _no_diagonal(independence / torch.where(own > 0, own, torch.nan).outer(own).sqrt())


def correlation(products: Float[Tensor, "L n L n"]) -> Float[Tensor, "L L"]:
    """Mean over sentences of the products of translations, standardised by neuron: the mean correlation."""
    return _no_diagonal(products.diagonal(dim1=1, dim2=3).mean(-1))


def _against(chosen: Float[Tensor, "L n L n"]) -> Reduce:
    """SADS with the similarity to chosen sentences in the place of that to all other sentences."""

    def reduce(similarity: Float[Tensor, "L n L n"]) -> Float[Tensor, "L L"]:
        same = similarity.diagonal(dim1=1, dim2=3).mean(-1)
        negative = (similarity * chosen).sum((1, 3)) / chosen.sum((1, 3))
        return _no_diagonal(same - negative)

    return reduce


def _no_diagonal(pairs: Float[Tensor, "L L"]) -> Float[Tensor, "L L"]:
    return pairs.masked_fill(torch.eye(len(pairs), dtype=torch.bool), torch.nan)


_METRICS: dict[str, Metric] = {
    "lrds": Metric(cosine, lrds),
    "sads": Metric(cosine, sads),
    "sads-centred": Metric(centred, sads),
    "sads-language-centred": Metric(language_centred, sads),
    "sads-binary": Metric(binary, sads),
    "sads-rank": Metric(ranks, sads),
    "mexa": Metric(cosine, mutual_neighbours),
    "cka": Metric(plain, kernel_alignment, least=4),
    "anc": Metric(standardised, correlation),
    "neuron-matching": Metric(states, matching_states),
}
METRICS: Rows[Metric] = Rows("metrics", lambda row: isinstance(row, Metric), _METRICS)
