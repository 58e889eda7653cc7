"""Devices without an end, which no word of a command line may name: reading one fills memory and comes to nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from babelscope.errors import InputError

_MEMORY = 1
"""Linux's major number of null, zero, full, random and urandom; null alone ends"""
_NULL = 3


def refuse_endless(words: Sequence[str]) -> None:
    """Raises InputError for a word, or what stands behind its `=` or `:`, that is such a device, by a link too."""
    for word in words:
        for path in {word, word.partition("=")[2], word.rpartition(":")[2].partition("?")[0]}:
            if path and _endless(path):
                raise InputError(f"{path} is a device without an end, not a file")


def _endless(path: str) -> bool:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return False
    if stat.S_ISBLK(found.st_mode):
        return True
    return stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) == _MEMORY and os.minor(found.st_rdev) != _NULL
