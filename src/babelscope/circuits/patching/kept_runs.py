"""Runs of batches, kept while several sweeps ask for the same prompts: each is made once, up to a bound on memory."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from babelscope.circuits.core.batching import Rows
from babelscope.circuits.core.cache import Direction, Recorded, Runs, record
from babelscope.models.hooks import standing_edits

if TYPE_CHECKING:
    from babelscope.models import Model

MOST = 2**31
"""bytes that are kept at once; runs beyond them are made whenever they are asked for"""


def room(device: torch.device) -> int:
    """Bytes that may be kept: on a CUDA device no more than a quarter of what is free now."""
    return min(MOST, torch.cuda.mem_get_info(device)[0] // 4) if device.type == "cuda" else MOST


class KeptRuns:
    """The unedited runs of one model that were asked for so far."""

    def __init__(self, model: Model, most: int | None = None) -> None:
        self.model, self.bytes = model, 0
        self.most = room(model.device) if most is None else most
        self._found: dict[tuple[object, bool], Runs] = {}

    def of(self, rows: Rows, direction: Direction, mlps: bool) -> Runs:
        """What `record` gives; runs that were kept with what MLPs write serve those who do not ask for it."""
        key = direction, rows.clean.shape, *(ids.cpu().numpy().tobytes() for ids in (rows.clean, rows.corrupted))
        for had in (True, False) if not mlps else (True,):
            if (key, had) in self._found:
                kept = self._found[key, had]
                return Runs(rows, kept.base, kept.source)
        made = record(self.model, rows, direction, mlps)
        size = sum(map(_bytes, (made.base, made.source)))
        if self.bytes + size <= self.most:
            self.bytes += size
            self._found[key, mlps] = made
        return made

    def let_go(self) -> None:
        """Keeps nothing, now and later."""
        self._found.clear()
        self.most = self.bytes = 0


class _Standing(threading.local):
    kept: KeptRuns | None = None


_standing = _Standing()


@contextmanager
def keeping_runs(model: Model, most: int | None = None) -> Generator[KeptRuns]:
    """Inside, sweeps of this thread over this model share their runs; afterwards these are let go."""
    before, own = _standing.kept, KeptRuns(model, most)
    _standing.kept = own
    try:
        yield own
    finally:
        _standing.kept = before


def recorded(model: Model, rows: Rows, direction: Direction, mlps: bool) -> Runs:
    """Passes A and B of an unedited model, from before where they are kept."""
    kept = _standing.kept
    if kept is None or kept.model is not model or standing_edits(model.hf):
        return record(model, rows, direction, mlps)
    return kept.of(rows, direction, mlps)


def make_room() -> None:
    """Memory ran out: what this thread keeps is let go."""
    if _standing.kept is not None:
        _standing.kept.let_go()


def run_bytes(model: Model, mlps: bool) -> int:
    """Bytes that both runs of one token take where every layer has attention and an MLP, for a plan."""
    layers, width, heads = model.layers, model.width, model.heads * model.head_width
    numbers = (layers + 2) * width + layers * heads + (layers * width if mlps else 0)
    keys = 2 * layers * model.kv_heads * model.head_width
    return (2 * numbers + keys) * model.dtype.itemsize


def _bytes(run: Recorded) -> int:
    parts: list[Tensor] = [*run.residual, *run.z.values(), *run.mlp.values(), *run.state.values(), run.final]
    return sum(part.nbytes for part in [*parts, *(part for both in run.keys for part in both)])
