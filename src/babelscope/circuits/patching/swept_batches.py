"""A patching sweep as units of work: some senders on a batch of prompt pairs, scored.

S sender · N row · P pair
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from babelscope.circuits.core import logit_diff
from babelscope.circuits.core.ablation import reference
from babelscope.circuits.core.batching import Rows, batches
from babelscope.circuits.core.cache import Direction, Runs, record
from babelscope.circuits.core.changes import node_changes
from babelscope.circuits.core.nodes import MLP, Expert, Head, Mixer, Sender
from babelscope.circuits.patching.expert_nodes import Routing
from babelscope.circuits.patching.kept_runs import make_room, recorded
from babelscope.models.batches import out_of_memory, token_budget
from babelscope.models.workers import Tell

if TYPE_CHECKING:
    from babelscope.models import Model
    from babelscope.tasks import PromptPair

Array = NDArray[np.float64]
Group = Sequence[Sender]
T = TypeVar("T")
What = Literal["output", "pattern"]
TOGETHER = 64
"""senders of one unit, about: a unit's runs are recorded again where another worker has the batch's other senders"""


@dataclass(frozen=True)
class Sweep:
    """How senders are gone through."""

    direction: Direction = "noising"
    divergence: bool = False
    """also KL of the patched from the base run"""
    budget: int | None = None
    """tokens at a time [by the device's memory]"""
    without: tuple[Head, ...] = ()
    """heads held at their mean over the corrupted prompts meanwhile (for paths to the logits only)"""
    routing: Routing = "frozen"
    """of experts as senders: tokens and weights of the base run, or those that each has in the source run"""


class Question(Protocol):
    """What is patched, and how far it is followed; of plain values, so that it can be asked elsewhere."""

    def finals(self, model: Model, runs: Runs, group: Group) -> Float[Tensor, "S N A D"] | None:
        """Final states at the answer under each sender of a group; None where it reaches nothing that is asked for."""
        ...

    def width(self, model: Model, runs: Runs) -> int:
        """Positions that are run for each sender and row."""
        ...


@dataclass(frozen=True)
class Asked:
    """A sweep."""

    pairs: Sequence[PromptPair]
    senders: tuple[Sender, ...]
    question: Question
    sweep: Sweep
    what: What = "output"
    alike: Mapping[Sender, int] = field(default_factory=dict[Sender, int])
    """senders of one number may be patched in one pass though they enter at several places; others may not"""

    def groups(self) -> list[list[Sender]]:
        """Senders that are patched in one pass where memory allows."""
        found: list[list[Sender]] = []
        for group in groups_of(self.senders):
            number = self.alike.get(group[0])
            if found and number is not None and number == self.alike.get(found[-1][0]):
                found[-1] += group
            else:
                found.append(group)
        return found

    def units(self, count: int) -> list[Unit]:
        """Pieces of this sweep over `count` batches."""
        parts, size = [[0, 0]], 0
        for group in self.groups():
            if size >= TOGETHER:
                parts.append([parts[-1][1], parts[-1][1]])
                size = 0
            parts[-1][1] += 1
            size += len(group)
        return [Unit(batch, start, end) for batch in range(count) for start, end in parts]


@dataclass(frozen=True)
class Unit:
    """A batch, and which groups of senders."""

    batch: int
    start: int
    end: int


@dataclass(frozen=True)
class Scored:
    """Logit differences of the rows of one batch."""

    index: tuple[int, ...]
    """pair of each row"""
    base: Float[Array, " N"]
    source: Float[Array, " N"]
    patched: list[tuple[Sender, Float[Array, " N"]]]
    divergence: list[tuple[Sender, Float[Array, " N"]]]
    """0 in rows that continue the prompt by the foil"""


class SweptBatches:
    """Work of `over_workers`: some senders on a batch."""

    def __init__(self, model: Model, asked: Asked) -> None:
        self.model, self.asked = model, asked
        self.budget = asked.sweep.budget or token_budget(model.device)
        self.batches = list(batches(asked.pairs, self.budget, model.device))
        self.groups = asked.groups()
        with torch.no_grad():
            self.mean = reference(model, asked.pairs, "mean") if asked.sweep.without else None
        self._last: tuple[int, Runs] | None = None

    @torch.no_grad()
    def __call__(self, unit: Unit, tell: Tell) -> Scored:
        model, asked, rows = self.model, self.asked, self.batches[unit.batch]
        runs = self._runs(unit.batch)
        own = _answers(rows, runs.base.final)
        unpatched = _numbers(logit_diff.scores(model, rows, own)[0])
        source = _numbers(logit_diff.scores(model, rows, _answers(rows, runs.source.final))[0])
        scored = Scored(rows.index, unpatched, source, [], [])
        for group in self.groups[unit.start : unit.end]:
            size = max(1, self.budget // (len(rows) * max(1, asked.question.width(model, runs))))
            for part, final in in_chunks(group, size, self._finals(runs), model.device):
                found = unpatched[None].repeat(len(part), 0)
                if final is not None:
                    found = _numbers(logit_diff.scores(model, rows, final))
                    if asked.sweep.divergence:
                        scored.divergence.extend(zip(part, _divergence(model, rows, own, final)))
                scored.patched.extend(zip(part, found))
                tell(len(part) * len(rows))
        return scored

    def _finals(self, runs: Runs) -> Callable[[Group], Tensor | None]:
        return lambda part: self.asked.question.finals(self.model, runs, part)

    def _runs(self, place: int) -> Runs:
        """Passes A and B of a batch; kept until another one is asked for."""
        if self._last is None or self._last[0] != place:
            self._last = None
            rows, sweep = self.batches[place], self.asked.sweep
            with_mlps = any(isinstance(node, (MLP, Expert)) for node in self.asked.senders)
            if self.mean is None and self.asked.what == "output":
                self._last = place, recorded(self.model, rows, sweep.direction, with_mlps)
            else:
                changes = None if self.mean is None else node_changes(self.model, self.mean(rows), sweep.without)
                patterns = self.asked.what == "pattern"
                self._last = place, record(self.model, rows, sweep.direction, with_mlps, patterns, changes)
        return self._last[1]


def _numbers(values: Tensor) -> Array:
    return values.cpu().double().numpy()


def groups_of(senders: Sequence[Sender]) -> Iterator[list[Sender]]:
    """Senders that enter the stream at one place: heads or experts of a layer; one mixer, one MLP, the embedding."""

    def place(node: Sender) -> tuple[int, int]:
        # an MLP's write enters the next layer
        return getattr(node, "layer", -1), next(
            (order for order, kind in ((1, Mixer), (2, MLP), (3, Expert)) if isinstance(node, kind)), 0
        )

    for _, members in groupby(sorted(senders, key=place), key=place):
        group = list(members)
        yield from [group] if isinstance(group[0], (Head, Expert)) else ([node] for node in group)


def in_chunks(
    nodes: Sequence[Sender], size: int, work: Callable[[Group], T], device: torch.device
) -> Iterator[tuple[Group, T]]:
    """`work` on at most `size` senders at a time; a chunk that does not fit in memory is halved and done again."""
    for start in range(0, len(nodes), size):
        chunk = nodes[start : start + size]
        try:
            result = work(chunk)
        except Exception as error:
            if not out_of_memory(error) or len(chunk) == 1:
                raise
        else:
            yield chunk, result
            continue
        # outside the except block, so that the failed pass and its tensors are gone
        make_room()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        yield from in_chunks(chunk, (len(chunk) + 1) // 2, work, device)


def _answers(rows: Rows, final: Float[Tensor, "N T D"]) -> Float[Tensor, "1 N A D"]:
    return final[None, :, rows.length - rows.answer :]


def _divergence(model: Model, rows: Rows, own: Tensor, final: Tensor) -> Float[Array, "S N"]:
    """KL at END, from the target's row of each pair only."""
    keep = [row for row, sign in enumerate(rows.signs) if sign >= 0]
    found = np.zeros((len(final), len(rows)))
    if keep:
        found[:, keep] = _numbers(logit_diff.divergence(model, own[0, keep, 0], final[:, keep, 0]))
    return found
