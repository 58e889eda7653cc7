"""One writer at a time: a lock that the operating system takes back when its owner dies, and for no other reason.

Time plays no part: a process that sleeps, is frozen or lives through a jump of the clock keeps its locks. The lock is
`flock` of the operating system by way of the library filelock; where a file system has none, filelock makes a file
exclusively, which is taken over when the process that its content names is dead on the same machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

from babelscope.errors import RunError


class RunLock:
    """Held from `acquire` to `release`; raises RunError while another living process, or this one, holds it."""

    def __init__(self, path: Path, what: Path) -> None:
        self.path, self.what = path, what
        self._lock = FileLock(path, timeout=0, thread_local=False)
        self._made: os.stat_result | None = None

    def acquire(self) -> None:
        """Takes the lock, or raises RunError naming the process that has it."""
        try:
            with undisturbed():
                self._lock.acquire()
                with contextlib.suppress(OSError):
                    self._made = self.path.stat()
            # for people who wonder who it is; nothing is decided by it
            with contextlib.suppress(OSError):
                self.path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        except Timeout:
            raise RunError(f"another process{_holder(self.path)} is writing {self.what}") from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Removes the lock file, if it is still the one that was made, and gives the lock back."""
        try:
            self._unlink()
        except BaseException:
            self._unlink()  # asked to stop at this very moment: tidy up, then stop
            raise
        finally:
            self._lock.release(force=True)

    def _unlink(self) -> None:
        if self.held:
            with contextlib.suppress(OSError):
                self.path.unlink()

    @property
    def held(self) -> bool:
        """Whether this lock is held, by its own file: false once somebody has removed or replaced that."""
        try:
            return self._made is not None and os.path.samestat(self._made, self.path.stat())
        except OSError:
            return False


@contextlib.contextmanager
def undisturbed() -> Generator[None]:
    """Who is asked to stop in here hears of it afterwards: what is made is known to be ours, what goes is gone.

    Handlers run in the main thread alone, whichever thread the system gives a signal to; others have nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: dict[int, None] = {}
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    mine = [number for number, handler in before.items() if handler not in (None, signal.SIG_IGN)]
    for number in mine:
        signal.signal(number, lambda number, _: heard.setdefault(number))
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        with contextlib.ExitStack() as later:  # each is told, whatever the others' handlers raise
            for number in heard:
                later.callback(signal.raise_signal, number)


def _holder(path: Path) -> str:
    try:
        stated: dict[str, int | str] = json.loads(path.read_text())
        return f" (process {int(stated['pid'])} on {str(stated['host'])[:60]!r})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
