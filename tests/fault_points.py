"""Commands that end at a chosen moment: in a forked child, struck at the n-th change that it makes to a folder.

Python tells an audit hook of every file that is opened for writing, every rename and every removal. Counting them
makes the moments of a command a list that can be gone through, where a clock only ever hits the long ones.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import babelscope

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def import_ahead() -> None:
    """Everything that commands import: children of this process have it, where each would import it for itself."""
    for found in pkgutil.walk_packages(babelscope.__path__, "babelscope."):
        if not found.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(found.name)
    for name in (
        "matplotlib.pyplot",
        "matplotlib.backends.backend_agg",
        "plotly.io",
        "pyarrow",
        "xarray",
        "scipy.stats",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class Struck:
    """How a child ended: `code` is its exit code, negative for a signal; `changes` is how many it got to."""

    def __init__(self, code: int, changes: int, said: str) -> None:
        self.code, self.changes, self.said = code, changes, said

    def __repr__(self) -> str:
        return f"Struck(code={self.code}, changes={self.changes}, said={self.said[-2000:]!r})"


def strike(
    work: Callable[[], object],
    folder: Path,
    notes: Path,
    at: int | None = None,
    after: float | None = None,
    blow: int = signal.SIGKILL,
    full: int = 0,
) -> Struck:
    """Do `work` in a child; `blow` it at the `at`-th change below `folder`, or `after` seconds. `notes` lies outside.

    With `full`, an error number such as ENOSPC, the child lives on: from the `at`-th change, whatever would make a file
    or a folder fails with that error, as on a disk without room; renames and removals succeed.

    `work` ends by SystemExit as the command line does; any other exception is exit code 99.
    """
    notes.mkdir(exist_ok=True)
    said, counted = notes / "said", notes / "counted"
    counted.write_bytes(b"")
    child = os.fork()
    if child == 0:
        _child(work, folder, said, counted, at, blow, full)
    if after is not None:
        time.sleep(after)
        # not yet waited for, so the id is still this child's
        os.kill(child, blow)
    _, status = os.waitpid(child, 0)
    return Struck(os.waitstatus_to_exitcode(status), counted.stat().st_size, said.read_text(errors="replace"))


def _child(
    work: Callable[[], object], folder: Path, said: Path, counted: Path, at: int | None, blow: int, full: int
) -> None:
    code = 99
    try:
        sys.stdout = sys.stderr = said.open("w", encoding="utf-8")
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        tally = os.open(counted, os.O_WRONLY | os.O_APPEND)
        inside = str(folder.resolve()) + os.sep

        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if not _changes(event, arguments, inside):
                return
            seen += 1
            os.write(tally, b".")
            if full and at is not None and seen >= at and event in ("open", "os.mkdir"):
                raise OSError(full, os.strerror(full), str(arguments[0]))
            if not full and seen == at:
                os.kill(os.getpid(), blow)

        sys.addaudithook(watch)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _changes(event: str, arguments: tuple[object, ...], inside: str) -> bool:
    if event == "open":
        flags = arguments[2]
        if not isinstance(flags, int) or not flags & _FOR_WRITING:
            return False
        return _below(arguments[0], inside)
    return event in _CHANGES and any(_below(place, inside, arguments) for place in arguments[:2])


def _below(place: object, inside: str, arguments: tuple[object, ...] = ()) -> bool:
    if not isinstance(place, str | bytes | os.PathLike):
        return False
    name = os.fsdecode(place)
    if name.startswith(inside):
        return True
    if os.sep in name:
        return False
    # what shutil removes it names relative to an open folder, which may be scratch space elsewhere
    handle = arguments[-1] if arguments and isinstance(arguments[-1], int) else -1
    try:
        return f"{os.readlink(f'/proc/self/fd/{handle}')}{os.sep}".startswith(inside)
    except OSError:
        return not os.path.isdir("/proc/self/fd")


def shown(folder: Path) -> list[str]:
    """Names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
