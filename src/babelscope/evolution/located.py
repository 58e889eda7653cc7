"""YAML as plain data together with the line on which each value stands, for errors that can be found."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml

from babelscope.errors import PlanError
from babelscope.json_text import read_text
from babelscope.wording import first_line

Place = tuple[str | int, ...]
"""keys and list positions that lead to a value"""
_MOST_NODES, _DEEPEST, _LONGEST = 20_000, 20, 1_000_000
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Located:
    """A document, where it came from, and the line of each of its values."""

    data: Any
    name: str
    lines: dict[Place, int] = field(default_factory=dict)

    def fail(self, place: Place, message: str) -> NoReturn:
        """Raises PlanError that names the document, the line and the key."""
        known = next((place[:end] for end in range(len(place), -1, -1) if place[:end] in self.lines), None)
        line = "" if known is None else f", line {self.lines[known]}"
        where = f", {written(place)}" if place else ""
        raise PlanError(f"{self.name}{line}{where}: {message}")

    def only(self, mapping: Mapping[str, object], place: Place, allowed: list[str]) -> None:
        """Raises PlanError for the first key that is not allowed, with the nearest that is."""
        for key in mapping:
            if key not in allowed:
                near = get_close_matches(str(key), allowed, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.fail((*place, key), f"unknown key; allowed here: {', '.join(allowed)}{hint}")


def written(place: Place) -> str:
    """A place as people write it.

    >>> written(("models", 0, "id"))
    'models[0].id'
    """
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read_yaml(text: str, name: str) -> Located:
    """Parse YAML safely: plain values only, no tags, no repeated keys. Raises PlanError with the line."""
    if len(text) > _LONGEST:
        raise PlanError(f"{name}: too large or too deep for a plan")
    try:
        _refuse_depth(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise PlanError(f"{name}{line}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PlanError(f"{name}: not YAML: {first_line(error)}") from error
    found = Located(None, name)
    if root is None:
        raise PlanError(f"{name} is empty")
    return Located(_Reader(found).value(root, ()), name, found.lines)


def _refuse_depth(text: str, name: str) -> None:
    """Raises PlanError before a parser that calls itself has to go as deep as the text does."""
    deep = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        deep += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if deep > _DEEPEST:
            raise PlanError(f"{name}: too large or too deep for a plan")


def read_yaml_file(path: Path) -> Located:
    """`read_yaml` of a file; raises PlanError when it cannot be read as UTF-8 text."""
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise PlanError(f"{path} cannot be read: {first_line(error)}") from error
    if size > 4 * _LONGEST:
        raise PlanError(f"{path}: too large or too deep for a plan")
    return read_yaml(read_text(path, error=PlanError), str(path))


class _Reader:
    """From nodes, which know their lines, to values."""

    def __init__(self, found: Located) -> None:
        self.found, self.nodes = found, 0
        self.loader = yaml.SafeLoader("")

    def value(self, node: yaml.Node, place: Place) -> Any:
        self.nodes += 1
        if self.nodes > _MOST_NODES or len(place) > _DEEPEST:
            raise PlanError(f"{self.found.name}: too large or too deep for a plan")
        self.found.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, number)) for number, item in enumerate(node.value)]
        try:
            value: object = self.loader.construct_object(node)
        except Exception:  # a tag that does not fit its text fails in as many ways as there are tags
            return self.found.fail(place, f"{node.value[:40]!r} cannot stand in a plan as {node.tag[:60]}")
        if isinstance(value, int) and re.match(r"[-+]?0\d", node.value):  # YAML reads 010 as 8
            return self.found.fail(place, f"{node.value[:40]!r}: write the number without a zero in front")
        if not isinstance(value, _PLAIN) or (isinstance(value, float) and not math.isfinite(value)):
            return self.found.fail(place, f"{node.value[:40]!r} cannot stand in a plan; put quotes around a text")
        return value

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value).replace("-", "_") if isinstance(key_node, yaml.ScalarNode) else ""
            here = (*place, key)
            self.found.lines[here] = key_node.start_mark.line + 1
            if not key:
                self.found.fail(place, "a key must be a word")
            if key in values:
                self.found.fail(here, "this key is given twice")
            values[key] = self.value(value_node, here)
        return values
