"""Writing a run: into a hidden sibling folder that takes its real name only when everything is on the disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from babelscope import repeat
from babelscope.errors import RunError, Unwritable
from babelscope.results.checksums import checksums, files_of, inside
from babelscope.results.hidden import HiddenFolder, refuse_hidden_name
from babelscope.results.layout import CHECKSUMS, MANIFEST, is_run, is_url
from babelscope.results.lock import RunLock
from babelscope.results.manifest import initial, to_json
from babelscope.results.room import no_room
from babelscope.results.scratch import Scratch
from babelscope.results.whole import home

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class RunWriter:
    """A run in the making, as a context manager: the directory appears when the block ends without an error.

    `path` is a folder or an fsspec URL (`s3://…`, `memory://…`). Raises RunError when it exists and `overwrite` is
    off, when it is not a run and so will not be overwritten, when another process writes it, or when the disk is full.

    >>> import tempfile
    >>> with RunWriter(tempfile.mkdtemp() + "/first", kind="regions") as run:
    ...     run.manifest.update(seeds=[0], summary={"lrds": 0.1})
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, overwrite: bool = False) -> None:
        self.kind, self.overwrite = kind, overwrite
        self.manifest: dict[str, Any] = initial(kind)
        self.remote = os.fspath(path) if is_url(path) else None
        self._remote_folder: Scratch | None = None
        self.path = Path() if self.remote else Path(os.path.abspath(home(path)))
        self._hidden: HiddenFolder | None = None
        self._lock: RunLock | None = None
        self._seen: set[str] = set()
        """files that were there when we looked last"""
        self._asked: set[str] = set()
        """files that `file` gave the path of"""
        self._started = 0.0

    @property
    def folder(self) -> Path:
        """Where the files are until the run is whole."""
        if self._hidden is None:
            raise RunError("a RunWriter is used as `with RunWriter(…) as run:`")
        return self._hidden.new

    def arrays(self, dataset: xr.Dataset, group: str | None = None) -> None:
        """Adds labelled arrays; call again with another `group`, or with more variables for the same one."""
        from babelscope.results.arrays import write_arrays

        with self._one_line():
            self._look()
            write_arrays(self.folder, dataset, group)
            self._look()

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Adds a tidy table, as Parquet and CSV."""
        from babelscope.results.tables import write_table

        with self._one_line():
            self._look()
            write_table(self.folder, name, frame)
            self._look()

    def file(self, name: str) -> Path:
        """The path at which to write a further file, which must be there at the end; its folders are made."""
        path = inside(self.folder, name)
        with self._one_line():
            self._look()
            path.parent.mkdir(parents=True, exist_ok=True)
        self._asked.add(path.relative_to(self.folder).as_posix())
        return path

    def __enter__(self) -> RunWriter:
        if self.remote is not None:
            from babelscope.results.store import refuse_existing

            refuse_existing(self.remote, self.overwrite)
            self._remote_folder = Scratch("remote")
            self.path = self._remote_folder.path / "run"
        with self._one_line():
            self._check_place()
            self._check_target()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(self.path.with_name(f".{self.path.name}.lock"), self.path)
            try:
                self._lock.acquire()
                self._hidden = HiddenFolder(self.path)
                self._hidden.open()  # which may bring back a run that a killed process was replacing
                self._check_target()
                self._hidden.new.mkdir()
            except BaseException:
                self._clean_up()
                raise
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with self._one_line():
                    self._finish()
            elif no_room(error) and not isinstance(error, RunError):
                raise self._unwritable(error) from error
            elif isinstance(error, Exception) and not isinstance(error, RunError):
                with contextlib.suppress(OSError):
                    self._look(error)  # what failed may have failed because the folder is gone
        finally:
            self._clean_up(stubborn=error is not None)

    def _look(self, cause: BaseException | None = None) -> None:
        """Raises RunError when the folder is not as it was left; remembers what is in it now."""
        there = set(files_of(self.folder)) if self._hidden is not None and self._hidden.intact() else None
        lost = None if there is None else sorted(self._seen - there)
        if there is None or lost:
            what = f": {', '.join(lost[:3])}" if lost else ""
            raise RunError(
                f"the unfinished run {self.path} was removed, replaced or cut short by somebody else{what}; "
                "nothing was written, start again"
            ) from cause
        self._seen = there

    def _finish(self) -> None:
        from babelscope.results.arrays import consolidate

        self._look()
        missing = sorted(self._asked - self._seen)
        if missing:
            raise RunError(f"the run {self.path} is not finished: {', '.join(missing[:3])} was not written")
        self.manifest.setdefault("wall_time_s", round(time.monotonic() - self._started, 3))
        self.manifest["kind"] = self.kind
        consolidate(self.folder)
        (self.folder / MANIFEST).write_text(to_json(self.manifest), encoding="utf-8")
        if (asked := repeat.asked_now()) is not None:
            (self.folder / repeat.FILE).write_text(asked, encoding="utf-8")
        self._look()
        (self.folder / CHECKSUMS).write_text(to_json(checksums(self.folder)), encoding="utf-8")
        _flush(self.folder)
        self._look()
        self._take_name()
        if self.remote is not None:
            from babelscope.results.store import put_run

            put_run(self.path, self.remote, overwrite=self.overwrite)

    def _take_name(self) -> None:
        assert self._hidden is not None
        assert self._lock is not None
        if not self._lock.held:
            raise RunError(f"the run {self.path} is not finished: its lock was removed by somebody else; start again")
        self._check_target()
        self._hidden.commit(replace=True)
        _flush_folder(self.path.parent)

    def _check_place(self) -> None:
        """Refuses names that unfinished work has, and places inside another run, which would be damaged by it."""
        refuse_hidden_name(self.path)
        around = next((folder for folder in self.path.parents if is_run(folder)), None)
        if around is not None:
            raise RunError(f"{self.path} lies inside the run {around}; give another --out")

    def _check_target(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not self.overwrite:
            raise RunError(
                f"{self.path} exists; give --overwrite or another --out (in Python overwrite=True, another folder)"
            )
        finished = (self.path / MANIFEST).is_file()
        if self.path.is_symlink() or not self.path.is_dir() or not (finished or not any(self.path.iterdir())):
            raise RunError(f"{self.path} is not a run, so it will not be overwritten; give another --out")

    def _clean_up(self, stubborn: bool = False) -> None:
        try:
            if self._hidden is not None:
                self._hidden.close(stubborn)
        finally:
            if self._lock is not None:
                self._lock.release()
            if self._remote_folder is not None:
                self._remote_folder.close()
            self._hidden = self._lock = self._remote_folder = None

    @contextlib.contextmanager
    def _one_line(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: BaseException) -> RunError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).split("\n")[0]
        return Unwritable(f"cannot write the run {self.remote or self.path}: {reason}")


def _flush(folder: Path) -> None:
    """Everything below `folder` onto the disk, files before the folders that name them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        _flush_folder(path)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
