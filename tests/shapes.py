"""What checks types and shapes while the tests run: beartype on the annotations, with two of its rules loosened.

An int is a float, and a word that is none of a Literal's is left to the function, which says so in a line of its own
(the tests look at that line). Names that a module imports for type checkers alone are not checked.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from beartype import BeartypeConf, beartype

F = TypeVar("F", bound=Callable[..., Any])
_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: F) -> F:
    """The function, with what goes in and comes out checked."""
    function.__annotations__ = {name: _without_words(hint) for name, hint in function.__annotations__.items()}
    return _CHECK(function)


def _without_words(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return object
    if get_origin(hint) in (Union, types.UnionType):
        parts = tuple(_without_words(part) for part in get_args(hint))
        return object if object in parts else Union[parts]  # noqa: UP007
    return hint
