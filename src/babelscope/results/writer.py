"""Writing a run: into a temporary sibling folder that takes its real name only when everything is on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any

from babelscope.errors import RunError
from babelscope.results.checksums import CHECKSUMS, checksums, inside
from babelscope.results.lock import RunLock
from babelscope.results.manifest import initial, to_json

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

MANIFEST = "run.json"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_NO_ROOM_WORDS = ("No space left", "Disk quota", "File too large", "Read-only file system")


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
        self._remote_folder: TemporaryDirectory[str] | None = None
        self.path = Path() if self.remote else Path(os.path.abspath(os.path.expanduser(path)))
        self._folder: Path | None = None
        self._lock: RunLock | None = None
        self._started = 0.0

    @property
    def folder(self) -> Path:
        """Where the files are until the run is whole."""
        if self._folder is None:
            raise RunError("a RunWriter is used as `with RunWriter(…) as run:`")
        return self._folder

    def arrays(self, dataset: xr.Dataset, group: str | None = None) -> None:
        """Adds labelled arrays; call again with another `group`, or with more variables for the same one."""
        from babelscope.results.arrays import write_arrays

        with self._one_line():
            write_arrays(self.folder, dataset, group)

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Adds a tidy table, as Parquet and CSV."""
        from babelscope.results.tables import write_table

        with self._one_line():
            write_table(self.folder, name, frame)

    def file(self, name: str) -> Path:
        """The path at which to write a further file of the run; its folders are made."""
        path = inside(self.folder, name)
        with self._one_line():
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> RunWriter:
        if self.remote is not None:
            from babelscope.results.store import refuse_existing

            refuse_existing(self.remote, self.overwrite)
            self._remote_folder = TemporaryDirectory(prefix="babelscope-")
            self.path = Path(self._remote_folder.name) / "run"
        with self._one_line():
            self._check_target()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(self.path.with_name(f".{self.path.name}.lock"), self.path)
            self._lock.acquire()
            try:
                self._restore_replaced()
                self._check_target()
                self._sweep_leftovers()
                self._folder = self._sibling("tmp")
                self._folder.mkdir()
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
            elif _no_room(error) and not isinstance(error, RunError):
                raise self._unwritable(error) from error
        finally:
            self._clean_up()

    def _finish(self) -> None:
        from babelscope.results.arrays import consolidate

        self.manifest.setdefault("wall_time_s", round(time.monotonic() - self._started, 3))
        self.manifest["kind"] = self.kind
        consolidate(self.folder)
        (self.folder / MANIFEST).write_text(to_json(self.manifest), encoding="utf-8")
        (self.folder / CHECKSUMS).write_text(to_json(checksums(self.folder)), encoding="utf-8")
        _flush(self.folder)
        self._take_name()
        if self.remote is not None:
            from babelscope.results.store import put_run

            put_run(self.path, self.remote, overwrite=self.overwrite)

    def _take_name(self) -> None:
        old = self._sibling("old.tmp")
        replaced = self.path.exists()
        if replaced:
            self.path.rename(old)
        try:
            self.folder.rename(self.path)
        except BaseException:
            if replaced:
                old.rename(self.path)
            raise
        _flush_folder(self.path.parent)
        if replaced:
            _remove(old)

    def _check_target(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not self.overwrite:
            raise RunError(f"{self.path} exists; give --overwrite or another --out")
        finished = (self.path / MANIFEST).is_file()
        if self.path.is_symlink() or not self.path.is_dir() or not (finished or not any(self.path.iterdir())):
            raise RunError(f"{self.path} is not a run, so it will not be overwritten; give another --out")

    def _restore_replaced(self) -> None:
        """The old run back in its place, when a process was killed between taking it away and putting in the new."""
        if os.path.lexists(self.path):
            return
        for old in self.path.parent.glob(f".{_literal(self.path.name)}.*.old.tmp"):
            if (old / MANIFEST).is_file() and (old / CHECKSUMS).is_file():
                old.rename(self.path)
                return

    def _sweep_leftovers(self) -> None:
        """Folders that a killed process left behind; the lock is ours, so nobody is writing them."""
        for leftover in self.path.parent.glob(f".{_literal(self.path.name)}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _sibling(self, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.{suffix}")

    def _clean_up(self) -> None:
        try:
            if self._folder is not None:
                _remove(self._folder)
        finally:
            if self._lock is not None:
                self._lock.release()
            if self._remote_folder is not None:
                self._remote_folder.cleanup()
            self._folder = self._lock = self._remote_folder = None

    @contextlib.contextmanager
    def _one_line(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: BaseException) -> RunError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).split("\n")[0]
        return RunError(f"cannot write the run {self.remote or self.path}: {reason}")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether `path` names something behind fsspec rather than a folder."""
    return "://" in os.fspath(path)


def _no_room(error: BaseException) -> bool:
    """A full or unwritable disk, as Python or as a library written in another language reports it."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return isinstance(error, Exception) and any(words in str(error) for words in _NO_ROOM_WORDS)


def _remove(folder: Path) -> None:
    """Until it stays away: after Ctrl-C, threads of Zarr may still put back what they were writing."""
    absent = 0
    for _ in range(50):
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            # asked to stop in the middle of tidying up: tidy up, then stop
            shutil.rmtree(folder, ignore_errors=True)
            raise
        absent = 0 if folder.exists() else absent + 1
        if absent == 3:
            return
        time.sleep(0.02)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


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
