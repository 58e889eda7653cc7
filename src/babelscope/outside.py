"""Rows from outside: what installed packages add to our tables, announced as entry points (docs/extending.md).

A package announces a row under the group of its kind; the entry's name is the row's. Nothing is loaded before it is
asked for by name. A row never takes the place of a built-in one, and one that fails names the package it came with.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, cast

from babelscope.errors import BabelscopeError, InputError
from babelscope.wording import first_line, visible

KINDS = {
    "families": "family",
    "methods": "localisation method",
    "metrics": "alignment metric",
    "tasks": "task",
    "readers": "corpus reader",
    "figures": "figure",
}
"""the last word of each group's name → what its rows are"""
T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@cache
def _announced(kind: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entries of a group as the folders of `path` have them; looked up once."""
    return tuple(entry_points(group=f"babelscope.{kind}"))


def entries(kind: str) -> tuple[EntryPoint, ...]:
    """What the installed packages announce of one kind."""
    return _announced(kind, tuple(sys.path))


def packages() -> dict[str, str]:
    """Name → version of the packages that announce anything: numbers may depend on them."""
    found = {entry.dist.name: entry.dist.version for kind in KINDS for entry in entries(kind) if entry.dist}
    return dict(sorted(found.items()))


def origin(entry: EntryPoint) -> str:
    """The package that announces a row, as errors name it."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed package"


def entry_named(kind: str, name: str) -> EntryPoint | None:
    """The one entry of a name, if any; raises InputError where two packages announce the same name."""
    found = [entry for entry in entries(kind) if entry.name == name]
    if len(found) > 1:
        raise InputError(
            f"the {KINDS[kind]} {visible(name)!r} is announced by {' and by '.join(map(origin, found))}; "
            "uninstall one of them"
        )
    return found[0] if found else None


def loaded(kind: str, entry: EntryPoint) -> Any:
    """The row of an entry; raises InputError, in one line that names the package, when it cannot be had."""
    with blaming(kind, entry, "cannot be loaded"):
        if not _NAME.fullmatch(entry.name):
            raise ValueError("its name may have letters, digits, '-', '_' and '.'")
        return entry.load()


@contextmanager
def blaming(kind: str, entry: EntryPoint | None, failed: str = "failed") -> Generator[None]:
    """Whatever goes wrong inside is said in one line that names the row's package; with None it is raised as it is."""
    try:
        yield
    except (BabelscopeError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if entry is None or type(error).__name__ == "OutOfMemoryError":
            raise
        raise InputError(
            f"the {KINDS[kind]} {visible(entry.name)!r} of the package {origin(entry)} {failed}: "
            f"{type(error).__name__}: {visible(first_line(error))}"
        ) from error


class Rows(Mapping[str, T]):
    """A table of ours by name, and after it what installed packages announce under `babelscope.KIND`.

    >>> Rows("metrics", callable, {"sum": sum})["sum"]([1, 2])
    3
    """

    def __init__(self, kind: str, fits: Callable[[object], bool], built_in: Mapping[str, T]) -> None:
        self.kind, self.built_in, self._fits = kind, built_in, fits
        self._loaded: dict[EntryPoint, T] = {}

    def __getitem__(self, name: str) -> T:
        entry = entry_named(self.kind, name)
        if name in self.built_in:
            if entry is not None:
                raise InputError(
                    f"the package {origin(entry)} announces the {KINDS[self.kind]} {name!r}, which is built in; "
                    "rename its entry point, or uninstall it"
                )
            return self.built_in[name]
        if entry is None:
            raise KeyError(name)
        if entry not in self._loaded:
            row = loaded(self.kind, entry)
            with blaming(self.kind, entry, "cannot be used"):
                if not self._fits(row):
                    raise TypeError(f"a {type(row).__name__} is none")
                if getattr(row, "name", name) != name:
                    raise ValueError(f"the row itself is called {row.name!r}")
            self._loaded[entry] = cast("T", row)
        return self._loaded[entry]

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or any(entry.name == name for entry in entries(self.kind))

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self.built_in, *(entry.name for entry in entries(self.kind))])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @contextmanager
    def running(self, name: str) -> Generator[None]:
        """Around the work of a row: what goes wrong in one from outside is said in one line that names its package."""
        with blaming(self.kind, None if name in self.built_in else entry_named(self.kind, name)):
            yield
