"""Settings: frozen dataclasses that are the options of a step, the command line, a file of options and a run's record.

A study's settings inherit from the groups of its steps, so that they are written flat and handed on by group: one new
option is one field of one group. The docstring under a field is its help; `check` of each group says what is wrong.
"""

from __future__ import annotations

import ast
import dataclasses
import gc
import inspect
import math
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from babelscope.errors import InputError
from babelscope.wording import nearest

G = TypeVar("G", bound="Settings")
Use = tuple[Callable[[Any], bool], str]
"""whether an option is used with these settings, and which other option that takes"""
MOST, MOST_TOKENS, LARGEST_SEED = 10**6, 10**9, 2**32 - 1
READ = {"samples", "step_tokens", "text_tokens", "tokens", "window"}
"""options that count what is read, not what is drawn and kept"""
MAY_BE_EMPTY = {"system"}
"""texts that say something when they are empty"""


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

    def __new__(cls, *args: object, **given: object) -> Self:
        """Raises InputError for an option that there is not, with the nearest that there is."""
        names = [one.name for one in dataclasses.fields(cls)]
        for name in given:
            if name not in names:
                raise InputError(f"{cls.__name__} has no option {name!r}; {nearest(name, names)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        refuse_wrong_values(self)
        for group in reversed(type(self).__mro__):
            if callable(check := vars(group).get("check")):  # a field may be called so, too
                check(self)
        refuse_idle(
            self, {name: use for group in type(self).__mro__ for name, use in vars(group).get("ONLY", {}).items()}
        )

    def part(self, group: type[G]) -> G:
        """The options of one group alone: what its step is given, and what the step's key is made of."""
        return group(**{one.name: getattr(self, one.name) for one in dataclasses.fields(group)})

    def _put(self, **values: object) -> None:
        """Values in their canonical form, for use in `check`."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def refuse_wrong_values(settings: Settings) -> None:
    """Raises InputError for what no option can be: of another type (nothing is rounded), NaN, empty, absurd, twice."""
    for one, hint in zip(dataclasses.fields(settings), _hints(type(settings)), strict=True):
        refuse_wrong_value(one.name, hint, getattr(settings, one.name))


def refuse_wrong_value(name: str, hint: object, value: object, said: str | None = None) -> None:
    """Raises InputError for what the option `name` (in the message: `said`) with the type `hint` cannot be."""
    kind, optional = _kind(hint)
    if value is None and optional:
        return
    option = said or f"--{name.strip('_').replace('_', '-')}"
    parts = list(cast("Sequence[object]", value)) if isinstance(value, tuple | list) else [value]
    for part in parts:
        wrong = _wrong(name, kind, part)
        if wrong:
            raise InputError(f"{option} {f'{part:g}' if isinstance(part, float) else part}: {wrong}")
    twice = next((part for place, part in enumerate(parts) if part in parts[:place]), None)
    if twice is not None:
        raise InputError(f"{option}: {twice} is named twice; name it once")


def _wrong(name: str, kind: object, value: object) -> str | None:
    """What is wrong with one value of an option, by the type that it is declared with."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number is needed"
    if isinstance(value, str) and not value.strip() and name not in MAY_BE_EMPTY:
        return "nothing stands there; give it a value or leave it out"
    if get_origin(kind) is Literal and value not in get_args(kind):
        return f"there are {', '.join(map(str, get_args(kind)))}"
    if kind is bool and not isinstance(value, bool):
        return "yes or no is needed (True or False)"
    if kind is float and (isinstance(value, bool) or not isinstance(value, Real)):
        return "a number is needed"
    return _wrong_count(name, value) if kind is int else None


def _wrong_count(name: str, value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        return "a whole number is needed"
    if name.endswith("seed"):
        return None if 0 <= int(value) <= LARGEST_SEED else f"a seed is a whole number from 0 to {LARGEST_SEED}"
    most = MOST_TOKENS if name in READ else MOST
    return "counted from 0" if int(value) < 0 else f"{most:,} is the most" if int(value) > most else None


@cache
def _hints(kind: type[Settings]) -> tuple[object, ...]:
    hints = get_type_hints(kind)
    return tuple(hints[one.name] for one in dataclasses.fields(kind))


def _kind(hint: object) -> tuple[object, bool]:
    """The type of a value, or of the entries of a list, and whether it may be None."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(parts[0])
    if origin in (Union, types.UnionType) and type(None) in parts:
        rest = [part for part in parts if part is not type(None)]
        return (_kind(rest[0])[0] if len(rest) == 1 else None), True
    if origin in (tuple, list) and (len(parts) == 1 or parts[1:] == (Ellipsis,)):
        return _kind(parts[0])[0], False
    return hint, False


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


def _default(one: dataclasses.Field[Any]) -> object:
    return one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default


@dataclass(frozen=True)
class Option:
    """One field as a command line sees it."""

    name: str
    hint: object
    """its type, resolved"""
    default: object
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


def syntax_tree(source: str) -> ast.Module:
    """The syntax tree of Python source, whatever else a collection of garbage would run meanwhile.

    Up to 3.11.7 and 3.12.1 Python counts the depth of all trees in one place: a second tree, built by a finalizer
    while the first is under way, makes the first a SystemError (gh-106905). So nothing is collected meanwhile.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collecting:
            gc.enable()


@cache
def _docs(kind: type) -> Mapping[str, str]:
    """Docstrings under the fields of one class."""
    try:
        body = syntax_tree(textwrap.dedent(inspect.getsource(kind))).body[0]
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
