"""Passes that see a model as it is: our own edits of this thread are set aside while a model is asked what it is.

Whoever hooks a model notes `standing()` and acts only where it is the same again: in the same thread, and not while
what stood before is set aside.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

Standing = tuple[int, int]
"""a thread, and how often what stood before was set aside in it"""


class _Depth(threading.local):
    value = 0


_depth = _Depth()


def standing() -> Standing:
    """Where the running code stands; hooks act on passes made from there alone.

    >>> standing() == standing()
    True
    """
    return threading.get_ident(), _depth.value


@contextmanager
def set_aside() -> Generator[None]:
    """Inside, captures, edits and resumptions that this thread entered before are as if they were not there.

    >>> before = standing()
    >>> with set_aside():
    ...     standing() == before
    False
    """
    _depth.value += 1
    try:
        yield
    finally:
        _depth.value -= 1
