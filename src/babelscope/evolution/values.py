"""Whether a plain value fits the type of a setting, and the value in that type."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

_WORDS: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "nothing",
}


def checked(value: object, hint: object) -> object:
    """`value` as `hint` wants it (lists become tuples, whole numbers become floats); ValueError says what is allowed.

    >>> checked(["en", "fr"], tuple[str, ...] | None), checked(2, float)
    (('en', 'fr'), 2.0)
    """
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in inside:
            try:
                return checked(value, option)
            except ValueError:
                continue
        raise ValueError(f"{value!r} is not {described(hint)}")
    if origin is Literal:
        if value in inside and not isinstance(value, bool):
            return value
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, inside))}")
    if origin in (tuple, list):
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            raise ValueError(f"{value!r} is not {described(hint)}")
        return tuple(checked(item, inside[0]) for item in given)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} is not {described(hint)}")
        return {checked(key, inside[0]): checked(item, inside[1]) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (
        isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    ):
        return value
    raise ValueError(f"{value!r} is not {described(hint)}")


def described(hint: object) -> str:
    """A type in words.

    >>> described(int | None), described(tuple[str, ...])
    ('a whole number or nothing', 'a list, each a text')
    """
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(described(option) for option in inside)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inside))
    if origin in (tuple, list):
        return f"a list, each {described(inside[0])}"
    if origin is Mapping:
        return f"a mapping from {described(inside[0])} to {described(inside[1])}"
    return _WORDS.get(hint, str(hint))
