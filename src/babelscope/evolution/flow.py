"""How regions change: neurons from one checkpoint to the next, and depth from one model size to another.

Between checkpoints of one model a neuron keeps its name, so its language can be followed. Between sizes it does not:
there the shares of a region over relative depth are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.errors import InputError
from babelscope.regions.masks import RegionSet
from babelscope.results import Run
from babelscope.results.rows import rows_frame
from babelscope.results.schemas import sweep as schemas

Array = NDArray[np.float64]
DEPTH_BINS = 10
COUNTS = ("kept", "born", "moved", "left", "lost")


@dataclass(frozen=True)
class Flow:
    """What became of the neurons of each language, by layer, between two checkpoints."""

    by_layer: tuple[schemas.Flow, ...]
    by_pair: tuple[schemas.FlowPair, ...]

    @property
    def table(self) -> pd.DataFrame:
        """language, layer, and per row: `kept` in the region; `born`, in no region before; `moved` here from another
        language; `left` for another language; `lost`, in no region any more.

        Size before = kept + left + lost, size after = kept + born + moved.
        """
        return rows_frame(schemas.Flow, self.by_layer).filter(["language", "layer", *COUNTS])

    @property
    def pairs(self) -> pd.DataFrame:
        """language, language2, neurons: those of a region of language before and of language2 after ("" is none)."""
        return rows_frame(schemas.FlowPair, self.by_pair).filter(["language", "language2", "neurons"])

    def between(self, model: str, corpus: str, before: str, after: str) -> Flow:
        """The same with the checkpoints that it lies between."""
        where = {"model": model, "corpus": corpus, "from_": before, "to": after}
        return Flow(
            tuple(replace(row, **where) for row in self.by_layer), tuple(replace(row, **where) for row in self.by_pair)
        )

    def _repr_html_(self) -> str:
        from babelscope.notebook import table

        parts = self.table.groupby("language", sort=False)
        rows = [(str(code), *(sum(part[name].tolist()) for name in COUNTS)) for code, part in parts]
        return table("Flow of neurons between two checkpoints", ["language", *COUNTS], rows, most=40)


def region_file(run: Run) -> Path | None:
    """The file with the main regions of a run, those by which its region sizes are counted; None without one."""
    name = f"regions/{run.summary.get('method', 'z-score')}.safetensors"
    return run.file(name) if (run.path / name).is_file() else None


def flow(before: RegionSet, after: RegionSet) -> Flow:
    """Neurons born, kept, moved and lost between two checkpoints of one model (regions.md, section 7).

    Raises InputError when the two do not have the same languages, layers and neurons.

    >>> import torch
    >>> first, second = torch.tensor([[1, 1, 0]]).bool(), torch.tensor([[0, 1, 1]]).bool()
    >>> one = RegionSet({"en": first, "fr": ~first}, "z-score"), RegionSet({"en": second, "fr": ~second}, "z-score")
    >>> flow(*one).table.set_index("language")[["kept", "moved", "left"]].loc["en"].tolist()
    [1, 1, 1]
    """
    if set(before.languages) != set(after.languages):
        raise InputError("the two region sets do not have the same languages")
    layouts = {str(regions.layout.widths): str(regions.layout) for regions in (before, after)}
    if len(layouts) != 1:
        raise InputError(f"the two region sets are of different models: {' and '.join(layouts.values())}")
    rows: list[schemas.Flow] = []
    for code in before.languages:
        was, now = before[code], after[code]
        was_other, now_other = _others(before, code), _others(after, code)
        rows += [
            schemas.Flow(
                language=code,
                layer=layer,
                kept=int((was & now)[layer].sum()),
                born=int((now & ~was & ~was_other)[layer].sum()),
                moved=int((now & ~was & was_other)[layer].sum()),
                left=int((was & ~now & now_other)[layer].sum()),
                lost=int((was & ~now & ~now_other)[layer].sum()),
            )
            for layer in range(was.shape[0])
        ]
    return Flow(tuple(rows), _pairs(before, after))


def _others(regions: RegionSet, code: str) -> Bool[Tensor, "P N"]:
    """Neurons of any other language."""
    found = regions[code] & False
    for other in regions.languages:
        if other != code:
            found = found | regions[other]
    return found


def _pairs(before: RegionSet, after: RegionSet) -> tuple[schemas.FlowPair, ...]:
    rows: list[schemas.FlowPair] = []
    none_before, none_after = _none(before), _none(after)
    for code, was in [*before.masks.items(), ("", none_before)]:
        for other, now in [*after.masks.items(), ("", none_after)]:
            if code or other:
                rows.append(schemas.FlowPair(language=code, language2=other, neurons=int((was & now).sum())))
    return tuple(rows)


def _none(regions: RegionSet) -> Bool[Tensor, "P N"]:
    """Neurons of no language."""
    masks = list(regions.masks.values())
    found = masks[0]
    for mask in masks[1:]:
        found = found | mask
    return ~found & regions.layout.exists


def depth_profile(sizes: Float[Array, " layer"], bins: int = DEPTH_BINS) -> Float[Array, " bins"]:
    """Share of a region in equal stretches of relative depth, each layer spread evenly over its own stretch.

    Sums to 1; NaN for an empty region.

    >>> depth_profile(np.array([2.0, 2.0]), 4).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    total = float(sizes.sum())
    if total == 0:
        return np.full(bins, np.nan)
    edges = np.linspace(0, len(sizes), bins + 1)
    cumulative = np.interp(edges, np.arange(len(sizes) + 1), np.concatenate([[0.0], np.cumsum(sizes)]))
    return np.diff(cumulative) / total


def depth_overlap(first: Float[Array, " layer"], second: Float[Array, " layer2"]) -> float:
    """Shared part of two regions' distributions over relative depth, 0 to 1: ∫ min(p, q), exact for any two depths.

    >>> depth_overlap(np.array([1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0]))
    1.0
    """
    if first.sum() == 0 or second.sum() == 0:
        return float("nan")
    # whole numbers, so that layers that end at the same depth end at the same cut
    parts = len(first) * len(second)
    cuts = np.unique([*range(0, parts + 1, len(first)), *range(0, parts + 1, len(second))]) / parts
    middles, widths = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
    one, two = (it[(middles * len(it)).astype(int)] / it.sum() * len(it) for it in (first, second))
    return float((np.minimum(one, two) * widths).sum())


def scale_overlap(models: Mapping[str, Mapping[str, Array]], corpus: str = "") -> pd.DataFrame:
    """Overlap over relative depth of each language's region between all pairs of models, beside other languages'.

    `models`: label → language → region size by layer. Columns: from, to, language, overlap, `others` (the mean overlap
    with the regions of the other languages in the second model: what any region would share), corpus.
    """
    rows: list[schemas.ScaleOverlap] = []
    names = list(models)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            for code, sizes in models[first].items():
                if code not in models[second]:
                    continue
                others = [depth_overlap(sizes, it) for other, it in models[second].items() if other != code]
                known = [value for value in others if value == value]
                rows.append(
                    schemas.ScaleOverlap(
                        from_=first,
                        to=second,
                        language=code,
                        overlap=depth_overlap(sizes, models[second][code]),
                        others=float(np.mean(known)) if known else float("nan"),
                        corpus=corpus,
                    )
                )
    return rows_frame(schemas.ScaleOverlap, rows)
