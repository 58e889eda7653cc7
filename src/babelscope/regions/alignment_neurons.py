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
from babelscope.stats import Interval

BASE, ALIGNMENT, RANDOM = "base", "alignment", "random-layer"
Task = Callable[[], Mapping[str, tuple[float, float, float, int]]]
"""accuracy by language, with interval and n, of the model as it is at the time (story cloze, say)"""


@dataclass(frozen=True)
class Effect:
    """One number of the model under one condition."""

    deactivated: str
    """`base`, `alignment`, or `random-layer`"""
    share: float
    """of all neurons"""
    neurons: int
    draw: int
    measure: str
    """`sads`, `lrds`, `sads_left`, `delta_nll`, or the name of a task"""
    language: str
    """`all` for the scores over languages"""
    value: float
    low: float
    high: float
    interval: str
    why: str
    n: int
    """sentences, documents, or items"""


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
) -> list[Effect]:
    """SADS, LRDS, loss and tasks with the top shares of alignment neurons off, against matched random neurons.

    SADS is that of the whole model, recorded anew under the deactivation (a neuron that is off adds nothing to any
    inner product). `sads_left` is that of the unchanged model with these neurons merely left out of the vectors: what
    lies between the two is what the others do without them.

    Cost: 1 + shares · (1 + controls) recordings and passes over the text.
    """
    removals = removals or Removals()
    seed = removals.seed
    base = {code: score(model, text, budget) for code, text in windows.items()}
    rows = _scores(recording, (BASE, 0.0, 0, -1), seed)
    rows += _tasks((BASE, 0.0, 0, -1), tasks)
    for name, share, draw, mask in _conditions(recording, removals):
        key = (name, share, int(mask.sum()), draw)
        with deactivate(model, mask):
            rows += _scores(
                recording.like(record(model, corpus, special, budget=budget, span=recording.span)),
                key,
                seed,
            )
            rows.append(_left(recording, mask, key, seed))
            rows += _tasks(key, tasks)
            losses = {code: score(model, text, budget) for code, text in windows.items()}
        for code, loss in losses.items():
            change = loss_change(loss, base[code])
            rows.append(Effect(*key, "delta_nll", code, *_told(change), int((base[code].counts > 0).sum())))
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


def _scores(recording: Recording, key: tuple[str, float, int, int], seed: int) -> list[Effect]:
    n = len(recording.ids)
    found = whole_intervals(recording, seed)
    return [Effect(*key, name, "all", *_told(found[name]), n) for name in ("sads", "lrds")]


def _left(recording: Recording, mask: Bool[Tensor, "P N"], key: tuple[str, float, int, int], seed: int) -> Effect:
    kept = replace(recording, means=recording.means * recording.layout.in_a_row(~mask).numpy())
    return Effect(*key, "sads_left", "all", *_told(whole_intervals(kept, seed)["sads"]), len(recording.ids))


def _told(found: Interval) -> tuple[float, float, float, str, str]:
    return found.value, found.low, found.high, found.method, found.why


def _tasks(key: tuple[str, float, int, int], tasks: Mapping[str, Task] | None) -> list[Effect]:
    return [
        Effect(*key, name, code, value, low, high, "Wilson", "", n)
        for name, run in (tasks or {}).items()
        for code, (value, low, high, n) in run().items()
    ]
