"""One writer at a time: a lock file made by exclusive creation, taken over when its owner has died."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO

from babelscope.errors import RunError


class RunLock:
    """Held from `acquire` to `release`; raises RunError while another living process holds it."""

    def __init__(self, path: Path, what: Path) -> None:
        self.path, self.what = path, what

    def acquire(self) -> None:
        """Creates the lock file, or raises RunError naming the process that has it."""
        for _ in range(3):
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                self._remove_if_dead()
                continue
            with os.fdopen(handle, "w") as stream:
                json.dump({"pid": os.getpid(), "host": socket.gethostname(), "born": _born(os.getpid())}, stream)
            return
        raise RunError(f"another process is writing {self.what}")

    def release(self) -> None:
        """Removes the lock file, also when the process is asked to stop at this very moment."""
        try:
            self.path.unlink(missing_ok=True)
        except BaseException:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            raise

    def _remove_if_dead(self) -> None:
        """Takes away the lock of a dead owner; raises RunError while the owner lives or cannot be told."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as stream, _alone(stream):
            # Another process may have taken the dead one's place meanwhile, with a new file under the same name.
            if not os.path.samestat(os.fstat(stream.fileno()), self.path.stat()):
                return
            content = _content(stream)
            owner = _owner(content)
            if content and (owner is None or alive(*owner)):
                process = f" (process {owner[0]})" if owner else ""
                raise RunError(
                    f"another process{process} is writing {self.what}; if that is not so, remove {self.path}"
                )
            self.path.unlink()


def _content(stream: IO[bytes]) -> bytes:
    """What the lock says. Its owner writes that at once; who has not after two seconds was killed before."""
    for _ in range(40):
        stream.seek(0)
        content = stream.read()
        if content:
            return content
        time.sleep(0.05)
    return b""


def _owner(content: bytes) -> tuple[int, int | None] | None:
    """Process id on this machine and when it began; None when it cannot be told, which counts as alive."""
    try:
        stated = json.loads(content)
        born = stated.get("born")
        if stated["host"] != socket.gethostname():
            return None
        return int(stated["pid"]), born if isinstance(born, int) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def alive(process: int, born: int | None = None) -> bool:
    """Whether a process of this machine lives, and is the one that began at `born` where that is known."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    now = _born(process)
    return born is None or now is None or now == born


def _born(process: int) -> int | None:
    """When a process began, in the kernel's ticks; process ids are used again, in containers within seconds."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


@contextlib.contextmanager
def _alone(stream: IO[bytes]) -> Generator[None]:
    """One process at a time, among those that look at this very file; where the system has no such lock, nothing."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):  # some network file systems have none either
        fcntl.flock(stream, fcntl.LOCK_EX)
    yield
