"""What a study will cost, by rehearsal: its parts are run at two small sizes, and carried on in a straight line."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from babelscope.models import Model
from babelscope.studies.plan import PlannedStep, StudyPlan

T = TypeVar("T")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Spent:
    """What something cost."""

    seconds: float = 0.0
    passes: float = 0.0
    tokens: float = 0.0
    """through the first block"""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.passes + other.passes, self.tokens + other.tokens)

    def __mul__(self, times: float) -> Spent:
        return Spent(self.seconds * times, self.passes * times, self.tokens * times)


def spent(model: Model, work: Callable[[], T], clock: Clock = time.perf_counter) -> tuple[T, Spent]:
    """The result of some work, and what it cost."""
    with _counted(model) as counts:
        started = clock()
        result = work()
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        took = clock() - started
    return result, Spent(took, counts[0], counts[1])


@contextmanager
def _counted(model: Model) -> Generator[list[int]]:
    counts = [0, 0]

    def seen(_: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        counts[0] += 1
        counts[1] += int(hidden.shape[0] * hidden.shape[1]) if isinstance(hidden, torch.Tensor) else 0

    hook = model.blocks[0].register_forward_pre_hook(seen, with_kwargs=True)
    try:
        yield counts
    finally:
        hook.remove()


def rehearsed(
    model: Model, work: Callable[[int], object], sizes: tuple[int, int], whole: float, clock: Clock = time.perf_counter
) -> Spent:
    """Cost of work of size `whole`, from two smaller sizes; it never falls with size.

    The smaller one is done once before, so that nothing is timed that happens the first time only.
    """
    few, many = sizes
    work(few)
    [(_, one), (_, other)] = [spent(model, lambda size=size: work(size), clock) for size in sizes]
    if many <= few:
        return one * (whole / few)

    def carried(a: float, b: float) -> float:
        slope = max(0.0, (b - a) / (many - few))
        return max(a, b) + slope * (whole - many) if whole >= few else a * whole / few

    return Spent(
        carried(one.seconds, other.seconds), carried(one.passes, other.passes), carried(one.tokens, other.tokens)
    )


def planned(named: dict[str, tuple[Spent, str]]) -> StudyPlan:
    """Parts by name, with the options that make them cheaper, as a plan."""
    whole = sum(part.seconds for part, _ in named.values()) or 1.0
    return StudyPlan(
        tuple(
            PlannedStep(name, round(part.passes), round(part.tokens), part.seconds, part.seconds / whole, 0, 0, cheaper)
            for name, (part, cheaper) in named.items()
        )
    )
