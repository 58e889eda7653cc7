"""Work on a model in pieces that do not hang together, done here or by workers that loaded the same model.

A piece of work is prepared once by whoever does it, then done unit by unit. What a unit gives depends on the unit
alone: not on who does it, on how many there are, nor on what was done before; and how work is cut into units does not
depend on the number of workers either. So one worker and a hundred give the same numbers, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from babelscope.models.hooks import hook_count, standing_edits

if TYPE_CHECKING:
    from babelscope.models.model import Model

S = TypeVar("S")
U = TypeVar("U")
R = TypeVar("R")
Tell = Callable[[int], None]
"""hears how much of a unit is done"""
Prepare = Callable[["Model", S], Callable[[U, Tell], R]]
"""(model, what all units share) → the work: (unit, tell) → its result; a class or function that stands in a module"""


class Workers(Protocol):
    """Somebody else who holds the model."""

    def results(self, prepare: Prepare[S, U, R], shared: S, units: Sequence[U], tell: Tell) -> Iterator[R]:
        """The result of every unit, in order."""
        ...


def over_workers(
    model: Model, prepare: Prepare[S, U, R], shared: S, units: Sequence[U], tell: Tell | None = None
) -> Iterator[R]:
    """The result of every unit in order, by the workers that hold the model, or here where there are none.

    Inside an edit or beside somebody's hooks it is always here: workers hold the model as it was loaded.

    >>> from babelscope import load_model
    >>> def longer(model, by): return lambda unit, tell: unit + by * model.layers
    >>> list(over_workers(load_model("pocket:pocket-bloom-s"), longer, 10, [1, 2, 3]))
    [41, 42, 43]
    """
    heard = tell or _nobody
    workers = model.workers
    if workers is not None and not hook_count(model.hf) and not standing_edits(model.hf):
        yield from workers.results(prepare, shared, units, heard)
        return
    work = prepare(model, shared)
    for unit in units:
        yield work(unit, heard)


def _nobody(_amount: int) -> None:
    pass


Work = Callable[[Any, Tell], Any]
"""work that was prepared, whatever its units and results are"""
