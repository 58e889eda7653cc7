"""The manifest of a run, `run.json`: plain JSON values, a canonical form, and the key that is its hash."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence, Set
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

import numpy as np

from babelscope._version import __version__
from babelscope.errors import RunError
from babelscope.outside import packages

FORMAT = 1
"""Version of the layout of a run directory."""

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "pandas", "xarray", "zarr")


def plain(value: object, where: str = "run.json") -> Any:
    """`value` as JSON can hold it: numpy becomes Python, NaN and infinities become None, tuples become lists.

    Raises RunError for anything else, naming the place.

    >>> plain({"a": float("nan"), "b": (1, 2)})
    {'a': None, 'b': [1, 2]}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist(), where)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(plain(item, where) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise RunError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def to_json(value: object) -> str:
    """Readable JSON with sorted keys, UTF-8 letters as they are."""
    return json.dumps(plain(value), ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False) + "\n"


def run_key(settings: Mapping[str, object]) -> str:
    """Hash of what determines a run's numbers: the first 16 hex digits of the SHA-256 of its canonical JSON.

    >>> run_key({"model": "m", "seed": 0}) == run_key({"seed": 0, "model": "m"})
    True
    """
    canonical = json.dumps(plain(settings), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can move a number, those from outside (`outside`) too."""
    return dict(_installed()) | packages()


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """They stay as they are while a process runs, and every step's key asks for them."""
    found = [("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def initial(kind: str) -> dict[str, Any]:
    """What every manifest starts with."""
    return {"format": FORMAT, "kind": kind, "babelscope": __version__, "versions": versions(), "summary": {}}
