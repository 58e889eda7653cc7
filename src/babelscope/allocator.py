"""How glibc's allocator is set for models on the CPU: large freed tensors are kept for the next one, not given back.

A forward pass on CPU makes and frees tensors of many megabytes. By default glibc maps each from the kernel, or trims it
off the heap when freed, so every pass pays again for zeroed pages (docs/benchmarks.md has the ratios, and the price in
memory). The command `babelscope` does this, and so does loading a model onto the CPU in Python, never
`import babelscope`; BABELSCOPE_MALLOC=0 leaves glibc alone, and so does any MALLOC_… or GLIBC_TUNABLES of the user's
own, or another allocator loaded before.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

SWITCH = "BABELSCOPE_MALLOC"
# numbers of <malloc.h>; setting any of them also stops glibc from moving its thresholds by itself
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1
_OTHERS = ("jemalloc", "tcmalloc", "mimalloc")

_done: str | None = None


def keep_freed_memory(environment: Mapping[str, str] | None = None) -> str:
    """Ask glibc never to trim its heap nor to map single blocks; returns what was done, or why nothing was, in words.

    Once per process; costs nothing where it does not apply. Sources: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_MAX.

    >>> keep_freed_memory({"BABELSCOPE_MALLOC": "0"})
    'as it was (BABELSCOPE_MALLOC=0)'
    """
    global _done
    reason = reason_not_to(os.environ if environment is None else environment)
    if reason:
        return f"as it was ({reason})"
    if _done is None:
        accepted = _mallopt(_MMAP_MAX, 0) and _mallopt(_TRIM_THRESHOLD, _NEVER)
        _done = f"keeps freed memory ({SWITCH}=0 turns this off)" if accepted else "as it was (glibc refused)"
    return _done


def _mallopt(option: int, value: int) -> bool:
    """glibc's own switch; 1 where it took the value."""
    return bool(ctypes.CDLL(None).mallopt(option, value))


def reason_not_to(environment: Mapping[str, str]) -> str | None:
    """Why the allocator is left alone, or None where it may be set."""
    if environment.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    own = next((name for name in environment if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"), None)
    if own:
        return f"{own} is set"
    if any(name in environment.get("LD_PRELOAD", "") for name in _OTHERS):
        return "another allocator is loaded"
    return None if _glibc() else "not glibc"


def _glibc() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False
