"""The hidden folder beside a target in which the target is made. It belongs to one name and to one living process.

.NAME.<8 hex digits>.tmp/
    lock      held for as long as the maker lives
    owner     JSON: the exact name that it serves, and a token that nobody else has
    new/NAME  what is being made
    old/NAME  what stood in the target's place, between the two renames of a replacement

Nothing is ever removed or put back unless the name is spelled out in `owner` and the maker is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from babelscope.errors import RunError

_OURS = re.compile(r"\..+\.[0-9a-f]{8}\.tmp|\..+\.lock", re.DOTALL)
_LOCK, _OWNER, _NEW, _OLD = "lock", "owner", "new", "old"


class HiddenFolder:
    """Where `target` is made, from `open` to `close`; `commit` gives what was made its name.

    Raises RunError when the folder was removed or replaced meanwhile, and OSError as the file system does.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._token = ""
        self._folder = Path()
        self._lock: FileLock | None = None

    @property
    def new(self) -> Path:
        """The path at which the target is made; its folder is there, itself it is not."""
        return self._folder / _NEW / self.target.name

    def open(self) -> None:
        """Puts back what a killed process had taken away, removes what it left, and makes a folder of our own."""
        clear_leftovers(self.target)
        for _ in range(20):
            if self._make():
                return
        raise RunError(f"cannot write {self.target}: its hidden folder is taken away as soon as it is made")

    def _make(self) -> bool:
        """Whether the folder could be made and locked before another process took it for a leftover."""
        self._token = uuid.uuid4().hex
        self._folder = self.target.with_name(f".{self.target.name}.{self._token[:8]}.tmp")
        self._folder.mkdir()
        try:
            lock = FileLock(self._folder / _LOCK, timeout=0, thread_local=False)
            lock.acquire()
            self._lock = lock
            owner = {"name": self.target.name, "token": self._token, "pid": os.getpid(), "host": socket.gethostname()}
            (self._folder / _OWNER).write_text(json.dumps(owner), encoding="utf-8")
            (self._folder / _NEW).mkdir()
        except (Timeout, FileNotFoundError):
            self.close()
            return False
        except BaseException:
            self.close()
            raise
        return True

    def intact(self) -> bool:
        """Whether the folder is still the one that was made."""
        return _owner(self._folder).get("token") == self._token != "" and (self._folder / _NEW).is_dir()

    def commit(self, replace: bool) -> None:
        """What was made takes the target's name; what stood there, where `replace`, goes. A file is replaced at once.

        Raises RunError when nothing, or something else, is there to be given the name.
        """
        if not self.intact() or not os.path.lexists(self.new):
            raise RunError(
                f"{self.target} was not finished: its hidden folder {self._folder} was removed or replaced meanwhile"
            )
        if not self.new.is_dir() or not os.path.lexists(self.target):
            self.new.replace(self.target)
            return
        if not replace:
            self.target.rmdir()  # an empty folder; anything else fails
            self.new.rename(self.target)
            return
        old = self._folder / _OLD / self.target.name
        old.parent.mkdir()
        self.target.rename(old)
        try:
            self.new.rename(self.target)
        except BaseException:
            old.rename(self.target)
            raise

    def close(self, stubborn: bool = False) -> None:
        """Removes the folder. `stubborn`: until it stays away, because threads may put back what they were writing."""
        lock, self._lock = self._lock, None
        try:
            if self._token and (not self._folder.exists() or _owner(self._folder).get("token") in (None, self._token)):
                _remove(self._folder, tries=50 if stubborn else 1)
        finally:
            if lock is not None:
                lock.release(force=True)


def refuse_hidden_name(target: Path) -> None:
    """Raises RunError for names that hidden folders and locks have."""
    if _OURS.fullmatch(target.name):
        raise RunError(f"{target}: names of this form are kept for unfinished work; give another --out")


def clear_leftovers(target: Path) -> None:
    """Puts back what a killed process had taken from this place, and removes what it left behind for it."""
    for folder in _leftovers(target):
        lock = FileLock(folder / _LOCK, timeout=0, thread_local=False)
        try:
            # a lock file that is not there would be made by asking for it
            if (folder / _LOCK).exists():
                lock.acquire()
        except (Timeout, OSError):
            continue  # its maker lives, or nothing can be found out about it
        try:
            owner = _owner(folder)
            if owner.get("name") == target.name:
                old = folder / _OLD / target.name
                if os.path.lexists(old) and not os.path.lexists(target):
                    old.rename(target)
                _remove(folder)
            elif not owner:
                with contextlib.suppress(OSError):  # killed before it said whose it is: nothing can be in it
                    _dismantle(folder)
        finally:
            lock.release(force=True)


def names_with_leftovers(folder: Path) -> list[str]:
    """Names that hidden folders directly below `folder` are named after."""
    try:
        found = (re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.tmp", name, re.DOTALL) for name in sorted(os.listdir(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return list(dict.fromkeys(match[1] for match in found if match))


def _leftovers(target: Path) -> Iterator[Path]:
    """Hidden folders beside the target whose name is the target's and eight digits, to the letter."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    try:
        entries = sorted(os.listdir(target.parent))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in entries:
        folder = target.with_name(name)
        if pattern.fullmatch(name) and folder.is_dir() and not folder.is_symlink():
            yield folder


def _owner(folder: Path) -> dict[str, object]:
    """What a hidden folder says of its maker; nothing where it does not, or cannot be read."""
    try:
        stated: object = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _remove(folder: Path, tries: int = 1) -> None:
    """Content first, then the owner, the lock and the folder, so that what is left of a removal can be told."""
    absent = 0
    for _ in range(max(tries, 1)):
        try:
            _empty(folder)
        except BaseException:
            # asked to stop in the middle of tidying up: tidy up, then stop
            _empty(folder)
            raise
        absent = 0 if folder.exists() else absent + 1
        if absent == 3 or (absent and tries == 1):
            return
        if tries > 1:
            time.sleep(0.02)


def _empty(folder: Path) -> None:
    for part in (_NEW, _OLD):
        shutil.rmtree(folder / part, ignore_errors=True)
    with contextlib.suppress(OSError):
        _dismantle(folder)


def _dismantle(folder: Path) -> None:
    """Owner, lock and the folder, where nothing else is in it."""
    if not folder.exists() or {path.name for path in folder.iterdir()} - {_LOCK, _OWNER}:
        return
    for part in (_OWNER, _LOCK):
        (folder / part).unlink(missing_ok=True)
    folder.rmdir()
