"""A polite end when a batch system, a container or a closed terminal asks for it: as with Ctrl-C, nothing half-written.

Without a handler SIGTERM ends Python on the spot: no `finally` runs, and the hidden folder of an unfinished run stays
until the next write to the same place.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

POLITE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop:
    """Which signal asked for the end."""

    def __init__(self) -> None:
        self.signal = int(signal.SIGINT)

    @property
    def code(self) -> int:
        """What shells report of a program ended by that signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal


@contextmanager
def polite() -> Generator[Stop]:
    """Inside, SIGTERM and SIGHUP raise KeyboardInterrupt once; a second one ends the process at once.

    Signals that are ignored (nohup) or that someone else handles are left as they are, and so is everything outside
    the main thread, where Python allows no handlers.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.signal = number
        raise KeyboardInterrupt

    mine = [number for number in POLITE if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, asked)
    try:
        yield stop
    finally:
        for number in mine:
            if signal.getsignal(number) is asked:
                signal.signal(number, signal.SIG_DFL)
