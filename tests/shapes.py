"""What checks types and shapes while the tests run: beartype on the annotations, with two of its rules loosened.

An int is a float, and a word that is none of a Literal's is left to the function, which says so in a line of its own
(the tests look at that line). Names that a module imports for type checkers alone are not checked, nor aliases that
name themselves, nor streams of text: what Python opens is no `TextIO`. A `SimpleNamespace` may stand for any class of
the package.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, ForwardRef, Literal, TextIO, TypeVar, Union, get_args, get_origin

import numpy as np
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.roar import BeartypeDecorHintException
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
_CONF = BeartypeConf(is_pep484_tower=True)
_CHECK = beartype(conf=_CONF)


def checked(function: F) -> F:
    """The function, with what goes in and comes out checked; settings put right what they are given, and say no."""
    if function.__qualname__.endswith("__init__") and (
        "settings" in function.__module__ or function.__qualname__.endswith(("Settings.__init__", "Options.__init__"))
    ):
        return function
    if function.__module__.startswith("babelscope.cli."):  # what was typed
        return function
    hints = {name: _without_words(hint) for name, hint in function.__annotations__.items()}
    function.__annotations__ = dict(hints)
    try:
        return _CHECK(function)
    except BeartypeDecorHintException:
        function.__annotations__ = {name: hint if _can_be_checked(hint) else object for name, hint in hints.items()}
        return _CHECK(function)


def _can_be_checked(hint: Any) -> bool:
    """False of what says nothing at run time: protocols that are for type checkers alone, arrays of anything."""
    try:
        is_bearable(None, hint, conf=_CONF)
    except BeartypeDecorHintException:
        return False
    return True


def _without_words(hint: Any) -> Any:
    if hint == NDArray[np.str_]:  # beartype takes words of no letters alone
        return np.ndarray
    if get_origin(hint) is Literal or hint is TextIO or any(isinstance(part, ForwardRef) for part in _parts(hint)):
        return object
    if get_origin(hint) in (Union, types.UnionType):
        parts = tuple(_without_words(part) for part in get_args(hint))
        return object if object in parts else Union[parts]  # noqa: UP007
    if isinstance(hint, type) and getattr(hint, "__module__", "").startswith("babelscope."):
        return hint | types.SimpleNamespace
    if get_origin(hint) is not None and any(_without_words(part) is not part for part in get_args(hint)):
        return get_origin(hint)
    return hint


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _parts(part)
