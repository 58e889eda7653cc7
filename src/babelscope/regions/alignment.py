"""Measures of how alike translations are, behind one interface: per layer and pair of languages, from one recording.

    lrds, sads          eq. 8, 9 on cosines; sads-centred, sads-language-centred, sads-binary, sads-rank are variants
    mexa, mexa-at-25    share of sentences whose translation is the strict mutual nearest neighbour (Kargaran et al.):
                        among all, which falls as there are more, and expected among 25 of them
    cka                 linear centred kernel alignment without its bias (Nguyen et al. 2021)
    anc                 mean over neurons of the correlation over sentences (Del and Fishel 2022)
    neuron-matching     mexa on binary states h > 0, by Jaccard index (after NeuronXA)

An installed package adds further ones (docs/extending.md), as a `Metric` that is read off a map of all pairs.

L language · n sentence · N neurons of a layer · P layer · R selection of sentences
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.outside import Rows
from babelscope.regions.alignment_measures import (
    MEASURES,
    RAREFY,
    Centre,
    Layer,
    Measure,
    Prepare,
    Summed,
    sads_against,
)
from babelscope.regions.document_means import FEW_LEFT, pair_ends
from babelscope.regions.recording import Recording
from babelscope.regions.similarity import unit
from babelscope.stats import JACKKNIFE, documents_why

Reduce = Callable[[Float[Tensor, "L n L n"]], Float[Tensor, "L L"]]


@dataclass(frozen=True)
class Metric:
    """What is compared, and how a pair's number is read off the map of all inner products (L·n)²."""

    prepare: Prepare
    reduce: Reduce
    least: int = 2
    """sentences that are needed"""

    def of(self, layer: Layer) -> Float[Tensor, "R L L"]:
        """The numbers of every selection of sentences, each prepared anew; NaN where too few are left."""
        found: list[Tensor] = []
        for kept in layer.kept.bool():
            v = layer.v[:, kept]
            if v.shape[1] < self.least:
                found.append(torch.full((len(v), len(v)), torch.nan, dtype=torch.float64))
                continue
            x = self.prepare(v)
            flat = x.reshape(-1, x.shape[-1])
            found.append(self.reduce((flat @ flat.T).reshape(*v.shape[:2], *v.shape[:2])))
            if found[-1].shape != (len(v), len(v)):
                raise ValueError(f"values must be [language, language], here {[len(v)] * 2}")
        return torch.stack(found)


def cosine(v: Float[Tensor, "L n N"]) -> Float[Tensor, "L n N"]:
    """Unit vectors."""
    return torch.nn.functional.normalize(v, dim=-1, eps=1e-300)


METRICS: Rows[Metric | Summed] = Rows("metrics", lambda row: isinstance(row, Metric | Summed), dict(MEASURES))


@dataclass(frozen=True)
class Alignment:
    """Values of one metric with 95 % intervals, [P, L, L]; NaN on the diagonal."""

    metric: str
    values: Float[Tensor, "P L L"]
    low: Float[Tensor, "P L L"]
    high: Float[Tensor, "P L L"]
    mean: Float[Tensor, " P"]
    """over pairs of languages, with an interval of its own: pairs share sentences and languages"""
    mean_low: Float[Tensor, " P"]
    mean_high: Float[Tensor, " P"]
    interval: str = JACKKNIFE
    why: str = ""
    """what the intervals lack, or why there are none"""


@dataclass(frozen=True)
class Negatives:
    """For each sentence and other language, which sentences to compare it with instead of all the others."""

    name: str
    chosen: Callable[[int, int], Float[Tensor, "n n"]]
    """of two languages: how much the sentence of the second counts as a stand-in for the translation, from 0 to 1"""
    facts: Mapping[str, float] = field(default_factory=dict)


ANC_DOCUMENTS = 30
"""below it, an interval of ANC is marked: 0.91 at fifteen skewed documents, 0.93 at thirty (benchmarks/coverage.py)"""


def alignment(
    recording: Recording,
    metrics: Sequence[str] | None = None,
    negatives: Sequence[Negatives] = (),
    layers: Sequence[int] | None = None,
    centre: Centre = "none",
    intervals: bool = True,
) -> list[Alignment]:
    """Every metric in every layer and for every pair of languages, with intervals over documents.

    The interval is that of leaving one document out (section 3 of the statistics), with everything that is centred
    centred anew over the sentences that are left: at most 40 documents or groups of them. `negatives` add
    `sads-<name>` for each control. `centre`: what is taken off before lrds, sads and mexa. `intervals` off: values
    alone. Memory beside the recording, in bytes, with R = 41 selections at most and no map of all pairs:

        8 · (3·L·n·N + 3·L·R·N + L·n·R + 4·n·R + 6·n²)

    Time O(L²·(n²·N + R·n·N)) a layer. Raises InputError for an unknown metric or too few sentences.

    >>> [one.metric for one in alignment(recording, ["mexa", "cka"])]  # doctest: +SKIP
    ['mexa', 'cka']
    """
    names = list(METRICS) if metrics is None else list(metrics)
    sentences = len(recording.ids)
    for name in names:
        if name not in METRICS:
            raise InputError(f"no alignment metric {name!r}; there are {', '.join(METRICS)}")
        if sentences < METRICS[name].least:
            raise InputError(f"{sentences} sentences are too few for {name}: it needs {METRICS[name].least}")
    groups = recording.groups() if intervals else torch.zeros(sentences, dtype=torch.long)
    measures: dict[str, Measure] = {name: METRICS[name].of for name in names}
    controls: dict[str, Measure] = {f"sads-{one.name}": partial(sads_against, one.chosen) for one in negatives}
    parts: dict[str, list[Tensor]] = {name: [] for name in (*measures, *controls)}
    for place in recording.layout.with_neurons if layers is None else layers:
        v = recording.layer(place).double()
        if bool((v == 0).all(-1).any()):
            unit(v, place)  # says which sentence is silent
        layer = Layer(v, groups, centre)
        for name, measure in measures.items():
            with METRICS.running(name):
                parts[name].append(measure(layer))
        for name, measure in controls.items():
            parts[name].append(measure(layer))
    return [_result(name, torch.stack(found, 1), sentences) for name, found in parts.items()]


def _result(name: str, found: Float[Tensor, "R P L L"], sentences: int) -> Alignment:
    """Values and their intervals, from the values of all sentences and those without each document."""
    languages = found.shape[-1]
    off = ~torch.eye(languages, dtype=torch.bool)
    means = found[:, :, off].mean(-1)
    low, high, why = _ends(found)
    mean_low, mean_high, _ = _ends(means)
    if name == f"mexa-at-{RAREFY}" and sentences < RAREFY:
        why = f"fewer than {RAREFY} sentences"
    elif len(found) > 2 and bool(found[1:, :, off].isnan().flatten(1).all(1).any()):
        why = FEW_LEFT
    elif name == "anc" and not why and len(found) - 1 < ANC_DOCUMENTS:
        why = f"fewer than {ANC_DOCUMENTS} documents: too narrow where they are skewed"
    return Alignment(name, found[0], low, high, means[0], mean_low, mean_high, why=why)


def _ends(found: Float[Tensor, "R *shape"]) -> tuple[Tensor, Tensor, str]:
    if len(found) < 3:  # one document: nothing is left without it
        nothing = torch.full_like(found[0], torch.nan)
        return nothing, nothing, documents_why(1)
    return pair_ends(found[0], found[1:])
