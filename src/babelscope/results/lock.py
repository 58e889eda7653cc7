"""One writer at a time: a lock file made by exclusive creation, taken over when its owner has died."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from pathlib import Path

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
                json.dump({"pid": os.getpid(), "host": socket.gethostname()}, stream)
            return
        raise RunError(f"another process is writing {self.what}")

    def release(self) -> None:
        """Removes the lock file."""
        self.path.unlink(missing_ok=True)

    def _remove_if_dead(self) -> None:
        owner = self._owner()
        if owner is None or _alive(owner):
            process = f" (process {owner})" if owner else ""
            raise RunError(f"another process{process} is writing {self.what}; if that is not so, remove {self.path}")
        # Renamed first: of two processes that find the same dead owner only one can take the file away.
        mine = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(mine)
            mine.unlink()

    def _owner(self) -> int | None:
        """Process id on this machine; None when it cannot be told, which counts as alive."""
        try:
            stated = json.loads(self.path.read_text())
            return int(stated["pid"]) if stated["host"] == socket.gethostname() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
