"""Finished steps of a run that is not finished: a hidden folder beside the run, read again when the run is restarted.

Each step is a folder `NAME-KEY` that appears whole: `step.json` with the value and the SHA-256 of itself and of every
further file, arrays as .npy, tables as Parquet. The folder belongs to exactly one run: its name holds the whole name of
the run, and `owner.json` says so again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from babelscope.errors import RunError
from babelscope.results.checksums import sha256
from babelscope.results.lock import RunLock
from babelscope.results.values import Packer, unpack

R = TypeVar("R")

OWNER, UNSAID, STEP, PART = "owner.json", "owner.json.part", "step.json", ".part"


class StepStore:
    """Kept steps of the run at `out`.

    >>> import tempfile
    >>> store = StepStore(Path(tempfile.mkdtemp()) / "run")
    >>> with store.room("recording", "0f") as folder:
    ...     store.keep("recording", "0f", folder, {"sentences": 3})
    >>> store.read("recording", "0f")
    {'sentences': 3}
    >>> store.remove()
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        token = hashlib.sha256(os.fsencode(out.name)).hexdigest()[:8]
        self.folder = out.with_name(f".{out.name}.steps-{token}")
        self._lock = RunLock(self.folder.with_name(f"{self.folder.name}.lock"), out)
        self._inside = 0
        """rooms of this store that are open, one within another"""

    def holds(self, name: str, key: str) -> bool:
        """Whether the step was finished under this key."""
        return self._place(name, key).is_dir()

    def read(self, name: str, key: str) -> Any:
        """What the step left; raises RunError that names the file which is not as it was written."""
        place = self._place(name, key)
        body = _checked(place / STEP)
        for file, stated in body["files"].items():
            if not (place / file).is_file() or sha256(place / file) != stated:
                raise _damaged(place / file)
        try:
            return unpack(body["value"], place)
        except (RunError, OSError, ValueError, TypeError, AttributeError, ImportError, KeyError) as error:
            raise _damaged(place / STEP, str(error).split("\n")[0]) from error

    @contextmanager
    def room(self, name: str, key: str) -> Generator[Path]:
        """A folder for the files of a step at work, gone afterwards where `keep` did not make it a finished one.

        Raises RunError while another study of the same run has a step at work.
        """
        place = self._place(name, key)
        part = place.with_name(f"{place.name}{PART}")
        with self._alone():
            with self._one_line():
                self._own()
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
            try:
                yield part
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def keep(self, name: str, key: str, part: Path, value: object) -> None:
        """Writes what a step left into its `room` and makes that a finished step."""
        with self._one_line():
            packer = Packer(part)
            packed = packer.pack(value)
            files = {file: sha256(part / file) for file in packer.files}
            for other in part.iterdir():
                if other.name not in files:
                    shutil.rmtree(other) if other.is_dir() else other.unlink()
            body = {"step": name, "key": key, "files": files, "value": packed}
            whole = {"sha256": _hash(body), "body": body}
            (part / STEP).write_text(json.dumps(whole, allow_nan=False), encoding="utf-8")
            part.rename(self._place(name, key))

    def once(self, name: str, key: str, make: Callable[[], R]) -> R:
        """What was kept under this key, or what `make` makes, kept from now on."""
        if self.holds(name, key):
            return self.read(name, key)
        with self.room(name, key) as folder:
            value = make()
            self.keep(name, key, folder, value)
        return value

    def hold(self) -> None:
        """Keeps other studies of the same run out until `let_go`, also between steps; RunError where one is at work."""
        self._enter()

    def let_go(self) -> None:
        """The end of `hold`."""
        self._leave()

    def remove(self) -> None:
        """Forgets all steps; raises RunError where the folder is another's, or another study has a step at work."""
        if os.path.lexists(self.folder):
            with self._alone():
                self._check_owner()
                self._clear()

    def _clear(self) -> None:
        """Steps first, each under a name that holds none; whose they are last: killed here, the rest is still ours."""
        with contextlib.suppress(OSError):
            for entry in self.folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    part = entry if entry.name.endswith(PART) else entry.with_name(f"{entry.name}{PART}")
                    shutil.rmtree(entry.replace(part), ignore_errors=True)
                elif entry.name != OWNER:
                    entry.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Keeps other studies of the same run out; a step may open rooms for its parts within its own."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        if not self._inside:
            with self._one_line():
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
        self._inside += 1

    def _leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._lock.release()

    def _place(self, name: str, key: str) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}-{key}"

    def _own(self) -> None:
        if self.folder.is_dir():
            self._check_owner()
            return
        self.folder.mkdir(parents=True)
        self._say_whose()

    def _say_whose(self) -> None:
        part = self.folder / UNSAID
        part.write_text(json.dumps({"steps of": self.out.name}), encoding="utf-8")
        part.replace(self.folder / OWNER)

    def _check_owner(self) -> None:
        nobodys = False
        with contextlib.suppress(OSError, ValueError):
            if self.folder.is_symlink() or not self.folder.is_dir():
                raise RunError(
                    f"{self.folder} is not the folder of this run's steps; remove it or choose another --out"
                )
            # killed, or the disk full, between making the folder and saying whose it is: nobody's
            nobodys = all(entry.name == UNSAID for entry in self.folder.iterdir())
            said = None if nobodys else json.loads((self.folder / OWNER).read_text(encoding="utf-8"))
            if said == {"steps of": self.out.name}:
                return
        if nobodys:
            self._say_whose()
            return
        raise RunError(
            f"{self.folder} does not say that it is of the run {self.out.name}; remove it, or choose another --out"
        )

    @contextmanager
    def _one_line(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"cannot keep steps of the run {self.out}: {error.strerror or error}") from error


def _hash(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _checked(path: Path) -> dict[str, Any]:
    try:
        whole: Any = json.loads(path.read_text(encoding="utf-8"))
        body, stated = whole["body"], whole["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path) from error
    if _hash(body) != stated:
        raise _damaged(path)
    return body


def _damaged(path: Path, why: str = "") -> RunError:
    reason = f" ({why})" if why else ""
    return RunError(
        f"{path} is not as it was written{reason}; remove {path.parent} to compute this step again, "
        "or give --fresh to compute all of them"
    )
