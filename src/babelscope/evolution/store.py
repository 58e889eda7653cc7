"""The folder of a sweep, or a place behind fsspec that works like one: finished points, failures, and the index.

<key>/            one finished run per point; there only when whole
failed/<key>.json what went wrong at a point, with the traceback
sweep.json        the plan, and the points that it asks for
run.json, tables/, arrays.zarr/, checksums.json   the sweep as a run of its own, written when a sweep ends
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fsspec.core import url_to_fs

from babelscope.errors import MissingExtra, RunError
from babelscope.results import Run, list_runs, open_run, put_run
from babelscope.results.checksums import sha256
from babelscope.results.layout import CHECKSUMS, MANIFEST, is_url
from babelscope.results.lock import RunLock
from babelscope.results.manifest import to_json

STATE = "sweep.json"
FAILED = "failed"
_SCRATCH = ".scratch"
_LOCK = ".sweep.lock"
_BEAT, _SILENT = 20.0, 300.0
"""seconds between signs of life, and without one until a lock counts as left behind"""
_INDEX = ("tables", "arrays.zarr")


class SweepStore:
    """Finished points by key. Raises RunError when the place cannot be reached or written."""

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.url = os.fspath(place)
        self.folder = None if is_url(place) else Path(os.path.abspath(os.path.expanduser(place)))
        if self.folder is not None:
            self.url = str(self.folder)
        try:
            self.system, root = url_to_fs(self.url)
        except ImportError as error:
            raise MissingExtra(str(error), "hub", f"reaching {self.url}") from error
        except ValueError as error:
            raise RunError(f"{self.url} cannot be reached: {error}") from error
        self.root = str(root).rstrip("/")

    # -- points -----------------------------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Whether a point is finished."""
        return bool(self.system.exists(f"{self.root}/{key}/{MANIFEST}"))

    def keys(self) -> set[str]:
        """Keys of all finished points, of this plan and of any other that used the same place."""
        return {url.rsplit("/", 1)[-1] for url in list_runs(self.url)}

    def open(self, key: str) -> Run:
        """One finished point."""
        return open_run(f"{self.url}/{key}")

    def publish(self, run: Path, key: str) -> None:
        """Put a finished run in its place, whole or not at all; one that is there already is left as it is."""
        if self.has(key):
            return
        try:
            if self.folder is None:
                if self.system.exists(f"{self.root}/{key}"):  # left behind by an upload that was cut off
                    self.system.rm(f"{self.root}/{key}", recursive=True)
                put_run(run, f"{self.url}/{key}")
            else:
                self._rename(run, self.folder / key)
        except OSError as error:
            raise RunError(f"cannot write {self.url}/{key}: {error.strerror or error}") from error

    def _rename(self, run: Path, target: Path) -> None:
        try:
            run.rename(target)
        except OSError:
            # a folder of that name: another worker was faster, or something that is no run stands in the way
            if not (target / MANIFEST).is_file():
                shutil.rmtree(target)
                run.rename(target)

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """A folder to work in: beside the points where that is possible, so that finishing is a rename."""
        if self.folder is None:
            with TemporaryDirectory(prefix="babelscope-") as made:
                yield Path(made)
            return
        made = self.folder / _SCRATCH / uuid.uuid4().hex[:12]
        made.mkdir(parents=True)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    # -- failures ---------------------------------------------------------------------------------------------------

    def record_failure(self, key: str, facts: Mapping[str, Any]) -> None:
        """Keep what went wrong at a point."""
        self.write(f"{FAILED}/{key}.json", to_json(facts))

    def clear_failure(self, key: str) -> None:
        """Forget a failure, because the point is finished now."""
        if self.system.exists(f"{self.root}/{FAILED}/{key}.json"):
            self.system.rm(f"{self.root}/{FAILED}/{key}.json")

    def failure(self, key: str) -> dict[str, Any] | None:
        """What went wrong at a point, or None."""
        return self._json(f"{FAILED}/{key}.json")

    # -- state and index --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The content of sweep.json; raises RunError when there is none or it names no points."""
        found = self._json(STATE)
        if found is None:
            raise RunError(f"{self.url} is not a sweep: it has no {STATE}")
        points: Any = found.get("points")
        if not isinstance(points, list) or not all(map(_is_point, points)):
            raise RunError(f"{self.url}/{STATE} is damaged: it lists no points")
        return found

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace sweep.json."""
        self.write(STATE, to_json(state))

    def drop_index(self) -> None:
        """Remove the sweep's own run, because points are about to be added to it. The manifest goes first."""
        for name in (MANIFEST, CHECKSUMS, *_INDEX):
            if self.system.exists(f"{self.root}/{name}"):
                self.system.rm(f"{self.root}/{name}", recursive=True)

    def put_index(self, run: Path) -> None:
        """Take over the files of a run that describes the whole sweep, the manifest last."""
        self.drop_index()
        names = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
        names = [name for name in names if name not in (MANIFEST, CHECKSUMS)]
        for name in names:
            self._put(run / name, name)
        (run / CHECKSUMS).write_text(to_json(self._checksums(run, [*names, MANIFEST])), encoding="utf-8")
        self._put(run / CHECKSUMS, CHECKSUMS)
        self._put(run / MANIFEST, MANIFEST)

    def _checksums(self, run: Path, names: list[str]) -> dict[str, str]:
        """Hashes of the index, and those that the points state of themselves."""
        found = {name: sha256(run / name) for name in names}
        for key in sorted(self.keys()):
            text = self.read(f"{key}/{CHECKSUMS}") or "{}"
            found |= {f"{key}/{name}": value for name, value in json.loads(text).items()}
            found[f"{key}/{CHECKSUMS}"] = _hash(text)
        failed = f"{self.root}/{FAILED}"
        inner = self.system.ls(failed, detail=False) if self.system.exists(failed) else []
        for name in [STATE, *(f"{FAILED}/{str(entry).rsplit('/', 1)[-1]}" for entry in inner)]:
            text = self.read(name)
            if text is not None:
                found[name] = _hash(text)
        return found

    @contextmanager
    def lock(self) -> Generator[None]:
        """One sweep at a time in a folder; leftovers of a killed one are cleared away. Nothing for object stores."""
        if self.folder is None:
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _clear_silent(self.folder / _LOCK)
            lock = RunLock(self.folder / _LOCK, self.folder)
            lock.acquire()
        except OSError as error:
            raise RunError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        ended = threading.Event()
        threading.Thread(target=_beat, args=(self.folder / _LOCK, ended), daemon=True).start()
        try:
            shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
            yield
        finally:
            ended.set()
            shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
            lock.release()

    # -- files ------------------------------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        """Replace a small file; in a folder at one stroke."""
        try:
            if self.folder is None:
                self.system.makedirs(f"{self.root}/{name}".rsplit("/", 1)[0], exist_ok=True)
                self.system.pipe_file(f"{self.root}/{name}", text.encode())
                return
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
            partial.write_text(text, encoding="utf-8")
            partial.replace(target)
        except OSError as error:
            raise RunError(f"cannot write {self.url}/{name}: {error.strerror or error}") from error

    def read(self, name: str) -> str | None:
        """A small file, or None when there is none."""
        try:
            return self.system.cat_file(f"{self.root}/{name}").decode("utf-8")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{self.url}/{name} is damaged") from error

    def _json(self, name: str) -> dict[str, Any] | None:
        text = self.read(name)
        if text is None:
            return None
        try:
            found: Any = json.loads(text)
        except ValueError as error:
            raise RunError(f"{self.url}/{name} is damaged") from error
        return found if isinstance(found, dict) else None

    def _put(self, path: Path, name: str) -> None:
        target = f"{self.root}/{name}"
        self.system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        self.system.put_file(str(path), target)


def _beat(lock: Path, ended: threading.Event) -> None:
    """Keep a lock's time fresh, so that other machines see that its owner lives."""
    while not ended.wait(_BEAT):
        with contextlib.suppress(OSError):
            os.utime(lock)


def _clear_silent(lock: Path) -> None:
    """Remove a lock whose owner, on any machine, has not given a sign for minutes: it was killed."""
    clock = lock.with_name(f"{lock.name}.clock")
    try:
        clock.touch()  # the file system's own time, whatever the clocks of the machines say
        age = clock.stat().st_mtime - lock.stat().st_mtime
        if age > _SILENT:
            lock.unlink()
    except FileNotFoundError:
        pass
    finally:
        clock.unlink(missing_ok=True)


def _is_point(stated: Any) -> bool:
    key: Any = stated.get("key") if isinstance(stated, dict) else None
    return isinstance(key, str) and key.isalnum()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
