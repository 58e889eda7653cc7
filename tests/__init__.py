"""The tests of babelscope."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`tests.shapes`, which jaxtyping asks for as an attribute, is imported where types are checked, and only there."""
    if name == "shapes":
        from importlib import import_module

        return import_module("tests.shapes")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
