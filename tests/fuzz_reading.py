"""How a target reads: bytes into a file or a text, and a function of the package that is given it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

Read = Callable[[bytes, Path], object]
Seed = Callable[[], bytes]


def from_file(name: str, module: str, function: str, *rest: object) -> Read:
    """A function of the package that takes the path of one file."""

    def read(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return named(module, function)(folder / name, *rest)

    return read


@lru_cache
def named(module: str, function: str) -> Callable[..., object]:
    from importlib import import_module

    found = import_module(f"babelscope.{module}")
    for part in function.split("."):
        found = getattr(found, part)
    return found


def from_text(module: str, function: str) -> Read:
    def read(data: bytes, _: Path) -> object:
        return named(module, function)(data.decode("utf-8", "replace"))

    return read


def as_json(value: object) -> Seed:
    return lambda: json.dumps(value).encode()
