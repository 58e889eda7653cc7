"""What a deactivated neuron is set to, and how much of it: zero, means, a factor; more and more neurons.

P layer · N neurons of a layer · L language · D neuron
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from babelscope.errors import InputError
from babelscope.models import Model, Site
from babelscope.models.neuron_layout import NeuronLayout
from babelscope.models.rows import RowEdit
from babelscope.regions.deactivation import changes_of, deactivate
from babelscope.regions.masks import RegionSet, random_region_by_layer
from babelscope.regions.perplexity import Loss, Windows, loss_change, score
from babelscope.regions.recording import Recording
from babelscope.results.schemas.regions import Dose
from babelscope.terms import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Treatment:
    """A mask and what its neurons become."""

    mask: Bool[Tensor, "P N"]
    values: Float[Tensor, "P N"] | None = None
    scale: float = 0.0


@contextmanager
def treated(model: Model, treatment: Treatment) -> Generator[dict[Site, int]]:
    """The model under a treatment; as it was afterwards."""
    with deactivate(model, treatment.mask, treatment.values, treatment.scale) as fired:
        yield fired


def row_edit(treatment: Treatment) -> RowEdit:
    """The treatment as an edit of rows, at every token; an empty mask edits nothing."""
    return RowEdit(changes_of(treatment.mask, treatment.values, treatment.scale), first=True)


def language_means(recording: Recording) -> Float[Tensor, "L P N"]:
    """Mean activation of every neuron in every language, sentences weighing the same."""
    means = torch.cat([recording.stored(block).double().mean(1) for block in recording.chunks()], dim=1)
    return recording.layout.by_layer(means.float(), 0.0)


def mean_values(recording: Recording) -> Float[Tensor, "L P N"]:
    """Means that neurons can be set to; raises InputError of neurons that were taken times their routing weight."""
    if recording.span.weighted:
        raise InputError("a neuron is never its value times its routing weight: take means of a recording without")
    return language_means(recording)


def treatment(
    mask: Bool[Tensor, "P N"],
    kind: Kind,
    recording: Recording | None = None,
    language: str | None = None,
    scale: float = 0.5,
) -> Treatment:
    """A mask's neurons at zero; at their mean over all languages, or over all but `language`; or times `scale`.

    Raises InputError for a mean without a recording, for `mean-others` without a language, and an unknown kind.

    >>> with treated(model, treatment(regions["zh"], "mean-others", recording, "zh")):   # doctest: +SKIP
    ...     score(model, windows)
    """
    if kind == "zero":
        return Treatment(mask)
    if kind == "scale":
        return Treatment(mask, scale=scale)
    if kind not in KINDS:
        raise InputError(f"no treatment {kind!r}; there are {', '.join(KINDS)}")
    if recording is None:
        raise InputError(f"the treatment {kind!r} takes its values from a recording")
    means = mean_values(recording)
    if kind == "mean":
        return Treatment(mask, means.mean(0))
    if language not in recording.languages:
        raise InputError(f"mean-others: {language!r} is not a language of the recording")
    others = [place for place, code in enumerate(recording.languages) if code != language]
    return Treatment(mask, means[others].mean(0))


def top_share(scores: Float[Tensor, "P N"], share: float, layout: NeuronLayout) -> Bool[Tensor, "P N"]:
    """The `share` of all neurons with the highest scores; a neuron without one (NaN, −∞) is never among them."""
    flat = layout.in_a_row(scores)
    flat = flat.masked_fill(flat.isnan(), -torch.inf)
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[flat.topk(round(share * len(flat))).indices] = True
    return layout.by_layer(mask & (flat > -torch.inf), False)


@dataclass(frozen=True)
class Doses:
    """How much of a ranking is treated, in which ways, and against how many random draws."""

    shares: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """of all neurons"""
    kinds: Sequence[Kind] = ("zero",)
    controls: int = 1
    """draws of as many random neurons of each layer"""
    seed: int = 0


def dose_response(
    model: Model,
    windows: Mapping[str, Windows],
    regions: RegionSet,
    doses: Doses | None = None,
    recording: Recording | None = None,
    budget: int | None = None,
    progress: Callable[[int], None] | None = None,
    base: Mapping[str, Loss] | None = None,
) -> list[Dose]:
    """Treat more and more of the neurons that rank highest for each language, and as many random ones per layer.

    Cost: (1 + kinds · shares · regions · (1 + controls)) passes over the text, one less where the losses of the
    unchanged model are given as `base`. `regions` must hold scores.
    """
    base = base or {code: score(model, text, budget, progress) for code, text in windows.items()}
    rows: list[Dose] = []
    for matched, kind, share, draw, mask in _doses(regions, doses or Doses()):
        if not bool(mask.any()):
            continue
        with treated(model, treatment(mask, kind, recording, matched)):
            losses = {code: score(model, text, budget, progress) for code, text in windows.items()}
        name = matched if draw < 0 else "random-layer"
        rows += [
            _dose(name, matched, kind, share, int(mask.sum()), draw, code, loss, base[code])
            for code, loss in losses.items()
        ]
    return rows


def _doses(regions: RegionSet, doses: Doses) -> Iterator[tuple[str, Kind, float, int, Tensor]]:
    for code in regions.languages:
        if code not in regions.scores:
            raise InputError(f"dose–response follows scores; the region of {code!r} has none")
        for share in doses.shares:
            mask = top_share(regions.scores[code], share, regions.layout)
            sizes = mask.sum(1).tolist()
            for kind in doses.kinds:
                yield code, kind, share, -1, mask
                for draw in range(doses.controls):
                    drawn = random_region_by_layer(sizes, regions.layout.widths, doses.seed + draw)
                    yield code, kind, share, draw, drawn


def _dose(
    name: str, matched: str, kind: str, share: float, neurons: int, draw: int, code: str, loss: Loss, base: Loss
) -> Dose:
    change = loss_change(loss, base)
    return Dose(
        region=name,
        matched=matched,
        kind=kind,
        share=share,
        neurons=neurons,
        draw=draw,
        language=code,
        nll=loss.nll,
        delta_nll=change.value,
        delta_low=change.low,
        delta_high=change.high,
        interval=change.method,
        why=change.why,
        documents=int((base.counts > 0).sum()),
    )
