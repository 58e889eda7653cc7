"""Settings: frozen dataclasses that are the options of a step, the command line, a file of options and a run's record.

A study's settings inherit from the groups of its steps, so that they are written flat and handed on by group: one new
option is one field of one group. The docstring under a field is its help; `check` of each group says what is wrong.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

from babelscope.errors import InputError

G = TypeVar("G", bound="Settings")
Use = tuple[Callable[[Any], bool], str]
"""whether an option is used with these settings, and which other option that takes"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every group of options.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Draws(Settings):
    ...     "Random draws."
    ...     draws: int = 20
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Study(Draws):
    ...     name: str = "a"
    >>> Study(draws=3).part(Draws)
    Draws(draws=3)
    """

    ONLY: ClassVar[Mapping[str, Use]] = {}
    """option → when it changes anything; one that would be accepted and not used is refused"""

    def __post_init__(self) -> None:
        refuse_no_numbers(self)
        for group in reversed(type(self).__mro__):
            if callable(check := vars(group).get("check")):  # a field may be called so, too
                check(self)
        refuse_idle(
            self, {name: use for group in type(self).__mro__ for name, use in vars(group).get("ONLY", {}).items()}
        )

    def part(self, group: type[G]) -> G:
        """The options of one group alone: what its step is given, and what the step's key is made of."""
        return group(**{one.name: getattr(self, one.name) for one in dataclasses.fields(group)})

    def _put(self, **values: Any) -> None:
        """Values in their canonical form, for use in `check`."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def refuse_no_numbers(settings: Settings) -> None:
    """Raises InputError for NaN and infinities, which pass any comparison, seeds below 0, and entries listed twice."""
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        parts = list(cast("Sequence[object]", value)) if isinstance(value, tuple | list) else [value]
        option = f"--{one.name.strip('_').replace('_', '-')}"
        for part in parts:
            if isinstance(part, float) and not math.isfinite(part):
                raise InputError(f"{option} {part:g}: a finite number is needed")
        if one.name.endswith("seed") and isinstance(value, int) and value < 0:
            raise InputError(f"{option} {value}: a seed is a whole number from 0")
        twice = next((part for place, part in enumerate(parts) if part in parts[:place]), None)
        if twice is not None:
            raise InputError(f"{option}: {twice} is named twice; name it once")


def refuse_idle(settings: Settings, uses: Mapping[str, Use]) -> None:
    """Raises InputError for an option that was changed and would not be used."""
    for one in dataclasses.fields(settings):
        if one.name not in uses or _default(one) == getattr(settings, one.name):
            continue
        used, needed = uses[one.name]
        if not used(settings):
            raise InputError(
                f"--{one.name.strip('_').replace('_', '-')} changes nothing without {needed}: leave it out"
            )


def _default(one: dataclasses.Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default


@dataclass(frozen=True)
class Option:
    """One field as a command line sees it."""

    name: str
    hint: Any
    """its type, resolved"""
    default: Any
    """dataclasses.MISSING where it has none"""
    help: str
    group: str
    """first sentence of the class that declares it"""


def options_of(kind: type[Settings]) -> Iterator[Option]:
    """The fields of a settings class, with the help that stands under each."""
    hints = get_type_hints(kind, include_extras=True)
    for one in dataclasses.fields(kind):
        owner = next(group for group in kind.__mro__ if one.name in vars(group).get("__annotations__", {}))
        default = one.default
        if default is dataclasses.MISSING and one.default_factory is not dataclasses.MISSING:
            default = one.default_factory()
        title = (inspect.getdoc(owner) or owner.__name__).split("\n")[0].split(":")[0].rstrip(".")
        yield Option(one.name, hints[one.name], default, _docs(owner).get(one.name, ""), title)


@cache
def _docs(kind: type) -> Mapping[str, str]:
    """Docstrings under the fields of one class."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except OSError:  # no source beside the program
        return {}
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = " ".join(inspect.cleandoc(text).split())
    return found
