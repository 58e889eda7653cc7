"""JSON that others wrote, as plain data or as one of our errors: never a stack overflow, never NaN as a number."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from babelscope.errors import BabelscopeError, InputError

_DEEPEST = 100
"""levels of brackets; what we and other programs write stays below ten"""
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")


def parse_json(text: str, what: str, error: type[BabelscopeError] = InputError, non_finite: bool = False) -> Any:
    """The data in a JSON text. Raises `error` with `what` in front: no JSON, nested too deeply, or NaN and infinities.

    `non_finite` lets NaN and infinities through, for readers that say themselves where one stands.

    >>> parse_json('{"a": [1]}', "x.json")
    {'a': [1]}
    """

    def constant(name: str) -> object:
        if non_finite:
            return float(name)
        raise error(f"{what} holds {name}, which is not a number")

    _refuse_depth(text, what, error)
    try:
        found = json.loads(text, parse_constant=constant, object_pairs_hook=_mapping)
        if "\\u" in text:  # an escape is the only way for half a letter to get past UTF-8, and nothing can take one
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeEncodeError as problem:
        raise error(f"{what} holds half a surrogate pair ({problem.object[problem.start]!a})") from problem
    except (ValueError, RecursionError) as problem:
        line = f", line {problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
        raise error(f"{what} is not JSON{line}: {_reason(problem)}") from problem


def read_json(
    path: Path, what: str = "", error: type[BabelscopeError] = InputError, non_finite: bool = False
) -> object:
    """`parse_json` of a UTF-8 file; raises `error` also when it cannot be read."""
    return parse_json(read_text(path, what, error), what or str(path), error, non_finite)


def read_text(path: Path, what: str = "", error: type[BabelscopeError] = InputError) -> str:
    """A UTF-8 file; raises `error` when it cannot be read, or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{what or path} is not UTF-8 text: byte {problem.start}") from problem
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise error(f"{what or path} cannot be read: {reason}") from problem


def _mapping(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:60]!r} is named twice")
    return found


def _refuse_depth(text: str, what: str, error: type[BabelscopeError]) -> None:
    if text.count("[") + text.count("{") <= _DEEPEST:
        return
    deep = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub("", text)):
        deep += 1 if bracket[0] in "[{" else -1
        if deep > _DEEPEST:
            _too_deep(what, error)


def _too_deep(what: str, error: type[BabelscopeError]) -> NoReturn:
    raise error(f"{what} is nested more than {_DEEPEST} levels deep")


def _reason(problem: Exception) -> str:
    return problem.msg if isinstance(problem, json.JSONDecodeError) else (str(problem).splitlines() or ["?"])[0]
