"""Alignment neurons: the counterpart of language regions, the neurons that carry SADS.

SADS decomposes exactly into a share per neuron; the neurons with the largest shares are switched off, and so are as
many random ones of the same layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.corpora import ParallelCorpus
from babelscope.models import Model
from babelscope.models.model import SpecialTokens
from babelscope.regions.deactivation import deactivate
from babelscope.regions.document_means import whole_intervals
from babelscope.regions.masks import random_region_by_layer
from babelscope.regions.perplexity import Windows, loss_change, score
from babelscope.regions.recording import Recording, record
from babelscope.regions.similarity import alignment_shares
from babelscope.regions.treatments import top_share
from babelscope.results.schemas.regions import AlignmentNeurons
from babelscope.stats import Interval

BASE, ALIGNMENT, RANDOM = "base", "alignment", "random-layer"
Task = Callable[[], Mapping[str, tuple[float, float, float, int]]]
"""accuracy by language, with interval and n, of the model as it is at the time (story cloze, say)"""


def alignment_neurons(recording: Recording, share: float) -> Bool[Tensor, "P N"]:
    """The `share` of all neurons with the largest shares of SADS.

    >>> alignment_neurons(recording, 0.01).sum()                       # doctest: +SKIP
    tensor(46)
    """
    return top_share(shares_of_sads(recording), share, recording.layout)


def shares_of_sads(recording: Recording) -> Float[Tensor, "P N"]:
    """Each neuron's share of SADS; they add up to it. NaN where a layer has no such neuron."""
    return recording.layout.by_layer(alignment_shares(recording).sads, torch.nan)


@dataclass(frozen=True)
class Removals:
    """Which neurons are switched off: shares of all, and draws of as many random ones of each layer."""

    shares: Sequence[float] = (0.01, 0.05)
    controls: int = 5
    seed: int = 0


def deactivate_alignment(
    model: Model,
    corpus: ParallelCorpus,
    recording: Recording,
    windows: Mapping[str, Windows],
    removals: Removals | None = None,
    special: SpecialTokens = "none",
    tasks: Mapping[str, Task] | None = None,
    budget: int | None = None,
) -> list[AlignmentNeurons]:
    """SADS, LRDS, loss and tasks with the top shares of alignment neurons off, against matched random neurons.

    SADS is that of the whole model, recorded anew under the deactivation (a neuron that is off adds nothing to any
    inner product). `sads_left` is that of the unchanged model with these neurons merely left out of the vectors: what
    lies between the two is what the others do without them.

    Cost: 1 + shares · (1 + controls) recordings and passes over the text.
    """
    removals = removals or Removals()
    seed = removals.seed
    base = {code: score(model, text, budget) for code, text in windows.items()}
    nothing = Removed(BASE, 0.0, 0, -1)
    rows = [*_scores(recording, nothing, seed), *_tasks(nothing, tasks)]
    for name, share, draw, mask in _conditions(recording, removals):
        removed = Removed(name, share, int(mask.sum()), draw)
        with deactivate(model, mask):
            again = recording.like(record(model, corpus, special, budget=budget, span=recording.span))
            rows += _scores(again, removed, seed)
            rows.append(_left(recording, mask, removed, seed))
            rows += _tasks(removed, tasks)
            losses = {code: score(model, text, budget) for code, text in windows.items()}
        for code, loss in losses.items():
            change = loss_change(loss, base[code])
            rows.append(removed.row("delta_nll", code, change, int((base[code].counts > 0).sum())))
    return rows


def _conditions(recording: Recording, removals: Removals) -> Iterator[tuple[str, float, int, Bool[Tensor, "P N"]]]:
    ranking, layout = shares_of_sads(recording), recording.layout
    for share in removals.shares:
        mask = top_share(ranking, share, layout)
        if not bool(mask.any()):
            continue
        yield ALIGNMENT, share, -1, mask
        for draw in range(removals.controls):
            drawn = random_region_by_layer(mask.sum(1).tolist(), layout.widths, removals.seed + draw)
            yield RANDOM, share, draw, drawn


@dataclass(frozen=True)
class Removed:
    """What is switched off while numbers are measured."""

    deactivated: str
    share: float
    """of all neurons"""
    neurons: int
    draw: int

    def row(self, measure: str, language: str, found: Interval, n: int) -> AlignmentNeurons:
        """One number under this condition."""
        return AlignmentNeurons(
            deactivated=self.deactivated,
            share=self.share,
            neurons=self.neurons,
            draw=self.draw,
            measure=measure,
            language=language,
            value=found.value,
            low=found.low,
            high=found.high,
            interval=found.method,
            why=found.why,
            n=n,
        )


def _scores(recording: Recording, removed: Removed, seed: int) -> list[AlignmentNeurons]:
    n = len(recording.ids)
    found = whole_intervals(recording, seed)
    return [removed.row(name, "all", found[name], n) for name in ("sads", "lrds")]


def _left(recording: Recording, mask: Bool[Tensor, "P N"], removed: Removed, seed: int) -> AlignmentNeurons:
    kept = replace(recording, means=recording.means * recording.layout.in_a_row(~mask).numpy())
    return removed.row("sads_left", "all", whole_intervals(kept, seed)["sads"], len(recording.ids))


def _tasks(removed: Removed, tasks: Mapping[str, Task] | None) -> list[AlignmentNeurons]:
    return [
        removed.row(name, code, Interval(value, low, high, "Wilson"), n)
        for name, run in (tasks or {}).items()
        for code, (value, low, high, n) in run().items()
    ]
