"""The register of figures: which kinds of run give which, and the views that a page lets a reader choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

from babelscope.errors import InputError, RunError
from babelscope.figures.reworded import reworded
from babelscope.figures.spec import Figure
from babelscope.outside import Rows
from babelscope.results import Run
from babelscope.wording import of_dimensions

P = ParamSpec("P")
Options = Mapping[str, str]
NO_OPTIONS: Options = {}


@dataclass(frozen=True)
class View:
    """One choice on a page: what it is called, and the figure's options that give it."""

    name: str
    options: Options


@dataclass(frozen=True)
class Drawing:
    """One registered figure."""

    name: str
    kind: str
    """of the runs that it is drawn from"""
    needs: tuple[str, ...]
    """array names, `table:<name>` or `group:<name>`"""
    specify: Callable[..., Figure]
    views: Callable[[Run], Sequence[View]] | None = None
    choose: str = "Show"
    """the word before a page's list of views"""

    def lacking(self, run: Run) -> list[str]:
        """What the figure needs and the run does not hold."""
        return [need for need in self.needs if not holds(run, need)]


def _is_drawing(one: object) -> bool:
    return isinstance(one, Drawing)


_OURS: dict[str, Drawing] = {}
FIGURES: Rows[Drawing] = Rows("figures", _is_drawing, _OURS)
"""figures of this package, then those that installed packages announce"""


def figure(
    kind: str, *needs: str, views: Callable[[Run], Sequence[View]] | None = None, choose: str = "Show"
) -> Callable[[Callable[Concatenate[Run, P], Figure]], Callable[Concatenate[Run, P], Figure]]:
    """Registers a function that makes a figure of runs of `kind` which hold all of `needs`.

    needs: array names, or `table:<name>` for a table that is not empty, `group:<name>` for a group of arrays
    views: the choices that a page offers; by default the figure as it is without options
    """

    def register(function: Callable[Concatenate[Run, P], Figure]) -> Callable[Concatenate[Run, P], Figure]:
        name: str = function.__name__
        _OURS[name] = Drawing(name, kind, needs, function, views, choose)
        return function

    return register


def holds(run: Run, need: str) -> bool:
    """Whether a run has an array, or with `table:<name>` a table that is not empty; `group:<name>` a group."""
    what, _, name = need.rpartition(":")
    if what == "table":
        return name in run.tables and len(run.table(name)) > 0
    if what == "group":
        return name in run.groups
    return has_arrays(run) and need in run.arrays()


def has_arrays(run: Run) -> bool:
    """Whether a run holds any arrays."""
    return (run.path / "arrays.zarr").is_dir()


def names_from_outside() -> list[str]:
    """Names of the figures that installed packages add."""
    return [name for name in FIGURES if name not in _OURS]


def figure_names(run: Run) -> list[str]:
    """Names of the figures that this run can give."""
    return [name for name, one in FIGURES.items() if one.kind == run.kind and not one.lacking(run)]


def specify(run: Run, name: str, **options: str) -> Figure:
    """A figure of a run by its name, as data.

    Raises InputError for an unknown name or option, RunError when the run lacks what it needs.

    >>> specify(open_run("runs/bible"), "layer_curves").caption                              # doctest: +SKIP
    'LRDS and SADS in each layer on its own …'
    """
    if name not in FIGURES:
        known = ", ".join(figure_names(run))
        raise InputError(f"there is no figure {name!r}; this run gives: {known or 'none'}")
    one = FIGURES[name]
    if run.kind != one.kind:
        what = f"is of kind {run.kind}, not {one.kind}"
        raise RunError(f"the figure {name} cannot be drawn: the run {run.source} {what}")
    if lacking := one.lacking(run):
        raise RunError(f"the figure {name} cannot be drawn: the run {run.source} has no {', '.join(lacking)}")
    with FIGURES.running(name):
        found = one.specify(run, **options)
    return reworded(found, of_dimensions) if run.of_dimensions else found
