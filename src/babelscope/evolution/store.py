"""The folder of a sweep, or a place behind fsspec that works like one: finished points, failures, and the index.

<key>/            one finished run per point; there only when whole
failed/<key>.json what went wrong at a point, with the traceback
sweep.json        the plan, and the points that it asks for
run.json, tables/, arrays.zarr/, checksums.json   the sweep as a run of its own, written when a sweep ends
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Generator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babelscope.errors import InputError, RunError, Unwritable
from babelscope.json_text import parse_json
from babelscope.results import Run, list_runs, open_run, put_run
from babelscope.results.checksums import sha256
from babelscope.results.hidden import clear_leftovers, names_with_leftovers
from babelscope.results.layout import CHECKSUMS, MANIFEST, SWEEP_LOCK, SWEEP_SCRATCH, is_url
from babelscope.results.lock import RunLock, undisturbed
from babelscope.results.manifest import to_json
from babelscope.results.scratch import Scratch, clear_dead, scratch_in
from babelscope.results.store import reach
from babelscope.results.whole import home, write_whole

STATE = "sweep.json"
FAILED = "failed"
_INDEX = ("tables", "arrays.zarr")


class SweepStore:
    """Finished points by key. Raises RunError when the place cannot be reached or written."""

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.url = os.fspath(place)
        self.folder = None if is_url(place) else Path(os.path.abspath(home(place)))
        if self.folder is not None:
            self.url = str(self.folder)
        self.system, self.root = reach(self.url)

    # -- points -----------------------------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Whether a point is finished."""
        return bool(self.system.exists(f"{self.root}/{key}/{MANIFEST}"))

    def keys(self) -> set[str]:
        """Keys of all finished points, of this plan and of any other that used the same place."""
        with self._one_line():
            return {url.rsplit("/", 1)[-1] for url in list_runs(self.url)}

    def open(self, key: str) -> Run:
        """One finished point."""
        return open_run(f"{self.url}/{key}")

    def publish(self, run: Path, key: str) -> None:
        """Put a finished run in its place, whole or not at all; one that is there already is left as it is."""
        if self.has(key):
            return
        with self._one_line(key):
            if self.folder is None:
                if self.system.exists(f"{self.root}/{key}"):  # left behind by an upload that was cut off
                    self.system.rm(f"{self.root}/{key}", recursive=True)
                put_run(run, f"{self.url}/{key}")
            else:
                self._rename(run, self.folder / key)

    def _rename(self, run: Path, target: Path) -> None:
        try:
            run.rename(target)
        except OSError:
            # a folder of that name: another worker was faster, or something that is no run stands in the way
            if not (target / MANIFEST).is_file():
                shutil.rmtree(target)
                run.rename(target)

    def discard(self, key: str) -> None:
        """Remove a point that is damaged. Its manifest goes first, so that what is left of it is no run."""
        with self._one_line(key):
            if self.has(key):
                self.system.rm(f"{self.root}/{key}/{MANIFEST}")
            self.system.rm(f"{self.root}/{key}", recursive=True)

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """A folder to work in: beside the points where that is possible, so that finishing is a rename.

        It belongs to this process for as long as that lives, by a lock of its own.
        """
        if self.folder is None:
            with Scratch("sweep") as made:
                yield made
            return
        with scratch_in(self.folder / SWEEP_SCRATCH) as made:
            yield made

    # -- failures ---------------------------------------------------------------------------------------------------

    def record_failure(self, key: str, facts: Mapping[str, object]) -> None:
        """Keep what went wrong at a point."""
        self.write(f"{FAILED}/{key}.json", to_json(facts))

    def clear_failure(self, key: str) -> None:
        """Forget a failure, because the point is finished now."""
        with self._one_line():
            if self.system.exists(f"{self.root}/{FAILED}/{key}.json"):
                self.system.rm(f"{self.root}/{FAILED}/{key}.json")
            if self.folder is not None:
                with contextlib.suppress(OSError):  # the last one
                    (self.folder / FAILED).rmdir()

    def failure(self, key: str) -> dict[str, object] | None:
        """What went wrong at a point, or None."""
        return self._json(f"{FAILED}/{key}.json")

    # -- state and index --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The content of sweep.json; raises RunError when there is none or it names no points."""
        found = self._json(STATE)
        if found is None:
            raise RunError(f"{self.url} is not a sweep: it has no {STATE}")
        points: object = found.get("points")
        if not isinstance(points, list) or not all(map(_is_point, points)):
            raise RunError(f"{self.url}/{STATE} is damaged: it lists no points")
        return found

    def write_state(self, state: Mapping[str, object]) -> None:
        """Replace sweep.json."""
        self.write(STATE, to_json(state))

    def drop_index(self) -> None:
        """Remove the sweep's own run, because points are about to be added to it. The manifest goes first."""
        with self._one_line():
            for name in (MANIFEST, CHECKSUMS, *_INDEX):
                if self.system.exists(f"{self.root}/{name}"):
                    self.system.rm(f"{self.root}/{name}", recursive=True)

    def put_index(self, run: Path, damaged: Set[str] = frozenset()) -> None:
        """Take over the files of a run that describes the whole sweep, the manifest last.

        The sums that a `damaged` point states of itself enter, too: whoever checks the sweep must hear of it.
        """
        names = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
        names = [name for name in names if name not in (MANIFEST, CHECKSUMS)]
        with self._one_line():
            (run / CHECKSUMS).write_text(to_json(self._checksums(run, [*names, MANIFEST], damaged)), encoding="utf-8")
        self.drop_index()
        try:
            with self._one_line():
                for name in [*names, CHECKSUMS, MANIFEST]:
                    self._put(run / name, name)
        except BaseException:
            with contextlib.suppress(RunError):
                self.drop_index()  # half an index is none
            raise

    def _checksums(self, run: Path, names: list[str], damaged: Set[str]) -> dict[str, str]:
        """Hashes of the index, and those that the points state of themselves."""
        found = {name: sha256(run / name) for name in names}
        for key in sorted(self.keys()):
            text = self.read(f"{key}/{CHECKSUMS}", strict=key not in damaged) or "{}"
            try:
                stated: object = parse_json(text, f"{self.url}/{key}/{CHECKSUMS}", RunError)
            except RunError:
                if key not in damaged:
                    raise
                stated = {}
            found |= {f"{key}/{name}": str(value) for name, value in stated.items()} if isinstance(stated, dict) else {}
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
        """One sweep at a time in a folder; leftovers of a killed one are cleared away. Nothing for object stores.

        The lock is lost by the death of the process only. Scratch folders of workers that still live are left alone.
        """
        if self.folder is None:
            yield
            return
        with self._one_line():
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock(self.folder / SWEEP_LOCK, self.folder)
        try:
            with self._one_line():
                lock.acquire()
                self._clear_leftovers()
            yield
        finally:
            with undisturbed():
                if lock.held:
                    with contextlib.suppress(OSError, RunError):
                        self._clear_leftovers()
                lock.release()

    def _clear_leftovers(self) -> None:
        assert self.folder is not None
        for place in (self.folder, self.folder / FAILED):
            for name in names_with_leftovers(place):
                clear_leftovers(place / name)
        clear_dead(self.folder / SWEEP_SCRATCH)
        for empty in (SWEEP_SCRATCH, FAILED):
            with contextlib.suppress(OSError):
                (self.folder / empty).rmdir()

    # -- files ------------------------------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        """Replace a small file; in a folder at one stroke."""
        with self._one_line(name):
            if self.folder is None:
                self.system.makedirs(f"{self.root}/{name}".rsplit("/", 1)[0], exist_ok=True)
                self.system.pipe_file(f"{self.root}/{name}", text.encode())
                return
            try:
                write_whole(self.folder / name, text)
            except InputError as error:
                raise Unwritable(str(error)) from error

    def read(self, name: str, strict: bool = True) -> str | None:
        """A small file, or None when there is none; what is not text is an error, or ill-read unless `strict`."""
        try:
            return self.system.cat_file(f"{self.root}/{name}").decode("utf-8", "strict" if strict else "replace")
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise RunError(f"{self.url}/{name} is damaged, or cannot be read") from error

    def _json(self, name: str) -> dict[str, object] | None:
        text = self.read(name)
        if text is None:
            return None
        found: object = parse_json(text, f"{self.url}/{name} is damaged: it", RunError)
        return found if isinstance(found, dict) else None

    def _put(self, path: Path, name: str) -> None:
        if self.folder is None:
            target = f"{self.root}/{name}"
            self.system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self.system.put_file(str(path), target)
        else:  # from scratch space on the same disk: nothing can run full on the way
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    @contextmanager
    def _one_line(self, name: str = "") -> Generator[None]:
        try:
            yield
        except OSError as error:
            place = f"{self.url}/{name}" if name else self.url
            raise Unwritable(f"cannot write to {place}: {error.strerror or error}") from error


def _is_point(stated: object) -> bool:
    if not isinstance(stated, dict):
        return False
    key: object = stated.get("key")
    return isinstance(key, str) and key.isalnum() and len(key) < 100 and _shown_as_text(stated)


def _shown_as_text(point: dict[str, object]) -> bool:
    return all(point.get(name) is None or isinstance(point[name], str) for name in ("label", "corpus", "model"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
