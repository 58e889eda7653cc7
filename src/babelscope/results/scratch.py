"""Folders to work in, each of one living process: removed when it is done, or by the next one after its death.

Beside each stands a lock file that the operating system gives back when its owner dies; time plays no part.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from babelscope.errors import RunError, Unwritable
from babelscope.results.lock import RunLock, undisturbed

_TEMPORARY, _LOCK = "babelscope-", ".lock"
_looked_at: set[str] = set()
"""temporary folders that this process has cleared of what the dead left there"""


class Scratch:
    """A folder of its own for as long as this object or its process lives; `close` removes it at once.

    Raises Unwritable where none can be made.

    >>> made = Scratch("example")
    >>> made.path.is_dir()
    True
    >>> made.close()
    >>> made.path.exists()
    False
    """

    def __init__(self, purpose: str, parent: Path | None = None) -> None:
        try:
            place, prefix = (parent, "") if parent is not None else (Path(tempfile.gettempdir()), _TEMPORARY)
            if parent is None and str(place) not in _looked_at:
                _looked_at.add(str(place))
                clear_dead(place, _TEMPORARY)
            place.mkdir(parents=True, exist_ok=True)
            self.path, lock = _owned(place, f"{prefix}{purpose}-")
        except OSError as error:
            hint = "" if parent is not None else "; set TMPDIR to a place for temporary folders"
            raise Unwritable(f"cannot write {error.filename or parent}: {error.strerror or error}{hint}") from error
        self._end = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def close(self) -> None:
        """Removes the folder and all that is in it."""
        self._end()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def scratch_in(parent: Path, purpose: str = "work") -> Generator[Path]:
    """A folder inside `parent`, which is removed too when nobody else is at work in it."""
    try:
        with Scratch(purpose, parent) as path:
            yield path
    finally:
        with undisturbed(), contextlib.suppress(OSError):
            parent.rmdir()


def clear_dead(parent: Path, prefix: str | None = None) -> None:
    """Removes the folders of processes that are dead: those that begin with `prefix` and have a lock beside them, for
    what has none is somebody else's; or, without `prefix`, whatever stands in a folder that is ours alone."""
    found = sorted(parent.glob(f"{prefix}*{_LOCK}" if prefix is not None else "*"))
    for name in dict.fromkeys(path.name.removesuffix(_LOCK) for path in found):
        with undisturbed():
            lock = RunLock(parent / f"{name}{_LOCK}", parent / name)
            try:
                lock.acquire()
            except (RunError, OSError):
                continue  # its maker lives, or is another user
            shutil.rmtree(parent / name, ignore_errors=True)
            lock.release()


def _owned(place: Path, prefix: str) -> tuple[Path, RunLock]:
    while True:
        path = place / f"{prefix}{uuid.uuid4().hex[:12]}"
        lock = RunLock(path.with_name(f"{path.name}{_LOCK}"), path)
        lock.acquire()
        if lock.held:  # else somebody cleared the file away between its making and its locking
            try:
                path.mkdir(mode=0o700)
            except BaseException:
                lock.release()
                raise
            return path, lock
        lock.release()


def _remove(path: Path, lock: RunLock, maker: int) -> None:
    if os.getpid() != maker:  # a forked child ends: the folder is its parent's
        return
    with undisturbed():
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            lock.release()
