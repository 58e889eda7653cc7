"""Settings: frozen dataclasses that are the options of a step, the command line, a file of options and a run's record.

A study's settings inherit from the groups of its steps, so that they are written flat and handed on by group: one new
option is one field of one group. The docstring under a field is its help; `check` of each group says what is wrong.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar, get_type_hints

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
        for group in reversed(type(self).__mro__):
            if "check" in vars(group):
                vars(group)["check"](self)
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
