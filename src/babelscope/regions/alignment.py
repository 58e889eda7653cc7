"""Measures of how alike translations are, behind one interface: per layer and pair of languages, from one recording.

    lrds, sads          eq. 8, 9 on cosines; sads-centred, sads-language-centred, sads-binary, sads-rank are variants
    mexa, mexa-at-25    share of sentences whose translation is the strict mutual nearest neighbour (Kargaran et al.):
                        among all, which falls as there are more, and expected among 25 of them
    cka                 linear centred kernel alignment without its bias (Nguyen et al. 2021)
    anc                 mean over neurons of the correlation over sentences (Del and Fishel 2022)
    neuron-matching     mexa on binary states h > 0, by Jaccard index (after NeuronXA)

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
from babelscope.regions.alignment_measures import MEASURES, RAREFY, Centre, Layer, sads_against
from babelscope.regions.document_means import pair_ends
from babelscope.regions.recording import Recording
from babelscope.regions.similarity import unit
from babelscope.stats import JACKKNIFE, documents_why


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
    """of two languages: 1 where the sentence of the second is a fair stand-in for the translation, else 0"""
    facts: Mapping[str, float] = field(default_factory=dict)


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
    names = list(MEASURES) if metrics is None else list(metrics)
    for name in names:
        if name not in MEASURES:
            raise InputError(f"no alignment metric {name!r}; there are {', '.join(MEASURES)}")
    sentences = len(recording.ids)
    for name in names:
        if sentences < MEASURES[name][1]:
            raise InputError(f"{sentences} sentences are too few for {name}: it needs {MEASURES[name][1]}")
    groups = recording.groups() if intervals else torch.zeros(sentences, dtype=torch.long)
    measures = {name: MEASURES[name][0] for name in names}
    measures |= {f"sads-{one.name}": partial(sads_against, one.chosen) for one in negatives}
    parts: dict[str, list[Tensor]] = {name: [] for name in measures}
    for place in range(recording.layers) if layers is None else layers:
        v = recording.layer(place).double()
        if bool((v == 0).all(-1).any()):
            unit(v, place)  # says which sentence is silent
        layer = Layer(v, groups, centre)
        for name, measure in measures.items():
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
    elif len(found) > 2 and bool(found[1:, :, off].isnan().all()):
        why = "too few sentences are left without a document"
    return Alignment(name, found[0], low, high, means[0], mean_low, mean_high, why=why)


def _ends(found: Float[Tensor, "R *shape"]) -> tuple[Tensor, Tensor, str]:
    if len(found) < 3:  # one document: nothing is left without it
        nothing = torch.full_like(found[0], torch.nan)
        return nothing, nothing, documents_why(1)
    return pair_ends(found[0], found[1:])
